"""Strongly connected components: which vertices can reach each other along directed edges.

Colouring: S. Orzan, On Distributed Verification and Verified Distribution (2004), with trimming
(W. McLendon et al. 2005). The smallest vertex that reaches a vertex colours it; a vertex of its own
colour is a root, and what reaches the root inside its colour is the root's component. That
settles at least one component a colour; the rest goes around again. Vertices without open
predecessors or successors are components of one and settled first. The label of a component is its
first vertex.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["StrongComponents", "scc", "verify"]

OPEN = 2**32 - 1
FOLLOWING = {"trim": "colour", "colour": "mark", "mark": "settle", "settle": "trim"}
"""Each phase is repeated until it changes nothing; settle is done once."""


class StrongComponents(Task):
    """One step of one phase a superstep."""

    name = "scc"
    arrays = ("out.offsets", "out.targets", "in.offsets", "in.targets")

    def __init__(self) -> None:
        """Begins by trimming."""
        self.phase = "trim"

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Component (or open), colour and mark of each vertex."""
        return {
            "label": (num_vertices, np.uint32),
            "colour": (num_vertices, np.uint32),
            "marked": (num_vertices, np.bool_),
        }

    def open(self, part: Part) -> None:
        """Choose the kernels, and load them before time counts."""
        self.part = part
        self.kernels = kernels("scc", self.compiled)
        for phase in FOLLOWING:
            self._run(phase, 0, 0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many vertices the phase changed, or after settling how many are open."""
        if step > 0 and (self.phase == "settle" or totals[0] == 0):
            self.phase = FOLLOWING[self.phase]
        return [self._run(self.phase, self.part.begin, self.part.end), self.phase == "settle"]

    def snapshot(self) -> str:
        """The phase."""
        return self.phase

    def restore(self, saved: str) -> None:
        """Go on with the phase."""
        self.phase = saved

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When a settling leaves none open."""
        return bool(totals[1] and totals[0] == 0)

    def _run(self, phase: str, begin: int, end: int) -> int:
        """One pass of a phase over a range."""
        graph, state = self.part.graph, self.part.state
        out = (graph["out.offsets"], graph["out.targets"])
        back = (graph["in.offsets"], graph["in.targets"])
        label, colour, marked = state["label"], state["colour"], state["marked"]
        arguments = {
            "trim": (*out, *back, label, colour),
            "colour": (*back, label, colour),
            "mark": (*out, label, colour, marked),
            "settle": (label, colour, marked),
        }[phase]
        return int(getattr(self.kernels, phase)(*arguments, begin, end))


def scc(g: Graph, **options: Unpack[RunOptions]) -> Result:
    """The strong component of every vertex, named by its first vertex (its smallest id)."""

    def fill(state: dict[str, npt.NDArray[Any]]) -> None:
        state["label"].fill(OPEN)

    found = execute(g, StrongComponents(), fill=fill, **options)
    column = g.vertex_ids.take(found.state["label"])
    return Result(g.vertex_ids, column, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, result: Result) -> bool:
    """Whether a flood forth and a flood back from each vertex in turn give the same components."""
    label = [-1] * g.num_vertices
    for first in range(g.num_vertices):
        if label[first] < 0:
            for v in _flood(g.out, first) & _flood(g.into, first):
                label[v] = first
    names = g.vertex_ids.tolist()
    return [value for _, value in result] == [names[i] for i in label]


def _flood(rows: Any, first: int) -> set[int]:
    """Everything that rows lead to."""
    seen, stack = {first}, [first]
    while stack:
        new = set(rows.row(stack.pop()).tolist()) - seen
        seen |= new
        stack.extend(new)
    return seen
