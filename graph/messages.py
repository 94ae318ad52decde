"""Messages between vertices as columns: collected, combined, cut by receiver, and merged again.

With a combiner the sender folds what it has collected into one dense column over all vertices, so
its memory does not grow with the number of messages; only touched vertices are sent. Without
one the messages travel as they are and are sorted by vertex at the receiver; as partitions are
contiguous and computed in vertex order, a vertex gets its messages in the order of their senders
however many copies there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graph.types import COMBINERS, Field
from graph.vectorised.rows import expand

__all__ = ["Inbox", "Mail"]

FLUSH_MESSAGES = 1 << 16
"""Messages kept as Python objects before they are folded into columns."""


class Mail:
    """What the vertices of one partition send in one superstep."""

    def __init__(
        self,
        message: Field,
        offsets: npt.NDArray[np.uint64],
        neighbours: npt.NDArray[np.uint32],
    ) -> None:
        """``offsets`` and ``neighbours`` are the whole graph's out-edges."""
        self.field = message
        self.targets: list[int] = []
        self.messages: list[Any] = []
        self.sent = 0
        self._offsets = offsets
        self._neighbours = neighbours
        self._spread_from: list[int] = []
        self._spread: list[Any] = []
        self._loose: list[tuple[npt.NDArray[Any], Any]] = []
        rows = offsets.size - 1
        if message.combine is not None:
            self._fold = COMBINERS[message.combine]
            self._column = np.full(rows, message.identity, message.dtype)
            self._touched = np.zeros(rows, np.bool_)

    def spread(self, vertex: int, message: Any) -> None:
        """Send along every out-edge; with a combiner expanded a block of vertices at a time."""
        if self.field.combine is not None:
            self._spread_from.append(vertex)
            self._spread.append(message)
            return
        row = self._neighbours[int(self._offsets[vertex]) : int(self._offsets[vertex + 1])]
        self.targets.extend(row.tolist())
        self.messages.extend([message] * row.size)

    def relieve(self) -> None:
        """Turn the collected objects into columns if there are many."""
        if len(self.targets) + len(self._spread) >= FLUSH_MESSAGES:
            self._flush()

    def cut(self, bounds: npt.NDArray[np.int64]) -> list[Any]:
        """The messages by receiving copy (None: nothing), and begin anew."""
        self._flush()
        if self.field.combine is not None:
            index = np.flatnonzero(self._touched).astype(np.uint32)
            column = self._column[index]
            self._touched[index] = False
            self._column[index] = self.field.identity
        else:
            index, column = self._sorted()
        ends = np.searchsorted(index, bounds).tolist()
        slices = [slice(a, b) for a, b in pairwise(ends)]
        return [self._pack(index[s], column[s]) if s.start < s.stop else None for s in slices]

    def _flush(self) -> None:
        """Move what is in the lists into columns."""
        if self.targets:
            index = np.array(self.targets, np.intp)
            self._take(index, self.messages.copy())
            self.targets.clear()
            self.messages.clear()
        if self._spread:
            entries, counts = expand(self._offsets, np.array(self._spread_from, np.uint64))
            values = np.repeat(np.array(self._spread, self.field.dtype), counts)
            self._take(self._neighbours[entries], values)
            self._spread_from.clear()
            self._spread.clear()

    def _take(self, index: npt.NDArray[Any], values: Any) -> None:
        """Fold messages into the column, or put them aside."""
        self.sent += index.size
        if self.field.dtype is not None:
            values = np.asarray(values, self.field.dtype)
        if self.field.combine is None:
            self._loose.append((index, values))
        else:
            self._fold.at(self._column, index, values)
            self._touched[index] = True

    def _sorted(self) -> tuple[npt.NDArray[np.uint32], Any]:
        """Messages without a combiner by vertex, in the order in which they were sent."""
        if not self._loose:
            return np.empty(0, np.uint32), []
        index = np.concatenate([i for i, _ in self._loose])
        order = np.argsort(index, kind="stable")
        if self.field.dtype is None:
            flat = [value for _, values in self._loose for value in values]
            column: Any = [flat[i] for i in order.tolist()]
        else:
            column = np.concatenate([values for _, values in self._loose])[order]
        self._loose.clear()
        return index[order].astype(np.uint32), column

    def _pack(self, index: npt.NDArray[np.uint32], column: Any) -> Any:
        """One copy's messages as a record batch, or as a pair where they are Python objects."""
        if isinstance(column, list):
            return index, column
        return pa.record_batch({"vertex": index, "message": column})


class Inbox:
    """The messages for the vertices of one partition in one superstep."""

    def __init__(self, message: Field, begin: int, end: int, arrived: Sequence[Any]) -> None:
        """``arrived`` is what each copy sent (None: nothing), by copy."""
        pairs = [_unpack(item) for item in arrived if item is not None]
        self.waiting = np.zeros(end - begin, np.bool_)
        """Which vertices of the range have messages."""
        self._combined = message.combine is not None
        if message.combine is not None:
            column = np.full(end - begin, message.identity, message.dtype)
            for index, values in pairs:
                at = index.astype(np.intp) - begin
                column[at] = COMBINERS[message.combine](column[at], values)
                self.waiting[at] = True
            self._column = column
            return
        numbers = [i.astype(np.intp) - begin for i, _ in pairs]
        index = np.concatenate([np.empty(0, np.intp), *numbers])
        order = np.argsort(index, kind="stable")
        flat = [value for _, values in pairs for value in _as_list(values)]
        self._flat = [flat[i] for i in order.tolist()]
        self._ends = np.zeros(end - begin + 1, np.intp)
        np.cumsum(np.bincount(index, minlength=end - begin), out=self._ends[1:])
        self.waiting[index] = True

    def by_vertex(self, vertices: npt.NDArray[np.intp]) -> list[Sequence[Any]]:
        """The messages of each of these vertices (numbers within the range)."""
        if self._combined:
            has, values = self.waiting[vertices].tolist(), self._column[vertices].tolist()
            return [(value,) if here else () for here, value in zip(has, values, strict=True)]
        starts, stops = self._ends[vertices].tolist(), self._ends[vertices + 1].tolist()
        return [self._flat[a:b] for a, b in zip(starts, stops, strict=True)]


def _unpack(item: Any) -> tuple[npt.NDArray[np.uint32], Any]:
    """Vertex numbers and messages of one arrival."""
    if isinstance(item, pa.RecordBatch):
        values = item.column(1).to_numpy(zero_copy_only=False)
        return item.column(0).to_numpy(), values
    return np.asarray(item[0]), item[1]


def _as_list(values: Any) -> list[Any]:
    """Messages as Python objects."""
    return values if isinstance(values, list) else values.tolist()
