"""Too few descriptors, in the node, the driver, a worker: errors, no hangs, and work goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter

from tests.chaos.trial import Found, trial
from tests.layout import ROOT

__all__ = ["few_descriptors"]

_BEGIN = """
import os, resource, sys
import numpy as np
import engine

MOST = int(sys.argv[1])
SECONDS = 20
told = 0

def exhaust():
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return held

@engine.remote
def echo(x):
    return x

@engine.remote
def large(n):
    return np.full(1 << 18, n)

@engine.remote(num_cpus=0)
class Small:
    def answer(self):
        return 7

def works():
    assert engine.get([echo.remote(n) for n in range(5)], timeout=SECONDS) == list(range(5))
    assert engine.get(large.remote(3), timeout=SECONDS)[-1] == 3
    assert engine.get(engine.put(np.full(1 << 18, 4)))[-1] == 4

def attempt(function, *errors):
    global told
    try:
        return function()
    except errors as error:
        assert "ulimit -n" in str(error) or "Too many open files" in str(error), error
        told += 1
"""
# The node and the driver may never have more than MOST.
_FEW = _BEGIN + """
resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))
engine.init(num_cpus=1)
works()
for round in range(2):
    actors = [Small.remote() for _ in range(MOST)]
    refs = [actor.answer.remote() for actor in actors]
    for ref in refs:
        attempt(lambda: engine.get(ref, timeout=SECONDS), engine.exceptions.ActorUnschedulableError)
    assert told
    works()
    del actors, refs, ref
engine.shutdown()
print("fine", told)
"""
# User code of the driver has opened all that it may.
_DRIVER = _BEGIN + """
engine.init(num_cpus=2)
_soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, hard))
for round in range(3):
    held = exhaust()
    for function in (works, lambda: engine.get(Small.remote().answer.remote(), timeout=SECONDS)):
        attempt(function, OSError)
    for fd in held:
        os.close(fd)
    works()
engine.shutdown()
print("fine", told)
"""
# A task has, and another one in the same worker.
_WORKER = _BEGIN + """
engine.init(num_cpus=2)

@engine.remote(max_retries=0)
def greedy(what):
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, hard))
    held = exhaust()
    try:
        if what == "call":
            return engine.get(echo.remote(3), timeout=SECONDS)
        if what == "put":
            return int(engine.get(engine.put(np.full(1 << 18, 3)))[-1])
        if what == "actor":
            return engine.get(Small.remote().answer.remote(), timeout=SECONDS) - 4
        return np.full(1 << 18, 3)
    finally:
        if what != "forget":
            for fd in held:
                os.close(fd)

for what in ("call", "put", "actor", "result", "forget", "call", "put"):
    found = attempt(lambda: engine.get(greedy.remote(what), timeout=SECONDS), OSError)
    assert found is None or np.all(found == 3), found
    works()
engine.shutdown()
print("fine", told)
"""
LIMITS = (24, 30, 40, 64, 100)


@trial("R25", unit="runs", short=3, long=60, minutes=3)
def few_descriptors(count: int) -> Found:
    """Node, driver or worker has no descriptor left: an error says so, and the engine lives on."""
    wrong = Counter[str]({"runs that failed": 0, "hangs": 0})
    told = 0
    for number in range(count):
        script = (_FEW, _DRIVER, _WORKER)[number % 3]
        # The limits of the driver and the worker are those of user code, on top of what is open.
        most = LIMITS[number // 3 % len(LIMITS)] + (40 if number % 3 else 0)
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    [sys.executable, "-c", script, str(most)], cwd=ROOT, text=True, timeout=50,
                    capture_output=True, check=False,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder},
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                wrong["hangs"] += 1
                continue
        if done.returncode or "fine" not in done.stdout:
            wrong["runs that failed"] += 1
            print(most, number % 3, done.stderr[-3000:], file=sys.stderr)
        else:
            told += int(done.stdout.split()[-1])
    return Found(count, dict(wrong), {"errors told": told})
