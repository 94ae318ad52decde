"""The logical plan: what a job does, as data. Built by `Stream`, read by the compiler.

A node knows the columns of its rows where that can be known (None after a Python function without
`schema=`), and where its rows keep their event time. If they have none, `time_note` says where
it was lost, for the error of whoever needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregates import Aggregate
from streaming.sinks.base import Sink
from streaming.sources.base import Source
from streaming.time import EventTime
from streaming.windows import WindowShape

__all__ = [
    "AggregateNode",
    "FilterNode",
    "FunctionNode",
    "LateNode",
    "Node",
    "PlanError",
    "ProjectNode",
    "SinkNode",
    "SourceNode",
    "UnionNode",
    "WindowNode",
    "WithColumnsNode",
    "in_flow_order",
]


class PlanError(ValueError):
    """A job that cannot be: raised where the mistake is made, with what was expected and found."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """A step; compared by identity."""

    name: str
    inputs: tuple[Node, ...]
    schema: pa.Schema | None
    time: EventTime | None
    time_note: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class SourceNode(Node):
    """Rows of a source."""

    source: Source


@dataclass(frozen=True, eq=False, kw_only=True)
class FilterNode(Node):
    """Rows for which the predicate is true."""

    predicate: pc.Expression


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectNode(Node):
    """Exactly these columns; without expression: taken over."""

    columns: tuple[tuple[str, pc.Expression | None], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class WithColumnsNode(Node):
    """All columns and these, new or replaced."""

    columns: tuple[tuple[str, pc.Expression], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class FunctionNode(Node):
    """A Python function over rows or batches; `declared` is the schema the user gave."""

    kind: Literal["map", "flat_map", "map_batches"]
    function: Callable[..., Any]
    declared: pa.Schema | None


@dataclass(frozen=True, eq=False, kw_only=True)
class UnionNode(Node):
    """All rows of all inputs."""


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowNode(Node):
    """Aggregates per key and window."""

    keys: tuple[str, ...]
    shape: WindowShape
    aggregates: Mapping[str, Aggregate]


@dataclass(frozen=True, eq=False, kw_only=True)
class LateNode(Node):
    """The late rows of a window node."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AggregateNode(Node):
    """Aggregates per key over all rows."""

    keys: tuple[str, ...]
    aggregates: Mapping[str, Aggregate]
    updates: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class SinkNode(Node):
    """An end of the plan; its name is that of the result."""

    sink: Sink


def in_flow_order(sinks: list[SinkNode]) -> Iterator[Node]:
    """Every node that leads to a sink, once, inputs before consumers."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(sink, False) for sink in reversed(sinks)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((one, False) for one in reversed(node.inputs))
