"""Breadth-first search: the least number of edges from a source to every vertex.

Direction-optimising: S. Beamer, K. Asanović, D. Patterson, Direction-Optimizing Breadth-First
Search (SC'12), with the thresholds of GAP's reference. While the frontier is small its vertices are
expanded (push); when its edges outnumber a share of the unexplored ones, the unvisited vertices
look for a parent instead and stop at the first (pull).

All copies write into one shared array of depths. In push two copies may reach the same vertex in
the same level: both write the same number, and the vertex may be in the next frontier twice, which
costs little and changes nothing. The direction depends on the votes only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["BreadthFirst", "bfs", "verify"]

ALPHA = 15
"""Pull when the frontier has more than 1/15 of the unexplored edges (GAP)."""
BETA = 18
"""Push again when the frontier shrinks below 1/18 of the vertices (GAP)."""


class BreadthFirst(Task):
    """Superstep k finds the vertices at depth k."""

    name = "bfs"
    balance = "in"
    arrays = ("out.offsets", "out.targets", "in.offsets", "in.targets")

    def __init__(self, source: int, edges: int) -> None:
        """``source`` is a local number; ``edges`` how many directed edges the graph stores."""
        self.source = source
        self.unexplored = edges
        self.pulling = False
        self.last = 0

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Depths (-1: not reached), and a queue a copy for this level and the next."""
        return {
            "depth": (num_vertices, np.int32),
            "queue": ((2, copies, num_vertices), np.uint32),
        }

    def open(self, part: Part) -> None:
        """Choose the kernels, and load them before time counts: nobody's level, no vertex."""
        self.part = part
        self.kernels = kernels("bfs", self.compiled)
        if part.num_vertices:
            self._push(1, [0] * part.copies)
            self._pull(1, 0, 0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many vertices this copy found, and their out-edges."""
        if step == 0:
            if self.part.index != 0:
                return [0, 0]
            self.part.state["queue"][0, 0, 0] = self.source
            offsets = self.part.graph["out.offsets"]
            return [1, int(offsets[self.source + 1] - offsets[self.source])]
        self._choose(totals)
        if self.pulling:
            return self._pull(step, self.part.begin, self.part.end)
        return self._push(step, totals[1:])

    def _push(self, step: int, counts: Sequence[int]) -> list[int]:
        """Visit this copy's share of a frontier of ``counts`` vertices a queue."""
        part, queue = self.part, self.part.state["queue"]
        rows = (part.graph["out.offsets"], part.graph["out.targets"], part.state["depth"])
        frontier = (queue[(step - 1) & 1], np.array(counts, np.uint64), part.index)
        new, edges = self.kernels.push(*rows, step, *frontier, queue[step & 1, part.index])
        return [int(new), int(edges)]

    def _pull(self, step: int, begin: int, end: int) -> list[int]:
        """Let the unvisited vertices of a range look for a parent."""
        part, found = self.part, self.part.state["queue"][step & 1, self.part.index]
        rows = (part.graph["in.offsets"], part.graph["in.targets"], part.graph["out.offsets"])
        new, edges = self.kernels.pull(*rows, part.state["depth"], step, begin, end, found)
        return [int(new), int(edges)]

    def snapshot(self) -> list[Any]:
        """What the choice of direction depends on."""
        return [self.unexplored, self.pulling, self.last]

    def restore(self, saved: list[Any]) -> None:
        """Choose as before."""
        self.unexplored, self.pulling, self.last = saved

    def combine(self, votes: Sequence[Any]) -> tuple[int, ...]:
        """The out-edges of the new frontier, then its size by copy."""
        return (sum(vote[1] for vote in votes), *(vote[0] for vote in votes))

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When a level is empty."""
        return not any(totals[1:])

    def _choose(self, totals: tuple[Any, ...]) -> None:
        """Push or pull: the same choice in every copy, for all see the same totals."""
        size, edges = sum(totals[1:]), totals[0]
        if self.pulling:
            self.pulling = size >= self.last or size > self.part.num_vertices // BETA
        else:
            self.pulling = edges > self.unexplored // ALPHA
        self.last = size
        self.unexplored -= edges


def bfs(g: Graph, source: Any, **options: Unpack[RunOptions]) -> Result:
    """The depth of every vertex below ``source`` (int32), null where unreachable.

    Follows out-edges. Raises ``KeyError`` if ``source`` is not a vertex.
    """
    start = g.locate(source)

    def fill(state: dict[str, npt.NDArray[Any]]) -> None:
        state["depth"].fill(-1)
        state["depth"][start] = 0

    task = BreadthFirst(start, g.out.targets.size)
    found = execute(g, task, fill=fill, **options)
    depth = found.state["depth"]
    column = pa.array(depth, mask=depth < 0)
    return Result(g.vertex_ids, column, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, source: Any, result: Result) -> bool:
    """Whether the depths are those of a textbook search with a queue, one vertex at a time."""
    start = g.locate(source)
    depth: list[int | None] = [None] * g.num_vertices
    depth[start] = 0
    waiting = deque([start])
    while waiting:
        u = waiting.popleft()
        below = (depth[u] or 0) + 1
        for v in g.out.row(u).tolist():
            if depth[v] is None:
                depth[v] = below
                waiting.append(v)
    return bool(result.values.to_pylist() == depth)
