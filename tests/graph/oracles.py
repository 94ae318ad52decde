"""Random graphs for hypothesis and the same graphs in NetworkX, shared by the graph tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import strategies as st

import graph

__all__ = ["DATA", "Sample", "samples", "validation_data"]

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "graphalytics"


@dataclass
class Sample:
    """Edges as drawn, and what both libraries make of them."""

    src: list[int]
    dst: list[int]
    weight: list[float] | None
    directed: bool
    count: int

    @property
    def graph(self) -> graph.Graph:
        """As our graph, with vertices 0..count-1."""
        return graph.from_edges(self.src, self.dst, self.weight, self.directed, vertices=self.count)

    @property
    def networkx(self) -> Any:
        """As a NetworkX multigraph."""
        other = nx.MultiDiGraph() if self.directed else nx.MultiGraph()
        other.add_nodes_from(range(self.count))
        weights = self.weight or [1.0] * len(self.src)
        other.add_weighted_edges_from(zip(self.src, self.dst, weights, strict=True))
        return other

    @property
    def arcs(self) -> list[tuple[int, int, float]]:
        """Every stored direction: (from, to, weight)."""
        weights = self.weight or [1.0] * len(self.src)
        forth = list(zip(self.src, self.dst, weights, strict=True))
        if self.directed:
            return forth
        return forth + [(b, a, w) for a, b, w in forth if a != b]


@st.composite
def samples(draw: st.DrawFn, *, min_vertices: int = 1, weighted: bool | None = None) -> Sample:
    """Graphs of up to 40 vertices: sparse and dense, with loops, repeats and lone vertices."""
    count = draw(st.integers(min_vertices, 40))
    ends = st.integers(0, max(0, count - 1))
    edges = draw(st.lists(st.tuples(ends, ends), max_size=4 * count if count else 0))
    if weighted is None:
        weighted = draw(st.booleans())
    numbers = st.integers(0, 40).map(lambda x: x / 4)
    weight = None
    if weighted:
        weight = draw(st.lists(numbers, min_size=len(edges), max_size=len(edges)))
    directed = draw(st.booleans())
    return Sample([a for a, _ in edges], [b for _, b in edges], weight, directed, count)


def validation_data(name: str) -> Path:
    """A file of Graphalytics' validation set; skips the test where the set is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the validation graphs are not at {DATA}")
    return path
