"""What a sink is: data in the driver, a `Writer` in every parallel copy.

Results become visible in two phases. `Writer.prepare` makes everything written since the last
call durable and returns a token (plain data, kept with the snapshot). `Sink.commit(token)` makes it
visible; it needs nothing but the token, so it can be repeated after a crash by whoever finds it.
A bounded job prepares in every copy when all input has been seen, and commits in the driver when
every copy of every member has ended well: all results become visible or none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["Sink", "Writer"]


class Writer(ABC):
    """One copy of a sink, used from a single thread."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows; nobody else may see them before `commit`, where the sink can promise that."""

    def prepare(self) -> Any:
        """End the current part and make it durable; the token names it. None: nothing to commit."""
        return None

    def result(self) -> Any:
        """This copy's share of the job's result, after the last `prepare`."""
        return None


class Sink(ABC):
    """A sink as data: picklable, opened in every copy of the member that writes it."""

    default_name: str = "sink"

    def check(self, schema: pa.Schema | None) -> None:
        """Raise, when the job is built, if rows of this schema cannot be written."""
        return None

    @abstractmethod
    def open(self, index: int, parallelism: int) -> Writer:
        """The writer of copy `index` of `parallelism`."""

    def commit(self, token: Any) -> None:
        """Make a prepared part visible. Needs no writer; may be called again with its token."""
        return None

    def abort(self, token: Any) -> None:
        """Remove a prepared part that will not be committed. May be called again."""
        return None

    def combine(self, results: Sequence[Any], schema: pa.Schema | None) -> Any:
        """The job's result from those of the copies, in the driver. `schema` may be unknown."""
        return list(results)

    def describe(self) -> str:
        """One line for explain()."""
        return type(self).__name__
