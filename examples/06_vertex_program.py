"""Think like a vertex: a shortest path, written as what one vertex does with its messages.

Each vertex keeps the shortest distance it has heard of and the neighbour it heard it from. In every
superstep the vertices that hear of a shorter way tell their neighbours; when nobody does, it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import graph

ROADS = [
    ("Zürich", "Bern", 125), ("Bern", "Lausanne", 102), ("Lausanne", "Genf", 64),
    ("Bern", "Thun", 31), ("Thun", "Brig", 89), ("Brig", "Lausanne", 146),
    ("Zürich", "Luzern", 52), ("Luzern", "Thun", 85), ("Luzern", "Andermatt", 66),
    ("Andermatt", "Brig", 83), ("Zürich", "Chur", 119), ("Chur", "Andermatt", 89),
]  # fmt: skip
FAR = float("inf")


class ShortestPaths(graph.VertexProgram):
    """Distances from `source` along edge weights."""

    value = graph.float64(default=FAR)
    message = graph.float64(combine="min")

    def __init__(self, source: str) -> None:
        self.source = source

    def compute(self, v: graph.Vertex, messages: Sequence[float], ctx: graph.Context) -> None:
        """A shorter way is kept and passed on; otherwise sleep until a message comes."""
        best = min(messages, default=0.0 if v.id == self.source else FAR)
        if best < v.value:
            v.value = best
            for edge in v.out_edges:
                v.send(edge.target, best + edge.weight)
        v.vote_to_halt()


def main() -> None:
    """Distances by road from Zürich."""
    towns, others, kilometres = zip(*ROADS, strict=True)
    roads = graph.from_edges(towns, others, kilometres, directed=False)
    result = graph.run(roads, ShortestPaths(source="Zürich"))
    for town, distance in sorted(result, key=lambda pair: pair[1]):
        print(f"{distance:5.0f} km  {town}")
    print(f"{result.supersteps} supersteps")


if __name__ == "__main__":
    main()
