"""Pregel on columns: the same model as a vertex program, written on arrays.

    # distances from vertex 0
    graph.pregel(
        g,
        init=lambda v, ctx: np.where(v.id == 0, 0.0, np.inf),
        message=lambda u, e: u.value + e.weight,
        combine="min",
        apply=lambda v, message, ctx: np.minimum(v.value, message),
    )

In every superstep each vertex gets the combined messages of its in-edges and a new value. Messages
are gathered by the receiver in blocks of edges that stay in the cache; nothing is stored per edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graph.graph import Graph
from graph.ids import VertexIds
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task
from graph.types import COMBINERS, Field, float64
from graph.vectorised.rows import reduce_rows

__all__ = ["ColumnContext", "ColumnProgram", "Edges", "Vertices", "pregel"]

Column = npt.NDArray[Any]
DIRECTIONS = {"out": ("in",), "in": ("out",), "both": ("in", "out")}
"""Along which edges messages go, and whose rows the receiver therefore gathers from."""


@dataclass(frozen=True)
class ColumnContext:
    """What all vertices know."""

    superstep: int
    num_vertices: int
    changed: int
    """Vertices whose value changed in the superstep before (all of them in superstep 0)."""
    change: float
    """Sum of the absolute changes, for numbers."""


class Vertices:
    """Columns of some vertices (or of the source of each edge); made when asked for."""

    def __init__(self, value: Column, numbers: Any, offsets: Column, ids: VertexIds) -> None:
        """``numbers`` are local vertex numbers, an array or a slice."""
        self.value = value
        self._numbers = numbers
        self._offsets = offsets
        self._ids = ids

    @cached_property
    def numbers(self) -> Column:
        """Positions of the vertices in the graph's order."""
        if isinstance(self._numbers, slice):
            return np.arange(self._numbers.start, self._numbers.stop)
        found: Column = self._numbers
        return found

    @cached_property
    def out_degree(self) -> Column:
        """Out-edges of each."""
        at = self.numbers.astype(np.intp)
        return (self._offsets[at + 1] - self._offsets[at]).astype(np.int64)

    @cached_property
    def id(self) -> Column:
        """The user's ids."""
        column = self._ids.take(self.numbers)
        if isinstance(column, pa.Array):
            return np.asarray(column.to_numpy(zero_copy_only=False))
        return np.array(column, object)


@dataclass(frozen=True)
class Edges:
    """Columns of some edges."""

    weight: Any
    """1.0 where the graph has no weights."""


class ColumnProgram(Task):
    """Superstep 0 writes the first values; later ones gather, combine and apply."""

    name = "pregel"

    def __init__(
        self,
        functions: Mapping[str, Any],
        message: Field,
        value: Field,
        edges: str,
        ids: VertexIds,
        weighted: bool,
    ) -> None:
        """``functions`` holds init, message, apply and until; ``edges`` a key of DIRECTIONS."""
        self.functions = dict(functions)
        self.message = message
        self.value = value
        self.sides = DIRECTIONS[edges]
        self.ids = ids
        self.weighted = weighted
        self.balance = self.sides[0]
        names = [f"{side}.{part}" for side in self.sides for part in ("offsets", "targets")]
        if weighted:
            names += [f"{side}.weight" for side in self.sides]
        self.arrays = tuple(dict.fromkeys([*names, "out.offsets"]))

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Values, double-buffered."""
        return {"value": ((2, num_vertices), self.value.dtype)}

    def open(self, part: Part) -> None:
        """Remember the range."""
        self.part = part
        self.own = slice(part.begin, part.end)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[Any]:
        """Votes (values that changed, sum of the absolute changes)."""
        value = self.part.state["value"]
        before, after = value[(step - 1) & 1], value[step & 1]
        context = self.context(step, totals)
        if step == 0:
            init = self.functions["init"]
            if callable(init):
                init = init(self._vertices(before[self.own], self.own), context)
            elif np.ndim(init):
                init = np.asarray(init)[self.own]
            after[self.own] = self._checked(init, "init")
            return [self.own.stop - self.own.start, 0.0]
        combined = self._gather(before)
        vertices = self._vertices(before[self.own], self.own)
        new = self._checked(self.functions["apply"](vertices, combined, context), "apply")
        after[self.own] = new
        differs = after[self.own] != before[self.own]
        moved = after[self.own][differs].astype(np.float64) - before[self.own][differs]
        return [int(differs.sum()), float(np.abs(moved).sum())]

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When ``until`` says so, or nothing changed."""
        until = self.functions["until"]
        if until is None or totals[0] == 0:
            return bool(totals[0] == 0)
        return bool(until(self.context(step + 1, totals)))

    def context(self, step: int, totals: tuple[Any, ...]) -> ColumnContext:
        """What the functions see of the whole."""
        n = self.part.num_vertices
        changed, change = totals if totals else (n, 0.0)
        return ColumnContext(step, n, changed, change)

    def _gather(self, before: Column) -> Column:
        """The combined message of each own vertex; the combiner's neutral value without any."""
        combine = COMBINERS[self.message.combine or "sum"]
        neutral = np.array(self.message.identity, self.message.dtype)[()]
        total: Column | None = None
        for side in self.sides:
            offsets = self.part.graph[f"{side}.offsets"]
            found = reduce_rows(
                combine, offsets, *self._range(), self._messages(side, before), neutral
            )
            total = found if total is None else combine(total, found)
        assert total is not None
        return total

    def _messages(self, side: str, before: Column) -> Callable[[slice], Column]:
        """A function from a block of edges to their messages."""
        targets = self.part.graph[f"{side}.targets"]
        weight = self.part.graph[f"{side}.weight"] if self.weighted else None

        def messages(entries: slice) -> Column:
            sources = targets[entries]
            edges = Edges(1.0 if weight is None else weight[entries])
            sent = self.functions["message"](self._vertices(before[sources], sources), edges)
            return self._shaped(sent, sources.size, self.message.dtype, "message")

        return messages

    def _range(self) -> tuple[int, int]:
        return self.own.start, self.own.stop

    def _vertices(self, value: Column, numbers: Any) -> Vertices:
        return Vertices(value, numbers, self.part.graph["out.offsets"], self.ids)

    def _checked(self, column: Any, name: str) -> Column:
        return self._shaped(column, self.own.stop - self.own.start, self.value.dtype, name)

    def _shaped(self, column: Any, length: int, dtype: Any, name: str) -> Column:
        """A user's result as a column of the right length and type."""
        array = np.asarray(column)
        if array.shape not in ((), (length,)):
            raise ValueError(
                f"{name} returned an array of shape {array.shape}; expected {length} values or one"
            )
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise TypeError(f"{name} returned {array.dtype}; expected {dtype}")
        return np.broadcast_to(array.astype(dtype, copy=False), (length,))


def pregel(
    g: Graph,
    *,
    init: Any,
    message: Callable[[Vertices, Edges], Any],
    combine: str,
    apply: Callable[[Vertices, Column, ColumnContext], Any],
    until: Callable[[ColumnContext], bool] | None = None,
    edges: str = "out",
    value: Field | None = None,
    max_supersteps: int | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Run column functions until nothing changes, ``until(ctx)`` is true, or the limit is reached.

    ``init``: a value, a column in vertex order, or ``f(v, ctx)``; ``message``: ``f(u, e)`` on the
    columns of the sending vertices ``u.value, u.id, u.out_degree`` and of the edges ``e.weight``;
    ``apply``: ``f(v, message, ctx)`` gives the new values, where ``message`` is the combiner's
    neutral value (0, inf, ...) for vertices without any. ``edges``: messages go along ``out``,
    ``in`` or ``both``. ``value`` is the type of values and messages (default ``graph.float64()``).
    """
    field = value or float64()
    if field.dtype is None:
        raise TypeError("pregel() works on columns of numbers; use a VertexProgram for objects")
    carried = Field(field.name, field.dtype, field.default, combine, field.exact)
    if edges not in DIRECTIONS:
        raise ValueError(f"edges must be one of {', '.join(DIRECTIONS)}; found {edges!r}")
    if not callable(init) and np.ndim(init) and np.shape(init) != (g.num_vertices,):
        raise ValueError(f"init has shape {np.shape(init)}, expected ({g.num_vertices},)")
    if max_supersteps is not None and max_supersteps < 1:
        raise ValueError(f"max_supersteps must be at least 1, found {max_supersteps}")
    if edges == "both" and not g.directed:
        edges = "out"
    stop = until
    if max_supersteps is not None:
        limit = max_supersteps

        def stop(ctx: ColumnContext) -> bool:
            return ctx.superstep >= limit or (until is not None and until(ctx))

    functions = {"init": init, "message": message, "apply": apply, "until": stop}
    task = ColumnProgram(functions, carried, field, edges, g.vertex_ids, g.weighted)
    found = execute(g, task, **options)
    last = found.supersteps
    return Result(
        g.vertex_ids,
        found.state["value"][(last - 1) & 1],
        supersteps=last,
        seconds=found.seconds,
        converged=found.totals[0] == 0 or (until is not None and last != max_supersteps),
    )
