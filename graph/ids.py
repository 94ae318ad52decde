"""The user's vertex ids and the local numbers 0..n-1 that everything inside works with.

Integer ids and other ids that Arrow can hold are numbered in their sort order; ids that are
already exactly 0..n-1 stand for themselves and cost nothing. Python objects that Arrow cannot hold
(tuples, mixed types) are numbered in the order in which they first appear.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from graph.columns import id_column

__all__ = ["VertexIds", "number"]

Local = npt.NDArray[np.uint32]
TABLE_SLOTS_PER_EDGE = 8
"""Ids below this many times the number of edge ends are numbered by a table, not by sorting."""


class VertexIds:
    """The ids of a graph's vertices, in the order of their local numbers."""

    def __init__(self, count: int, values: pa.Array | list[Any] | None = None) -> None:
        """``values`` None means that the ids are 0..count-1 themselves."""
        self._count = count
        self._values = values

    def __len__(self) -> int:
        """How many vertices."""
        return self._count

    @property
    def fingerprint(self) -> list[Any]:
        """What makes these ids differ from others (see ``graph.fingerprint``)."""
        return [self._count, self._values]

    @property
    def identity(self) -> bool:
        """Whether an id is its own local number."""
        return self._values is None

    @cached_property
    def arrow(self) -> pa.Array:
        """The ids as an Arrow array; raises ``TypeError`` where Arrow has no type for them."""
        if self._values is None:
            return pa.array(np.arange(self._count, dtype=np.int64))
        if isinstance(self._values, list):
            try:
                return pa.array(self._values)
            except pa.ArrowException as error:
                raise TypeError(
                    "these vertex ids have no Arrow type (mixed Python objects); "
                    "use to_dict() or iterate over the result"
                ) from error
        return self._values

    def tolist(self) -> list[Any]:
        """The ids as Python objects."""
        if self._values is None:
            return list(range(self._count))
        return self._values if isinstance(self._values, list) else self._values.to_pylist()

    def __iter__(self) -> Iterator[Any]:
        """The ids as Python objects, in order."""
        return iter(range(self._count) if self._values is None else self.tolist())

    def locate(self, vertex: Any) -> int:
        """The local number of one id. Raises ``KeyError`` naming the id if it is no vertex."""
        found = None
        if self._values is None or self._is_integer:
            whole = isinstance(vertex, int | np.integer) and not isinstance(vertex, bool)
            found = self._locate_integer(int(vertex)) if whole else None
        else:
            found = self._numbers.get(vertex)
        if found is None:
            raise KeyError(f"vertex {vertex!r} is not in the graph of {self._count} vertices")
        return found

    def take(self, numbers: npt.NDArray[Any]) -> pa.Array | list[Any]:
        """The ids of the given local numbers, as a column."""
        if self._values is None:
            return pa.array(numbers.astype(np.int64))
        if isinstance(self._values, list):
            return [self._values[i] for i in numbers]
        return self._values.take(pa.array(numbers))

    @cached_property
    def _is_integer(self) -> bool:
        return isinstance(self._values, pa.Array) and pa.types.is_integer(self._values.type)

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        """From id to number, for ids that are no integers."""
        return {vertex: i for i, vertex in enumerate(self.tolist())}

    def _locate_integer(self, vertex: int) -> int | None:
        if self._values is None:
            return vertex if 0 <= vertex < self._count else None
        if not 0 <= vertex < 2**63:
            return None
        values = self.arrow.to_numpy()
        at = int(np.searchsorted(values, vertex))
        return at if at < values.size and int(values[at]) == vertex else None


def number(src: Any, dst: Any, vertices: Any = None) -> tuple[VertexIds, Local, Local]:
    """Number the ids in ``src`` and ``dst``; returns the ids and both columns as local numbers.

    ``vertices`` (a column of ids, or a count n for 0..n-1) fixes the vertex set: it may hold
    vertices without edges, and an edge end outside of it is a ``ValueError``.
    """
    src, dst = id_column(src, "src"), id_column(dst, "dst")
    if len(src) != len(dst):
        raise ValueError(f"src has {len(src)} values and dst has {len(dst)}; one edge needs both")
    known: Any = np.empty(0, np.int64)
    if isinstance(vertices, int | np.integer):
        if vertices < 0:
            raise ValueError(f"vertices: expected a count or a column of ids, found {vertices}")
        known = np.arange(int(vertices), dtype=np.int64)
    elif vertices is not None:
        known = id_column(vertices, "vertices")
    columns = [column for column in (src, dst, known) if len(column)]
    if all(isinstance(column, np.ndarray) for column in columns):
        ids, found = _number_integers(src, dst, known)
    elif any(isinstance(column, list) for column in columns):
        ids, found = _number_objects(src, dst, known)
    else:
        ids, found = _number_arrow(src, dst, known)
    if vertices is not None:
        _check_known(src, dst, found)
    return ids, found[0], found[1]


def _check_known(src: Any, dst: Any, found: list[Any]) -> None:
    """Refuse edge ends outside of the given vertex set."""
    listed = np.zeros(1 + max((int(f.max()) for f in found if f.size), default=0), np.bool_)
    listed[found[2]] = True
    for name, column, local in (("src", src, found[0]), ("dst", dst, found[1])):
        wrong = np.flatnonzero(~listed[local])
        if wrong.size:
            at = int(wrong[0])
            raise ValueError(f"{name}: vertex {column[at]} at position {at} is not in `vertices`")


def _number_integers(src: Any, dst: Any, known: Any) -> tuple[VertexIds, list[Any]]:
    """Integers: a presence table where the ids are reasonably dense, sorting where not."""
    columns = [np.asarray(c if len(c) else np.empty(0, np.int64)) for c in (src, dst, known)]
    top = max((int(c.max()) for c in columns if c.size), default=-1)
    if top < TABLE_SLOTS_PER_EDGE * sum(c.size for c in columns) + 1024:
        seen = np.zeros(top + 1, np.bool_)
        for column in columns:
            seen[column] = True
        values = np.flatnonzero(seen)
        if values.size == top + 1:
            return VertexIds(top + 1), [c.astype(np.uint32) for c in columns]
        rank = np.cumsum(seen, dtype=np.uint32)
        rank -= np.uint32(1)
        return VertexIds(values.size, pa.array(values)), [rank[c] for c in columns]
    values = np.unique(np.concatenate([c.astype(np.int64) for c in columns]))
    local = [np.searchsorted(values, c).astype(np.uint32) for c in columns]
    return VertexIds(values.size, pa.array(values)), local


def _number_arrow(src: Any, dst: Any, known: Any) -> tuple[VertexIds, list[Any]]:
    """Strings and other Arrow values: hashed once, the distinct ones sorted."""
    columns = [pa.array(c) if isinstance(c, np.ndarray) else c for c in (src, dst, known)]
    types = {c.type for c in columns if len(c)}
    if len(types) > 1:
        raise TypeError(f"vertex ids are of different types: {', '.join(map(str, types))}")
    columns = [c if len(c) else pa.array([], next(iter(types))) for c in columns]
    values = pc.unique(pa.concat_arrays(columns))
    values = values.take(pc.array_sort_indices(values))
    local = [pc.index_in(c, value_set=values).to_numpy().astype(np.uint32) for c in columns]
    return VertexIds(len(values), values), local


def _number_objects(src: Any, dst: Any, known: Any) -> tuple[VertexIds, list[Any]]:
    """Any hashable Python objects, in order of appearance (the vertex list first)."""
    numbers: dict[Any, int] = {}
    columns = [c.tolist() if not isinstance(c, list) else c for c in (src, dst, known)]
    try:
        for vertex in (*columns[2], *columns[0], *columns[1]):
            numbers.setdefault(vertex, len(numbers))
    except TypeError as error:
        raise TypeError(f"vertex ids must be hashable: {error}") from error
    local = [np.fromiter((numbers[v] for v in c), np.uint32, len(c)) for c in columns]
    return VertexIds(len(numbers), list(numbers)), local
