"""Betweenness centrality: how many shortest paths lead through a vertex.

U. Brandes: A Faster Algorithm for Betweenness Centrality (2001), without weights. From each source
a breadth-first search counts shortest paths, and on the way back every vertex collects its share of
them. Sources are independent: each copy takes every p-th and adds into a column of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from graph.compiled import kernels
from graph.graph import Graph
from graph.job import RunOptions, execute
from graph.result import Result
from graph.task import Part, Shape, Task

__all__ = ["Betweenness", "betweenness", "verify"]


class Betweenness(Task):
    """One superstep: this copy's sources."""

    name = "betweenness"
    arrays = ("out.offsets", "out.targets")

    def __init__(self, sources: npt.NDArray[np.uint32], endpoints: bool) -> None:
        """``sources`` are local numbers; ``endpoints`` counts the ends of a path as well."""
        self.sources = sources
        self.endpoints = endpoints

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """A column of scores for each copy."""
        return {"score": ((copies, num_vertices), np.float64)}

    def open(self, part: Part) -> None:
        """Choose the kernel, and load it before time counts."""
        self.part = part
        self.kernels = kernels("brandes", self.compiled)
        self._accumulate(self.sources[:0])

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> list[int]:
        """There is nothing to vote on."""
        self._accumulate(self.sources[self.part.index :: self.part.copies].copy())
        return []

    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """After the first superstep."""
        return True

    def _accumulate(self, sources: npt.NDArray[np.uint32]) -> None:
        """Work through some sources."""
        rows = (self.part.graph["out.offsets"], self.part.graph["out.targets"])
        score = self.part.state["score"][self.part.index]
        self.kernels.accumulate(*rows, sources, self.endpoints, score)


def betweenness(
    g: Graph,
    k: int | None = None,
    normalized: bool = True,
    endpoints: bool = False,
    seed: int | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """The betweenness of every vertex (float64), as ``networkx.betweenness_centrality``.

    ``k`` samples that many sources (the ones NetworkX takes with the same integer ``seed``) and
    scales up; all vertices without it. Parallel edges are different paths.
    """
    n = g.num_vertices
    if k is not None and not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (the number of vertices), found {k}")
    chosen = list(range(n)) if k is None else random.Random(seed).sample(range(n), k)
    task = Betweenness(np.array(chosen, np.uint32), endpoints)
    found = execute(g, task, **options)
    score = found.state["score"].sum(axis=0)
    score *= _scale(n, k, chosen, normalized, endpoints, g.directed)
    return Result(g.vertex_ids, score, supersteps=found.supersteps, seconds=found.seconds)


def _scale(
    n: int, k: int | None, chosen: list[int], normalized: bool, endpoints: bool, directed: bool
) -> Any:
    """What to multiply the raw sums with: by ordered pairs, sampled sources set apart."""
    ends = n if endpoints else n - 1
    if ends < 2:
        return 1.0

    def factor(sources: int) -> float:
        if sources == 0:
            return float("nan")  # the only source says nothing about itself
        if normalized:
            return 1.0 / (sources * (ends - 1))
        return ends / (sources * (1 if directed else 2))

    if k is None or endpoints:
        return factor(ends if k is None else k)
    scale = np.full(n, factor(k))
    scale[chosen] = factor(k - 1)
    return scale


def verify(g: Graph, result: Result) -> bool:
    """Whether all-pairs path counts multiplied out give the same normalised scores.

    By dense matrices: v lies on the paths from s to t where the distances add up.
    """
    n = g.num_vertices
    hops = np.zeros((n, n))
    np.add.at(hops, (np.repeat(np.arange(n), g.out_degree), g.out.targets), 1.0)
    far, count, walks = np.full((n, n), np.inf), np.zeros((n, n)), np.eye(n)
    for length in range(n):
        new = np.isinf(far) & (walks > 0)
        far[new], count[new] = length, walks[new]
        walks = np.where(far == length, walks, 0.0) @ hops
    score = np.zeros(n)
    for s, t in ((s, t) for pair in combinations(range(n), 2) for s, t in (pair, pair[::-1])):
        through = (far[s] + far[:, t] == far[s, t]) & np.isfinite(far[s, t])
        through[[s, t]] = False
        score[through] += count[s, through] * count[through, t] / max(1.0, count[s, t])
    return bool(np.allclose(result.to_numpy(), score / max(1, (n - 1) * (n - 2)), atol=1e-12))
