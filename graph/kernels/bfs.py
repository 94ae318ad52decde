"""One level of breadth-first search, both directions (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["pull", "push"]


@jit
def push(
    offsets: Any, targets: Any, depth: Any, level: int,
    queues: Any, counts: Any, index: int, found: Any,
) -> Any:  # fmt: skip
    """Visit the out-neighbours of this copy's share of the frontier.

    The frontier is ``queues[i][:counts[i]]`` for all i; of each queue this copy takes every
    p-th vertex. New vertices get ``depth = level`` (copies may both find a vertex: they write
    the same) and go to ``found``. Returns how many, and the sum of their out-degrees.
    """
    one = np.uint64(1)
    step = np.uint64(counts.size)
    new = np.uint64(0)
    edges = np.uint64(0)
    mark = np.int32(level)
    for q in range(np.uint64(counts.size)):
        queue = queues[q]
        for i in range(np.uint64(index), np.uint64(counts[q]), step):
            u = queue[i]
            for e in range(offsets[u], offsets[np.uint64(u) + one]):
                v = targets[e]
                if depth[v] < 0:
                    depth[v] = mark
                    found[new] = v
                    new += one
                    edges += offsets[np.uint64(v) + one] - offsets[v]
    return new, edges


@jit
def pull(
    offsets: Any, sources: Any, out_offsets: Any, depth: Any, level: int,
    begin: int, end: int, found: Any,
) -> Any:  # fmt: skip
    """Look for a parent of every unvisited vertex in begin..end, up to the first one.

    Returns as :func:`push`.
    """
    one = np.uint64(1)
    new = np.uint64(0)
    edges = np.uint64(0)
    mark = np.int32(level)
    parent = np.int32(level - 1)
    for v in range(np.uint64(begin), np.uint64(end)):
        if depth[v] < 0:
            for e in range(offsets[v], offsets[v + one]):
                if depth[sources[e]] == parent:
                    depth[v] = mark
                    found[new] = v
                    new += one
                    edges += out_offsets[v + one] - out_offsets[v]
                    break
    return new, edges
