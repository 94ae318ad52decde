"""Sources that are in memory already: rows, Arrow tables, anything that exports Arrow data.

Bounded and replayable. The table is placed once in the object store and read by all copies without
a copy. Blocks of `batch_rows` rows go to the copies in turn, so that they advance through time
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from streaming.sources.base import BATCH_ROWS, Reader, Source, plain_schema

__all__ = ["TableSource", "from_arrow", "from_rows"]


def from_rows(
    rows: Any, *, schema: pa.Schema | None = None, batch_rows: int = BATCH_ROWS
) -> Source:
    """Rows of a list of dicts, a pandas or a polars data frame.

    Types are inferred from all rows unless `schema` is given. Raises TypeError for anything else
    and ValueError for an empty list without schema.
    """
    if isinstance(rows, list | tuple):
        return TableSource(_table_of_dicts(rows, schema), batch_rows, "from_rows")
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__dataframe__"):
        return TableSource(_table_of_arrow(rows, schema), batch_rows, "from_rows")
    raise TypeError(
        f"from_rows: expected a list of dicts or a data frame, found {type(rows).__name__}; "
        f"for Arrow data use from_arrow"
    )


def from_arrow(data: Any, *, batch_rows: int = BATCH_ROWS) -> Source:
    """Rows of a Table, RecordBatch, RecordBatchReader or anything that exports Arrow C data.

    A stream (RecordBatchReader) is read to its end into memory here. Raises TypeError for a value
    without `__arrow_c_stream__` or `__arrow_c_array__`.
    """
    return TableSource(_table_of_arrow(data, None), batch_rows, "from_arrow")


def _table_of_dicts(rows: Sequence[Any], schema: pa.Schema | None) -> pa.Table:
    if not rows and schema is None:
        raise ValueError("from_rows: an empty list has no columns; pass schema=")
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            raise TypeError(f"from_rows: expected dicts, found {row!r} at position {position}")
    if schema is None:
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
        return pa.table(columns)
    return pa.Table.from_pylist(list(rows), schema=schema)


def _table_of_arrow(data: Any, schema: pa.Schema | None) -> pa.Table:
    if type(data).__module__.partition(".")[0] == "pandas":
        table = pa.Table.from_pandas(data, preserve_index=False)
    elif isinstance(data, pa.RecordBatchReader):
        table = data.read_all()
    elif isinstance(data, pa.Table):
        table = data
    elif hasattr(data, "__arrow_c_stream__"):
        table = pa.table(data)
    elif hasattr(data, "__arrow_c_array__"):
        table = pa.Table.from_batches([pa.record_batch(data)])
    else:
        raise TypeError(
            f"from_arrow: expected Arrow data (Table, RecordBatch, RecordBatchReader, or an object "
            f"with __arrow_c_stream__ or __arrow_c_array__), found {type(data).__name__}"
        )
    return table if schema is None else table.cast(schema)


class TableSource(Source):
    """A table, read in blocks."""

    def __init__(self, table: pa.Table, batch_rows: int, verb: str) -> None:
        if batch_rows <= 0:
            raise ValueError(f"{verb}: batch_rows must be positive, found {batch_rows}")
        plain = plain_schema(table.schema)
        self._table: pa.Table | None = table.cast(plain) if table.schema != plain else table
        self._table = self._table.replace_schema_metadata(None)
        self._schema = plain
        self._rows = table.num_rows
        self._batch_rows = batch_rows
        self._verb = verb

    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._schema

    def payload(self) -> pa.Table:
        """The table itself."""
        return self._table

    def attach(self, payload: pa.Table) -> None:
        """Take the table from the object store."""
        self._table = payload

    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> Reader:
        """Blocks index, index + parallelism, ... of the table."""
        assert self._table is not None
        table = self._table if columns is None else self._table.select(list(columns))
        return _TableReader(table, index, parallelism, self._batch_rows)

    def describe(self) -> str:
        """Kind and size."""
        return f"{self._verb}, {self._rows} rows in blocks of {self._batch_rows}"

    def fingerprint(self) -> str:
        """Size and columns; that the rows are the same is for the caller to see to."""
        columns = ", ".join(f"{field.name}: {field.type}" for field in self._schema)
        return f"{self.describe()} of {columns}"

    def __getstate__(self) -> dict[str, Any]:
        # The table travels as the payload, once, and not with every copy's arguments.
        return {**self.__dict__, "_table": None}


class _TableReader(Reader):
    def __init__(self, table: pa.Table, index: int, step: int, batch_rows: int) -> None:
        self._table = table
        self._block = index
        self._step = step
        self._batch_rows = batch_rows

    def read(self) -> pa.RecordBatch | None:
        start = self._block * self._batch_rows
        if start >= self._table.num_rows:
            return None
        self._block += self._step
        # combine_chunks copies only when the block crosses a border between chunks.
        return self._table.slice(start, self._batch_rows).combine_chunks().to_batches()[0]

    def position(self) -> int:
        return self._block

    def seek(self, position: int) -> None:
        self._block = position
