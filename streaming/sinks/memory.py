"""Sinks that end in this program: collect, discard, callback.

`collect` keeps the rows in the copies until the end and hands them to the driver, so the result
must fit in memory; they are part of every checkpoint. `collect` and `discard` see every row
once whatever dies; `callback` is called at least once for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from streaming.grouping import merge_tables
from streaming.sinks.base import Sink, Writer

__all__ = ["CallbackSink", "CollectSink", "DiscardSink", "callback", "collect", "discard"]


def collect() -> Sink:
    """All rows as one pyarrow.Table, in the order of the copies; there is no order between them."""
    return CollectSink()


def discard() -> Sink:
    """Rows are counted and dropped; the result is their number."""
    return DiscardSink()


def callback(function: Callable[[pa.RecordBatch], object]) -> Sink:
    """Calls `function(batch)` with every RecordBatch, in the process of the copy.

    The result is the number of rows. An exception of the function fails the job.
    """
    if not callable(function):
        raise TypeError(f"callback: expected a function, found {type(function).__name__}")
    return CallbackSink(function)


class CollectSink(Sink):
    """See `collect`."""

    default_name = "collect"

    def open(self, index: int, parallelism: int) -> Writer:
        """A list of batches."""
        return _CollectWriter()

    def combine(self, results: Sequence[pa.Table | None], schema: pa.Schema | None) -> pa.Table:
        """One table; without any row it has the planned columns, or none if they are not known."""
        tables = [table for table in results if table is not None]
        if tables:
            return merge_tables(tables)
        return (schema or pa.schema([])).empty_table()

    def describe(self) -> str:
        """The verb."""
        return "collect()"


class _CollectWriter(Writer):
    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._told = 0  # tables that were in a snapshot: one an epoch, which is written once

    def write(self, batch: pa.RecordBatch) -> None:
        self._tables.append(pa.Table.from_batches([batch]))

    def snapshot(self) -> list[pa.Table]:
        lately = self._tables[self._told :]
        if lately:
            self._tables[self._told :] = [merge_tables(lately)]
        self._told = len(self._tables)
        return self._tables.copy()

    def restore(self, state: list[pa.Table]) -> None:
        self._tables = list(state)
        self._told = len(state)

    def result(self) -> pa.Table | None:
        # Rows of unknown schema may differ from batch to batch; merge_tables finds common types.
        return merge_tables(self._tables) if self._tables else None


class DiscardSink(Sink):
    """See `discard`."""

    default_name = "discard"

    def open(self, index: int, parallelism: int) -> Writer:
        """A counter."""
        return _CountingWriter(None)

    def combine(self, results: Sequence[int], schema: pa.Schema | None) -> int:
        """The number of rows."""
        return sum(results)

    def describe(self) -> str:
        """The verb."""
        return "discard()"


class CallbackSink(Sink):
    """See `callback`."""

    default_name = "callback"

    def __init__(self, function: Callable[[pa.RecordBatch], object]) -> None:
        self._function = function

    def open(self, index: int, parallelism: int) -> Writer:
        """A counter that calls."""
        return _CountingWriter(self._function)

    def combine(self, results: Sequence[int], schema: pa.Schema | None) -> int:
        """The number of rows."""
        return sum(results)

    def describe(self) -> str:
        """The function's name."""
        return f"callback({getattr(self._function, '__qualname__', 'function')})"


class _CountingWriter(Writer):
    def __init__(self, function: Callable[[pa.RecordBatch], Any] | None) -> None:
        self._function = function
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if self._function is not None:
            self._function(batch)
        self._rows += batch.num_rows

    def snapshot(self) -> int:
        return self._rows

    def restore(self, state: int) -> None:
        self._rows = state

    def result(self) -> int:
        return self._rows
