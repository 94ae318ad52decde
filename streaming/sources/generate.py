"""Generated rows: a pure function of the event number.

Bounded or endless, replayable: block k holds the events [k*b, (k+1)*b), whoever makes it and
however often. Copies take blocks in turn. With a rate, event n is due n/rate seconds after the
copy was opened, whether or not the job keeps up (open loop).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from streaming.sources.base import BATCH_ROWS, Pause, Reader, Source, plain_batch

__all__ = ["GenerateSource", "generate"]

# A RecordBatch, or a mapping of column names to arrays.
Generated = Any

# With a rate, a block holds no more than this many seconds of events, or it would be late.
_BLOCK_SECONDS = 0.02


def generate(
    function: Callable[..., Generated],
    *,
    count: int | None = None,
    rate: float | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Source:
    """Rows made by `function(start, n)`: those of the events start..start+n-1.

    It returns a RecordBatch or a dict of arrays, not necessarily of n rows, and must depend on the
    event numbers alone. If it has a parameter `columns` it is given the names of the columns that
    are needed. `count` bounds the number of events; `rate` is in events per second over all copies.
    """
    if not callable(function):
        raise TypeError(f"generate: expected a function, found {type(function).__name__}")
    if count is not None and count < 0:
        raise ValueError(f"generate: count must not be negative, found {count}")
    if rate is not None and rate <= 0:
        raise ValueError(f"generate: rate must be positive, found {rate}")
    if batch_rows <= 0:
        raise ValueError(f"generate: batch_rows must be positive, found {batch_rows}")
    if rate is not None:
        batch_rows = max(1, min(batch_rows, int(rate * _BLOCK_SECONDS)))
    return GenerateSource(function, count, rate, batch_rows)


class GenerateSource(Source):
    """See `generate`."""

    def __init__(
        self,
        function: Callable[..., Generated],
        count: int | None,
        rate: float | None,
        batch_rows: int,
    ) -> None:
        self._function = function
        self._count = count
        self._rate = rate
        self._batch_rows = batch_rows
        self._takes_columns = "columns" in inspect.signature(function).parameters

    def schema(self) -> pa.Schema:
        """The columns of the first event."""
        return self.block(0, 1, None).schema

    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> Reader:
        """Blocks index, index + parallelism, ..."""
        return _GenerateReader(self, index, parallelism, columns, self._rate)

    def describe(self) -> str:
        """Function, number and rate."""
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        events = "endless" if self._count is None else f"{self._count} events"
        rate = "" if self._rate is None else f", {self._rate:g}/s"
        return f"generate({name}), {events} in blocks of {self._batch_rows}{rate}"

    def block(self, start: int, n: int, columns: Sequence[str] | None) -> pa.RecordBatch:
        """The rows of the events start..start+n-1."""
        if self._takes_columns:
            made = self._function(start, n, columns=columns)
        else:
            made = self._function(start, n)
        if isinstance(made, Mapping):
            made = pa.RecordBatch.from_pydict(dict(made))
        if not isinstance(made, pa.RecordBatch):
            raise TypeError(
                f"generate: expected a RecordBatch or a dict of arrays from the function, "
                f"found {type(made).__name__} for start={start}, n={n}"
            )
        return plain_batch(made)

    def bounds(self, block: int) -> tuple[int, int]:
        """First event and number of events of a block; 0 events at the end."""
        start = block * self._batch_rows
        if self._count is None:
            return start, self._batch_rows
        return start, max(0, min(self._batch_rows, self._count - start))


class _GenerateReader(Reader):
    def __init__(
        self,
        source: GenerateSource,
        index: int,
        step: int,
        columns: Sequence[str] | None,
        rate: float | None,
    ) -> None:
        self._source = source
        self._block = index
        self._step = step
        self._columns = columns
        self._rate = rate
        self._began: float | None = None
        self._hurries = False

    def read(self) -> pa.RecordBatch | Pause | None:
        start, n = self._source.bounds(self._block)
        if n == 0:
            return None
        if self._rate is not None and not self._hurries:
            now = time.monotonic()
            if self._began is None:
                # After a seek the clock starts at the events that are due next.
                self._began = now - start / self._rate
            wait = self._began + (start + n) / self._rate - now
            if wait > 0:
                return Pause(wait)
        self._block += self._step
        return self._source.block(start, n, self._columns)

    def position(self) -> int:
        return self._block

    def hurry(self, is_repeating: bool) -> None:
        self._hurries = is_repeating
        self._began = None

    def seek(self, position: int) -> None:
        self._block = position
        self._began = None
