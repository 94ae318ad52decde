"""Delta-stepping over shared tentative distances (compiled).

Each copy keeps the vertices it has lowered in buckets of width delta. A bucket is a linked list
in a pool of entries, ``pool = (heads, sizes, vertices, following, free)``; only the next
``heads.size`` buckets can ever be filled, so they are used in a circle. ``free`` holds the head of
the list of unused entries and their number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit
from graph.kernels.atomics import compare_and_swap

__all__ = ["expand", "lowest", "put", "read", "remove"]

NONE = np.uint32(2**32 - 1)


@jit
def _lower(distance: Any, bits: Any, v: Any, to: float) -> bool:
    """Set distance[v] to ``to`` if that is less; whether it was. ``bits`` is the same memory."""
    old = distance[v]
    while to < old:
        was, will = np.float64(old).view(np.int64), np.float64(to).view(np.int64)
        if compare_and_swap(bits, np.uint64(v), was, will):
            return True
        old = distance[v]
    return False


@jit
def put(pool: Any, bucket: Any, v: Any) -> None:
    """Add a vertex to a bucket; the pool must have room."""
    heads, sizes, vertices, following, free = pool
    entry = np.uint64(free[0])
    free[0] = following[entry]
    free[1] -= 1
    slot = np.uint64(bucket % heads.size)
    vertices[entry] = v
    following[entry] = heads[slot]
    heads[slot] = np.uint32(entry)
    sizes[slot] += 1


@jit
def expand(
    offsets: Any, targets: Any, weight: Any, distance: Any, bits: Any, delta: float, bucket: int,
    queue: Any, start: int, stop: int, stride: int, pool: Any,
) -> int:  # fmt: skip
    """Relax the out-edges of queue[start:stop:stride] that still belong to the bucket.

    Returns where it stopped: ``stop`` or later if done, otherwise the entry for which the
    pool may be too small; enlarge it and call again from there.
    """
    free = pool[4]
    at = start
    while at < stop:
        u = queue[np.uint64(at)]
        begin = offsets[u]
        end = offsets[np.uint64(u) + np.uint64(1)]
        if np.int64(distance[u] / delta) >= bucket:
            if np.int64(end - begin) > free[1]:
                return at
            near = distance[u]
            for e in range(begin, end):
                v = targets[e]
                to = near + weight[e]
                if _lower(distance, bits, v, to):
                    put(pool, np.int64(to / delta), v)
        at += stride
    return at


@jit
def read(pool: Any, bucket: int, queue: Any) -> int:
    """Copy a bucket to a queue, as far as that has room; returns how many entries."""
    heads, _, vertices, following, _ = pool
    count = 0
    entry = heads[np.uint64(bucket % heads.size)]
    while entry != NONE and count < queue.size:
        queue[np.uint64(count)] = vertices[np.uint64(entry)]
        count += 1
        entry = following[np.uint64(entry)]
    return count


@jit
def remove(pool: Any, bucket: int, count: int) -> None:
    """Take the first ``count`` entries out of a bucket."""
    heads, sizes, _, following, free = pool
    slot = np.uint64(bucket % heads.size)
    for _ in range(count):
        entry = np.uint64(heads[slot])
        heads[slot] = following[entry]
        following[entry] = np.uint32(free[0])
        free[0] = entry
        free[1] += 1
        sizes[slot] -= 1


@jit
def lowest(pool: Any, bucket: int) -> int:
    """The first bucket from ``bucket`` on that is not empty, or -1."""
    sizes = pool[1]
    for i in range(sizes.size):
        if sizes[np.uint64((bucket + i) % sizes.size)]:
            return bucket + i
    return -1
