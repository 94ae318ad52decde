"""Between record batches and Python rows (dicts), for the row path.

Conversion goes column by column, and rows exist only in chunks of a thousand: they stay in the
cache, and the garbage collector never sees many of them. Measured at 5 columns: about 0.3 us a row
each way, where `RecordBatch.to_pylist` and `from_pylist` take several times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

__all__ = ["CHUNK_ROWS", "RowBuilder", "python_values", "row_chunks", "to_rows"]

CHUNK_ROWS = 1024

Row = dict[str, Any]


def python_values(array: pa.Array) -> list[Any]:
    """The values as Python objects, null as None."""
    type_ = array.type
    fast = (
        pa.types.is_integer(type_)
        or pa.types.is_float64(type_)
        or pa.types.is_boolean(type_)
        or (pa.types.is_timestamp(type_) and type_.unit != "ns" and type_.tz is None)
    )
    if (fast and not array.null_count) or pa.types.is_string(type_):
        values: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
        return values
    return list(array.to_pylist())


def row_chunks(batch: pa.RecordBatch) -> Iterator[list[Row]]:
    """The rows as fresh dicts in the order of the columns, CHUNK_ROWS at a time."""
    if not batch.num_columns:
        yield [{} for _ in range(batch.num_rows)]
        return
    columns = [python_values(column) for column in batch.columns]
    make_rows = _row_maker(tuple(batch.schema.names))
    for start in range(0, batch.num_rows, CHUNK_ROWS):
        yield make_rows([column[start : start + CHUNK_ROWS] for column in columns])


def to_rows(batch: pa.RecordBatch) -> list[Row]:
    """All rows as dicts."""
    return [row for chunk in row_chunks(batch) for row in chunk]


@cache
def _row_maker(names: tuple[str, ...]) -> Callable[[list[list[Any]]], list[Row]]:
    """A function from columns to dicts.

    It is compiled from a dict display with the names in it, as dataclasses are: twice as fast as
    `dict(zip(names, values))`. The names enter as literals (`repr`), whatever they contain.
    """
    variables = [f"v{position}" for position in range(len(names))]
    pairs = ", ".join(f"{name!r}: {v}" for name, v in zip(names, variables, strict=True))
    source = f"lambda columns: [{{{pairs}}} for {', '.join(variables)}, in zip(*columns)]"
    maker: Callable[[list[list[Any]]], list[Row]] = eval(source)
    return maker


class RowBuilder:
    """Builds record batches from dicts, with types that stay the same from batch to batch.

    Rows are added in chunks and their values kept by column. Types are those of `schema` if it is
    given. Otherwise a column keeps the type it had in the input where the values allow, and the
    type inferred from the first values seen elsewhere; a later value that does not fit raises
    TypeError with the row. A key missing in a row is null.
    """

    def __init__(self, what: str, schema: pa.Schema | None = None) -> None:
        self._what = what
        self._is_given = schema is not None
        self._types: dict[str, pa.DataType] = {f.name: f.type for f in schema or ()}
        self._columns: dict[str, list[Any]] = {name: [] for name in self._types}
        self._rows = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows. TypeError for a key that is no text or not in the given schema."""
        if not self._columns and rows:
            self._add_names(rows[0])
        width = len(self._columns)
        try:
            if any(len(row) != width for row in rows):
                raise KeyError
            for name, values in self._columns.items():
                values += [row[name] for row in rows]
        except KeyError:
            # Some rows have other keys; a part of the columns may have been extended already.
            for values in self._columns.values():
                del values[self._rows :]
            self._add_uneven(rows)
        self._rows += len(rows)

    def build(self, source: pa.Schema) -> pa.RecordBatch | None:
        """All rows added since the last call; `source` is the schema of what they were made from.

        None when there are none.
        """
        if not self._rows:
            return None
        try:
            arrays = [self._array(name, source) for name in self._columns]
            return pa.RecordBatch.from_arrays(arrays, names=list(self._columns))
        finally:
            self._columns = {name: [] for name in self._columns}
            self._rows = 0

    def snapshot(self) -> dict[str, pa.DataType | None] | None:
        """The columns so far with their types (None: not known yet); None when they were given."""
        if self._is_given:
            return None
        return {name: self._types.get(name) for name in self._columns}

    def restore(self, columns: dict[str, pa.DataType | None]) -> None:
        """Hold rows to the columns of a snapshot."""
        self._types = {name: type_ for name, type_ in columns.items() if type_ is not None}
        self._columns = {name: [] for name in columns}

    def _add_uneven(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if any(key not in self._columns for key in row):
                self._add_names(row)
        for name, values in self._columns.items():
            values += [row.get(name) for row in rows]

    def _add_names(self, row: Row) -> None:
        for key in row:
            if key in self._columns:
                continue
            if self._is_given:
                raise TypeError(
                    f"{self._what}: the row {row!r} has {key!r}, which the given schema has not"
                )
            if not isinstance(key, str):
                raise TypeError(f"{self._what}: the key {key!r} of the row {row!r} is not a text")
            self._columns[key] = [None] * self._rows

    def _array(self, name: str, source: pa.Schema) -> pa.Array:
        type_ = self._types.get(name)
        values = self._columns[name]
        try:
            array = pa.array(values, type_)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise self._misfit(name, type_, error) from error
        if type_ is None:
            array = _as_in_source(array, name, source)
            if not pa.types.is_null(array.type):
                self._types[name] = array.type
        return array

    def _misfit(self, name: str, type_: pa.DataType | None, error: Exception) -> TypeError:
        values = self._columns[name]
        where = next((i for i, value in enumerate(values) if not _fits(value, type_)), 0)
        row = {column: kept[where] for column, kept in self._columns.items()}
        expected = "values of one type"
        if type_ is not None:
            seen = "in the given schema" if self._is_given else "in earlier rows"
            expected = f"{type_} (as {seen})"
        return TypeError(
            f"{self._what}: column {name!r}: expected {expected}, found {values[where]!r} "
            f"in row {row!r} ({error}); convert it in the function, or pass schema="
        )


def _as_in_source(array: pa.Array, name: str, source: pa.Schema) -> pa.Array:
    """The column in the type it had before the row function, when it is the same kind of value."""
    position = source.get_field_index(name)
    if position < 0:
        return array
    wanted = source.field(position).type
    families = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_timestamp,
        pa.types.is_decimal,
        lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
    )
    same = any(family(array.type) and family(wanted) for family in families)
    if not same and not pa.types.is_null(array.type):
        return array
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid:
        return array  # a value the old type cannot hold: the function has widened the column


def _fits(value: Any, type_: pa.DataType | None) -> bool:
    try:
        pa.array([value], type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # which is the answer
        return False
    return True
