"""Triangles of an oriented graph (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["count", "count_weighted"]


@jit
def count(offsets: Any, targets: Any, begin: int, end: int, stride: int, counts: Any) -> None:
    """Add to each vertex its triangles whose lowest rank is begin, begin + stride, ... < end."""
    one = np.uint64(1)
    marked = np.zeros(offsets.size - 1, np.bool_)
    for a in range(np.uint64(begin), np.uint64(end), np.uint64(stride)):
        first, last = offsets[a], offsets[a + one]
        for e in range(first, last):
            marked[targets[e]] = True
        for e in range(first, last):
            b = np.uint64(targets[e])
            found = np.int64(0)
            for f in range(offsets[b], offsets[b + one]):
                c = targets[f]
                if marked[c]:
                    counts[c] += 1
                    found += 1
            counts[a] += found
            counts[b] += found
        for e in range(first, last):
            marked[targets[e]] = False


@jit
def count_weighted(
    offsets: Any, targets: Any, weight: Any, begin: int, end: int, stride: int, counts: Any
) -> None:
    """As :func:`count`, adding to each vertex of a triangle the weight of the opposite edge."""
    one = np.uint64(1)
    marked = np.zeros(offsets.size - 1, np.float64)
    for a in range(np.uint64(begin), np.uint64(end), np.uint64(stride)):
        first, last = offsets[a], offsets[a + one]
        for e in range(first, last):
            marked[targets[e]] = weight[e]
        for e in range(first, last):
            b = np.uint64(targets[e])
            for f in range(offsets[b], offsets[b + one]):
                c = targets[f]
                if marked[c] != 0.0:
                    counts[a] += np.int64(weight[f])
                    counts[b] += np.int64(marked[c])
                    counts[c] += np.int64(weight[e])
        for e in range(first, last):
            marked[targets[e]] = 0.0
