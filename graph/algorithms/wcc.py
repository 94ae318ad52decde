"""Weakly connected components: which vertices hang together when directions are ignored.

Afforest: M. Sutton, T. Ben-Nun, A. Barak, Optimizing Parallel Graph Connectivity Computation via
Subgraph Sampling (IPDPS'18), as in GAP's reference. Linking each vertex with its first two
neighbours already gathers most of the largest component; a sample finds it, and its vertices need
not look at the rest of their edges. The label of a component is its first vertex, always.

Without numba: labels fall to the least of the neighbourhood until none changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from graph.compiled import enabled, kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["Afforest", "LeastLabel", "verify", "wcc"]

ROUNDS = 2
"""Neighbours of each vertex that are linked before the giant component is sampled (GAP)."""
SAMPLES = 1024
"""Vertices looked at to find the giant component (GAP)."""


class Afforest(Task):
    """Supersteps: label; link first neighbours; link the rest; compress."""

    name = "wcc"
    balance = "out"
    last = 3

    def __init__(self, directed: bool) -> None:
        """A directed graph's in-edges count as well."""
        self.directed = directed
        self.arrays = ("out.offsets", "out.targets")
        if directed:
            self.arrays += ("in.offsets", "in.targets")

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """One label a vertex."""
        return {"label": (num_vertices, np.uint32)}

    def open(self, part: Part) -> None:
        """Choose the kernels, and load them on no vertex before time counts."""
        self.part = part
        self.own = (part.begin, part.end)
        self.kernels = kernels("wcc", self.compiled)
        self.rows = [(part.graph["out.offsets"], part.graph["out.targets"])]
        if self.directed:
            self.rows.append((part.graph["in.offsets"], part.graph["in.targets"]))
        self.load()

    def load(self) -> None:
        """Call every kernel once, for nothing."""
        label = self.part.state["label"]
        self.kernels.link_first(*self.rows[0], label, 0, 0, 0)
        self.kernels.compress(label, 0, 0)
        self.kernels.finish(*self.rows[0], label, 0, 0, 0, 0)
        if label.size:
            self.kernels.root_of(label, 0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """After linking the first neighbours votes (frequency, label) of the commonest label."""
        label, make = self.part.state["label"], self.kernels
        if step == 0:
            label[slice(*self.own)] = np.arange(*self.own, dtype=np.uint32)
        elif step == 1:
            for rank in range(ROUNDS):
                make.link_first(*self.rows[0], label, rank, *self.own)
                make.compress(label, *self.own)
            return self._commonest(label)
        elif step == 2:
            # Another copy may see another root of the same tree: both are in one component, and
            # an edge between two skipped vertices lies inside that component.
            giant = int(make.root_of(label, totals[1]))
            make.compress(label, *self.own)
            for rows, skip in zip(self.rows, (ROUNDS, 0), strict=False):
                make.finish(*rows, label, giant, skip, *self.own)
        else:
            make.compress(label, *self.own)
        return [0, 0]

    def combine(self, votes: Sequence[Any]) -> tuple[int, ...]:
        """The vote with the highest frequency."""
        return tuple(max(votes))

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """After a fixed number of supersteps, whatever the graph."""
        return bool(step == self.last)

    def _commonest(self, label: npt.NDArray[np.uint32]) -> list[int]:
        """The most frequent label in a sample of the own range."""
        begin, end = self.own
        if begin == end:
            return [0, 0]
        sample = np.random.default_rng(begin).integers(begin, end, SAMPLES)
        labels, counts = np.unique(label[sample], return_counts=True)
        best = int(np.argmax(counts))
        return [int(counts[best]), int(labels[best])]


class LeastLabel(Afforest):
    """The same without compiled code: every superstep lowers the labels of the own range."""

    def load(self) -> None:
        """Nothing to load."""

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many labels fell."""
        label = self.part.state["label"]
        if step == 0:
            label[slice(*self.own)] = np.arange(*self.own, dtype=np.uint32)
            return [1, 0]
        return [self.kernels.lower(self.rows, label, *self.own), 0]

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When no label fell during a whole superstep, in any copy."""
        return bool(totals[0] == 0)


def wcc(g: Graph, **options: Unpack[RunOptions]) -> Result:
    """The component of every vertex, named by the component's first vertex (its smallest id)."""
    task = Afforest(g.directed) if enabled() else LeastLabel(g.directed)
    found = execute(g, task, **options)
    column = g.vertex_ids.take(found.state["label"])
    return Result(g.vertex_ids, column, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, result: Result) -> bool:
    """Whether the labels are those of a serial flood fill from each vertex in turn."""
    label = [-1] * g.num_vertices
    for first in range(g.num_vertices):
        stack = [first] if label[first] < 0 else []
        while stack:
            v = stack.pop()
            if label[v] < 0:
                label[v] = first
                stack.extend(g.out.row(v).tolist())
                stack.extend(g.into.row(v).tolist())
    names = g.vertex_ids.tolist()
    return [value for _, value in result] == [names[i] for i in label]
