"""Graphalytics' validation graphs with their expected outputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import graph
from tests.graph.oracles import validation_data

UNREACHABLE = 9223372036854775807
KINDS = {"dir": "directed", "undir": "undirected"}
PAIRS = [(kind, copies) for kind in KINDS for copies in (1, 2)]


def expected(path: Path) -> dict[int, float]:
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return {int(v): float(x) for v, x in lines}


def example(kind: str) -> graph.Graph:
    name = f"example/example-{KINDS[kind]}"
    edges, vertices = validation_data(name + ".e"), validation_data(name + ".v")
    return graph.read_edges(edges, weighted=True, directed=kind == "dir", vertices=vertices)


def adjacency(name: str, kind: str) -> graph.Graph:
    """The graph of an adjacency list ``v n1 n2 ...``; undirected edges are in it twice."""
    lines = [
        [int(token) for token in line.split()]
        for line in validation_data(f"{name}/{kind}-input").read_text().splitlines()
        if line.strip()
    ]
    pairs = [(v, u) for v, *around in lines for u in around]
    if kind == "undir":
        pairs = sorted({(min(p), max(p)) for p in pairs})
    vertices = [line[0] for line in lines]
    src, dst = [a for a, _ in pairs], [b for _, b in pairs]
    return graph.from_edges(src, dst, directed=kind == "dir", vertices=sorted({*vertices, *dst}))


def close(got: dict[int, float], want: dict[int, float]) -> bool:
    return got.keys() == want.keys() and all(
        got[v] == r if math.isinf(r) else abs(got[v] - r) <= 1e-4 * abs(r) for v, r in want.items()
    )


def same_parts(got: dict[int, Any], want: dict[int, Any]) -> bool:
    pairs = {(got[v], want[v]) for v in want}
    return got.keys() == want.keys() and len(pairs) == len(set(want.values())) == len(
        set(got.values())
    )


def depths(result: graph.Result) -> dict[int, float]:
    return {v: float(UNREACHABLE if d is None else d) for v, d in result}


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_example(tier: str, kind: str, copies: int) -> None:
    g = example(kind)
    source = 1 if kind == "dir" else 2
    options: dict[str, Any] = {"parallelism": copies, "inline": True}

    def want(name: str) -> dict[int, float]:
        return expected(validation_data(f"example/example-{KINDS[kind]}-{name}"))

    assert depths(graph.bfs(g, source, **options)) == want("BFS")
    assert close(graph.pagerank(g, max_iter=2, tol=0.0, **options).to_dict(), want("PR"))
    assert same_parts(graph.wcc(g, **options).to_dict(), want("WCC"))
    assert close(graph.sssp(g, source, **options).to_dict(), want("SSSP"))
    assert graph.cdlp(g, iterations=2, **options).to_dict() == want("CDLP")
    assert close(graph.lcc(g, **options).to_dict(), want("LCC"))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_bfs(tier: str, kind: str, copies: int) -> None:
    got = graph.bfs(adjacency("bfs", kind), 1, parallelism=copies, inline=True)
    assert depths(got) == expected(validation_data(f"bfs/{kind}-output"))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_pagerank(tier: str, kind: str, copies: int) -> None:
    iterations = 14 if kind == "dir" else 26
    g = adjacency("pr", kind)
    got = graph.pagerank(g, max_iter=iterations, tol=0.0, parallelism=copies, inline=True)
    assert close(got.to_dict(), expected(validation_data(f"pr/{kind}-output")))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_wcc(tier: str, kind: str, copies: int) -> None:
    got = graph.wcc(adjacency("wcc", kind), parallelism=copies, inline=True)
    assert same_parts(got.to_dict(), expected(validation_data(f"wcc/{kind}-output")))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_cdlp(tier: str, kind: str, copies: int) -> None:
    got = graph.cdlp(adjacency("cdlp", kind), 5, parallelism=copies, inline=True)
    assert got.to_dict() == expected(validation_data(f"cdlp/{kind}-output"))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_lcc(tier: str, kind: str, copies: int) -> None:
    got = graph.lcc(adjacency("lcc", kind), parallelism=copies, inline=True)
    assert close(got.to_dict(), expected(validation_data(f"lcc/{kind}-output")))


@pytest.mark.parametrize(("kind", "copies"), PAIRS)
def test_sssp(tier: str, kind: str, copies: int) -> None:
    edges, vertices = (validation_data(f"sssp/{kind}-input.{end}") for end in "ev")
    g = graph.read_edges(edges, weighted=True, directed=kind == "dir", vertices=vertices)
    got = graph.sssp(g, 1, parallelism=copies, inline=True)
    assert close(got.to_dict(), expected(validation_data(f"sssp/{kind}-output")))
