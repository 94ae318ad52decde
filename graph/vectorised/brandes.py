"""Shortest-path counts and dependencies from one source after the other (NumPy, by levels)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import expand

__all__ = ["accumulate"]


def accumulate(offsets: Any, targets: Any, sources: Any, endpoints: bool, score: Any) -> None:
    """As the compiled twin: add what each vertex contributes to the paths from every source."""
    for source in sources.tolist():
        _from_one(offsets, targets, source, endpoints, score)


def _from_one(offsets: Any, targets: Any, source: int, endpoints: bool, score: Any) -> None:
    """One source: levels forth, then levels back."""
    rows = offsets.size - 1
    depth = np.full(rows, -1)
    paths, depend = np.zeros(rows), np.zeros(rows)
    depth[source], paths[source] = 0, 1.0
    levels: list[tuple[Any, Any]] = []
    frontier = np.array([source], np.uint64)
    while frontier.size:
        entries, counts = expand(offsets, frontier)
        from_, to = np.repeat(frontier, counts), targets[entries]
        depth[to[depth[to] < 0]] = len(levels) + 1
        down = depth[to] == len(levels) + 1
        levels.append((from_[down], to[down]))
        paths += np.bincount(to[down], paths[from_[down]], minlength=rows)
        frontier = np.unique(to[down]).astype(np.uint64)
    for from_, to in reversed(levels):
        share = (1.0 + depend[to]) / paths[to] * paths[from_]
        depend += np.bincount(from_, share, minlength=rows)
    reached = depth > 0
    score[reached] += depend[reached] + (1.0 if endpoints else 0.0)
    if endpoints:
        score[source] += reached.sum()
