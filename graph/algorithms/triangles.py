"""Triangles through each vertex, and the local clustering coefficient they give.

Every edge is directed from lower to higher degree, so that a triangle is found once, from its
corner of lowest degree, and rows are short: T. Schank, D. Wagner, Finding, Counting and Listing All
Triangles in Large Graphs (WEA'05). The row of the corner is marked and the rows of its neighbours
are looked up. Copies take every p-th vertex and count into columns of their own.

The clustering coefficient is that of LDBC Graphalytics: with N the distinct neighbours of v in
either direction, the directed edges inside N over size(N) * (size(N) - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.orient import orient
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["Triangles", "lcc", "triangles", "verify"]


class Triangles(Task):
    """One superstep: count."""

    name = "triangles"

    def __init__(self, weighted: bool) -> None:
        """``weighted`` counts the weight of the opposite edge instead of 1."""
        self.weighted = weighted
        self.arrays = ("out.offsets", "out.targets")
        if weighted:
            self.arrays += ("out.weight",)

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """A column of counts for each copy: a triangle has corners everywhere."""
        return {"count": ((copies, num_vertices), np.int64)}

    def open(self, part: Part) -> None:
        """Choose the kernel, and load it before time counts."""
        self.part = part
        self.kernels = kernels("triangles", self.compiled)
        self._count(0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """There is nothing to vote on."""
        self._count(self.part.num_vertices)
        return []

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """After the first superstep."""
        return True

    def _count(self, end: int) -> None:
        """Count from this copy's vertices below ``end``."""
        part = self.part
        where = (part.index, end, part.copies, part.state["count"][part.index])
        rows = tuple(part.graph[name] for name in self.arrays)
        (self.kernels.count_weighted if self.weighted else self.kernels.count)(*rows, *where)


def triangles(g: Graph, **options: Unpack[RunOptions]) -> Result:
    """The number of triangles through each vertex (int64) of an undirected graph.

    Parallel edges count once, loops not at all. Raises ``ValueError`` for a directed graph.
    """
    if g.directed:
        raise ValueError("triangles() needs an undirected graph; build it with directed=False")
    below = orient(g)
    found = execute(below.graph, Triangles(False), **options)
    counts = below.by_vertex(found.state["count"].sum(axis=0))
    return Result(g.vertex_ids, counts, supersteps=found.supersteps, seconds=found.seconds)


def lcc(g: Graph, **options: Unpack[RunOptions]) -> Result:
    """The local clustering coefficient of each vertex; 0 with fewer than two neighbours."""
    below = orient(g)
    task = Triangles(g.directed)
    found = execute(below.graph, task, **options)
    inside = below.by_vertex(found.state["count"].sum(axis=0)) * (1 if g.directed else 2)
    pairs = below.degree * (below.degree - 1)
    share = np.divide(inside, pairs, out=np.zeros(g.num_vertices), where=pairs > 0)
    return Result(g.vertex_ids, share, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, result: Result) -> bool:
    """Whether clustering coefficients from Python sets of neighbours are the same."""
    out = [set(g.out.row(v).tolist()) - {v} for v in range(g.num_vertices)]
    shares = []
    for v in range(g.num_vertices):
        near = out[v] | (set(g.into.row(v).tolist()) - {v})
        inside = sum(len(near & out[u]) for u in near)
        shares.append(inside / (len(near) * (len(near) - 1)) if len(near) > 1 else 0.0)
    return bool(np.allclose(result.to_numpy(), shares, rtol=1e-12))
