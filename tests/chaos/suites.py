"""Promises that tests of the tree already put to the test: their long forms, counted."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.chaos.trial import Found, trial
from tests.layout import ROOT

__all__ = ["full_disks", "graph_kills", "handlers", "local_only", "overtaken", "poison"]
__all__ += ["reruns", "run_tests", "stream_kills"]

# Of the runner itself, in seconds: each test has its own limit, and a trial one for all.
_SECONDS = 4 * 3600


def run_tests(*arguments: str, times: int = 1) -> Found:
    """Run tests by pytest's arguments, again and again; how many passed, and how many did not."""
    passed, bad, names = 0, 0, []
    for _ in range(times):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        last = done.stdout.rstrip().splitlines()[-1]
        found = {kind: int(number) for number, kind in re.findall(r"(\d+) (\w+)", last)}
        passed += found.get("passed", 0)
        bad += found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
        bad += done.returncode not in (0, 1)
        names += re.findall(r"^(?:FAILED|ERROR) (.+)", done.stdout, re.M)  # and why
    return Found(passed, {"tests failed": bad}, note=", ".join(sorted(set(names))))


@trial("R10", "R11", unit="runs", short=0, long=40, minutes=25)
def stream_kills(_count: int) -> Found:
    """Jobs from files to files lose members and drivers at named and random points."""
    return run_tests("tests/faults/test_streams.py", "-m", "slow or not slow")


@trial("R14", unit="runs", short=0, long=19, minutes=12)
def graph_kills(_count: int) -> Found:
    """Graph programs lose a copy in every superstep, and at random; results are bit-identical."""
    return run_tests("tests/faults/test_graphs.py", "-m", "slow or not slow")


@trial("R21", unit="tests", short=0, long=9, minutes=1)
def poison(_count: int) -> Found:
    """What dies again and again is given up with its story, and others go on."""
    # That one shares an engine with tests of other files.
    return run_tests("tests/engine/test_intensity.py", "-k", "not limit_can_be_raised")


@trial("R23", unit="tests", short=0, long=15, minutes=0.5)
def overtaken(_count: int) -> Found:
    """Late and stopped tasks are overtaken by a second copy, where that is allowed."""
    return run_tests("tests/engine/test_stragglers.py")


@trial("R19", unit="tests", short=0, long=19, minutes=0.5)
def full_disks(_count: int) -> Found:
    """Full file systems, limits, and directories that vanish: errors, and it goes on afterwards."""
    return run_tests("tests/engine/test_spilling_limits.py")


@trial("R29", unit="tests", short=0, long=1, minutes=0.5)
def local_only(_count: int) -> Found:
    """No process of the engine has a socket of the internet family."""
    return run_tests("tests/engine/test_driver_death.py", "-k", "tcp")


@trial("R28", unit="reruns", short=0, long=200, minutes=1600)
def reruns(count: int) -> Found:
    """All tests of the tree, again and again: none may fail once."""
    found = run_tests("-x", times=count)
    return Found(count, found.wrong, {"tests passed": found.count}, note=found.note)


@trial("R27", unit="handlers", short=0, long=1, minutes=20)
def handlers(_count: int) -> Found:
    """Every body of an `except` of the engine is run by some test."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.handlers"], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=_SECONDS,
    )  # fmt: skip
    ran, there = re.findall(r"(\d+) of (\d+) except bodies", done.stdout)[-1]
    never = re.findall(r"^(\S+:\d+): never run", done.stdout, re.M)
    wrong = {"never run": int(there) - int(ran)}
    return Found(int(ran), wrong, note=", ".join(never), complete=True)
