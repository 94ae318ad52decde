"""Steps of the colouring algorithm for strong components (NumPy)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.vectorised.rows import reduce_rows

__all__ = ["colour", "mark", "settle", "trim"]

OPEN = np.uint32(2**32 - 1)


def trim(
    offsets: Any, targets: Any, back_offsets: Any, back_targets: Any, label: Any, colours: Any,
    begin: int, end: int,
) -> int:  # fmt: skip
    """As the compiled twin: settle vertices without open successors or predecessors."""
    colours[begin:end] = np.arange(begin, end)
    open_ = label[begin:end] == OPEN
    single = open_ & ~(
        _open_around(offsets, targets, label, begin, end)
        & _open_around(back_offsets, back_targets, label, begin, end)
    )
    label[begin:end][single] = np.arange(begin, end)[single]
    return int(single.sum())


def colour(
    back_offsets: Any, back_targets: Any, label: Any, colours: Any, begin: int, end: int
) -> int:
    """As the compiled twin: lower colours to the least among the open predecessors."""

    def offered(e: slice) -> Any:
        u = back_targets[e]
        return np.where(label[u] == OPEN, colours[u], OPEN)

    least = reduce_rows(np.minimum, back_offsets, begin, end, offered, OPEN)
    falls = (label[begin:end] == OPEN) & (least < colours[begin:end])
    colours[begin:end][falls] = least[falls]
    return int(falls.sum())


def mark(
    offsets: Any, targets: Any, label: Any, colours: Any, marked: Any, begin: int, end: int
) -> int:
    """As the compiled twin: mark roots and whatever reaches one inside its colour."""
    mine = np.repeat(colours[begin:end], np.diff(offsets[begin : end + 1].astype(np.intp)))
    start = int(offsets[begin])

    def reaches(e: slice) -> Any:
        u = targets[e]
        return marked[u] & (colours[u] == mine[e.start - start : e.stop - start])

    near = reduce_rows(np.logical_or, offsets, begin, end, reaches, False)
    near |= colours[begin:end] == np.arange(begin, end)
    new = near & (label[begin:end] == OPEN) & ~marked[begin:end]
    marked[begin:end] |= new
    return int(new.sum())


def settle(label: Any, colours: Any, marked: Any, begin: int, end: int) -> int:
    """As the compiled twin: colours of marked vertices become components."""
    done = marked[begin:end]
    label[begin:end][done] = colours[begin:end][done]
    marked[begin:end] = False
    return int((label[begin:end] == OPEN).sum())


def _open_around(offsets: Any, targets: Any, label: Any, begin: int, end: int) -> Any:
    """Whether each row has an open vertex besides its own."""
    rows = np.repeat(np.arange(begin, end), np.diff(offsets[begin : end + 1].astype(np.intp)))
    start = int(offsets[begin])

    def is_open(e: slice) -> Any:
        u = targets[e]
        return (label[u] == OPEN) & (u != rows[e.start - start : e.stop - start])

    return reduce_rows(np.logical_or, offsets, begin, end, is_open, False)
