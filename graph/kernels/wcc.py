"""Union-find on one shared array of labels (compiled).

The invariant: ``label[v] <= v`` and following labels ends at a root, ``label[r] == r``. Roots are
hooked onto smaller vertices only and only by compare-and-swap, so the last root of a component is
its smallest vertex, whatever the order in which copies link.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit
from graph.kernels.atomics import compare_and_swap

__all__ = ["compress", "finish", "link_first", "root_of"]


@jit
def _link(label: Any, u: Any, v: Any) -> None:
    """Put u and v under one root."""
    a = label[u]
    b = label[v]
    while a != b:
        high = max(a, b)
        low = min(a, b)
        above = label[high]
        if above == low:
            return
        if above == high and compare_and_swap(label, np.uint64(high), high, low):
            return
        a = label[label[high]]
        b = label[low]


@jit
def root_of(label: Any, v: int) -> Any:
    """The root above a vertex at this moment."""
    at = label[np.uint64(v)]
    while label[at] != at:
        at = label[at]
    return at


@jit
def compress(label: Any, begin: int, end: int) -> None:
    """Point the vertices begin..end at their roots. Safe while other copies link."""
    for v in range(np.uint64(begin), np.uint64(end)):
        at = label[v]
        above = label[at]
        while at != above:
            label[v] = above
            at = above
            above = label[at]


@jit
def link_first(offsets: Any, targets: Any, label: Any, rank: int, begin: int, end: int) -> None:
    """Link each vertex of begin..end with its neighbour number ``rank``."""
    one = np.uint64(1)
    for v in range(np.uint64(begin), np.uint64(end)):
        e = offsets[v] + np.uint64(rank)
        if e < offsets[v + one]:
            _link(label, np.uint32(v), targets[e])


@jit
def finish(
    offsets: Any, targets: Any, label: Any, giant: int, skip: int, begin: int, end: int
) -> None:
    """Link begin..end with all neighbours but the first ``skip``; not those in the giant."""
    one = np.uint64(1)
    for v in range(np.uint64(begin), np.uint64(end)):
        if label[v] != np.uint32(giant):
            for e in range(offsets[v] + np.uint64(skip), offsets[v + one]):
                _link(label, np.uint32(v), targets[e])
