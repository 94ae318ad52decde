"""The most frequent label around a vertex (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["commonest"]


@jit
def _count(
    offsets: Any, targets: Any, label: Any, v: Any, keys: Any, counts: Any, places: Any
) -> None:
    """Add the labels of one row to a hash table of ``places`` (a power of 2) with free ones."""
    one = np.uint64(1)
    mask = places - one
    for e in range(offsets[v], offsets[v + one]):
        key = label[targets[e]]
        at = (np.uint64(key) * np.uint64(11400714819323198485) >> np.uint64(20)) & mask
        while counts[at] != 0 and keys[at] != key:
            at = (at + one) & mask
        keys[at] = key
        counts[at] += 1


@jit
def _best(keys: Any, counts: Any, places: Any) -> Any:
    """The key with the highest count, the smallest of those; empties the table."""
    best = keys[0]
    most = np.uint32(0)
    for at in range(places):
        count = counts[at]
        if count != 0:
            if count > most or (count == most and keys[at] < best):
                best = keys[at]
                most = count
            counts[at] = 0
    return best


@jit
def commonest(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, both: bool,
    label: Any, into: Any, begin: int, end: int,
) -> int:  # fmt: skip
    """The new label of each vertex of begin..end; returns how many changed.

    Counts labels over the out-edges, and if ``both`` over the in-edges too; the most frequent wins,
    of equally frequent ones the smallest; a vertex without neighbours keeps its own.
    """
    one = np.uint64(1)
    changed = 0
    keys = np.empty(4, np.uint32)
    counts = np.zeros(4, np.uint32)
    for v in range(np.uint64(begin), np.uint64(end)):
        degree = offsets[v + one] - offsets[v]
        if both:
            degree += back_offsets[v + one] - back_offsets[v]
        into[v] = label[v]
        if degree == np.uint64(0):
            continue
        places = np.uint64(4)
        while places < degree + degree:
            places += places
        if keys.size < places:
            keys = np.empty(places, np.uint32)
            counts = np.zeros(places, np.uint32)
        _count(offsets, targets, label, v, keys, counts, places)
        if both:
            _count(back_offsets, back_targets, label, v, keys, counts, places)
        best = _best(keys, counts, places)
        into[v] = best
        if best != label[v]:
            changed += 1
    return changed
