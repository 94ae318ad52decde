"""Single-source shortest paths: the least sum of edge weights from a source to every vertex.

Delta-stepping: U. Meyer, P. Sanders (J. Algorithms 2003), with the bucket fusion of GAP's reference
(Y. Zhang et al., CGO'20). Vertices are settled in buckets of width ``delta``; distances are lowered
by compare-and-swap in one shared array, each copy remembers what it lowered, and each superstep all
copies share out the lowest bucket. A copy whose own part of that bucket refills goes on with it
for a while before it asks the others: on road-like graphs that saves most supersteps.

Without numba: all distances are lowered over their in-edges until none falls.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from graph.algorithms.bfs import bfs
from graph.buckets import Buckets
from graph.compiled import enabled, kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["BellmanFord", "DeltaStepping", "sssp", "verify"]

FUSED_VERTICES = 4096
"""Entries of its own that a copy works off at once before it shares (GAP: 1000 a thread)."""
BUCKETS_MAX = 1 << 16
"""Buckets that one edge may span: delta is at least the largest weight over this."""


class DeltaStepping(Task):
    """Each superstep relaxes the lowest bucket of all copies."""

    name = "sssp"
    balance = "out"
    arrays = ("out.offsets", "out.targets", "out.weight")

    def __init__(self, source: int, delta: float, heaviest: float) -> None:
        """``source`` is a local number, ``heaviest`` the largest weight."""
        self.source = source
        self.delta = delta
        self.count = int(heaviest / delta) + 3

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Distances, and a queue a copy to share its lowest bucket, for this step and the next."""
        return {
            "distance": (num_vertices, np.float64),
            "queue": ((2, copies, num_vertices), np.uint32),
        }

    def open(self, part: Part) -> None:
        """Empty buckets; the kernels are loaded by working off nothing."""
        self.part = part
        self.buckets = Buckets(kernels("sssp", self.compiled), self.count)
        distance = part.state["distance"]
        graph = part.graph
        rows = (graph["out.offsets"], graph["out.targets"], graph["out.weight"])
        self.rows = (*rows, distance, distance.view(np.int64), self.delta)
        self.own = np.empty(FUSED_VERTICES, np.uint32)
        self._expand(0, self.own, 0, 0, 1)
        self.buckets.remove(0, self.buckets.read(0, self.own))
        self._offer(0, 0)
        if part.index == 0:
            self.buckets.put(0, self.source)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes (lowest bucket, entries offered); (-1, 0) if there are none."""
        bucket = 0
        if step > 0:
            bucket, part = totals[0], self.part
            if self.offered[0] == bucket:
                self.buckets.remove(*self.offered)
            for copy, count in enumerate(totals[1:]):
                self._expand(
                    bucket,
                    part.state["queue"][(step - 1) & 1, copy],
                    part.index,
                    count,
                    part.copies,
                )
            while 0 < (count := self.buckets.read(bucket, self.own)) < FUSED_VERTICES:
                self.buckets.remove(bucket, count)
                self._expand(bucket, self.own, 0, count, 1)
        return self._offer(step, bucket)

    def snapshot(self) -> list[Any]:
        """The buckets, and what was offered of them."""
        return [self.buckets.snapshot(), self.offered]

    def restore(self, saved: list[Any]) -> None:
        """Go on with these buckets."""
        pool, self.offered = saved
        self.buckets.restore(pool)

    def combine(self, votes: Sequence[Any]) -> tuple[int, ...]:
        """The lowest bucket of all, and how many entries of it each copy offers."""
        lowest = min((bucket for bucket, _ in votes if bucket >= 0), default=-1)
        return (lowest, *(count if bucket == lowest else 0 for bucket, count in votes))

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When all buckets are empty."""
        return bool(totals[0] < 0)

    def _expand(self, bucket: int, queue: Any, start: int, stop: int, stride: int) -> None:
        """Relax entries of a queue, enlarging the pool whenever it is needed."""
        expand, at = self.buckets.kernels.expand, start
        while True:
            at = int(expand(*self.rows, bucket, queue, at, stop, stride, self.buckets.pool))
            if at >= stop:
                return
            self.buckets.grow()

    def _offer(self, step: int, bucket: int) -> list[int]:
        """Show the lowest bucket to the others; what they take is theirs, the rest stays."""
        lowest = self.buckets.lowest(bucket)
        queue = self.part.state["queue"][step & 1, self.part.index]
        count = self.buckets.read(lowest, queue) if lowest >= 0 else 0
        self.offered = (lowest, count)
        return [lowest, count]


class BellmanFord(Task):
    """The same without compiled code: every superstep lowers the distances of the own range."""

    name = "sssp"
    balance = "in"
    arrays = ("in.offsets", "in.targets", "in.weight")

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """The distances."""
        return {"distance": (num_vertices, np.float64)}

    def open(self, part: Part) -> None:
        """Choose the kernels."""
        self.part = part
        self.kernels = kernels("sssp", self.compiled)

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """Votes how many distances fell."""
        part = self.part
        rows = (part.graph["in.offsets"], part.graph["in.targets"], part.graph["in.weight"])
        return [self.kernels.relax(*rows, part.state["distance"], part.begin, part.end)]

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """When none fell anywhere during a whole superstep."""
        return bool(totals[0] == 0)


def sssp(
    g: Graph,
    source: Any,
    *,
    delta: float | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """The distance of every vertex from ``source`` along out-edges (float64), inf if unreachable.

    Edges of a graph without weights count 1. ``delta`` is the width of a bucket in units of weight
    (default: twice the mean weight over the mean degree); it changes the time, not the result.
    Raises ``KeyError`` if ``source`` is not a vertex, ``ValueError`` for negative weights.
    """
    start = g.locate(source)
    if g.out.weight is None:
        depth = bfs(g, source, **options)
        far = np.nan_to_num(depth.to_numpy().astype(np.float64), nan=np.inf)
        return Result(g.vertex_ids, far, supersteps=depth.supersteps, seconds=depth.seconds)
    weight = g.out.weight[np.isfinite(g.out.weight)]
    if weight.size and weight.min() < 0:
        raise ValueError(f"sssp needs weights >= 0, found {float(weight.min())}")
    heaviest = float(weight.max(initial=0.0))
    if delta is None:
        delta = 2.0 * float(weight.mean() if weight.size else 0.0) * g.num_vertices
        delta = max(delta / max(1, weight.size), heaviest / BUCKETS_MAX) or 1.0
    if not heaviest / BUCKETS_MAX <= delta < np.inf or delta <= 0:
        raise ValueError(
            f"delta must be positive, at least the largest weight / {BUCKETS_MAX}, found {delta}"
        )

    def fill(state: dict[str, npt.NDArray[Any]]) -> None:
        state["distance"].fill(np.inf)
        state["distance"][start] = 0.0

    task = DeltaStepping(start, delta, heaviest) if enabled() else BellmanFord()
    found = execute(g, task, fill=fill, **options)
    distance = found.state["distance"]
    return Result(g.vertex_ids, distance, supersteps=found.supersteps, seconds=found.seconds)


def verify(g: Graph, source: Any, result: Result) -> bool:
    """Whether the distances are those of Dijkstra's algorithm with a heap, one vertex at a time."""
    distance = [np.inf] * g.num_vertices
    start = g.locate(source)
    distance[start] = 0.0
    heap = [(0.0, start)]
    weights = np.ones(g.out.targets.size) if g.out.weight is None else g.out.weight
    while heap:
        near, u = heapq.heappop(heap)
        if near > distance[u]:
            continue
        row = slice(int(g.out.offsets[u]), int(g.out.offsets[u + 1]))
        for v, w in zip(g.out.targets[row].tolist(), weights[row].tolist(), strict=True):
            if near + w < distance[v]:
                distance[v] = near + w
                heapq.heappush(heap, (near + w, v))
    return bool(np.allclose(result.to_numpy(), distance, rtol=1e-12, atol=0.0))
