"""RELIABILITY.md's table, made from the results that are kept: no figure is typed in by hand.

    python -m tests.chaos.report             # rewrites the table
    python -m tests.chaos.report --check     # exit code 1 if it would change
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import figure
from tests.chaos.catalogue import TRIALS
from tests.chaos.promises import PROMISES, Promise
from tests.chaos.trial import Found, Trial
from tests.layout import ROOT

__all__ = ["PAGE", "RESULTS", "Verdict", "fill", "main", "table", "verdict"]

RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "RELIABILITY.md"
BEGIN, END = "<!-- reliability:begin -->\n", "<!-- reliability:end -->"


@dataclasses.dataclass
class Verdict:
    """Whether a trial's promise is held, in a word, and what was measured, in words."""

    held: bool
    status: str
    text: str


def verdict(one: Trial, kept: dict[str, Any]) -> Verdict:
    """What a result says."""
    found = Found(
        kept.get("count", 0), kept.get("wrong", {}), kept.get("figures", {}),
        kept.get("bounds", {}), kept.get("note", ""), kept.get("complete", False),
    )  # fmt: skip
    bad = [*found.mistakes(), *found.breaches()]
    bad += [f"left behind: {len(kept['left'])}"] if kept["left"] else []
    bad += [kept["error"].splitlines()[-1]] if kept["error"] else []
    words = [f"{found.count:,} {one.unit}"]
    words += [f"{count:,} {kind}" for kind, count in found.wrong.items()]
    words += [_figure(name, value, found.bounds.get(name)) for name, value in found.figures.items()]
    words += [found.note] if found.note else []
    text = "; ".join(words)
    if bad:
        return Verdict(False, "**not held**", f"{text}. Wrong: {'; '.join(bad)}")
    if found.count < one.long and not found.complete:
        return Verdict(True, f"held, {found.count:,} of {one.long:,}", text)
    return Verdict(True, "held", text)


def _figure(name: str, value: float, bound: float | None) -> str:
    """"back p99, ms" of 12.3 -> "back p99 12.3 ms"."""
    label, _, unit = name.rpartition(", ")
    most = "" if bound is None else f" (at most {_number(bound)})"
    return f"{label or unit} {_number(value)}{' ' + unit if label else ''}{most}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else figure(value)


def table(results: dict[str, Any]) -> str:
    """All promises with what was measured."""
    lines = [
        "| | fault | promise | status | measured | by |",
        "|---|---|---|---|---|---|",
        *(_row(promise, results["trials"]) for promise in PROMISES),
    ]
    machine = results["machine"]
    lines += [
        "",
        f"_{machine['processor']}, {machine['cpus']} CPUs, {machine['memory_gb']} GB, "
        f"Python {machine['python']}._",
    ]
    return "\n".join(lines) + "\n"


def _row(promise: Promise, kept: dict[str, dict[str, Any]]) -> str:
    trials = [one for one in TRIALS.values() if promise.name in one.promises]
    known = [(one, verdict(one, kept[one.name]), kept[one.name]) for one in trials
             if one.name in kept]
    measured = [
        f"`{one.name}`: {said.text} ({result['commit']})" for one, said, result in known
    ]
    if promise.outside:
        measured.append(f"Not promised: {promise.outside}.")
    cells = [
        promise.name, promise.fault, promise.promise,
        _status(promise, trials, [said for _, said, _ in known]),
        "<br>".join(measured),
        "<br>".join(sorted({f"`{one.file}`" for one in trials})),
    ]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _status(promise: Promise, trials: list[Trial], known: list[Verdict]) -> str:
    if promise.whole:
        return "out of scope"
    if any(not said.held for said in known):
        return "**not held**"
    if not known:
        return "not measured"
    parts = sorted({said.status for said in known} - {"held"})
    if len(known) < len(trials):
        parts.append(f"{len(known)} of {len(trials)} trials run")
    return "; ".join(parts) or ("held, in part" if promise.outside else "held")


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(results) + END + after


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.report", description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="only say whether it would change")
    options = parser.parse_args(arguments)
    text = options.page.read_text()
    made = fill(text, json.loads(options.json.read_text()))
    if options.check:
        return int(made != text)
    options.page.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
