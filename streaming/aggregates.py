"""Aggregates that decompose: partial values per batch, merged later, finished at the end.

`count, sum, min, max, mean` make descriptions; `bind` checks them against a schema and yields an
`Aggregation`: which partial columns to compute from rows, how two partials of one group merge, and
how the result columns come out of them. Partials are shared: mean("x") and count("x") count once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

__all__ = [
    "Aggregate",
    "Aggregation",
    "Partial",
    "Result",
    "bind",
    "bind_partials",
    "count",
    "max",
    "mean",
    "min",
    "sum",
]

PARTIAL_PREFIX = "__partial_"


@dataclass(frozen=True)
class Aggregate:
    """One aggregate of one column (None: of the rows themselves)."""

    kind: str
    column: str | None

    def __str__(self) -> str:
        return f"{self.kind}({self.column or ''})"


def count(column: str | None = None) -> Aggregate:
    """Number of rows, or of rows where `column` is not null. int64."""
    return _describe("count", column) if column is not None else Aggregate("count", None)


def sum(column: str) -> Aggregate:
    """Sum of the non-null values; null when there are none.

    Integers (and booleans, as 0 and 1) give int64 and a total beyond 64 bits raises OverflowError,
    it never wraps; floats give double; decimals keep their scale at precision 38.
    """
    return _describe("sum", column)


def min(column: str) -> Aggregate:
    """Smallest non-null value, in the column's type; null when there are none."""
    return _describe("min", column)


def max(column: str) -> Aggregate:
    """Largest non-null value, in the column's type; null when there are none."""
    return _describe("max", column)


def mean(column: str) -> Aggregate:
    """Arithmetic mean of the non-null values as double; null when there are none."""
    return _describe("mean", column)


def _describe(kind: str, column: str) -> Aggregate:
    if not isinstance(column, str):
        raise TypeError(
            f"{kind}(): expected the name of a column, found {column!r}; "
            f"compute expressions first: .with_columns(x=...) and then {kind}('x')"
        )
    return Aggregate(kind, column)


@dataclass(frozen=True)
class Partial:
    """A column of partial values: `function` makes it from rows, `merge` joins two of them.

    `input_type` is the type the source column is cast to first; None: as it is.
    """

    name: str
    column: str | None
    function: str
    merge: str
    input_type: pa.DataType | None
    type: pa.DataType


@dataclass(frozen=True)
class Result:
    """A result column: a partial, or the quotient of two partials (mean)."""

    name: str
    partial: str
    divisor: str | None
    type: pa.DataType


@dataclass(frozen=True)
class Aggregation:
    """Aggregates bound to a schema."""

    partials: tuple[Partial, ...]
    results: tuple[Result, ...]


def bind(aggregates: Mapping[str, Aggregate], schema: pa.Schema) -> Aggregation:
    """Check the aggregates against a schema of rows and say how to compute them.

    TypeError when a column's type has no such aggregate, KeyError when a column is missing.
    """
    partials: dict[str, Partial] = {}
    results = []
    for name, aggregate in aggregates.items():
        if aggregate.column is not None and aggregate.column not in schema.names:
            raise KeyError(
                f"{name}={aggregate}: no column {aggregate.column!r}; there are {schema.names}"
            )
        layout = _LAYOUTS[aggregate.kind if aggregate.column else "rows"]
        names = []
        for prefix, function, merge in layout:
            input_type, type_ = _types(name, aggregate, prefix, schema)
            partial_name = _partial_name(prefix, aggregate)
            names.append(partial_name)
            partials[partial_name] = Partial(
                partial_name, aggregate.column, function, merge, input_type, type_
            )
        results.append(_result(name, names, partials[names[0]].type))
    return Aggregation(tuple(partials.values()), tuple(results))


def bind_partials(aggregates: Mapping[str, Aggregate], schema: pa.Schema) -> Aggregation:
    """The same for a schema of partials that were made elsewhere; they can only be merged."""
    partials: dict[str, Partial] = {}
    results = []
    for name, aggregate in aggregates.items():
        layout = _LAYOUTS[aggregate.kind if aggregate.column else "rows"]
        names = []
        for prefix, function, merge in layout:
            partial_name = _partial_name(prefix, aggregate)
            names.append(partial_name)
            type_ = schema.field(partial_name).type
            partials[partial_name] = Partial(
                partial_name, aggregate.column, function, merge, None, type_
            )
        results.append(_result(name, names, partials[names[0]].type))
    return Aggregation(tuple(partials.values()), tuple(results))


# Kind of aggregate -> its partial columns: prefix of the name, function over rows, merge.
_LAYOUTS: dict[str, list[tuple[str, str, str]]] = {
    "rows": [("rows", "count_all", "sum")],
    "count": [("count", "count", "sum")],
    "sum": [("sum", "sum", "sum")],
    "min": [("min", "min", "min")],
    "max": [("max", "max", "max")],
    "mean": [("double", "sum", "sum"), ("count", "count", "sum")],
}


def _partial_name(prefix: str, aggregate: Aggregate) -> str:
    return f"{PARTIAL_PREFIX}{prefix}_{aggregate.column or ''}"


def _result(name: str, partials: list[str], type_: pa.DataType) -> Result:
    if len(partials) == 1:
        return Result(name, partials[0], None, type_)
    return Result(name, partials[0], partials[1], pa.float64())


def _types(
    name: str, aggregate: Aggregate, prefix: str, schema: pa.Schema
) -> tuple[pa.DataType | None, pa.DataType]:
    """The type to cast the source column to (None: keep it), and the type of the partial."""
    if prefix in ("rows", "count"):
        return None, pa.int64()
    type_ = schema.field(aggregate.column).type
    if prefix in ("min", "max"):
        if not _is_ordered(type_):
            raise _no_such(name, aggregate, type_)
        return None, type_
    wide = _sum_type(type_)
    if wide is None:
        raise _no_such(name, aggregate, type_)
    if prefix == "double":
        # The mean of 64-bit values must not overflow where the sum would: a sum in doubles.
        wide = pa.float64()
    return (None if type_ == wide else wide), wide


def _sum_type(type_: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return pa.int64()
    if pa.types.is_floating(type_):
        return pa.float64()
    return pa.decimal128(38, type_.scale) if pa.types.is_decimal128(type_) else None


def _is_ordered(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(type_)
        or pa.types.is_float32(type_)
        or pa.types.is_float64(type_)
        or pa.types.is_boolean(type_)
        or pa.types.is_decimal(type_)
        or pa.types.is_timestamp(type_)
        or pa.types.is_date(type_)
        or pa.types.is_time(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
    )


def _no_such(name: str, aggregate: Aggregate, type_: pa.DataType) -> TypeError:
    return TypeError(
        f"{name}={aggregate.kind}({aggregate.column!r}): a column of type {type_} has no "
        f"{aggregate.kind}; compute a column of a fitting type first, with .with_columns(...)"
    )
