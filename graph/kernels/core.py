"""Lowering core numbers to what the neighbours allow (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["lower"]


@jit
def _count(offsets: Any, targets: Any, core: Any, v: Any, cap: Any, counts: Any) -> None:
    """Count one row's neighbours by core number, those above ``cap`` as ``cap``."""
    for e in range(offsets[v], offsets[v + np.uint64(1)]):
        u = np.uint64(targets[e])
        if u != v:
            counts[min(core[u], cap)] += 1


@jit
def lower(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, both: bool, core: Any,
    begin: int, end: int,
) -> int:  # fmt: skip
    """Lower each core number of begin..end to the largest h such that h neighbours have h.

    Counts in-edges too if ``both``; loops never. Returns how many fell.
    """
    fell = 0
    counts = np.zeros(4, np.int64)
    for v in range(np.uint64(begin), np.uint64(end)):
        cap = core[v]
        if cap == 0:
            continue
        if counts.size <= cap:
            counts = np.zeros(cap * 2, np.int64)
        _count(offsets, targets, core, v, cap, counts)
        if both:
            _count(back_offsets, back_targets, core, v, cap, counts)
        h = np.int64(cap)
        having = counts[h]
        while having < h:
            h -= 1
            having += counts[h]
        counts[: np.int64(cap) + 1] = 0
        if h < cap:
            core[v] = h
            fell += 1
    return fell
