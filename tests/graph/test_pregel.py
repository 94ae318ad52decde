"""Column programs against the built-in algorithms."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from tests.graph.oracles import Sample, samples

COPIES = st.integers(1, 3)


def shortest(g: graph.Graph, source: int, **options: Any) -> graph.Result:
    return graph.pregel(
        g,
        init=lambda v, ctx: np.where(v.id == source, 0.0, np.inf),
        message=lambda u, e: u.value + e.weight,
        combine="min",
        apply=lambda v, message, ctx: np.minimum(v.value, message),
        inline=True,
        **options,
    )


@given(samples(), COPIES, st.data())
def test_shortest_paths(sample: Sample, copies: int, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, sample.count - 1))
    got = shortest(sample.graph, source, parallelism=copies)
    assert got.to_dict() == graph.sssp(sample.graph, source, inline=True).to_dict()
    assert got.converged


@given(samples(), COPIES, st.integers(1, 10))
def test_ranks(sample: Sample, copies: int, iterations: int) -> None:
    g = sample.graph
    lone = np.flatnonzero(g.out_degree == 0)
    g = graph.from_edges(
        [*sample.src, *lone], [*sample.dst, *lone], None, sample.directed, vertices=sample.count
    )
    n = g.num_vertices
    got = graph.pregel(
        g,
        init=1 / n,
        message=lambda u, e: u.value / u.out_degree,
        combine="sum",
        apply=lambda v, message, ctx: 0.15 / ctx.num_vertices + 0.85 * message,
        until=lambda ctx: ctx.superstep > iterations,
        parallelism=copies,
        inline=True,
    )
    want = graph.pagerank(g, max_iter=got.supersteps - 1, tol=0.0, inline=True)
    np.testing.assert_allclose(got.to_numpy(), want.to_numpy(), rtol=1e-12)
    assert got.supersteps <= iterations + 1


@given(samples(), COPIES)
def test_components_over_both_directions(sample: Sample, copies: int) -> None:
    got = graph.pregel(
        sample.graph,
        init=lambda v, ctx: v.id,
        message=lambda u, e: u.value,
        combine="min",
        apply=lambda v, message, ctx: np.minimum(v.value, message),
        edges="both",
        value=graph.int64(),
        parallelism=copies,
        inline=True,
    )
    assert got.to_dict() == graph.wcc(sample.graph, inline=True).to_dict()


@given(samples(), COPIES)
def test_messages_against_the_edges(sample: Sample, copies: int) -> None:
    got = graph.pregel(
        sample.graph,
        init=np.zeros(sample.count),
        message=lambda u, e: 1.0,
        combine="sum",
        apply=lambda v, message, ctx: message,
        edges="in",
        max_supersteps=2,
        parallelism=copies,
        inline=True,
    )
    assert got.to_numpy().tolist() == sample.graph.out_degree.tolist()


def test_ids_and_string_ids() -> None:
    g = graph.from_edges(["a", "b"], ["b", "c"])
    assert shortest(g, "a").to_dict() == {"a": 0.0, "b": 1.0, "c": 2.0}  # type: ignore[arg-type]
    limited = shortest(g, "a", max_supersteps=2)  # type: ignore[arg-type]
    assert limited.to_dict()["c"] == np.inf
    assert not limited.converged


def test_networkx_agrees_on_reachability_by_any() -> None:
    other = nx.gnp_random_graph(30, 0.05, seed=1, directed=True)
    got = graph.pregel(
        graph.from_networkx(other),
        init=lambda v, ctx: v.id == 0,
        message=lambda u, e: u.value,
        combine="any",
        apply=lambda v, message, ctx: v.value | message,
        value=graph.boolean(),
        inline=True,
    )
    assert {v for v, x in got if x} == {0} | nx.descendants(other, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"combine": "mean"}, ValueError, "unknown combine 'mean'"),
        ({"edges": "up"}, ValueError, "edges must be one of out, in, both"),
        ({"init": np.zeros(5)}, ValueError, r"init has shape \(5,\), expected \(3,\)"),
        ({"max_supersteps": 0}, ValueError, "at least 1"),
        ({"value": graph.pyobject()}, TypeError, "columns of numbers"),
        ({"message": lambda u, e: np.zeros(77)}, ValueError, "message returned an array of shape"),
        ({"apply": lambda v, m, ctx: "x"}, TypeError, "apply returned <U1; expected float64"),
        ({"init": lambda v, ctx: np.zeros((2, 2))}, ValueError, "init returned an array of shape"),
    ],
)
def test_wrong_arguments_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {
        "init": 0.0,
        "message": lambda u, e: u.value,
        "combine": "sum",
        "apply": lambda v, message, ctx: message,
    }
    with pytest.raises(error, match=message):
        graph.pregel(graph.from_edges([1, 2], [2, 3]), inline=True, **{**given, **options})
