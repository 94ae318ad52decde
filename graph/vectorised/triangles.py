"""Triangles of an oriented graph (NumPy): all wedges a -> b -> c, looked up among the edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graph.vectorised.rows import BLOCK_EDGES, expand

__all__ = ["count", "count_weighted"]


def count(offsets: Any, targets: Any, begin: int, end: int, stride: int, counts: Any) -> None:
    """As the compiled twin: add to each vertex its triangles."""
    for a, b, c, *_ in _triangles(offsets, targets, begin, end, stride):
        for corner in (a, b, c):
            counts += np.bincount(corner, minlength=counts.size)


def count_weighted(
    offsets: Any, targets: Any, weight: Any, begin: int, end: int, stride: int, counts: Any
) -> None:
    """As the compiled twin: add to each vertex the weight of the opposite edge."""
    for a, b, c, ab, bc, ac in _triangles(offsets, targets, begin, end, stride):
        for corner, opposite in ((a, bc), (b, ac), (c, ab)):
            added = np.bincount(corner, weight[opposite], minlength=counts.size)
            counts += added.astype(np.int64)


def _triangles(
    offsets: Any, targets: Any, begin: int, end: int, stride: int
) -> Iterator[tuple[Any, ...]]:
    """Corners a, b, c and the entries of the edges ab, bc, ac, a block of wedges at a time."""
    rows = offsets.size - 1
    degree = np.diff(offsets).astype(np.int64)
    source = np.repeat(np.arange(rows), degree)
    keys = source * rows + targets
    edges, _ = expand(offsets, np.arange(begin, max(begin, end), stride, dtype=np.uint64))
    wedges = np.cumsum(degree[targets[edges]])
    cuts = np.searchsorted(wedges, np.arange(0, wedges[-1] if wedges.size else 0, BLOCK_EDGES))
    for ab in np.split(edges, cuts[1:]):
        bc, lengths = expand(offsets, targets[ab].astype(np.uint64))
        ab = np.repeat(ab, lengths)
        wanted = source[ab] * rows + targets[bc]
        ac = np.minimum(np.searchsorted(keys, wanted), max(0, keys.size - 1))
        closed = keys[ac] == wanted if keys.size else np.zeros(0, np.bool_)
        ab, bc, ac = ab[closed], bc[closed], ac[closed]
        yield source[ab], targets[ab], targets[bc], ab, bc, ac
