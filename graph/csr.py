"""Compressed sparse rows: the neighbours of every vertex, one after the other in one array.

``targets[offsets[v]:offsets[v + 1]]`` are the neighbours of ``v`` in ascending order; parallel
edges and self loops stay as given. Offsets are uint64 and targets uint32: unsigned, because a
compiled loop then indexes without a test for negative numbers (see :mod:`graph.compiled`), and
4 bytes an edge, because the loops are bound by memory.

Built by counting sort: grouping the edges by target and transposing the outcome gives rows that
are sorted without any comparison. The arrays are read-only: a graph does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graph.compiled import kernels

__all__ = ["Csr", "Offsets", "Targets", "from_arcs", "symmetric"]

Offsets = npt.NDArray[np.uint64]
Targets = npt.NDArray[np.uint32]
VERTICES_MAX = 2**31 - 2
"""Local vertex numbers are int32 wherever a user sees them (and -1 is 'none')."""


@dataclass(frozen=True)
class Csr:
    """Compressed rows with an optional float64 weight an entry."""

    offsets: Offsets
    targets: Targets
    weight: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Check the shape and freeze the arrays."""
        if self.offsets.size < 1 or int(self.offsets[-1]) != self.targets.size:
            raise ValueError("the last offset must be the number of targets")
        for array in (self.offsets, self.targets, self.weight):
            if array is not None:
                array.flags.writeable = False

    @property
    def rows(self) -> int:
        """How many vertices."""
        return self.offsets.size - 1

    @property
    def degree(self) -> npt.NDArray[np.int64]:
        """The number of entries of each row."""
        return np.diff(self.offsets).astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        weight = 0 if self.weight is None else self.weight.nbytes
        return self.offsets.nbytes + self.targets.nbytes + weight

    def row(self, vertex: int) -> Targets:
        """The neighbours of one vertex, ascending (a view)."""
        return self.targets[int(self.offsets[vertex]) : int(self.offsets[vertex + 1])]

    def transposed(self) -> Csr:
        """The same edges seen from their targets."""
        make = kernels("csr")
        if self.weight is None:
            return Csr(*make.transpose(self.offsets, self.targets))
        return Csr(*make.transpose_weighted(self.offsets, self.targets, self.weight))


def from_arcs(src: Any, dst: Any, rows: int, weight: Any = None) -> Csr:
    """Rows of the arcs ``src[i] -> dst[i]``, both local numbers below ``rows``."""
    if rows > VERTICES_MAX:
        raise ValueError(f"a graph has at most {VERTICES_MAX} vertices, found {rows}")
    src = np.ascontiguousarray(src, np.uint32)
    dst = np.ascontiguousarray(dst, np.uint32)
    make = kernels("csr")
    if weight is None:
        return Csr(*make.transpose(*make.group(dst, src, rows)))
    weight = np.ascontiguousarray(weight, np.float64)
    return Csr(*make.transpose_weighted(*make.group_weighted(dst, src, weight, rows)))


def symmetric(src: Any, dst: Any, rows: int, weight: Any = None) -> Csr:
    """Rows of undirected edges: each is stored in both directions, a self loop once."""
    cross = src != dst
    both = np.concatenate([src, dst[cross]])
    back = np.concatenate([dst, src[cross]])
    if weight is not None:
        weight = np.concatenate([weight, np.asarray(weight)[cross]])
    return from_arcs(both, back, rows, weight)
