"""Lowering core numbers to what the neighbours allow (NumPy): sort each row, compare with ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import blocks

__all__ = ["lower"]


def lower(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, both: bool, core: Any,
    begin: int, end: int,
) -> int:  # fmt: skip
    """As the compiled twin: returns how many core numbers of begin..end fell."""
    fell = 0
    for first, stop in blocks(offsets, begin, end):
        pairs = [_around(offsets, targets, core, first, stop)]
        if both:
            pairs.append(_around(back_offsets, back_targets, core, first, stop))
        row = np.concatenate([r for r, _ in pairs])
        have = np.concatenate([h for _, h in pairs])
        order = np.lexsort((-have, row))
        row, have = row[order], have[order]
        rank = np.arange(row.size) - np.searchsorted(row, row) + 1
        largest = np.bincount(row[have >= rank], minlength=stop - first)
        fell += int((largest < core[first:stop]).sum())
        core[first:stop] = np.minimum(core[first:stop], largest)
    return fell


def _around(offsets: Any, targets: Any, core: Any, begin: int, end: int) -> tuple[Any, Any]:
    """(vertex of the range, core number of a neighbour) for every edge but loops."""
    ends = offsets[begin : end + 1].astype(np.intp)
    rows = np.repeat(np.arange(end - begin), np.diff(ends))
    near = targets[ends[0] : ends[-1]]
    other = near != rows + begin
    return rows[other], core[near[other]].astype(np.int64)
