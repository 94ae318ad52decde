"""Disks that refuse: the N-th system call of a real process fails, for N = 1, 2, 3 ... to the end.

`strace` makes the call fail in the process itself. A run counts as untouched when nothing was
injected, and then the loop is over. Without `strace` these trials cannot be run, and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.trial import Found, trial
from tests.faults.jobs import model, output_of, write_input
from tests.layout import ROOT

__all__ = ["checkpoint_errors", "spill_errors", "traced"]

SECONDS = 60.0
CALLS_MAX = 400  # more calls than a process makes here: then the loop does not end by itself
NEVER = 60_000  # strace counts in 16 bits
ENDS = {True: "until no call was left to fail", False: "calls are left that have not failed yet"}
NEEDS = "strace is not there"


def traced(
    script: str, folder: Path, *injections: str
) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a driver with calls that fail; its end, and how many calls failed."""
    log = folder / "strace"
    traced_calls = ",".join(one.split(":")[0] for one in injections)
    command = [
        *("strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={traced_calls}"),
        *(word for one in injections for word in ("-e", f"inject={one}")),
        *(sys.executable, "-c", script, str(folder)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False,
        timeout=SECONDS,
    )  # fmt: skip
    return done, log.read_text(errors="replace").count("(INJECTED)")


# ------------------------------------------------------------------------------ spilling

_SPILLS = """
import sys
import numpy as np
import engine
from engine.config import Config
MIB = 1 << 20
config = Config(store_wait_seconds=0.5, spill_retry_seconds=0.1)
engine.init(num_cpus=1, object_store_memory=80 * MIB, object_spilling_directory=sys.argv[1],
            config=config)

@engine.remote
def make(n):
    return np.full(4 * MIB, n, np.uint8)

told, refs = 0, []
for n in range(40):
    try:
        refs.append((n, make.remote(n) if n % 2 else engine.put(np.full(4 * MIB, n, np.uint8))))
    except engine.exceptions.EngineError as error:
        assert "engine.init(object_spilling_directory=" in str(error), error
        told += 1
for n, ref in refs:
    try:
        found = engine.get(ref, timeout=30)
    except engine.exceptions.EngineError as error:
        if isinstance(error, engine.exceptions.GetTimeoutError):
            raise
        assert "engine.init(object_spilling_directory=" in str(error), error
        told += 1
        continue
    assert (found == n).all()
    del found
del refs, ref
assert int(engine.get(make.remote(3), timeout=30)[7]) == 3  # and it goes on
engine.shutdown()
print("fine", told)
"""


@trial("R19", unit="failing calls", short=2, long=400, minutes=12)
def spill_errors(count: int) -> Found:
    """The N-th write of a spilled value fails, once or from then on: an error or no trace."""
    kinds = [
        f"pwrite64:error={name}:when={when}"
        for when in ("{}", "{}+") for name in ("ENOSPC", "EIO")
    ]  # fmt: skip
    wrong = Counter[str]({"hangs": 0, "drivers died": 0, "wrong results": 0})
    return _loop(count, kinds, wrong, "errors told", _spill)


def _spill(folder: Path, kind: str, number: int) -> tuple[int, str, int]:
    ended, hits = traced(_SPILLS, folder, kind.format(number))
    if not ended.returncode:
        return hits, "", int(ended.stdout.split()[-1])
    print(kind.format(number), ended.stderr[-3000:], file=sys.stderr)
    return hits, "drivers died" if ended.returncode < 0 else "wrong results", 0


def _loop(
    count: int,
    kinds: list[str],
    wrong: Counter[str],
    told: str,
    attempt: Callable[[Path, str, int], tuple[int, str, int]],
) -> Found:
    """Each kind of failure at the first call, the second, and so on, until none is hit.

    `attempt(folder, kind, number)` returns how many calls failed, what was wrong then, and how many
    errors were told, which `told` is the name of.
    """
    if shutil.which("strace") is None:
        return Found(0, note=NEEDS)
    figures = Counter[str]({"calls that failed": 0, told: 0})
    done, left = 0, list(kinds)
    for number in range(1, CALLS_MAX):
        for kind in list(left):
            if done >= count:
                break
            with tempfile.TemporaryDirectory() as name:
                try:
                    hits, mistake, errors = attempt(Path(name), kind, number)
                except subprocess.TimeoutExpired:
                    wrong["hangs"] += 1
                    continue
            if not hits:
                left.remove(kind)
                continue
            done += 1
            figures["calls that failed"] += hits
            figures[told] += errors
            if mistake:
                wrong[mistake] += 1
    return Found(done, dict(wrong), dict(figures), note=ENDS[not left], complete=not left)


# ------------------------------------------------------------------------------ checkpoints

_JOB = """
import sys
from pathlib import Path
import engine
from engine.topology import Checkpoints
from tests.faults.jobs import job_of

folder = Path(sys.argv[1])
engine.init(num_cpus=2)
policy = Checkpoints(directory=folder / "ck", every=0.05, restarts=1000)
try:
    job_of(folder, pause=0.002).run(2, checkpoint=policy, progress=False)
    print("fine 0")
except Exception as error:
    names = "Input/output error", "No space left on device"
    assert any(name in str(error) for name in names), error
    print("told 1")
engine.shutdown()
"""
EVENTS = 1_500


@trial("R19", unit="failing calls", short=1, long=400, minutes=12)
def checkpoint_errors(count: int) -> Found:
    """The N-th sync or rename of a stream's checkpoints and files fails: the output is whole."""
    kinds = [f"{call}:error={name}:when={{}}" for call, name in
             (("fsync", "EIO"), ("rename", "ENOSPC"), ("fsync", "ENOSPC"))]  # fmt: skip
    wrong = Counter[str]({"hangs": 0, "drivers died": 0, "wrong output": 0})
    told = "jobs that gave up, and were gone on with"
    return _loop(count, kinds, wrong, told, partial(_checkpoint, model(EVENTS)))


def _checkpoint(wanted: Any, folder: Path, kind: str, number: int) -> tuple[int, str, int]:
    write_input(folder / "in", EVENTS)
    ended, hits = traced(_JOB, folder, kind.format(number))
    gave_up = ended.returncode == 0 and "told" in ended.stdout
    if gave_up:  # another driver goes on where it was
        ended, _ = traced(_JOB, folder, kind.format(NEVER))
    if not ended.returncode:
        return hits, "" if output_of(folder) == wanted else "wrong output", int(gave_up)
    print(kind.format(number), ended.stderr[-3000:], file=sys.stderr)
    return hits, "drivers died", int(gave_up)
