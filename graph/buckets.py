"""Buckets of vertices by tentative distance: the work list of delta-stepping in one copy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Buckets"]

ENTRIES_AT_FIRST = 1 << 16
NONE = np.uint32(2**32 - 1)


class Buckets:
    """A circle of buckets over one growing pool of entries; see ``graph.kernels.sssp``.

    A vertex may be in several buckets: entries are not removed when a distance falls again, they
    are recognised as stale when their turn comes.
    """

    def __init__(self, kernels: ModuleType, count: int, entries: int = ENTRIES_AT_FIRST) -> None:
        """``count`` buckets, so many that none is reached a second time around."""
        self.kernels = kernels
        heads = np.full(count, NONE)
        self.pool: tuple[Any, ...] = (heads, np.zeros(count, np.int64), *_entries(entries, 0))
        self.pool += (np.array([0, entries], np.int64),)

    def put(self, bucket: int, vertex: int) -> None:
        """Add one vertex."""
        self.kernels.put(self.pool, bucket, np.uint32(vertex))

    def lowest(self, bucket: int) -> int:
        """The first bucket from ``bucket`` on with entries, or -1."""
        return int(self.kernels.lowest(self.pool, bucket))

    def read(self, bucket: int, queue: Any) -> int:
        """Copy entries of a bucket to ``queue``, as many as fit; returns how many."""
        return int(self.kernels.read(self.pool, bucket, queue))

    def remove(self, bucket: int, count: int) -> None:
        """Take out as many entries as ``read`` gave."""
        self.kernels.remove(self.pool, bucket, count)

    def snapshot(self) -> tuple[Any, ...]:
        """A copy of everything."""
        return tuple(array.copy() for array in self.pool)

    def restore(self, pool: tuple[Any, ...]) -> None:
        """Go on from a copy."""
        self.pool = tuple(pool)

    def grow(self) -> None:
        """Double the pool."""
        heads, sizes, vertices, following, free = self.pool
        more_vertices, more_following = _entries(vertices.size, vertices.size)
        more_following[-1] = free[0] if free[1] else NONE
        free[0] = vertices.size
        free[1] += vertices.size
        self.pool = (
            heads,
            sizes,
            np.concatenate([vertices, more_vertices]),
            np.concatenate([following, more_following]),
            free,
        )


def _entries(count: int, first: int) -> tuple[Any, Any]:
    """``count`` unused entries numbered from ``first``, each followed by the next."""
    following = np.arange(first + 1, first + count + 1, dtype=np.uint32)
    following[-1] = NONE
    return np.empty(count, np.uint32), following
