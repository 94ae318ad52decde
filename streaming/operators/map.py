"""User functions: map and flat_map (one Python call per row), map_batches (one per batch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from streaming.operator import Operator
from streaming.rows import RowBuilder, row_chunks

__all__ = ["BatchFunction", "BatchMapOperator", "FlatMapOperator", "RowMapOperator"]

Row = dict[str, Any]
BatchFunction = Callable[[pa.RecordBatch], pa.RecordBatch]


class RowMapOperator(Operator):
    """Calls `function(row) -> row` for every row; rows are dicts.

    An exception of the function is raised as it is, with a note that shows the row.
    """

    def __init__(
        self, what: str, function: Callable[[Row], Row], schema: pa.Schema | None = None
    ) -> None:
        super().__init__()
        self._what = what
        self._function = function
        self._builder = RowBuilder(what, schema)
        self._done = 0  # rows of the current batch in finished chunks

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """One call a row."""
        function, row = self._function, None
        for rows in row_chunks(batch):
            results = []
            try:
                for row in rows:
                    results.append(function(row))
            except Exception as error:  # the function's own, with a note where
                error.add_note(f"raised by {self._what} for the row {row!r}")
                raise
            if set(map(type, results)) != {dict}:
                self._check_types(results, batch)
            self._builder.add(results)
            self._done += len(rows)
        self._done = 0
        made = self._builder.build(batch.schema)
        if made is not None:
            self.push(made, port)

    def snapshot(self) -> Any:
        """The types of the columns made so far."""
        return self._builder.snapshot()

    def restore(self, state: Any) -> None:
        """Make columns of the same types."""
        self._builder.restore(state)

    def _check_types(self, results: list[Any], batch: pa.RecordBatch) -> None:
        for position, result in enumerate(results, start=self._done):
            if not isinstance(result, dict):
                raise _wrong_type(self._what, "a dict", result, batch, position)


class FlatMapOperator(Operator):
    """Calls `function(row) -> iterable of rows` for every row; rows are dicts."""

    def __init__(
        self,
        what: str,
        function: Callable[[Row], Iterable[Row]],
        schema: pa.Schema | None = None,
    ) -> None:
        super().__init__()
        self._what = what
        self._function = function
        self._builder = RowBuilder(what, schema)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """One call a row; the results end to end."""
        position, row = 0, None
        for rows in row_chunks(batch):
            results: list[Row] = []
            try:
                for row in rows:
                    made = self._function(row)
                    if isinstance(made, dict | str | bytes) or not isinstance(made, Iterable):
                        raise _wrong_type(self._what, "an iterable of dicts", made, batch, position)
                    results.extend(made)
                    position += 1
            except Exception as error:  # the function's own, with a note where
                error.add_note(f"raised by {self._what} for the row {row!r}")
                raise
            wrong = next((result for result in results if not isinstance(result, dict)), None)
            if wrong is not None:
                raise TypeError(
                    f"{self._what}: expected dicts from the function, found {wrong!r} "
                    f"({type(wrong).__name__}), made of one of the rows {rows[0]!r}..{rows[-1]!r}"
                )
            self._builder.add(results)
        built = self._builder.build(batch.schema)
        if built is not None:
            self.push(built, port)

    def snapshot(self) -> Any:
        """The types of the columns made so far."""
        return self._builder.snapshot()

    def restore(self, state: Any) -> None:
        """Make columns of the same types."""
        self._builder.restore(state)


class BatchMapOperator(Operator):
    """Calls `function(RecordBatch) -> RecordBatch` once a batch."""

    def __init__(self, what: str, function: BatchFunction, schema: pa.Schema | None = None) -> None:
        super().__init__()
        self._what = what
        self._function = function
        self._schema = schema

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """One call."""
        result = self._function(batch)
        if not isinstance(result, pa.RecordBatch):
            raise TypeError(
                f"{self._what}: expected a pyarrow.RecordBatch from the function, found "
                f"{type(result).__name__} for a batch that begins with the row "
                f"{batch.slice(0, 1).to_pylist()[0]!r}"
            )
        if self._schema is not None and not result.schema.equals(self._schema):
            raise TypeError(
                f"{self._what}: expected the given schema\n{self._schema}\nfound\n{result.schema}"
            )
        self.push(result, port)


def _wrong_type(
    what: str, expected: str, found: object, batch: pa.RecordBatch, position: int
) -> TypeError:
    row = batch.slice(position, 1).to_pylist()[0]
    return TypeError(
        f"{what}: expected {expected} from the function, found {found!r} "
        f"({type(found).__name__}) for the row {row!r}"
    )
