"""Load every compiled kernel into this process, so that processes forked from it have them.

Importing numba and loading the first kernel from its cache costs a fresh process more than most
runs take. A process that is about to fork workers calls :func:`preload` once; their first kernel
call is then as quick as any other. Uses no threads and starts no engine.
"""

from __future__ import annotations

from graph.algorithms.betweenness import betweenness
from graph.algorithms.bfs import bfs
from graph.algorithms.cdlp import cdlp
from graph.algorithms.core import core_number
from graph.algorithms.pagerank import pagerank
from graph.algorithms.scc import scc
from graph.algorithms.sssp import sssp
from graph.algorithms.triangles import lcc
from graph.algorithms.wcc import wcc
from graph.build import from_edges

__all__ = ["preload"]


def preload() -> None:
    """Run every algorithm once on a graph of two vertices, in this process."""
    for directed in (False, True):
        g = from_edges([0, 1], [1, 0], [1.0, 2.0], directed)
        pagerank(g, max_iter=1, weight=True, parallelism=1, inline=True)
        for algorithm in (pagerank, wcc, scc, cdlp, lcc, core_number, betweenness):
            algorithm(g, parallelism=1, inline=True)
        for search in (bfs, sssp):
            search(g, 0, parallelism=1, inline=True)
