"""The graph object and its conversions."""

from __future__ import annotations

import pickle

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given

import graph
from tests.graph.oracles import Sample, samples


@given(samples())
def test_sizes_and_degrees(sample: Sample) -> None:
    g = sample.graph
    assert g.num_vertices == sample.count
    assert g.num_edges == len(sample.src)
    assert g.directed == sample.directed
    assert g.out_degree.sum() == g.in_degree.sum() == len(sample.arcs)
    assert g.in_degree.tolist() == g.into.degree.tolist()
    assert g.estimate_memory()["total"] >= g.out.nbytes


def test_undirected_rows_are_their_own_transpose() -> None:
    g = graph.from_edges([0, 1, 2, 2], [1, 2, 2, 0], directed=False)
    assert g.into is g.out
    assert g.estimate_memory()["in"] == 0
    assert g.num_edges == 4
    assert g.out_degree.tolist() == [2, 2, 3]


def test_memory_is_as_promised() -> None:
    src, dst = graph.generate.uniform(12)
    g = graph.from_edges(src, dst, np.ones(src.size))
    assert g.estimate_memory()["total"] / g.num_edges <= 26
    assert graph.from_edges(src, dst).estimate_memory()["total"] / g.num_edges <= 16


def test_repr_says_what_it_is() -> None:
    g = graph.from_edges([0, 1], [1, 2], [1.0, 2.0], directed=False)
    assert repr(g) == "<Graph undirected, weighted: 3 vertices, 2 edges, 0.0 MiB>"
    assert repr(graph.from_edges([0], [1])).startswith("<Graph directed: 2 vertices")


def test_arrays_by_name() -> None:
    g = graph.from_edges([0, 1], [1, 2])
    assert g.array("in.targets").tolist() == [0, 1]
    with pytest.raises(ValueError, match="no weights"):
        g.array("out.weight")


@given(samples())
def test_from_networkx_keeps_vertices_edges_and_order(sample: Sample) -> None:
    other = sample.networkx
    g = graph.from_networkx(other)
    assert list(g.vertex_ids) == list(other)
    assert g.num_edges == other.number_of_edges()
    arcs = sorted((a, b) for a, b, _ in sample.arcs)
    assert arcs == [(v, u) for v in range(g.num_vertices) for u in g.out.row(v).tolist()]


def test_from_networkx_with_odd_names_and_weights() -> None:
    other = nx.DiGraph()
    other.add_node("z")
    other.add_edge("b", (1, 2), weight=2.5)
    other.add_edge((1, 2), "a")
    g = graph.from_networkx(other)
    assert list(g.vertex_ids) == ["z", "b", (1, 2), "a"]
    assert list(graph.from_networkx(nx.path_graph([3, 1, 2])).vertex_ids) == [3, 1, 2]
    assert g.array("out.weight").tolist() == [2.5, 1.0]


def test_from_scipy() -> None:
    matrix = sp.csr_matrix(np.array([[0, 2.0, 0], [2.0, 1.0, 0], [0, 0, 0]]))
    g = graph.from_scipy(matrix)
    assert (g.num_vertices, g.num_edges, g.directed) == (3, 3, True)
    half = graph.from_scipy(matrix, directed=False, weighted=False)
    assert (half.num_edges, half.weighted) == (2, False)
    assert half.out_degree.tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="square"):
        graph.from_scipy(sp.csr_matrix((2, 3)))


def test_a_graph_can_be_pickled() -> None:
    g = graph.from_edges(["a", "b"], ["b", "c"])
    copy = pickle.loads(pickle.dumps(g))
    assert copy.ids == g.ids
    assert copy.out.targets.tolist() == g.out.targets.tolist()


def test_generators_are_seeded_and_skewed() -> None:
    a, b = graph.generate.kronecker(10), graph.generate.kronecker(10)
    assert a[0].dtype == np.int32
    assert a[0].size == 16 << 10
    assert (a[0] == b[0]).all()
    assert (a[1] == b[1]).all()
    assert (graph.generate.kronecker(10, seed=1)[0] != a[0]).any()
    flat = graph.generate.uniform(10)
    assert max(a[0].max(), a[1].max(), flat[0].max()) < 1 << 10
    heavy, even = (np.sort(np.bincount(x[0], minlength=1 << 10)) for x in (a, flat))
    assert heavy[-10:].sum() > 3 * even[-10:].sum()
    with pytest.raises(ValueError, match=r"scale must be in 0\.\.30"):
        graph.generate.kronecker(31)
    with pytest.raises(ValueError, match="must be >= 0"):
        graph.generate.uniform(3, k=-1)


def test_kronecker_has_graph500s_quadrants() -> None:
    src, dst = graph.generate.kronecker(1, k=1 << 17)
    names = np.random.default_rng([27491095, 1]).permutation(2)
    at = np.argsort(names)
    counts = np.bincount(at[src] * 2 + at[dst], minlength=4) / src.size
    assert counts == pytest.approx([0.57, 0.19, 0.19, 0.05], abs=0.005)
