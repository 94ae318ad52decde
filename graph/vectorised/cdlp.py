"""The most frequent label around a vertex (NumPy): sort by (vertex, label), count the runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import blocks

__all__ = ["commonest"]


def commonest(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, both: bool,
    label: Any, into: Any, begin: int, end: int,
) -> int:  # fmt: skip
    """As the compiled twin: the new labels of begin..end; returns how many changed."""
    into[begin:end] = label[begin:end]
    for first, stop in blocks(offsets, begin, end):
        pairs = [_around(offsets, targets, label, first, stop)]
        if both:
            pairs.append(_around(back_offsets, back_targets, label, first, stop))
        row = np.concatenate([r for r, _ in pairs])
        name = np.concatenate([n for _, n in pairs])
        order = np.lexsort((name, row))
        row, name = row[order], name[order]
        starts = np.flatnonzero(
            np.concatenate([[True], (row[1:] != row[:-1]) | (name[1:] != name[:-1])])[: row.size]
        )
        counts = np.diff(starts, append=row.size)
        row, name = row[starts], name[starts]
        ranked = np.lexsort((name, -counts, row))
        row, name = row[ranked], name[ranked]
        winners, at = np.unique(row, return_index=True)
        into[winners] = name[at]
    return int((into[begin:end] != label[begin:end]).sum())


def _around(offsets: Any, targets: Any, label: Any, begin: int, end: int) -> tuple[Any, Any]:
    """(vertex, label of a neighbour) for every edge of the range."""
    ends = offsets[begin : end + 1].astype(np.intp)
    rows = np.repeat(np.arange(begin, end), np.diff(ends))
    return rows, label[targets[ends[0] : ends[-1]]]
