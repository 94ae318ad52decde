"""The print sink: rows as text on the standard output of the copy that has them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pyarrow as pa

from streaming.rows import to_rows
from streaming.sinks.base import Sink, Writer

__all__ = ["PrintSink", "print"]


def print(limit: int | None = None) -> Sink:
    """One line per row, as a dict; at most `limit` rows per copy. The result is the row count."""
    if limit is not None and limit < 0:
        raise ValueError(f"print: limit must not be negative, found {limit}")
    return PrintSink(limit)


class PrintSink(Sink):
    """See `print`. At least once: a restarted copy prints rows again."""

    default_name = "print"

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def open(self, index: int, parallelism: int) -> Writer:
        """Writes to sys.stdout as it is now."""
        return _PrintWriter(self._limit)

    def combine(self, results: Sequence[int], schema: pa.Schema | None) -> int:
        """The number of rows."""
        return sum(results)

    def describe(self) -> str:
        """The verb."""
        return "print()"


class _PrintWriter(Writer):
    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        room = batch.num_rows if self._limit is None else max(0, self._limit - self._rows)
        shown = batch.slice(0, room)
        sys.stdout.write("".join(f"{row}\n" for row in to_rows(shown)))
        sys.stdout.flush()
        self._rows += batch.num_rows

    def snapshot(self) -> int:
        return self._rows

    def restore(self, state: int) -> None:
        self._rows = state

    def result(self) -> int:
        return self._rows
