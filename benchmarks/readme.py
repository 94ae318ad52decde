"""Rewrites the measured parts of README.md from the results that were kept.

    python -m benchmarks.readme              # from benchmarks/results/*.json and demo.txt
    python -m benchmarks.readme --check      # change nothing; exit code 1 if the README differs

Between the markers ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` stand the tables of
``NAME.json`` as the benchmark showed them, with the machine and the versions, or the text of
``NAME.txt``. Tables of a part of the benchmark stand between ``<!-- NAME/PART:begin -->`` and
``<!-- NAME/PART:end -->``. A place without a result file stays empty: no figure is ever typed in
by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import ROOT
from benchmarks.report import markdown, read_json

__all__ = ["fill", "main", "render"]

RESULTS = ROOT / "benchmarks" / "results"
PART = re.compile(r"(<!-- (\w+)((?:/\w+)?):begin -->\n).*?(<!-- \2\3:end -->)", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.readme", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="only say whether it would change")
    options = parser.parse_args(arguments)
    text = options.readme.read_text()
    filled = fill(text, options.results)
    if options.check:
        return int(filled != text)
    options.readme.write_text(filled)
    return 0


def fill(text: str, results: Path) -> str:
    """The text with each marked part rendered from the file of its name in `results`."""

    def part(match: re.Match[str]) -> str:
        begin, name, part, end = match.groups()
        return begin + _content(results, name, part.lstrip("/")) + end

    return PART.sub(part, text)


def _content(results: Path, name: str, part: str) -> str:
    kept, said = results / f"{name}.json", results / f"{name}.txt"
    if kept.is_file():
        return render(read_json(kept), part) + "\n"
    if said.is_file():
        lines = [line.rstrip() for line in said.read_text().strip("\n").splitlines()]
        return "```text\n" + "\n".join(lines) + "\n```\n"
    return ""


def render(results: dict[str, Any], part: str = "") -> str:
    """The tables of one part of a result file and, below them, what they were measured on."""
    parts = []
    for table in results["tables"]:
        if table.get("part", "") != part:
            continue
        title = f"{table['title'][0].upper()}{table['title'][1:]}."
        parts += [title, markdown(table["columns"], table["rows"])]
    machine = results["machine"]
    about = (
        f"{machine['processor']}, {machine['cpus']} CPUs, {machine['memory_gb']} GB, "
        f"Python {machine['python']}, {machine['date']}"
    )
    versions = ", ".join(f"{name} {v}" for name, v in results.get("versions", {}).items() if v)
    parts.append(f"_{about}{'; ' + versions if versions else ''}._")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
