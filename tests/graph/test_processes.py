"""The same runs with one process a copy: graphs mapped from the store, state in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graph
from graph.algorithms import bfs as bfs_module
from graph.algorithms import sssp as sssp_module
from graph.algorithms import wcc as wcc_module
from tests.graph.test_program import Collect, Components, Ranks, ShortestPaths

COPIES = 2
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=[True, False])
def g(request: pytest.FixtureRequest) -> graph.Graph:
    src, dst = graph.generate.kronecker(9, 6, seed=4)
    weight = np.random.default_rng(2).random(src.size)
    return graph.from_edges(src, dst, weight, directed=request.param)


def test_algorithms_in_processes(cluster: Any, g: graph.Graph) -> None:
    source = g.ids[0].as_py()
    alone: dict[str, Any] = {"parallelism": 1, "inline": True}
    assert bfs_module.verify(g, source, graph.bfs(g, source, parallelism=COPIES))
    assert wcc_module.verify(g, graph.wcc(g, parallelism=COPIES))
    assert sssp_module.verify(g, source, graph.sssp(g, source, parallelism=COPIES))
    ranks = graph.pagerank(g, parallelism=COPIES).to_numpy()
    np.testing.assert_allclose(ranks, graph.pagerank(g, **alone).to_numpy(), rtol=1e-12)
    labels = graph.cdlp(g, 5, parallelism=COPIES)
    assert labels.to_dict() == graph.cdlp(g, 5, **alone).to_dict()


def test_vertex_programs_in_processes(cluster: Any, g: graph.Graph) -> None:
    source = g.ids[0].as_py()
    for program in (Ranks(5), ShortestPaths(source), Components(), Collect()):
        got = graph.run(g, program, parallelism=COPIES)
        want = graph.run(g, program, parallelism=COPIES, inline=True)
        assert got.to_dict() == want.to_dict()
        assert got.supersteps == want.supersteps


def test_tiny_graphs_in_processes(cluster: Any) -> None:
    g = graph.from_edges(["a"], ["b"], [2.0])
    assert graph.bfs(g, "a", parallelism=3).to_dict() == {"a": 0, "b": 1}
    assert graph.sssp(g, "a", parallelism=3).to_dict() == {"a": 0.0, "b": 2.0}
    assert graph.wcc(g).to_dict() == {"a": "a", "b": "a"}
    assert graph.pagerank(g)["b"] > graph.pagerank(g)["a"]


def test_many_supersteps_in_processes(cluster: Any) -> None:
    g = graph.from_edges([0, 1], [1, 0])
    assert graph.pagerank(g, max_iter=2000, tol=0.0, parallelism=COPIES).supersteps == 2001


class Breaks(graph.VertexProgram):
    value = graph.int64()
    message = graph.int64()

    def compute(self, v: graph.Vertex, messages: Any, ctx: graph.Context) -> None:
        if ctx.superstep == 3 and v.id == 1:
            raise ArithmeticError("on purpose")


def test_an_error_in_a_process_arrives_with_its_place(cluster: Any) -> None:
    g = graph.from_edges([0, 1], [1, 0])
    with pytest.raises(ArithmeticError, match="on purpose") as caught:
        graph.run(g, Breaks(), parallelism=COPIES)
    assert "in superstep 3, vertex 1" in str(caught.value)
