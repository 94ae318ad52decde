"""The wall clock jumps by a minute at every reading; nothing that is decided may change.

Every process of the engine has a `time.time` that jumps (through `sitecustomize`, which the
interpreter imports before anything else). The machine's own clock stays as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.trial import Found, trial
from tests.faults.jobs import model, output_of, write_input
from tests.layout import ROOT

__all__ = ["wall_clock"]

EVENTS = 3_000
_JUMPS = """
import random, time
_time, _time_ns = time.time, time.time_ns

def jumping():
    return _time() + random.choice((-60.0, 0.0, 60.0))

time.time = jumping
time.time_ns = lambda: int(1e9 * jumping())
"""
_SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import engine
from engine.config import Config
from engine.topology import Checkpoints
from tests.faults.jobs import job_of

assert time.time.__name__ == "jumping"
engine.init(num_cpus=2, config=Config(restart_deaths_max=1000))

@engine.remote(max_retries=-1)
def work(n):
    assert time.time.__name__ == "jumping"
    return n * n

class Counter:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return self.n
    @engine.method(read_only=True)
    def pid(self):
        return os.getpid()

actor = engine.remote(max_restarts=-1, checkpoint_every=0.05)(Counter).remote()
wanted = 0
for round in range(4):
    refs = [work.remote(n) for n in range(50)] + [actor.add.remote() for _ in range(20)]
    os.kill(engine.get(actor.pid.remote()), signal.SIGKILL)
    assert engine.get(refs, timeout=20) == [
        *(n * n for n in range(50)), *range(wanted + 1, wanted + 21)]
    wanted += 20

@engine.remote
def sleep():
    time.sleep(30)

ref, start = sleep.remote(), time.monotonic()
try:
    engine.get(ref, timeout=0.3)
    raise AssertionError("no time-out")
except engine.exceptions.GetTimeoutError:
    assert 0.25 < time.monotonic() - start < 5
engine.cancel(ref, force=True)
policy = Checkpoints(directory=Path(sys.argv[1]) / "ck", every=0.1)
job_of(Path(sys.argv[1]), pause=0.001).run(2, checkpoint=policy, progress=False)
engine.shutdown()
print("fine")
"""


@trial("R24", unit="runs", short=1, long=30, minutes=2)
def wall_clock(count: int) -> Found:
    """Tasks, kills, time-outs and a stream under a clock that jumps: all as without."""
    wrong = Counter[str]({"runs that failed": 0, "wrong output": 0})
    wanted = model(EVENTS)
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "sitecustomize.py").write_text(_JUMPS)
            write_input(folder / "in", EVENTS)
            environment = {
                **os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TMPDIR": name,
            }
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, name], env=environment, timeout=60,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode or "fine" not in done.stdout:
                wrong["runs that failed"] += 1
                print(done.stderr[-3000:], file=sys.stderr)
                continue
            wrong["wrong output"] += output_of(folder) != wanted
    return Found(count, dict(wrong))
