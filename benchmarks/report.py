"""Printing and keeping results: the same tables and the same JSON for every benchmark.

A result file holds the machine, the settings, every single measurement and the tables as they were
shown, so that figures can be published, and argued with, without running anything again.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["figure", "machine", "markdown", "percentiles", "read_json", "show", "spread"]
__all__ += ["versions", "write_json"]

# Tables of this run in the order shown: `write_json` keeps them with the measurements.
_shown: list[dict[str, Any]] = []


def machine() -> dict[str, Any]:
    """What the figures were measured on, in words that fit under a table."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions of the distributions named; those that are absent are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def figure(value: float) -> str:
    """Three significant digits and a separator for thousands: 0.00123, 4.57, 12,300."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Median and range: ``12,300 (11,900-12,800)``; the median alone of one value."""
    middle = figure(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({figure(min(values))}-{figure(max(values))})"


def percentiles(values: Sequence[float], *shares: float) -> dict[str, float]:
    """The values below which the given shares (0-100) lie: ``{"p50": ..., "p99.9": ...}``."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{share:g}": ordered[min(last, int(share / 100 * len(ordered)))] for share in shares}


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], part: str = ""
) -> None:
    """Print a table for people; the first column is text, the others are figures.

    Tables of a `part` stand apart in the README (see `benchmarks.readme`).
    """
    from rich.console import Console
    from rich.table import Table

    kept = {"title": title, "columns": list(columns), "rows": [list(r) for r in rows]}
    _shown.append(kept | ({"part": part} if part else {}))
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row)
    # A pipe has no width of its own: wide enough then that no figure is cut.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table as it stands in a README."""
    head = "| " + " | ".join(columns) + " |"
    rule = "|" + "|".join(["---"] + ["---:"] * (len(columns) - 1)) + "|"
    return "\n".join([head, rule, *("| " + " | ".join(row) + " |" for row in rows)])


def write_json(path: str | Path, results: dict[str, Any]) -> None:
    """Keep results; the machine and the tables shown so far go with them."""
    kept = {"machine": machine(), **results, "tables": _shown}
    text = json.dumps(kept, indent=1, default=str)
    Path(path).write_text(text + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Results as `write_json` kept them."""
    results: dict[str, Any] = json.loads(Path(path).read_text())
    return results


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
