"""Core numbers: the largest k such that a vertex is in a subgraph of minimum degree k.

By locality: L. Lü, T. Zhou, Q.-M. Zhang, H. Stanley, The H-index of a network node and its relation
to degree and coreness (Nature Communications 2016). Beginning with the degrees, each vertex takes
the largest h such that h neighbours have at least h; the numbers only fall and end at the core
numbers, in any order of updates, so copies need no second buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["CoreNumbers", "core_number", "verify"]


class CoreNumbers(Task):
    """Superstep 0 writes the degrees; later ones lower them."""

    name = "core_number"

    def __init__(self, directed: bool) -> None:
        """In a directed graph in-edges and out-edges both count."""
        self.directed = directed
        self.arrays = ("out.offsets", "out.targets")
        if directed:
            self.arrays += ("in.offsets", "in.targets")

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """The core numbers."""
        return {"core": (num_vertices, np.int64)}

    def open(self, part: Part) -> None:
        """Choose the kernel, and load it before time counts."""
        self.part = part
        self.kernels = kernels("core", self.compiled)
        out = (part.graph["out.offsets"], part.graph["out.targets"])
        back = (part.graph["in.offsets"], part.graph["in.targets"]) if self.directed else out
        self.rows = (*out, *back, self.directed)
        self.kernels.lower(*self.rows, part.state["core"], 0, 0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many numbers fell."""
        begin, end = self.part.begin, self.part.end
        core = self.part.state["core"]
        if step > 0:
            return [int(self.kernels.lower(*self.rows, core, begin, end))]
        core[begin:end] = np.diff(self.rows[0][begin : end + 1])
        if self.directed:
            core[begin:end] += np.diff(self.rows[2][begin : end + 1]).astype(np.int64)
        return [1]

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When none fell during a whole superstep."""
        return bool(totals[0] == 0)


def core_number(g: Graph, **options: Unpack[RunOptions]) -> Result:
    """The core number of each vertex (int64); degrees are in + out in a directed graph.

    Loops do not count; parallel edges count as often as they are there.
    """
    found = execute(g, CoreNumbers(g.directed), **options)
    core = found.state["core"]
    return Result(g.vertex_ids, core, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, result: Result) -> bool:
    """Whether peeling off a vertex of least degree, again and again, gives the same numbers."""
    around = [[u for u in g.out.row(v).tolist() if u != v] for v in range(g.num_vertices)]
    if g.directed:
        for v in range(g.num_vertices):
            around[v] += [u for u in g.into.row(v).tolist() if u != v]
    degree = [len(row) for row in around]
    left = set(range(g.num_vertices))
    core = [0] * g.num_vertices
    k = 0
    while left:
        v = min(left, key=lambda u: degree[u])
        left.remove(v)
        k = core[v] = max(k, degree[v])
        for u in around[v]:
            degree[u] -= 1
    return [value for _, value in result] == core
