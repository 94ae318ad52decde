"""The builder: streams of rows, and what can be done with them.

Methods only add a node to the plan; nothing runs before `job.run()`. The columns are known at each
step where possible, so that mistakes are raised by the call that makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from streaming import checks
from streaming.aggregates import Aggregate, bind
from streaming.plan import (
    AggregateNode,
    FilterNode,
    FunctionNode,
    LateNode,
    Node,
    PlanError,
    ProjectNode,
    UnionNode,
    WindowNode,
    WithColumnsNode,
)
from streaming.sinks.base import Sink
from streaming.windows import WindowShape

if TYPE_CHECKING:
    from streaming.job import Job

__all__ = ["KeyedStream", "Stream", "WindowResult", "WindowedStream"]

Row = dict[str, Any]
WINDOW_COLUMNS = ("window_start", "window_end")


class Stream:
    """Rows on their way; made by `job.source` and by the methods here."""

    def __init__(self, job: Job, node: Node) -> None:
        self._job = job
        self._node = node

    @property
    def schema(self) -> pa.Schema | None:
        """The columns of the rows; None after a Python function without `schema=`."""
        return self._node.schema

    def filter(self, predicate: pc.Expression) -> Stream:
        """Rows for which a boolean expression is true; null counts as false."""
        checks.check_predicate(predicate, self._node, "filter")
        return self._add(FilterNode, "filter", predicate=predicate)

    def select(self, *names: str, **expressions: pc.Expression) -> Stream:
        """Exactly these columns: names taken over, and name=expression for computed ones."""
        if not names and not expressions:
            raise PlanError("select: expected columns, found none")
        checks.require_columns(names, self._node, "select")
        chosen = [*names, *expressions]
        if len(set(chosen)) != len(chosen):
            raise PlanError(f"select: expected each column once, found {chosen}")
        fields = self._fields(expressions, "select")
        if self.schema is not None:
            fields = [*(self.schema.field(name) for name in names), *fields]
        schema = pa.schema(fields) if self.schema is not None else None
        columns = (*((name, None) for name in names), *expressions.items())
        time, note = self._node.time, self._node.time_note
        if time is not None and time.column not in names:
            note = f"select dropped its event-time column {time.column!r}"
            time = None
        return self._add(
            ProjectNode, "select", schema=schema, time=time, time_note=note, columns=columns
        )

    def with_columns(self, **expressions: pc.Expression) -> Stream:
        """All columns, and name=expression, new or replaced, computed from the row as it was."""
        if not expressions:
            raise PlanError("with_columns: expected name=expression, found none")
        time = self._node.time
        if time is not None and time.column in expressions:
            raise PlanError(
                f"with_columns: {time.column!r} is the event-time column, and watermarks were made "
                f"from it; give the new column another name"
            )
        new = {field.name: field for field in self._fields(expressions, "with_columns")}
        schema = None
        if self.schema is not None:
            kept = [new.pop(field.name, field) for field in self.schema]
            schema = pa.schema([*kept, *new.values()])
        columns = tuple(expressions.items())
        return self._add(WithColumnsNode, "with_columns", schema=schema, columns=columns)

    def map(self, function: Callable[[Row], Row], *, schema: pa.Schema | None = None) -> Stream:
        """`function(row) -> row` for every row; rows are dicts. One Python call per row.

        `schema` fixes the types; without it they are inferred from the first rows, and the columns
        are not known to the checks of later steps.
        """
        return self._function("map", function, schema)

    def flat_map(
        self, function: Callable[[Row], Iterable[Row]], *, schema: pa.Schema | None = None
    ) -> Stream:
        """`function(row) -> iterable of rows` for every row; otherwise as `map`."""
        return self._function("flat_map", function, schema)

    def map_batches(
        self,
        function: Callable[[pa.RecordBatch], pa.RecordBatch],
        *,
        schema: pa.Schema | None = None,
    ) -> Stream:
        """`function(RecordBatch) -> RecordBatch` for every batch, of whatever size it comes.

        The event-time column, where there is one, must keep its name, its type and its values.
        """
        return self._function("map_batches", function, schema)

    def union(self, *others: Stream) -> Stream:
        """All rows of this stream and the others, which must have the same columns and types."""
        if not others:
            raise PlanError("union: expected another stream, found none")
        streams = (self, *others)
        for other in others:
            if not isinstance(other, Stream):
                raise TypeError(f"union: expected streams, found {other!r}")
            if other._job is not self._job:
                raise PlanError("union: the streams belong to different jobs")
            mine, theirs = self.schema, other.schema
            if mine is not None and theirs is not None and not mine.equals(theirs):
                raise PlanError(
                    f"union: expected the columns of {self._node.name!r}\n{mine}\n"
                    f"found in {other._node.name!r}\n{theirs}\nuse select to align them"
                )
        time, note = _common_time([stream._node for stream in streams])
        schema = self.schema if all(s.schema is not None for s in streams) else None
        return self._add(
            UnionNode,
            "union",
            inputs=tuple(stream._node for stream in streams),
            schema=schema,
            time=time,
            time_note=note,
        )

    def key_by(self, *columns: str) -> KeyedStream:
        """Group what follows by the values of these columns; null is a value like others."""
        checks.check_keys(columns, self._node)
        return KeyedStream(self._job, self._node, columns)

    def window(self, shape: WindowShape) -> WindowedStream:
        """Windows over all rows together; for one window per key, `key_by` first."""
        return _windowed(self._job, self._node, (), shape)

    def aggregate(
        self, *, emit: Literal["final", "updates"] = "final", **aggregates: Aggregate
    ) -> Stream:
        """Aggregates over all rows; see `KeyedStream.aggregate`."""
        return _running(self._job, self._node, (), emit, aggregates)

    def sink(self, sink: Sink, *, name: str | None = None) -> None:
        """Write the rows to a sink; `job.run()[name]` is its result.

        Without a name it is that of the kind of sink ("collect"). PlanError when it is taken.
        """
        self._job._add_sink(self._node, sink, name)

    def _function(
        self,
        kind: Literal["map", "flat_map", "map_batches"],
        function: Callable[..., Any],
        schema: pa.Schema | None,
    ) -> Stream:
        checks.check_function(function, kind)
        time, note = self._node.time, self._node.time_note
        if time is not None and schema is not None and time.column not in schema.names:
            note = f"the schema given to {kind} lacks the column {time.column!r}"
            time = None
        elif time is not None and schema is not None:
            found = schema.field(time.column).type
            if found != time.type:
                raise PlanError(
                    f"{kind}: event-time column {time.column!r}: "
                    f"expected {time.type}, found {found}"
                )
        return self._add(
            FunctionNode,
            kind,
            schema=schema,
            time=time,
            time_note=note,
            kind=kind,
            function=function,
            declared=schema,
        )

    def _fields(self, expressions: Mapping[str, pc.Expression], what: str) -> list[pa.Field]:
        types = {
            name: checks.check_expression(expression, self._node, f"{what}: {name}")
            for name, expression in expressions.items()
        }
        return [pa.field(name, type_) for name, type_ in types.items() if type_ is not None]

    def _add(self, node_type: type[Node], verb: str, /, **fields: Any) -> Stream:
        """A stream with one more node, which takes over what `fields` does not say."""
        node = self._node
        given: dict[str, Any] = {
            "name": self._job._unique_name(verb),
            "inputs": (node,),
            "schema": node.schema,
            "time": node.time,
            "time_note": node.time_note,
        }
        return Stream(self._job, node_type(**{**given, **fields}))


class KeyedStream:
    """A stream grouped by key columns; made by `key_by`."""

    def __init__(self, job: Job, node: Node, keys: tuple[str, ...]) -> None:
        self._job = job
        self._node = node
        self._keys = keys

    def window(self, shape: WindowShape) -> WindowedStream:
        """Windows per key. PlanError when the rows have no event time."""
        return _windowed(self._job, self._node, self._keys, shape)

    def aggregate(
        self, *, emit: Literal["final", "updates"] = "final", **aggregates: Aggregate
    ) -> Stream:
        """Aggregates per key over all rows so far: the key columns and name=aggregate.

        emit="final": one row per key when the input ends (never, if it is endless).
        emit="updates": after each batch, a row with the new values of every key that occurred in
        it; readers keep the last row of a key. State grows with the number of keys.
        """
        return _running(self._job, self._node, self._keys, emit, aggregates)


class WindowedStream:
    """A stream cut in windows; `agg` says what to compute."""

    def __init__(self, job: Job, node: Node, keys: tuple[str, ...], shape: WindowShape) -> None:
        self._job = job
        self._node = node
        self._keys = keys
        self._shape = shape

    def agg(self, **aggregates: Aggregate) -> WindowResult:
        """One row per key and window, when the window has closed.

        Columns: the keys, window_start and window_end (of the event time's type; the end is
        exclusive), and name=aggregate. The event time of a result is its window's last instant.
        """
        taken = [*self._keys, *WINDOW_COLUMNS]
        clash = [name for name in WINDOW_COLUMNS if name in self._keys]
        if clash:
            raise PlanError(f"agg: the key {clash[0]!r} is named as a result column; rename it")
        checks.check_aggregates(aggregates, self._node, taken, "agg")
        time = checks.require_time(self._node, str(self._shape))
        schema = None
        if self._node.schema is not None:
            times = [pa.field(name, time.type) for name in WINDOW_COLUMNS]
            schema = _result_schema(self._node.schema, self._keys, times, aggregates)
        node = WindowNode(
            name=self._job._unique_name("window"),
            inputs=(self._node,),
            schema=schema,
            time=replace(time, column="window_end", shift=-1),
            keys=self._keys,
            shape=self._shape,
            aggregates=aggregates,
        )
        return WindowResult(self._job, node)


class WindowResult(Stream):
    """Results of windows, with the late rows as a second stream."""

    @property
    def late(self) -> Stream:
        """The rows that came after all their windows had closed, as they were before the window.

        They are counted in the statistics ("late_rows") whether or not this stream is used.
        """
        [source] = self._node.inputs
        node = LateNode(
            name=self._job._unique_name("late"),
            inputs=(self._node,),
            schema=source.schema,
            time=source.time,
            time_note=source.time_note,
        )
        return Stream(self._job, node)


def _windowed(job: Job, node: Node, keys: tuple[str, ...], shape: WindowShape) -> WindowedStream:
    if not isinstance(shape, WindowShape):
        raise TypeError(f"window: expected tumble(...) or hop(...), found {shape!r}")
    shape.bind(checks.require_time(node, str(shape)).type)
    return WindowedStream(job, node, keys, shape)


def _running(
    job: Job, node: Node, keys: tuple[str, ...], emit: str, aggregates: Mapping[str, Aggregate]
) -> Stream:
    if emit not in ("final", "updates"):
        raise PlanError(f"aggregate: emit: expected 'final' or 'updates', found {emit!r}")
    checks.check_aggregates(aggregates, node, keys, "aggregate")
    schema = None
    if node.schema is not None:
        schema = _result_schema(node.schema, keys, [], aggregates)
    return Stream(
        job,
        AggregateNode(
            name=job._unique_name("aggregate"),
            inputs=(node,),
            schema=schema,
            time=None,
            time_note="the results of a running aggregate have none; use a window instead",
            keys=keys,
            aggregates=aggregates,
            updates=emit == "updates",
        ),
    )


def _result_schema(
    schema: pa.Schema,
    keys: tuple[str, ...],
    times: list[pa.Field],
    aggregates: Mapping[str, Aggregate],
) -> pa.Schema:
    results = bind(aggregates, schema).results
    fields = [pa.field(result.name, result.type) for result in results]
    return pa.schema([*(schema.field(key) for key in keys), *times, *fields])


def _common_time(nodes: list[Node]) -> tuple[Any, str]:
    """The event time of a union: that of all inputs, when they agree."""
    first = nodes[0].time
    for node in nodes:
        if node.time is None:
            return None, f"the input {node.name!r} of the union has none: {node.time_note}"
        assert first is not None
        if (node.time.column, node.time.type, node.time.shift) != (
            first.column,
            first.type,
            first.shift,
        ):
            return None, (
                f"the inputs of the union keep it in different columns: {nodes[0].name!r} in "
                f"{first.column!r} ({first.type}), {node.name!r} in {node.time.column!r} "
                f"({node.time.type})"
            )
    return first, ""
