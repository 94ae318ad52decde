"""The PageRank gather (NumPy)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import reduce_rows

__all__ = ["pull", "pull_weighted"]


def pull(
    offsets: Any, sources: Any, share: Any, rank: Any, inverse: Any, base: Any,
    alpha: float, begin: int, end: int, into: Any,
) -> Any:  # fmt: skip
    """As the compiled twin: (L1 change, rank of vertices without out-edges)."""
    total = reduce_rows(np.add, offsets, begin, end, lambda e: share[sources[e]], 0.0)
    return _finish(total, rank, inverse, base, alpha, begin, end, into)


def pull_weighted(
    offsets: Any, sources: Any, weight: Any, share: Any, rank: Any, inverse: Any, base: Any,
    alpha: float, begin: int, end: int, into: Any,
) -> Any:  # fmt: skip
    """As :func:`pull` with a weight an edge."""
    total = reduce_rows(np.add, offsets, begin, end, lambda e: share[sources[e]] * weight[e], 0.0)
    return _finish(total, rank, inverse, base, alpha, begin, end, into)


def _finish(
    total: Any, rank: Any, inverse: Any, base: Any, alpha: float, begin: int, end: int, into: Any
) -> tuple[float, float]:
    """New ranks and shares from the gathered sums."""
    value = base + alpha * total
    change = float(np.abs(value - rank[begin:end]).sum())
    rank[begin:end] = value
    scale = inverse[: end - begin]
    into[begin:end] = value * scale
    return change, float(value[scale == 0.0].sum())
