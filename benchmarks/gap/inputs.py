"""The benchmark's graphs: as GAP makes them, and in GAP's own file format for its binaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import graph

__all__ = ["GRAPHS", "make", "sources", "write_serialized"]

GRAPHS = {"kron": graph.generate.kronecker, "urand": graph.generate.uniform}


def make(kind: str, scale: int, seed: int = 27491095) -> graph.Graph:
    """A symmetric graph of 2**scale vertices without loops and repeats, as GAP's builder makes."""
    src, dst = GRAPHS[kind](scale, seed=seed)
    low, high = np.minimum(src, dst), np.maximum(src, dst)
    keys = np.unique((low.astype(np.int64) << scale) | high)
    low, high = keys >> scale, keys & ((1 << scale) - 1)
    proper = low != high
    return graph.from_edges(low[proper], high[proper], directed=False, vertices=1 << scale)


def sources(g: graph.Graph, count: int, seed: int = 27491095) -> list[int]:
    """Random vertices that have edges, as GAP picks the sources of its searches."""
    candidates = np.flatnonzero(g.out_degree)
    picked = np.random.default_rng(seed).choice(candidates, count)
    return [int(v) for v in picked]


def write_serialized(g: graph.Graph, path: Path) -> None:
    """An undirected graph in GAP's ``.sg`` format, so that its binaries run on this very graph."""
    with path.open("wb") as file:
        np.array([False]).tofile(file)
        np.array([g.out.targets.size, g.num_vertices], np.int64).tofile(file)
        g.out.offsets.astype(np.int64).tofile(file)
        g.out.targets.astype(np.int32).tofile(file)
