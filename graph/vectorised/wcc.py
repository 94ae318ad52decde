"""Smallest label of the neighbourhood, with shortcuts (NumPy)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import reduce_rows

__all__ = ["lower"]


def lower(rows: Any, label: Any, begin: int, end: int) -> int:
    """Lower each label of begin..end to the least around it and jump once; returns the changes.

    ``rows`` are pairs of offsets and targets (out-edges, and in-edges of a directed graph). Labels
    only fall, and only the own range is written: reading what another copy is just
    lowering is safe.
    """
    before = label[begin:end].copy()
    best = before.copy()
    for offsets, targets in rows:
        best = np.minimum(best, _least_around(offsets, targets, label, begin, end))
    best = np.minimum(best, label[best])
    label[begin:end] = best
    return int((best != before).sum())


def _least_around(offsets: Any, targets: Any, label: Any, begin: int, end: int) -> Any:
    """The least label among the neighbours of each vertex of begin..end."""
    none = np.uint32(2**32 - 1)
    return reduce_rows(np.minimum, offsets, begin, end, lambda e: label[targets[e]], none)
