"""The PageRank gather (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["pull", "pull_weighted"]


@jit
def pull(
    offsets: Any, sources: Any, share: Any, rank: Any, inverse: Any, base: Any,
    alpha: float, begin: int, end: int, into: Any,
) -> Any:  # fmt: skip
    """One iteration for the vertices begin..end; returns (L1 change, rank without out-edges).

    ``share`` is rank / out-degree of every vertex as of the last iteration, ``inverse`` is
    1 / out-degree (0 for sinks) and ``base`` one value or one a vertex, both of this range only.
    """
    one = np.uint64(1)
    first = np.uint64(begin)
    wide = np.uint64(1 if base.size > 1 else 0)
    change = 0.0
    sunk = 0.0
    edge = offsets[first]
    for v in range(first, np.uint64(end)):
        total = 0.0
        stop = offsets[v + one]
        while edge < stop:
            total += share[sources[edge]]
            edge += one
        value = base[(v - first) * wide] + alpha * total
        change += abs(value - rank[v])
        rank[v] = value
        scale = inverse[v - first]
        into[v] = value * scale
        if scale == 0.0:
            sunk += value
    return change, sunk


@jit
def pull_weighted(
    offsets: Any, sources: Any, weight: Any, share: Any, rank: Any, inverse: Any, base: Any,
    alpha: float, begin: int, end: int, into: Any,
) -> Any:  # fmt: skip
    """As :func:`pull` where an edge passes on its weight's part of the sum of out-weights."""
    one = np.uint64(1)
    first = np.uint64(begin)
    wide = np.uint64(1 if base.size > 1 else 0)
    change = 0.0
    sunk = 0.0
    edge = offsets[first]
    for v in range(first, np.uint64(end)):
        total = 0.0
        stop = offsets[v + one]
        while edge < stop:
            total += share[sources[edge]] * weight[edge]
            edge += one
        value = base[(v - first) * wide] + alpha * total
        change += abs(value - rank[v])
        rank[v] = value
        scale = inverse[v - first]
        into[v] = value * scale
        if scale == 0.0:
            sunk += value
    return change, sunk
