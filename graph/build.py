"""Graphs from columns and from other libraries' graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.columns import weight_column
from graph.csr import from_arcs, symmetric
from graph.graph import Graph
from graph.ids import VertexIds, number

__all__ = ["from_edges", "from_networkx", "from_scipy"]


def from_edges(
    src: Any, dst: Any, weight: Any = None, directed: bool = True, *, vertices: Any = None
) -> Graph:
    """A graph of the edges ``src[i] -> dst[i]``.

    Columns may be NumPy, Arrow, pandas, polars or lists; ids non-negative integers or any hashable
    values. ``vertices`` (ids, or a count n meaning 0..n-1) lists the vertices, so that those
    without edges exist too; without it the vertices are those that occur in an edge. Parallel
    edges and self loops are kept. Raises ``ValueError`` for columns of different length, missing
    or negative ids, ids outside of ``vertices``, and NaN weights, naming the first position.
    """
    ids, sources, targets = number(src, dst, vertices)
    weights = None if weight is None else weight_column(weight, sources.size)
    build = from_arcs if directed else symmetric
    rows = build(sources, targets, len(ids), weights)
    return Graph(ids, rows, directed=directed, num_edges=sources.size)


def from_networkx(nxg: Any, weight: str = "weight") -> Graph:
    """A graph of a NetworkX graph, its vertices in the order of the nodes.

    Weighted if any edge has the attribute ``weight``; edges without it count as 1.
    """
    nodes = list(nxg)
    numbers = {node: i for i, node in enumerate(nodes)}
    edges = list(nxg.edges(data=weight))
    count = len(edges)
    values = [value for _, _, value in edges]
    weights = None
    if any(value is not None for value in values):
        weights = weight_column([1.0 if value is None else value for value in values], count)
    build = from_arcs if nxg.is_directed() else symmetric
    rows = build(
        np.fromiter((numbers[a] for a, _, _ in edges), np.uint32, count),
        np.fromiter((numbers[b] for _, b, _ in edges), np.uint32, count),
        len(nodes),
        weights,
    )
    ids = VertexIds(len(nodes), None if nodes == list(range(len(nodes))) else nodes)
    return Graph(ids, rows, directed=nxg.is_directed(), num_edges=count)


def from_scipy(matrix: Any, directed: bool = True, weighted: bool = True) -> Graph:
    """A graph of a square sparse matrix: entry (i, j) is an edge i -> j with that weight.

    ``directed=False`` reads the upper triangle only, so a symmetric matrix gives each edge once.
    """
    coo = matrix.tocoo()
    if coo.shape[0] != coo.shape[1]:
        raise ValueError(f"an adjacency matrix is square, found shape {coo.shape}")
    src, dst, data = coo.row, coo.col, coo.data
    if not directed:
        upper = src <= dst
        src, dst, data = src[upper], dst[upper], data[upper]
    weight = np.asarray(data, np.float64) if weighted else None
    return from_edges(src, dst, weight, directed, vertices=coo.shape[0])
