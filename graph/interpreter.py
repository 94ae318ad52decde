"""Vertex programs in plain Python: any code, any message. The tier that is always there.

The compiled tiers are checked against this one. It is quick for what it is: values are a Python
list per partition, one vertex object serves all vertices, and messages leave Python a block at a
time (see :mod:`graph.messages`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from graph.graph import Graph
from graph.ids import VertexIds
from graph.job import RunOptions, execute
from graph.messages import Inbox, Mail
from graph.program import Context, Edge, Vertex, VertexProgram, check_program, merge
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["Interpreter", "run"]


class Interpreter(Task):
    """Runs a vertex program on the vertices of one partition."""

    name = "vertex-program"
    balance = "out"

    def __init__(
        self, program: VertexProgram, ids: VertexIds, weighted: bool, max_supersteps: int | None
    ) -> None:
        """``ids`` travel with the task: programs see and name vertices by the user's ids."""
        self.program = program
        self.ids = ids
        self.message = program.message
        self.value = program.value
        self.max_supersteps = max_supersteps
        self.arrays = ("out.offsets", "out.targets")
        if weighted:
            self.arrays += ("out.weight",)

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """The values, written when the run ends; Python objects travel as results instead."""
        return {} if self.value.dtype is None else {"value": (num_vertices, self.value.dtype)}

    def open(self, part: Part) -> None:
        """Give every vertex its default value and wake it."""
        self.part = part
        self.program = copy.deepcopy(self.program)
        count = part.end - part.begin
        self.values = [copy.copy(self.value.default) for _ in range(count)]
        self.awake = np.ones(count, np.bool_)
        self.names: Sequence[Any] = range(part.num_vertices)
        self.number = None
        if not self.ids.identity:
            self.names = self.ids.tolist()
            self.number = {name: i for i, name in enumerate(self.names)}
        graph = part.graph
        rows = graph["out.offsets"][part.begin : part.end + 1]
        self.offsets = _Shifted(rows.tolist(), part.begin)
        self.targets = graph["out.targets"]
        self.weight = graph.get("out.weight")
        self.mail = Mail(self.message, graph["out.offsets"], self.targets)
        self.context = Context(
            part.num_vertices, int(graph["out.offsets"][-1]), self.program.aggregators
        )
        self.vertex = Vertex(self)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[Any]:
        """Votes (vertices awake, messages sent, aggregators)."""
        part, values, v, context = self.part, self.values, self.vertex, self.context
        inbox = Inbox(self.message, part.begin, part.end, messages)
        todo = np.flatnonzero(self.awake | inbox.waiting)
        context.turn(step, totals[2] if totals else {})
        compute, names, begin = self.program.compute, self.names, part.begin
        mail, kind, convert = self.mail, self.value.exact, self.value.convert
        mail.sent = 0
        awake = []
        i = 0
        try:
            for i, received in zip(todo.tolist(), inbox.by_vertex(todo), strict=True):
                v._local = i + begin
                v.id = names[i + begin]
                v.value = values[i]
                v._halted = False
                compute(v, received, context)
                value = v.value
                if type(value) is not kind:
                    value = convert(value, f"value of vertex {v.id!r}")
                values[i] = value
                if not v._halted:
                    awake.append(i)
                mail.relieve()
        except Exception as error:  # the program's own, with a note where
            error.add_note(f"in superstep {step}, vertex {names[i + begin]!r}")
            raise
        self.awake[:] = False
        self.awake[awake] = True
        part.outbox = mail.cut(part.bounds)
        return [len(awake), mail.sent, context.contributed()]

    def combine(self, votes: Sequence[Any]) -> tuple[Any, ...]:
        """Sums of the counts, and the aggregators merged in the order of the copies."""
        merged: dict[str, Any] = {}
        for _, _, contributed in votes:
            for name, x in contributed.items():
                how = self.program.aggregators.get(name, "sum")
                merged[name] = merge(how, merged[name], x) if name in merged else x
        return sum(v[0] for v in votes), sum(v[1] for v in votes), merged

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """Nobody is awake and nothing is under way, or the limit is reached."""
        return not (totals[0] or totals[1]) or step + 1 == self.max_supersteps

    def snapshot(self) -> dict[str, Any]:
        """Values, who is awake, and what ``compute`` has stored in the program."""
        dtype = self.value.dtype
        values = copy.deepcopy(self.values) if dtype is None else np.array(self.values, dtype)
        return {
            "values": values,
            "awake": self.awake.copy(),
            "program": copy.deepcopy(vars(self.program)),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on with them; the messages under way are given to the next superstep."""
        values = saved["values"]
        self.values = values if self.value.dtype is None else values.tolist()
        self.awake = saved["awake"]
        vars(self.program).update(saved["program"])

    def result(self) -> list[Any] | None:
        """Numbers go to the shared array; Python objects are handed back."""
        if self.value.dtype is None:
            return self.values
        self.part.state["value"][self.part.begin : self.part.end] = self.values
        return None

    def locate(self, target: Any) -> int:
        """The local number of a message's receiver."""
        if self.number is None:
            if type(target) is int and 0 <= target < self.part.num_vertices:
                return target
        elif target in self.number:
            return self.number[target]
        return self.ids.locate(target)

    def edges(self, vertex: int) -> list[Edge]:
        """The out-edges of a vertex of this partition."""
        entries = slice(self.offsets[vertex], self.offsets[vertex + 1])
        targets = self.targets[entries].tolist()
        if self.number is not None:
            targets = [self.names[t] for t in targets]
        weights = [1.0] * len(targets) if self.weight is None else self.weight[entries].tolist()
        return list(map(Edge, targets, weights))


class _Shifted:
    """Row offsets of one range as Python ints, indexed by the graph's vertex numbers."""

    __slots__ = ("_begin", "_offsets")

    def __init__(self, offsets: list[int], begin: int) -> None:
        self._offsets = offsets
        self._begin = begin

    def __getitem__(self, vertex: int) -> int:
        return self._offsets[vertex - self._begin]


def run(
    g: Graph,
    program: VertexProgram,
    *,
    max_supersteps: int | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Run a vertex program until all vertices have halted; the vertex values.

    ``max_supersteps`` ends the run earlier; ``result.converged`` is False then. What ``compute``
    raises arrives as ``engine.exceptions.TaskError`` that is also an instance of the exception's
    class, with the superstep and the vertex in a note.
    """
    check_program(program)
    if max_supersteps is not None and max_supersteps < 1:
        raise ValueError(f"max_supersteps must be at least 1, found {max_supersteps}")
    task = Interpreter(program, g.vertex_ids, g.weighted, max_supersteps)
    found = execute(g, task, **options)
    values: Any = found.state.get("value")
    if values is None:
        values = [value for part in found.results for value in part]
    return Result(
        g.vertex_ids,
        values,
        supersteps=found.supersteps,
        seconds=found.seconds,
        converged=not (found.totals[0] or found.totals[1]),
    )
