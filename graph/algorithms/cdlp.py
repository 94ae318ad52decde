"""Community detection by label propagation: everybody takes the label most common around them.

U. Raghavan, R. Albert, S. Kumara (Physical Review E 2007) in the deterministic, synchronous form of
LDBC Graphalytics: labels begin as the vertex ids, a directed edge counts from both of its ends (a
neighbour on both sides twice), and of equally frequent labels the smallest wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["LabelPropagation", "cdlp", "verify"]


class LabelPropagation(Task):
    """Superstep 0 writes the first labels; every later one is an iteration."""

    name = "cdlp"
    balance = "out"

    def __init__(self, iterations: int, directed: bool) -> None:
        """``directed`` graphs need their in-edges as well."""
        self.iterations = iterations
        self.directed = directed
        self.arrays = ("out.offsets", "out.targets")
        if directed:
            self.arrays += ("in.offsets", "in.targets")

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Labels, double-buffered."""
        return {"label": ((2, num_vertices), np.uint32)}

    def open(self, part: Part) -> None:
        """Choose the kernels, and load them before time counts."""
        self.part = part
        self.kernels = kernels("cdlp", self.compiled)
        out = (part.graph["out.offsets"], part.graph["out.targets"])
        back = (part.graph["in.offsets"], part.graph["in.targets"]) if self.directed else out
        self.rows = (*out, *back, self.directed)
        self._iterate(1, 0, 0)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many labels changed."""
        begin, end = self.part.begin, self.part.end
        if step == 0:
            self.part.state["label"][0, begin:end] = np.arange(begin, end, dtype=np.uint32)
            return [1]
        return [self._iterate(step, begin, end)]

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """After the iterations asked for, or when nothing changes any more."""
        return bool(step >= self.iterations or totals[0] == 0)

    def _iterate(self, step: int, begin: int, end: int) -> int:
        """New labels for a range."""
        label = self.part.state["label"]
        now, following = label[(step - 1) & 1], label[step & 1]
        return int(self.kernels.commonest(*self.rows, now, following, begin, end))


def cdlp(g: Graph, iterations: int = 10, **options: Unpack[RunOptions]) -> Result:
    """The label (a vertex id) of every vertex after so many rounds; fewer if nothing changes."""
    if iterations < 0:
        raise ValueError(f"iterations must be >= 0, found {iterations}")
    task = LabelPropagation(iterations, g.directed)
    found = execute(g, task, **options)
    label = found.state["label"][(found.supersteps - 1) & 1]
    return Result(
        g.vertex_ids,
        g.vertex_ids.take(label),
        supersteps=found.supersteps,
        seconds=found.seconds,
    )


def verify(g: Graph, result: Result, iterations: int = 10) -> bool:
    """Whether counting in dictionaries, vertex by vertex, gives the same labels."""
    label = list(range(g.num_vertices))
    for _ in range(iterations):
        following = []
        for v in range(g.num_vertices):
            around = Counter(label[u] for u in g.out.row(v).tolist())
            if g.directed:
                around.update(label[u] for u in g.into.row(v).tolist())
            best = min(around.items(), key=lambda pair: (-pair[1], pair[0]), default=(label[v], 0))
            following.append(best[0])
        label = following
    names = g.vertex_ids.tolist()
    return [value for _, value in result] == [names[i] for i in label]
