"""Row-wise reductions over compressed rows in NumPy, in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["blocks", "expand", "reduce_rows"]

BLOCK_EDGES = 1 << 18
"""Edges gathered at once: 2 MiB of float64, so that the temporaries stay in a core's cache."""


def blocks(offsets: npt.NDArray[np.uint64], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut the rows begin..end into ranges of about ``BLOCK_EDGES`` entries, at least one row."""
    while begin < end:
        goal = int(offsets[begin]) + BLOCK_EDGES
        stop = int(np.searchsorted(offsets[begin + 1 : end + 1], np.uint64(goal), side="right"))
        stop = min(end, begin + max(1, stop))
        yield begin, stop
        begin = stop


def reduce_rows(
    ufunc: np.ufunc,
    offsets: npt.NDArray[np.uint64],
    begin: int,
    end: int,
    values: Callable[[slice], npt.NDArray[Any]],
    empty: Any,
) -> npt.NDArray[Any]:
    """``ufunc`` over ``values(entries)`` of each row begin..end; ``empty`` for rows without any."""
    pieces = [np.full(0, empty)]
    for first, stop in blocks(offsets, begin, end):
        starts = offsets[first : stop + 1].astype(np.intp)
        entries = values(slice(int(starts[0]), int(starts[-1])))
        out = np.full(stop - first, empty, entries.dtype)
        full = starts[1:] > starts[:-1]  # reduceat takes an empty row's first entry from the next
        if entries.size:
            out[full] = ufunc.reduceat(entries, starts[:-1][full] - starts[0])
        pieces.append(out)
    return np.concatenate(pieces[1:] or pieces)


def expand(
    offsets: npt.NDArray[np.uint64], rows: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """All entries of the given rows: their positions, and how many each row has."""
    starts = offsets[rows].astype(np.intp)
    counts = offsets[rows + np.uint64(1)].astype(np.intp) - starts
    running = np.cumsum(counts) - counts
    return np.repeat(starts - running, counts) + np.arange(counts.sum()), counts
