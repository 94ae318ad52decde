"""Grouped aggregation of record batches: rows to partials, partials to fewer partials, to results.

All three run in Arrow's hash aggregation, one call for all groups. A sum of integers is first
bounded by (largest magnitude) x (rows): only when that could leave 64 bits is it computed exactly
in decimals, so that an overflow is an error at next to no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc

from streaming.aggregates import Aggregate, Aggregation, Partial, bind, bind_partials

__all__ = ["Grouping", "merge_tables"]

_INT64_LIMIT = 2**63
_EXACT = pa.decimal128(38, 0)

# What Acero's aggregate node takes: source column, function, options, result name.
_Step = tuple[str | list[str], str, None, str]


class Grouping:
    """Aggregates by key; bound to the types of the first rows and partials it meets."""

    def __init__(self, aggregates: Mapping[str, Aggregate]) -> None:
        self._aggregates = aggregates
        self._of_rows: Aggregation | None = None
        self._of_partials: Aggregation | None = None

    def partials(self, rows: pa.RecordBatch, keys: Sequence[str]) -> pa.Table:
        """One row of partial values for each distinct key among the rows.

        Raises TypeError or KeyError when the aggregates do not fit the columns, and OverflowError
        when a sum of integers leaves 64 bits.
        """
        if self._of_rows is None:
            missing = [key for key in keys if key not in rows.schema.names]
            if missing:
                raise KeyError(f"no key column {missing[0]!r}; the rows have {rows.schema.names}")
            self._of_rows = bind(self._aggregates, rows.schema)
        bound = self._of_rows.partials
        arrays = [rows.column(name) for name in keys]
        names = list(keys)
        steps: list[_Step] = []
        for partial in bound:
            if partial.column is None:
                steps.append(([], partial.function, None, partial.name))
                continue
            arrays.append(_prepared(partial, rows.column(partial.column)))
            names.append(f"__input_{partial.name}")
            steps.append((names[-1], partial.function, None, partial.name))
        if not arrays:
            # Rows counted without keys: Acero needs a column to know how many there are.
            arrays, names = [rows.column(0)], rows.schema.names[:1]
        table = pa.Table.from_arrays(arrays, names)
        return _group(table, steps, keys, bound)

    def merge(self, partials: pa.Table, keys: Sequence[str]) -> pa.Table:
        """One row of partial values for each distinct key among rows of partial values.

        Raises OverflowError when a sum of integers leaves 64 bits.
        """
        bound = self._bound_to(partials.schema).partials
        steps: list[_Step] = [(p.name, p.merge, None, p.name) for p in bound]
        return _group(partials, steps, keys, bound)

    def finish(self, partials: pa.Table) -> list[tuple[str, pa.ChunkedArray]]:
        """The result columns of merged partials."""
        columns = []
        for result in self._bound_to(partials.schema).results:
            column = partials.column(result.partial)
            if result.divisor is not None:
                # A group without values has sum null, so the quotient is null, never 0/0.
                column = pc.divide(column, partials.column(result.divisor).cast(pa.float64()))
            columns.append((result.name, column))
        return columns

    def _bound_to(self, schema: pa.Schema) -> Aggregation:
        if self._of_partials is None:
            self._of_partials = bind_partials(self._aggregates, schema)
        return self._of_partials


def _group(
    table: pa.Table, steps: list[_Step], keys: Sequence[str], partials: Sequence[Partial]
) -> pa.Table:
    risky = [
        (source, target)
        for source, function, _, target in steps
        if function == "sum" and isinstance(source, str) and _may_overflow(table.column(source))
    ]
    for source, _ in risky:
        position = table.schema.get_field_index(source)
        table = table.set_column(position, source, table.column(source).cast(_EXACT))
    grouped = _aggregate(table, steps, keys)
    for _, target in risky:
        position = grouped.schema.get_field_index(target)
        grouped = grouped.set_column(position, target, _to_int64(grouped.column(target)))
    # Keys first, then partials of the declared types: Acero's order depends on the version.
    arrays = [grouped.column(name) for name in keys]
    for partial in partials:
        column = grouped.column(partial.name)
        arrays.append(column if column.type == partial.type else column.cast(partial.type))
    return pa.Table.from_arrays(arrays, [*keys, *(partial.name for partial in partials)])


def _prepared(partial: Partial, column: pa.Array) -> pa.Array:
    if partial.input_type is None or column.type == partial.input_type:
        return column
    try:
        return column.cast(partial.input_type)
    except pa.ArrowInvalid as error:
        raise OverflowError(
            f"{partial.function}({partial.column!r}): {error}; "
            f"cast the column to float64 or a decimal first"
        ) from error


def _may_overflow(column: pa.ChunkedArray) -> bool:
    if column.type != pa.int64():
        return False
    extremes = pc.min_max(column).as_py()
    if extremes["min"] is None:
        return False
    magnitude: int = max(-extremes["min"], extremes["max"])
    return magnitude * len(column) >= _INT64_LIMIT


def _to_int64(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise OverflowError(
            "a sum of integers exceeds 64 bits; cast the column to float64 or a decimal first"
        ) from error


def _aggregate(table: pa.Table, steps: Sequence[_Step], keys: Sequence[str]) -> pa.Table:
    prefix = "hash_" if keys else ""
    named = [(source, prefix + function, None, target) for source, function, _, target in steps]
    plan = acero.Declaration.from_sequence(
        [
            acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
            acero.Declaration("aggregate", acero.AggregateNodeOptions(named, list(keys))),
        ]
    )
    return plan.to_table(use_threads=False)


def merge_tables(parts: Sequence[pa.Table]) -> pa.Table:
    """Rows of several tables end to end; columns that one of them lacks are null there."""
    first = parts[0]
    if all(part.schema.equals(first.schema) for part in parts[1:]):
        return pa.concat_tables(parts)
    return pa.concat_tables(parts, promote_options="permissive")
