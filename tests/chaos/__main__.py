"""`make chaos`: the long forms, each in a process of its own, with a line a promise.

    python -m tests.chaos                            # all but what takes many hours
    python -m tests.chaos --only worker-kills R17    # by name of a trial or a promise
    python -m tests.chaos --share 0.1                # a tenth of each count
    python -m tests.chaos --list

Results are kept in benchmarks/results/reliability.json, trial by trial, so that a run of some
leaves what is known of the others; `python -m tests.chaos.report` makes RELIABILITY.md of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from tests import leaks
from tests.chaos.catalogue import TRIALS
from tests.chaos.report import PAGE, RESULTS, verdict
from tests.chaos.trial import Trial
from tests.layout import ROOT

# Longer ones run only when they are named.
MINUTES_MAX = 60
# A trial that takes so many times what it says hangs.
PATIENCE = 5
_MARK = "found: "


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 1 if a promise was not held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="*", default=[], help="trials or promises by name")
    add("--share", type=float, default=1.0, help="of each count")
    add("--json", type=Path, default=RESULTS, help="where results are kept")
    add("--list", action="store_true", help="show what there is")
    add("--run", help=argparse.SUPPRESS)
    add("--count", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        return run_here(TRIALS[options.run], options.count)
    chosen = choose(options.only)
    if options.list:
        for one in chosen:
            print(f"{one.name:24} {' '.join(one.promises):12} {one.long:>9,} {one.unit:12} "
                  f"{one.minutes:5g} min  {one.says}")
        minutes = sum(one.minutes for one in chosen)
        rest = [one.name for one in TRIALS.values() if one.minutes > MINUTES_MAX]
        print(f"{minutes:g} minutes in all; only by name: {', '.join(rest)}")
        return 0
    held = True
    for one in chosen:
        kept = run_apart(one, max(1, round(one.long * options.share)))
        keep(options.json, one.name, kept)
        said = verdict(one, kept)
        held &= said.held
        print(f"{' '.join(one.promises):8} {one.name:24} {said.status}: {said.text}", flush=True)
    return int(not held)


def choose(names: list[str]) -> list[Trial]:
    """Trials by name or promise; without a name all that do not take many hours."""
    unknown = [
        name for name in names
        if name not in TRIALS and not any(name in one.promises for one in TRIALS.values())
    ]
    if unknown:
        raise SystemExit(f"expected trials or promises, found {unknown}; --list shows them")
    return [
        one for one in TRIALS.values()
        if one.name in names or set(names) & set(one.promises)
        or (not names and one.minutes <= MINUTES_MAX)
    ]


def run_here(one: Trial, count: int) -> int:
    """Run a trial in this process; what it found is the last line of the output."""
    found = one.run(count)
    print(_MARK + json.dumps(dataclasses.asdict(found)), flush=True)
    return 0


def run_apart(one: Trial, count: int) -> dict[str, Any]:
    """Run a trial in a process of its own; what it found, and what it left behind."""
    start = time.perf_counter()
    error, found = "", {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        leaks.adopt_orphans(True)
        before = leaks.census()
        command = [sys.executable, "-m", "tests.chaos", "--run", one.name, "--count", str(count)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, "TMPDIR": folder}, text=True,
                capture_output=True, check=False, timeout=60 * (PATIENCE * one.minutes + 2),
            )  # fmt: skip
        except subprocess.TimeoutExpired as expired:
            error = f"did not end within {expired.timeout:g} s"
        else:
            lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
            if lines:
                found = json.loads(lines[-1].removeprefix(_MARK))
            else:
                error = "\n".join(done.stderr.splitlines()[-20:])
                print(done.stderr, file=sys.stderr)
        left = leaks.settle(before, Path(folder))
        _collect()
    return {
        **found, "left": left, "error": error,
        "seconds": round(time.perf_counter() - start, 1), "commit": commit(),
    }  # fmt: skip


def _collect() -> None:
    """Reap orphans that were adopted and have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # there is none
        return


def commit() -> str:
    """The commit that is run, with a mark when files (but results) differ from it."""
    head = _git("rev-parse", "--short=10", "HEAD")
    page = RESULTS.parent.relative_to(ROOT), PAGE.relative_to(ROOT)
    changed = _git("status", "--porcelain", "--", ".", *(f":!{one}" for one in page))
    return head + ("+" if changed else "")


def _git(*command: str) -> str:
    done = subprocess.run(
        ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put a result in the place of the trial's last one."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"trials": {}}
    here = {name: value for name, value in machine().items() if name != "date"}
    kept = {"benchmark": "reliability", "machine": here, "trials": kept["trials"]}
    kept["trials"][name] = result
    kept["trials"] = {one: kept["trials"][one] for one in TRIALS if one in kept["trials"]}
    path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
