"""What a source is: data in the driver, a `Reader` in every parallel copy.

To write one's own: subclass `Source` with `schema()` and `open()`, and `Reader` with `read()`,
`position()` and `seek()`. A reader that can seek to a position it reported is *replayable*, which
is what exactly-once needs: after a crash a copy seeks to the position of its last snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = ["BATCH_ROWS", "Pause", "Reader", "Source", "plain_batch", "plain_schema"]

# Rows of a batch where the user does not say. Acero works in morsels of at most 32 Ki rows, so
# a batch of this size passes through expressions without being cut and joined again.
BATCH_ROWS = 32_768


@dataclass(frozen=True)
class Pause:
    """What `read` returns when there is nothing now: ask again after `seconds`."""

    seconds: float


class Reader(ABC):
    """One copy's part of a source, read in a single thread."""

    @abstractmethod
    def read(self) -> pa.RecordBatch | Pause | None:
        """The next rows; Pause when there are none yet; None when there will be none any more."""

    @abstractmethod
    def position(self) -> Any:
        """Where the next `read` begins: plain data (numbers, strings, lists, dicts)."""

    @abstractmethod
    def seek(self, position: Any) -> None:
        """Continue from a position that `position` reported; the same rows follow.

        In the same batches, if a copy that dies is to come back alone (`Checkpoints.local`).
        """

    def hurry(self, is_repeating: bool) -> None:
        """Whether the next rows were read before and are only read again: no rate counts then."""
        return None

    def close(self) -> None:
        """Release files and connections; called once, after the last read."""
        return None


class Source(ABC):
    """A source as data: picklable, opened in every copy of the member that reads it."""

    @abstractmethod
    def schema(self) -> pa.Schema | None:
        """The columns of the rows, for the checks when a job is built; None if not known yet.

        Errors such as a missing file are raised here, in the caller.
        """

    @abstractmethod
    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> Reader:
        """The reader of copy `index` of `parallelism`; together they read every row once.

        Parts should advance through time together (blocks in turn, not halves), since windows
        wait for the slowest. `columns` are those anyone needs; a reader may return more, and
        they are dropped.
        """

    def payload(self) -> Any:
        """A large in-memory value to be shared with all copies through the object store."""
        return None

    def attach(self, payload: Any) -> None:
        """Take the payload back, in the copy, before `open`."""
        return None

    def describe(self) -> str:
        """One line for explain()."""
        return type(self).__name__

    def fingerprint(self) -> str:
        """What must be the same for a position of one run to mean the same rows in another."""
        return self.describe()


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with views and dictionaries replaced by plain types, without metadata.

    Arrow's grouped aggregation neither takes views nor mixes dictionaries of different batches.
    Raises ValueError for two columns of one name.
    """
    names = schema.names
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"column names must be unique, found {repeated} more than once")
    return pa.schema([pa.field(field.name, _plain_type(field.type)) for field in schema])


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    return type_


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in its plain schema; the same object when there is nothing to change."""
    schema = plain_schema(batch.schema)
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    arrays = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
