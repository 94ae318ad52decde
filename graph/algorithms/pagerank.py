"""PageRank: the stationary distribution of a surfer who follows links and sometimes jumps.

L. Page, S. Brin, R. Motwani, T. Winograd: The PageRank Citation Ranking (1999). Power iteration in
pull form: each vertex gathers ``rank / out-degree`` of its in-neighbours, so a copy writes only
its own vertices. The rank of vertices without out-edges is spread by the ``dangling`` distribution,
which makes the ranks sum to 1 (NetworkX, Graphalytics; GAP's reference drops it).

``jacobi`` reads the last iteration's values only: the result does not depend on the number of
copies. ``gauss-seidel`` reads whatever is newest and needs about two thirds of the iterations
(what GAP times), with results that differ within the tolerance from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["PageRank", "pagerank", "verify"]

Vector = npt.NDArray[np.float64]
MODES = ("jacobi", "gauss-seidel")


class PageRank(Task):
    """Superstep 0 writes the first shares; every later superstep is one iteration."""

    name = "pagerank"
    balance = "in"

    def __init__(
        self, alpha: float, max_iter: int, limit: float, mode: str, weighted: bool
    ) -> None:
        """``limit`` is the L1 change below which the iteration ends."""
        self.alpha, self.max_iter, self.limit = alpha, max_iter, limit
        self.buffers = 2 if mode == "jacobi" else 1
        self.weighted = weighted
        self.teleport: Vector | None = None
        self.dangling: Vector | None = None
        self.arrays = ("out.offsets", "in.offsets", "in.targets")
        if weighted:
            self.arrays += ("out.weight", "in.weight")

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """Ranks, and what each vertex passes along every out-edge (double-buffered)."""
        return {
            "rank": (num_vertices, np.float64),
            "share": ((self.buffers, num_vertices), np.float64),
        }

    def open(self, part: Part) -> None:
        """The reciprocal out-degrees (or sums of out-weights) of the own range."""
        self.part = part
        self.own = slice(part.begin, part.end)
        offsets = part.graph["out.offsets"][part.begin : part.end + 1].astype(np.int64)
        total = np.diff(offsets).astype(np.float64)
        if self.weighted:
            running = np.cumsum(part.graph["out.weight"][offsets[0] : offsets[-1]])
            running = np.concatenate([[0.0], running])
            total = np.where(total > 0, np.diff(running[offsets - offsets[0]]), 0.0)
        self.inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        self.kernels = kernels("pagerank", self.compiled)
        self._pull(0, np.zeros(1), slice(0, 0))

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[float]:
        """Votes the L1 change and the rank that lies on vertices without out-edges."""
        if step == 0:
            mine = self.part.state["rank"][self.own]
            self.part.state["share"][0, self.own] = mine * self.inverse
            return [0.0, float(mine[self.inverse == 0.0].sum())]
        return self._pull(step, self._base(totals[1]), self.own)

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """Small enough a change, or the last allowed iteration."""
        return step > 0 and (totals[0] < self.limit or step >= self.max_iter)

    def _pull(self, step: int, base: Vector, own: slice) -> list[float]:
        """One iteration on a range; an empty one loads the kernel before time counts."""
        share = self.part.state["share"]
        now = (share[(step - 1) % self.buffers], self.part.state["rank"], self.inverse, base)
        rest = (self.alpha, own.start, own.stop, share[step % self.buffers])
        rows = (self.part.graph["in.offsets"], self.part.graph["in.targets"])
        if self.weighted:
            pull = self.kernels.pull_weighted
            return list(pull(*rows, self.part.graph["in.weight"], *now, *rest))
        return list(self.kernels.pull(*rows, *now, *rest))

    def _base(self, sunk: float) -> Vector:
        """What each own vertex gets without in-edges: one number if it is the same for all."""
        n, keep = self.part.num_vertices, self.alpha * sunk
        if self.teleport is None and self.dangling is None:
            return np.array([(1.0 - self.alpha + keep) / n])
        jump = 1.0 / n if self.teleport is None else self.teleport[self.own]
        sink = jump if self.dangling is None else self.dangling[self.own]
        base = (1.0 - self.alpha) * jump + keep * sink
        return np.ascontiguousarray(np.broadcast_to(base, self.part.end - self.part.begin))


def pagerank(
    g: Graph,
    alpha: float = 0.85,
    personalization: Any = None,
    max_iter: int = 100,
    tol: float = 1e-6,
    nstart: Any = None,
    weight: Any = None,
    dangling: Any = None,
    *,
    mode: str = "jacobi",
    **options: Unpack[RunOptions],
) -> Result:
    """The PageRank of every vertex; the ranks sum to 1.

    Iterates until the L1 change is below ``num_vertices * tol`` (as NetworkX) or ``max_iter``
    iterations are done; ``tol=0`` does exactly ``max_iter``. ``result.converged`` tells which.
    ``personalization``, ``nstart``, ``dangling``: a dict from vertex id to value (absent is 0) or a
    column in vertex order; each is scaled to sum 1. ``weight=True`` follows edges in
    proportion to their weights (default: equally, also where the graph has weights).
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be inside (0, 1), found {alpha}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, found {mode!r}")
    if max_iter < 1 or not tol >= 0.0:
        raise ValueError(f"max_iter must be >= 1 and tol >= 0, found {max_iter} and {tol}")
    n = g.num_vertices
    if n == 0:
        return Result(g.vertex_ids, np.empty(0))
    if weight and bool((g.array("out.weight") < 0).any()):
        raise ValueError("pagerank needs weights >= 0, the graph has negative ones")
    task = PageRank(alpha, max_iter, n * tol, mode, bool(weight))
    task.teleport = _distribution(g, personalization, "personalization")
    task.dangling = _distribution(g, dangling, "dangling")
    start = _distribution(g, nstart, "nstart")

    def fill(state: dict[str, npt.NDArray[Any]]) -> None:
        state["rank"][:] = 1.0 / n if start is None else start

    found = execute(g, task, fill=fill, **options)
    return Result(
        g.vertex_ids,
        found.state["rank"],
        supersteps=found.supersteps,
        seconds=found.seconds,
        converged=tol == 0.0 or found.totals[0] < task.limit,
    )


def verify(g: Graph, result: Result, alpha: float = 0.85) -> float:
    """The L1 distance between the ranks and one further iteration of them, serially, by *push*.

    The distance to the true ranks is at most ``1 / (1 - alpha)`` of it. Takes the unweighted,
    unpersonalised ranks.
    """
    rank = result.to_numpy()
    n, degree = g.num_vertices, g.out_degree
    pushed = np.zeros(n)
    source = np.repeat(np.arange(n), degree)
    np.add.at(pushed, g.out.targets, rank[source] / degree[source])
    pushed = alpha * (pushed + rank[degree == 0].sum() / n) + (1.0 - alpha) / n
    return float(np.abs(pushed - rank).sum())


def _distribution(g: Graph, given: Any, name: str) -> Vector | None:
    """A dict or column as a vector that sums to 1; None stays None."""
    if given is None:
        return None
    vector = np.zeros(g.num_vertices)
    if isinstance(given, Mapping):
        for vertex, value in given.items():
            vector[g.locate(vertex)] = value
    else:
        column = np.asarray(given, np.float64)
        if column.shape != vector.shape:
            raise ValueError(f"{name} has shape {column.shape}, expected {vector.shape}")
        vector[:] = column
    total = vector.sum()
    if not np.isfinite(total) or vector.min() < 0 or total <= 0:
        raise ValueError(f"{name}: expected values >= 0 with a positive sum, the sum is {total}")
    vector /= total
    return vector
