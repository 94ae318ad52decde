"""Whoever runs a kernel: one class each, all with ``run(kernel, source) -> seconds``.

Times are those of the kernel alone, on a graph that is already built in the contestant's own form;
PageRank is 20 iterations. Every contestant states what it does where that differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import graph

__all__ = ["ITERATIONS", "KERNELS", "Gap", "Igraph", "Networkit", "Ours", "Scipy"]

ITERATIONS = 20
KERNELS = ("pr", "bfs", "cc")
ALPHA = 0.85


def _timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


class Ours:
    """This package; float64 Jacobi PageRank with dangling mass; seconds without deployment."""

    def __init__(self, g: graph.Graph, parallelism: int, inline: bool) -> None:
        self.name = f"penstock, {parallelism} {'copies inline' if inline else 'processes'}"
        self.graph = g
        self.options: dict[str, Any] = {"parallelism": parallelism, "inline": inline}
        self.results: dict[str, graph.Result] = {}

    def run(self, kernel: str, source: int) -> float:
        """The time between the first and the last superstep."""
        g, options = self.graph, self.options
        if kernel == "pr":
            result = graph.pagerank(g, max_iter=ITERATIONS, tol=0.0, **options)
        elif kernel == "bfs":
            result = graph.bfs(g, source, **options)
        else:
            result = graph.wcc(g, **options)
        self.results[kernel] = result
        return result.seconds


class Scipy:
    """scipy on one thread: CSR product in float64, and its graph routines."""

    name = "scipy, 1 thread"

    def __init__(self, g: graph.Graph) -> None:
        from scipy.sparse import csr_matrix

        rows = g.out
        n = g.num_vertices
        self.degree = np.maximum(g.out_degree, 1).astype(np.float64)
        ones = np.ones(rows.targets.size)
        indices, offsets = rows.targets.astype(np.int32), rows.offsets.astype(np.int32)
        self.matrix = csr_matrix((ones, indices, offsets), shape=(n, n))

    def run(self, kernel: str, source: int) -> float:
        """PageRank without the dangling mass: the product and two vector operations."""
        from scipy.sparse import csgraph

        if kernel == "pr":
            return _timed(self._pagerank)
        if kernel == "bfs":
            return _timed(lambda: csgraph.breadth_first_order(self.matrix, source))
        return _timed(lambda: csgraph.connected_components(self.matrix, directed=False))

    def _pagerank(self) -> None:
        n = self.matrix.shape[0]
        rank = np.full(n, 1.0 / n)
        for _ in range(ITERATIONS):
            rank = ALPHA * (self.matrix @ (rank / self.degree)) + (1.0 - ALPHA) / n


class Gap:
    """GAP's reference binaries (float32 PageRank, Gauss-Seidel) on the same graph."""

    def __init__(self, folder: Path, path: Path, threads: int) -> None:
        self.name = f"GAP, {threads} threads"
        self.folder = folder
        self.path = path
        self.threads = threads

    def run(self, kernel: str, source: int) -> float:
        """One trial in a process of its own; the time is the one it prints."""
        command = [str(self.folder / kernel), "-f", str(self.path), "-n", "1"]
        if kernel == "pr":
            command += ["-i", str(ITERATIONS), "-t", "0"]
        if kernel == "bfs":
            command += ["-r", str(source)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        found = re.search(r"^Average Time:\s*([0-9.]+)", answer.stdout, re.MULTILINE)
        if found is None:
            raise ValueError(f"{command[0]} printed no time:\n{answer.stdout[-500:]}")
        return float(found[1])


class Networkit:
    """NetworKit with as many threads as we have processes."""

    def __init__(self, g: graph.Graph, threads: int) -> None:
        import networkit as nk  # type: ignore[import-not-found,unused-ignore]

        nk.setNumberOfThreads(threads)
        self.name = f"NetworKit, {threads} threads"
        self.library = nk
        src = np.repeat(np.arange(g.num_vertices), g.out_degree)
        upper = src <= g.out.targets
        ends = (src[upper], g.out.targets[upper].astype(np.int64))
        self.graph = nk.GraphFromCoo(ends, n=g.num_vertices, directed=False)

    def run(self, kernel: str, source: int) -> float:
        """PageRank stops after the same number of iterations."""
        nk = self.library
        if kernel == "pr":
            ranks = nk.centrality.PageRank(self.graph, ALPHA, 0.0)
            ranks.maxIterations = ITERATIONS
            return _timed(ranks.run)
        if kernel == "bfs":
            return _timed(nk.distance.BFS(self.graph, source, storePaths=False).run)
        return _timed(nk.components.ParallelConnectedComponents(self.graph).run)


class Igraph:
    """igraph, one thread; its PageRank (PRPACK) runs to its own tolerance."""

    name = "igraph, 1 thread"

    def __init__(self, g: graph.Graph) -> None:
        import igraph  # type: ignore[import-not-found,unused-ignore]

        src = np.repeat(np.arange(g.num_vertices), g.out_degree)
        upper = src <= g.out.targets
        edges = np.column_stack([src[upper], g.out.targets[upper]])
        self.graph = igraph.Graph(g.num_vertices, edges.tolist())

    def run(self, kernel: str, source: int) -> float:
        """Distances for bfs, as ours."""
        if kernel == "pr":
            return _timed(lambda: self.graph.pagerank(damping=ALPHA))
        if kernel == "bfs":
            return _timed(lambda: self.graph.distances(source))
        return _timed(lambda: self.graph.connected_components())
