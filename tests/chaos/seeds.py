"""The simulator's seeds: how many run without a failure, how fast, and that each is one run."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from collections import Counter

from tests.chaos.trial import Found, trial
from tests.layout import ROOT
from tests.sim.marks import missing
from tests.sim.world import Failed, run

__all__ = ["seeds", "seeds_again"]

FIRST = 10_000_000  # far from the seeds of the tests
_COLLECT = 25
_MARKS_FROM = 5000  # as in `python -m tests.sim`


@trial("R1", "R2", "R4", unit="seeds", short=0, long=100_000, minutes=30)
def seeds(count: int) -> Found:
    """Fresh seeds of the simulator: drawn faults, then everything must finish and be right."""
    wrong, marks = Counter[str]({"failed seeds": 0, "marks never hit": 0}), Counter[str]()
    failed: list[int] = []
    simulated, start = 0.0, time.perf_counter()
    for seed in range(FIRST, FIRST + count):
        if seed % _COLLECT == 0:
            gc.collect()
        try:
            outcome = run(seed)
        except Failed:
            failed.append(seed)
            continue
        marks += outcome.marks
        simulated += outcome.seconds
    seconds = time.perf_counter() - start
    wrong["failed seeds"] = len(failed)
    wrong["marks never hit"] = len(missing(marks, count // _MARKS_FROM))
    figures = {
        "seeds a minute": round(60 * count / seconds),
        "simulated seconds a second": round(simulated / seconds, 1),
        "seconds a simulated second": round(seconds / simulated, 4),
    }
    return Found(
        count, dict(wrong), figures, {"seconds a simulated second": 0.1},
        note=f"failed: {failed}" if failed else "",
    )  # fmt: skip


@trial("R3", unit="seeds", short=0, long=1000, minutes=1.5)
def seeds_again(count: int) -> Found:
    """Each seed twice, in processes whose sets have different orders: the same trace."""
    found = []
    for salt in ("1", "4711"):
        command = [
            *(sys.executable, "-m", "tests.sim", "--digests"),
            *("--seeds", str(count), "--first", str(FIRST)),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(re.findall(r"^(\d+) (\w+)$", done.stdout, re.M))
    same = sum(one == other for one, other in zip(*found, strict=True))
    return Found(len(found[0]), {"traces that differ": count - same})
