"""Algorithms against NetworkX, dense algebra, their own verifiers, and at any parallelism."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from graph.algorithms import betweenness as betweenness_module
from graph.algorithms import bfs as bfs_module
from graph.algorithms import cdlp as cdlp_module
from graph.algorithms import core as core_module
from graph.algorithms import pagerank as pagerank_module
from graph.algorithms import scc as scc_module
from graph.algorithms import sssp as sssp_module
from graph.algorithms import triangles as triangles_module
from graph.algorithms import wcc as wcc_module
from tests.graph.oracles import Sample, samples

COPIES = st.integers(1, 3)


def dense_pagerank(sample: Sample, iterations: int, alpha: float) -> np.ndarray:
    n = sample.count
    step = np.zeros((n, n))
    for a, b, _ in sample.arcs:
        step[b, a] += 1.0
    total = step.sum(axis=0)
    step = np.where(total > 0, step / np.where(total > 0, total, 1), 1.0 / n)
    rank = np.full(n, 1.0 / n)
    for _ in range(iterations):
        rank = alpha * step @ rank + (1 - alpha) / n
    return rank


@given(samples(), COPIES, st.integers(1, 30))
def test_pagerank_is_the_dense_iteration(
    tier: str, sample: Sample, copies: int, iterations: int
) -> None:
    got = graph.pagerank(
        sample.graph, max_iter=iterations, tol=0.0, parallelism=copies, inline=True
    )
    want = dense_pagerank(sample, iterations, 0.85)
    np.testing.assert_allclose(got.to_numpy(), want, rtol=1e-12, atol=1e-15)
    assert got.supersteps == iterations + 1
    assert got.converged


@given(samples(min_vertices=2, weighted=True), COPIES, st.data())
def test_weighted_personal_pagerank_is_networkxs(
    tier: str, sample: Sample, copies: int, data: st.DataObject
) -> None:
    vertex = st.integers(0, sample.count - 1)
    personal = {data.draw(vertex): 1, data.draw(vertex): 3}
    sinks = {data.draw(vertex): 2.0}
    options: dict[str, Any] = {"personalization": personal, "dangling": sinks, "tol": 1e-10}
    want = nx.pagerank(sample.networkx, max_iter=1000, **options)
    got = graph.pagerank(
        sample.graph, max_iter=1000, weight=True, parallelism=copies, inline=True, **options
    )
    assert got.to_dict() == pytest.approx(want, abs=1e-8)


@given(samples(), COPIES)
def test_gauss_seidel_goes_to_the_same_ranks(tier: str, sample: Sample, copies: int) -> None:
    got = graph.pagerank(
        sample.graph, mode="gauss-seidel", tol=1e-13, max_iter=1000,
        parallelism=copies, inline=True,
    )  # fmt: skip
    np.testing.assert_allclose(got.to_numpy(), dense_pagerank(sample, 400, 0.85), atol=1e-10)
    assert pagerank_module.verify(sample.graph, got) < 1e-10


@given(samples(), COPIES, st.data())
def test_bfs_is_networkxs(tier: str, sample: Sample, copies: int, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, sample.count - 1))
    got = graph.bfs(sample.graph, source, parallelism=copies, inline=True)
    want = nx.single_source_shortest_path_length(sample.networkx, source)
    assert {v: d for v, d in got if d is not None} == dict(want)
    assert len(got) == sample.count
    assert bfs_module.verify(sample.graph, source, got)


@given(samples(), COPIES)
def test_wcc_is_networkxs(tier: str, sample: Sample, copies: int) -> None:
    got = graph.wcc(sample.graph, parallelism=copies, inline=True)
    parts = (nx.weakly_connected_components if sample.directed else nx.connected_components)(
        sample.networkx
    )
    assert got.to_dict() == {v: min(part) for part in parts for v in part}
    assert wcc_module.verify(sample.graph, got)


@given(samples(), COPIES, st.sampled_from([None, 0.1, 3.0, 1000.0]), st.data())
def test_sssp_is_networkxs(
    tier: str, sample: Sample, copies: int, delta: float | None, data: st.DataObject
) -> None:
    source = data.draw(st.integers(0, sample.count - 1))
    got = graph.sssp(sample.graph, source, delta=delta, parallelism=copies, inline=True)
    want = nx.single_source_dijkstra_path_length(sample.networkx, source)
    assert {v: d for v, d in got if d < np.inf} == dict(want)
    assert sssp_module.verify(sample.graph, source, got)


@given(samples(), COPIES, st.integers(0, 6))
def test_cdlp_is_counting(tier: str, sample: Sample, copies: int, iterations: int) -> None:
    got = graph.cdlp(sample.graph, iterations, parallelism=copies, inline=True)
    assert cdlp_module.verify(sample.graph, got, iterations)


@given(samples(), COPIES)
def test_lcc_is_counting_and_triangles_are_networkxs(
    tier: str, sample: Sample, copies: int
) -> None:
    got = graph.lcc(sample.graph, parallelism=copies, inline=True)
    assert triangles_module.verify(sample.graph, got)
    if not sample.directed:
        assert got.to_dict() == pytest.approx(nx.clustering(simple(sample)))
        counts = graph.triangles(sample.graph, parallelism=copies, inline=True)
        assert counts.to_dict() == nx.triangles(simple(sample))


def simple(sample: Sample) -> Any:
    """The sample in NetworkX without loops and repeats."""
    other = (nx.DiGraph if sample.directed else nx.Graph)(sample.networkx)
    other.remove_edges_from(list(nx.selfloop_edges(other)))
    return other


@given(samples(), COPIES)
def test_core_numbers_are_networkxs(tier: str, sample: Sample, copies: int) -> None:
    other = simple(sample)
    g = graph.from_networkx(other)
    got = graph.core_number(g, parallelism=copies, inline=True)
    assert got.to_dict() == nx.core_number(other)
    whole = graph.core_number(sample.graph, parallelism=copies, inline=True)
    assert core_module.verify(sample.graph, whole)


@given(samples(), COPIES)
def test_scc_is_networkxs(tier: str, sample: Sample, copies: int) -> None:
    got = graph.scc(sample.graph, parallelism=copies, inline=True)
    parts = nx.strongly_connected_components(nx.MultiDiGraph(sample.networkx))
    assert got.to_dict() == {v: min(part) for part in parts for v in part}
    assert scc_module.verify(sample.graph, got)


@given(samples(), COPIES, st.booleans(), st.booleans(), st.data())
def test_betweenness_is_networkxs(
    tier: str, sample: Sample, copies: int, normalized: bool, endpoints: bool, data: st.DataObject
) -> None:
    other = simple(sample)
    k = data.draw(st.none() | st.integers(1, sample.count))
    options: dict[str, Any] = {
        "k": k, "normalized": normalized, "endpoints": endpoints, "seed": 7,
    }  # fmt: skip
    g = graph.from_networkx(other)
    got = graph.betweenness(g, **options, parallelism=copies, inline=True)
    want = nx.betweenness_centrality(other, **options)
    assert got.to_dict() == pytest.approx(want, nan_ok=True)


@given(samples(), COPIES)
def test_betweenness_satisfies_its_verifier(tier: str, sample: Sample, copies: int) -> None:
    got = graph.betweenness(sample.graph, parallelism=copies, inline=True)
    assert betweenness_module.verify(sample.graph, got)


@pytest.mark.parametrize("directed", [True, False])
@pytest.mark.parametrize("make", [graph.generate.kronecker, graph.generate.uniform])
def test_larger_graphs_satisfy_the_verifiers(tier: str, make: Any, directed: bool) -> None:
    src, dst = make(10, 4, seed=3)
    weight = np.random.default_rng(5).integers(0, 256, src.size)
    g = graph.from_edges(src, dst, weight, directed=directed)
    source = int(src[0])
    for copies in (1, 2, 3):
        options: dict[str, Any] = {"parallelism": copies, "inline": True}
        assert bfs_module.verify(g, source, graph.bfs(g, source, **options))
        assert wcc_module.verify(g, graph.wcc(g, **options))
        assert sssp_module.verify(g, source, graph.sssp(g, source, **options))
        assert cdlp_module.verify(g, graph.cdlp(g, 4, **options), 4)
        assert triangles_module.verify(g, graph.lcc(g, **options))
        assert core_module.verify(g, graph.core_number(g, **options))
        assert scc_module.verify(g, graph.scc(g, **options))
        ranks = graph.pagerank(g, tol=1e-13, max_iter=1000, **options)
        assert pagerank_module.verify(g, ranks) < 1e-9
        assert ranks.to_numpy().sum() == pytest.approx(1.0)


def test_a_long_path(tier: str) -> None:
    n = 300
    g = graph.from_edges(np.arange(n), np.arange(n) + 1)
    assert graph.bfs(g, 0, inline=True).to_numpy().tolist() == list(range(n + 1))
    assert set(graph.wcc(g, inline=True).to_dict().values()) == {0}


def test_strong_components_that_follow_each_other(tier: str) -> None:
    """Three cycles in a row: the first one's colour runs through the second and meets the third."""
    cycles = [(2, 3), (3, 2), (4, 5), (5, 4), (0, 1), (1, 0)]
    src, dst = zip(*cycles, (2, 4), (4, 0), strict=True)
    g = graph.from_edges(src, dst)
    for copies in (1, 2, 3):
        got = graph.scc(g, parallelism=copies, inline=True).to_dict()
        assert got == {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 4}


def test_verifiers_notice_a_wrong_result() -> None:
    g = graph.from_edges([0, 1, 3], [1, 2, 4])
    depths = graph.Result(g.vertex_ids, [0, 1, 1, None, None])
    assert not bfs_module.verify(g, 0, depths)
    assert not wcc_module.verify(g, graph.Result(g.vertex_ids, [0, 0, 0, 0, 0]))
    assert pagerank_module.verify(g, graph.Result(g.vertex_ids, np.full(5, 0.2))) > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha must be inside \(0, 1\), found 1.5"),
        ({"alpha": float("nan")}, "alpha must be inside"),
        ({"mode": "fast"}, "mode must be one of"),
        ({"max_iter": 0}, "max_iter must be >= 1"),
        ({"tol": -1.0}, "tol >= 0"),
        ({"personalization": {1: 0.0}}, "personalization: expected values >= 0 with a positive"),
        ({"dangling": {1: -1.0, 2: 3.0}}, "dangling: expected values >= 0"),
        ({"nstart": [1.0]}, r"nstart has shape \(1,\), expected \(3,\)"),
        ({"weight": True}, "the graph has no weights"),
        ({"parallelism": 0}, "parallelism must be in 1..16, found 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    g = graph.from_edges([1, 2], [2, 3])
    with pytest.raises(ValueError, match=message):
        graph.pagerank(g, inline=True, **options)


def test_unknown_vertices_are_named() -> None:
    g = graph.from_edges([1, 2], [2, 3])
    for wrong in (0, 4, -1, "1", 1.0, True):
        with pytest.raises(KeyError, match=f"vertex {wrong!r} is not in the graph"):
            graph.bfs(g, wrong, inline=True)
    with pytest.raises(KeyError, match="vertex 9 is not in the graph"):
        graph.pagerank(g, personalization={9: 1.0}, inline=True)


def test_negative_weights_are_refused() -> None:
    g = graph.from_edges([1, 2], [2, 3], [1.0, -1.0])
    with pytest.raises(ValueError, match="weights >= 0"):
        graph.pagerank(g, weight=True, inline=True)
    with pytest.raises(ValueError, match=r"weights >= 0, found -1\.0"):
        graph.sssp(g, 1, inline=True)
    with pytest.raises(ValueError, match="delta must be positive"):
        graph.sssp(graph.from_edges([1], [2], [3.0]), 1, delta=0.0, inline=True)


def test_a_weight_of_infinity_is_no_way() -> None:
    g = graph.from_edges([0, 0, 1], [1, 2, 2], [np.inf, 3.0, 1.0])
    assert graph.sssp(g, 0, inline=True).to_dict() == {0: 0.0, 1: np.inf, 2: 3.0}


def test_the_empty_graph() -> None:
    g = graph.from_edges([], [])
    assert len(graph.pagerank(g, inline=True)) == 0
    assert graph.wcc(g, inline=True).to_dict() == {}
    with pytest.raises(KeyError):
        graph.bfs(g, 0, inline=True)
