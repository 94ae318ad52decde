"""`python -m tests.sim --seeds 1000 --first 0`: run seeds, and say what was found."""

from __future__ import annotations

import argparse
import gc
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

from tests.sim.marks import missing
from tests.sim.world import Failed, run

SEEDS = Path(__file__).with_name("seeds.txt")
# Seeds between two lines of progress, and between two collections of dead worlds.
_PROGRESS, _COLLECT = 1000, 25
# From so many seeds on every mark must have been hit, once in each so many.
_MARKS_FROM = 5000


def kept(path: Path = SEEDS) -> list[int]:
    """Seeds that have failed once; comments say why."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [int(line) for line in lines if line]


def main(arguments: list[str], out: Path = SEEDS) -> int:
    """Run; returns the exit code: 0 when nothing failed and everything was hit."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one's number")
    parser.add_argument("--digests", action="store_true", help="print only each trace's number")
    given = parser.parse_args(arguments)
    marks: Counter[str] = Counter()
    failed: list[int] = []
    frames, simulated, start = 0, 0.0, perf_counter()
    for at in range(given.seeds):
        seed = given.first + at
        if at and at % _COLLECT == 0:
            gc.collect()
        if at and at % _PROGRESS == 0:
            _say(at, len(failed), perf_counter() - start, simulated)
        try:
            outcome = run(seed)
        except Failed as error:
            failed.append(seed)
            print(f"{error}\n", flush=True)
            if not given.digests:
                with out.open("a") as file:
                    file.write(f"{seed}\n")
            continue
        marks += outcome.marks
        frames += outcome.frames
        simulated += outcome.seconds
        if given.digests:
            print(seed, outcome.digest)
    if given.digests:
        return 0
    seconds = perf_counter() - start
    for name, count in sorted(marks.items()):
        print(f"{count:12,}  {name}")
    print(f"{frames:12,}  frames read")
    _say(given.seeds, len(failed), seconds, simulated)
    lacking = missing(marks, given.seeds // _MARKS_FROM)
    for name, count in lacking.items():
        print(f"hit only {count} times: {name}")
    if failed:
        print(f"failed, and appended to {out.name}: {failed}")
    return 1 if failed or lacking else 0


def _say(seeds: int, failed: int, seconds: float, simulated: float) -> None:
    rate = seeds / seconds * 60
    speed = simulated / seconds
    print(
        f"{seeds:,} seeds, {failed} failed, {rate:,.0f} seeds a minute, {speed:.0f} simulated "
        "seconds a second",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
