"""One level of breadth-first search, both directions (NumPy)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import expand, reduce_rows

__all__ = ["pull", "push"]


def push(
    offsets: Any, targets: Any, depth: Any, level: int,
    queues: Any, counts: Any, index: int, found: Any,
) -> Any:  # fmt: skip
    """As the compiled twin: visit the out-neighbours of this copy's share of the frontier."""
    shares = [q[index : int(n) : len(counts)] for q, n in zip(queues, counts, strict=True)]
    entries, _ = expand(offsets, np.concatenate(shares))
    reached = targets[entries]
    return _visit(np.unique(reached[depth[reached] < 0]), offsets, depth, level, found)


def pull(
    offsets: Any, sources: Any, out_offsets: Any, depth: Any, level: int,
    begin: int, end: int, found: Any,
) -> Any:  # fmt: skip
    """As the compiled twin: the unvisited vertices of begin..end with a parent on this level."""
    near = reduce_rows(
        np.logical_or, offsets, begin, end, lambda e: depth[sources[e]] == level - 1, False
    )
    new = np.flatnonzero(near.astype(np.bool_) & (depth[begin:end] < 0)) + begin
    return _visit(new, out_offsets, depth, level, found)


def _visit(new: Any, offsets: Any, depth: Any, level: int, found: Any) -> tuple[int, int]:
    """Set the depth of the new vertices and note them down."""
    depth[new] = level
    found[: new.size] = new
    return new.size, int((offsets[new + 1] - offsets[new]).sum())
