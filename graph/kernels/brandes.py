"""Shortest-path counts and dependencies from one source after the other (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["accumulate"]


@jit
def accumulate(offsets: Any, targets: Any, sources: Any, endpoints: bool, score: Any) -> None:
    """Add to ``score`` what each vertex contributes to the shortest paths from every source."""
    one = np.uint64(1)
    rows = offsets.size - 1
    order = np.empty(rows, np.uint32)
    depth = np.empty(rows, np.int32)
    paths = np.empty(rows, np.float64)
    depend = np.empty(rows, np.float64)
    for i in range(sources.size):
        source = sources[i]
        depth[:] = -1
        paths[:] = 0.0
        depend[:] = 0.0
        depth[source] = 0
        paths[source] = 1.0
        order[0] = source
        reached = np.uint64(1)
        at = np.uint64(0)
        while at < reached:
            u = np.uint64(order[at])
            at += one
            below = np.int32(depth[u] + 1)
            for e in range(offsets[u], offsets[u + one]):
                v = targets[e]
                if depth[v] < 0:
                    depth[v] = below
                    order[reached] = v
                    reached += one
                if depth[v] == below:
                    paths[v] += paths[u]
        while at > one:
            at -= one
            u = np.uint64(order[at])
            below = np.int32(depth[u] + 1)
            total = 0.0
            for e in range(offsets[u], offsets[u + one]):
                v = targets[e]
                if depth[v] == below:
                    total += (1.0 + depend[v]) / paths[v]
            depend[u] = total * paths[u]
            score[u] += depend[u]
            if endpoints:
                score[u] += 1.0
        if endpoints:
            score[source] += np.float64(reached - one)
