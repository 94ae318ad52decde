"""The checks of a plan, made in the caller when a step is added.

Each says what was expected, what was found and what to do. What cannot be known yet (the columns
after a Python function) is checked when rows arrive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregates import Aggregate, bind
from streaming.expressions import expression_type, is_expression
from streaming.plan import Node, PlanError
from streaming.time import EventTime

__all__ = [
    "check_aggregates",
    "check_expression",
    "check_function",
    "check_keys",
    "check_predicate",
    "require_columns",
    "require_time",
]

_MISSING = re.compile(r"No match for FieldRef\.(?:Name\((?P<name>[^)]*)\))?")


def require_columns(names: Sequence[str], node: Node, what: str) -> None:
    """PlanError unless every name is a column of the node's rows (TypeError: not a text)."""
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{what}: expected the name of a column, found {name!r}")
        if node.schema is not None and name not in node.schema.names:
            raise PlanError(
                f"{what}: no column {name!r} in the rows of {node.name!r}; "
                f"there are {node.schema.names}"
            )


def check_expression(expression: object, node: Node, what: str) -> pa.DataType | None:
    """The type of an expression over the node's rows; None when those are not known.

    TypeError when it is no Arrow expression; PlanError when it does not fit the columns.
    """
    if not is_expression(expression):
        raise TypeError(
            f"{what}: expected an expression of pyarrow.compute such as field('price') > 100, "
            f"found {expression!r}; write constants as pyarrow.compute.scalar(...)"
        )
    if node.schema is None:
        return None
    try:
        return expression_type(expression, node.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
        missing = _MISSING.search(str(error))
        if missing and missing["name"]:
            raise PlanError(
                f"{what}: no column {missing['name']!r} in the rows of {node.name!r}; "
                f"there are {node.schema.names}"
            ) from error
        raise PlanError(f"{what}: {expression} does not fit the columns: {error}") from error


def check_predicate(expression: pc.Expression, node: Node, what: str) -> None:
    """As `check_expression`, and the type must be boolean."""
    type_ = check_expression(expression, node, what)
    if type_ is not None and not pa.types.is_boolean(type_):
        raise PlanError(
            f"{what}: expected a boolean expression, found {expression} of type {type_}"
        )


def check_function(function: object, what: str) -> None:
    """TypeError unless it can be called."""
    if not callable(function):
        raise TypeError(f"{what}: expected a function, found {function!r}")


def check_keys(keys: Sequence[str], node: Node) -> None:
    """PlanError for no key, a repeated or missing one, or a type that cannot be grouped by."""
    if not keys:
        raise PlanError("key_by: expected at least one column, found none")
    require_columns(keys, node, "key_by")
    if len(set(keys)) != len(keys):
        raise PlanError(f"key_by: expected each column once, found {list(keys)}")
    if node.schema is None:
        return
    for key in keys:
        type_ = node.schema.field(key).type
        if pa.types.is_nested(type_) or pa.types.is_null(type_):
            raise PlanError(
                f"key_by: column {key!r} of type {type_} cannot be a key; "
                f"key by its parts, with .with_columns(...) first"
            )


def require_time(node: Node, what: str) -> EventTime:
    """The node's event time; PlanError that says where it is missing and how to give it."""
    if node.time is None:
        raise PlanError(f"{what} needs event time, but {node.time_note}")
    return node.time


def check_aggregates(
    aggregates: Mapping[str, Aggregate], node: Node, taken: Sequence[str], what: str
) -> None:
    """PlanError or TypeError for no aggregate, a clash of names, or one that does not fit."""
    if not aggregates:
        raise PlanError(f"{what}: expected aggregates such as n=count(), found none")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise TypeError(
                f"{what}: {name}: expected an aggregate such as count() or max('price'), "
                f"found {aggregate!r}"
            )
        if name in taken:
            raise PlanError(f"{what}: there is a column {name!r} already; rename the aggregate")
        if aggregate.column is not None:
            require_columns([aggregate.column], node, f"{what}: {name}={aggregate}")
    if node.schema is not None:
        bind(aggregates, node.schema)
