"""Vertex programs against the built-in algorithms, and what happens to wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from graph.program import Context, Vertex
from tests.graph.oracles import Sample, samples

COPIES = st.integers(1, 3)


class ShortestPaths(graph.VertexProgram):
    value = graph.float64(default=float("inf"))
    message = graph.float64(combine="min")

    def __init__(self, source: Any) -> None:
        self.source = source

    def compute(self, v: Vertex, messages: Sequence[float], ctx: Context) -> None:
        best = min(messages, default=0.0 if v.id == self.source else float("inf"))
        if best < v.value:
            v.value = best
            for e in v.out_edges:
                v.send(e.target, best + e.weight)
        v.vote_to_halt()


class Ranks(graph.VertexProgram):
    value = graph.float64()
    message = graph.float64(combine="sum")

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations

    def compute(self, v: Vertex, messages: Sequence[float], ctx: Context) -> None:
        n = ctx.num_vertices
        v.value = 1 / n
        if ctx.superstep > 0:
            v.value = 0.15 / n + 0.85 * (sum(messages) + ctx.aggregated("sunk") / n)
        if ctx.superstep == self.iterations:
            v.vote_to_halt()
        elif v.out_degree:
            v.send_to_neighbors(v.value / v.out_degree)
        else:
            ctx.aggregate("sunk", v.value)


class Depths(graph.VertexProgram):
    value = graph.int32(default=-1)
    message = graph.boolean(combine="any")

    def __init__(self, source: Any) -> None:
        self.source = source

    def compute(self, v: Vertex, messages: Sequence[bool], ctx: Context) -> None:
        if v.value < 0 and (messages or (ctx.superstep == 0 and v.id == self.source)):
            v.value = ctx.superstep
            v.send_to_neighbors(True)
        v.vote_to_halt()


class Components(graph.VertexProgram):
    value = graph.int64()
    message = graph.int64(combine="min")

    def compute(self, v: Vertex, messages: Sequence[int], ctx: Context) -> None:
        least = min([v.id, *messages] if ctx.superstep == 0 else [v.value, *messages])
        if ctx.superstep == 0 or least < v.value:
            v.value = least
            v.send_to_neighbors(least)
        v.vote_to_halt()


class Collect(graph.VertexProgram):
    """Without a combiner: who sent to me, in the order of arrival."""

    value = graph.pyobject(default=[])
    message = graph.pyobject()

    def compute(self, v: Vertex, messages: Sequence[Any], ctx: Context) -> None:
        if ctx.superstep == 0:
            v.send_to_neighbors((v.id, "near"))
        v.value = v.value + list(messages)
        v.vote_to_halt()


def renamed(sample: Sample) -> tuple[graph.Graph, dict[int, Any]]:
    """The sample with string ids, so that numbers and ids cannot be mixed up."""
    names = {i: f"v{i:03}" for i in range(sample.count)}
    g = graph.from_edges(
        [names[i] for i in sample.src],
        [names[i] for i in sample.dst],
        sample.weight,
        sample.directed,
        vertices=list(names.values()),
    )
    return g, names


@given(samples(), COPIES, st.data())
def test_shortest_paths_are_networkxs(sample: Sample, copies: int, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, sample.count - 1))
    want = nx.single_source_dijkstra_path_length(sample.networkx, source)
    got = graph.run(sample.graph, ShortestPaths(source), parallelism=copies, inline=True)
    assert {v: d for v, d in got if d < float("inf")} == dict(want)
    g, names = renamed(sample)
    other = graph.run(g, ShortestPaths(names[source]), parallelism=copies, inline=True)
    assert other.to_dict() == {names[v]: d for v, d in got}


@given(samples(), COPIES, st.integers(1, 20))
def test_ranks_are_the_built_in_ones(sample: Sample, copies: int, iterations: int) -> None:
    got = graph.run(sample.graph, Ranks(iterations), parallelism=copies, inline=True)
    want = graph.pagerank(sample.graph, max_iter=iterations, tol=0.0, inline=True)
    np.testing.assert_allclose(got.to_numpy(), want.to_numpy(), rtol=1e-12)
    assert got.supersteps == iterations + 1
    assert got.converged


@given(samples(), COPIES, st.data())
def test_depths_are_the_built_in_ones(sample: Sample, copies: int, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, sample.count - 1))
    got = graph.run(sample.graph, Depths(source), parallelism=copies, inline=True)
    want = graph.bfs(sample.graph, source, inline=True)
    assert got.to_dict() == {v: -1 if d is None else d for v, d in want}


@given(samples(), COPIES)
def test_components_are_the_built_in_ones(sample: Sample, copies: int) -> None:
    sample.directed = False
    got = graph.run(sample.graph, Components(), parallelism=copies, inline=True)
    assert got.to_dict() == graph.wcc(sample.graph, inline=True).to_dict()


@given(samples(), COPIES)
def test_messages_arrive_in_the_order_of_their_senders(sample: Sample, copies: int) -> None:
    got = graph.run(sample.graph, Collect(), parallelism=copies, inline=True)
    into: dict[int, list[Any]] = {v: [] for v in range(sample.count)}
    for a, b, _ in sorted(sample.arcs):
        into[b].append((a, "near"))
    assert got.to_dict() == into


class Aggregate(graph.VertexProgram):
    value = graph.pyobject()
    message = graph.int64()
    aggregators = {"low": "min", "high": "max"}  # noqa: RUF012

    def compute(self, v: Vertex, messages: Sequence[int], ctx: Context) -> None:
        if ctx.superstep == 0:
            ctx.aggregate("low", v.id)
            ctx.aggregate("high", np.int64(v.id))
            ctx.aggregate("count", 1)
        else:
            v.value = [ctx.aggregated(name) for name in ("low", "high", "count", "other")]
            v.vote_to_halt()


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_aggregators(copies: int) -> None:
    g = graph.from_edges([3, 4, 5], [4, 5, 9])
    got = graph.run(g, Aggregate(), parallelism=copies, inline=True)
    assert got.to_dict() == {v: [3, 9, 4, 0] for v in (3, 4, 5, 9)}


class Heard(graph.VertexProgram):
    """With a combiner: what was heard in each superstep, while others talk on."""

    value = graph.pyobject(default=[])
    message = graph.int64(combine="sum")

    def compute(self, v: Vertex, messages: Sequence[int], ctx: Context) -> None:
        v.value = [*v.value, list(messages)]
        if ctx.superstep < 3:
            v.send((v.id + 1 + ctx.superstep) % 4, 10 * v.id + ctx.superstep)
            v.send(0, 1)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_combined_message_is_heard_once(copies: int) -> None:
    g = graph.from_edges([0, 1, 2, 3], [1, 2, 3, 0])
    got = graph.run(g, Heard(), max_supersteps=5, parallelism=copies, inline=True)
    assert got.to_dict() == {
        0: [[], [34], [25], [16], []],
        1: [[], [0], [31], [22], []],
        2: [[], [10], [1], [32], []],
        3: [[], [20], [11], [2], []],
    }


class Endless(graph.VertexProgram):
    value = graph.int64()
    message = graph.int64()

    def compute(self, v: Vertex, messages: Sequence[int], ctx: Context) -> None:
        v.value = ctx.superstep


@pytest.mark.parametrize("copies", [1, 2])
def test_a_limit_on_supersteps_and_many_of_them(copies: int) -> None:
    g = graph.from_edges([0, 1], [1, 0])
    got = graph.run(g, Endless(), max_supersteps=3000, parallelism=copies, inline=True)
    assert (got.supersteps, got.converged, got[0]) == (3000, False, 2999)
    with pytest.raises(ValueError, match="max_supersteps must be at least 1"):
        graph.run(g, Endless(), max_supersteps=0, inline=True)


def program(**members: Any) -> Any:
    """A program made of the given members, sending nothing unless told to."""
    body: dict[str, Any] = {
        "value": graph.float64(),
        "message": graph.float64(combine="sum"),
        "compute": lambda self, v, messages, ctx: v.vote_to_halt(),
    }
    body.update(members)
    return type("Program", (graph.VertexProgram,), {k: x for k, x in body.items() if x is not None})


def send(target: Any, message: Any) -> Any:
    def compute(self: Any, v: Vertex, messages: Any, ctx: Context) -> None:
        v.send(target, message)

    return compute


def assign(x: Any) -> Any:
    def compute(self: Any, v: Vertex, messages: Any, ctx: Context) -> None:
        v.value = x

    return compute


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (program(message=None)(), TypeError, "Program must declare `message`"),
        (program(value=None)(), TypeError, "Program must declare `value`"),
        (program(value=3.0)(), TypeError, "must declare `value`"),
        (program(), TypeError, r"found its class; write Program\(...\)"),
        ("program", TypeError, "expected a graph.VertexProgram, found str"),
        (program(aggregators={"x": "mean"})(), ValueError, "aggregator 'x': 'mean' is not one"),
        (program(compute=send(7, 1.0))(), KeyError, "vertex 7 is not in the graph"),
        (program(compute=send("a", 1.0))(), KeyError, "vertex 'a' is not in the graph"),
        (program(compute=send(1, "x"))(), TypeError, "message of vertex [01] must be float64"),
        (program(compute=send(1, None))(), TypeError, "must be float64, found NoneType None"),
        (program(compute=send(1, True))(), TypeError, "must be float64, found bool True"),
        (
            program(compute=assign("x"))(),
            TypeError,
            "value of vertex [01] must be float64, found str",
        ),
    ],
)
def test_wrong_programs_are_named(wrong: Any, error: type[Exception], message: str) -> None:
    g = graph.from_edges([0, 1], [1, 0])
    with pytest.raises(error, match=message):
        graph.run(g, wrong, inline=True)


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (lambda: graph.float64(combine="median"), ValueError, "unknown combine 'median'"),
        (lambda: graph.pyobject(combine="sum"), ValueError, "needs numbers"),
        (lambda: graph.float64(combine="any"), ValueError, "does not go with float64"),
        (lambda: graph.boolean(combine="sum"), ValueError, "does not go with boolean"),
        (lambda: graph.int64(default=1.5), TypeError, "default must be int64, found float"),
    ],
)
def test_wrong_declarations_are_named(declare: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        declare()


def test_numpy_numbers_are_numbers() -> None:
    g = graph.from_edges([0, 1], [1, 0])
    sent = program(compute=send(np.int64(1), np.float32(2.0)), value=graph.float64())()
    got = graph.run(g, sent, max_supersteps=2, inline=True)
    assert got.converged is False
    assigned = program(compute=assign(np.int32(3)))()
    assert graph.run(g, assigned, max_supersteps=1, inline=True).to_dict() == {0: 3.0, 1: 3.0}
