"""Who owns which vertices: contiguous ranges of equal work (pure).

A copy owns the vertices ``bounds[i] <= v < bounds[i + 1]``. Contiguous ranges keep the locality
that the user's numbering has, make "owner of v" a binary search and let a copy write its results
as one slice. The work of a range is ``alpha * vertices + edges`` (the hybrid balance of Gemini,
OSDI'16): a vertex costs something even without edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ALPHA", "owners", "split"]

ALPHA = 8.0
"""Edges that cost as much as one vertex: its state is read and written, an edge only read."""

Bounds = npt.NDArray[np.int64]


def split(
    offsets: npt.NDArray[np.uint64], parts: int, alpha: float = ALPHA, align: int = 1
) -> Bounds:
    """Boundaries of ``parts`` ranges of about equal ``alpha * vertices + edges``.

    Inner boundaries are multiples of ``align`` (64 where copies share bitmaps of 64-bit words).
    A range may be empty: when there are more parts than vertices, or one vertex outweighs a share.
    """
    if parts < 1:
        raise ValueError(f"the number of partitions must be at least 1, found {parts}")
    rows = offsets.size - 1
    work = offsets.astype(np.float64) + alpha * np.arange(rows + 1)
    goals = work[-1] * np.arange(1, parts) / parts
    inner = np.searchsorted(work, goals)
    inner = np.minimum((inner + align // 2) // align * align, rows)
    bounds: Bounds = np.concatenate([[0], inner, [rows]]).astype(np.int64)
    return bounds


def owners(bounds: Bounds, vertices: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """Which range each of ``vertices`` belongs to."""
    return np.searchsorted(bounds[1:-1], vertices, side="right")
