"""Shortest distances by repeated relaxation of all in-edges (NumPy; Bellman-Ford)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import reduce_rows

__all__ = ["relax"]


def relax(offsets: Any, sources: Any, weight: Any, distance: Any, begin: int, end: int) -> int:
    """Lower the distances of begin..end to the best over an in-edge; returns how many fell."""
    before = distance[begin:end]
    best = reduce_rows(
        np.minimum, offsets, begin, end, lambda e: distance[sources[e]] + weight[e], np.inf
    )
    fell = int((best < before).sum())
    distance[begin:end] = np.minimum(before, best)
    return fell
