"""Steps of the colouring algorithm for strong components (compiled).

``label`` is the component of a settled vertex and ``OPEN`` for others. All steps change one range
of vertices in one direction only (open to settled, colours down, unmarked to marked), so reading
what another copy is just changing does no harm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["colour", "mark", "settle", "trim"]

OPEN = np.uint32(2**32 - 1)


@jit
def _has_open(offsets: Any, targets: Any, label: Any, v: Any) -> bool:
    """Whether a row has an open vertex besides v itself."""
    for e in range(offsets[v], offsets[v + np.uint64(1)]):
        u = np.uint64(targets[e])
        if u != v and label[u] == OPEN:
            return True
    return False


@jit
def trim(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, label: Any, colours: Any,
    begin: int, end: int,
) -> int:  # fmt: skip
    """Settle vertices that no open one leads to, or that lead to none: components of one."""
    settled = 0
    for v in range(np.uint64(begin), np.uint64(end)):
        colours[v] = v
        if label[v] == OPEN and not (
            _has_open(offsets, targets, label, v)
            and _has_open(back_offsets, back_targets, label, v)
        ):
            label[v] = v
            settled += 1
    return settled


@jit
def colour(
    back_offsets: Any, back_targets: Any, label: Any, colours: Any, begin: int, end: int
) -> int:
    """Lower the colour of each open vertex to the least among its open predecessors."""
    changed = 0
    for v in range(np.uint64(begin), np.uint64(end)):
        if label[v] == OPEN:
            best = colours[v]
            for e in range(back_offsets[v], back_offsets[v + np.uint64(1)]):
                u = back_targets[e]
                if label[u] == OPEN:
                    best = min(best, colours[u])
            if best < colours[v]:
                colours[v] = best
                changed += 1
    return changed


@jit
def mark(
    offsets: Any, targets: Any, label: Any, colours: Any, marked: Any, begin: int, end: int
) -> int:
    """Mark roots (vertices of their own colour) and whatever reaches one inside its colour."""
    changed = 0
    for v in range(np.uint64(begin), np.uint64(end)):
        if label[v] == OPEN and not marked[v]:
            near = np.uint64(colours[v]) == v
            if not near:
                for e in range(offsets[v], offsets[v + np.uint64(1)]):
                    u = targets[e]
                    if marked[u] and colours[u] == colours[v]:
                        near = True
                        break
            if near:
                marked[v] = True
                changed += 1
    return changed


@jit
def settle(label: Any, colours: Any, marked: Any, begin: int, end: int) -> int:
    """Make colours of marked vertices their components, unmark; returns how many are open."""
    left = 0
    for v in range(np.uint64(begin), np.uint64(end)):
        if marked[v]:
            label[v] = colours[v]
            marked[v] = False
        elif label[v] == OPEN:
            left += 1
    return left
