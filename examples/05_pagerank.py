"""A graph: build it from columns, rank it, split it into components.

The edges are those of a random graph as skewed as a social network (Kronecker, as Graph500 draws
it). Any columns will do as well: NumPy, Arrow, pandas, polars; any hashable values as vertices.
"""

from __future__ import annotations

import time
from collections import Counter

import graph

SCALE = 16


def main() -> None:
    """Rank, then count components, and say how long it took."""
    begin = time.perf_counter()
    sources, targets = graph.generate.kronecker(SCALE, seed=1)
    g = graph.from_edges(sources, targets, vertices=1 << SCALE)
    built = time.perf_counter() - begin
    print(f"{g.num_vertices:,} vertices, {g.num_edges:,} edges in {built:.2f} s")

    ranks = graph.pagerank(g, alpha=0.85, max_iter=20, tol=0.0)
    print(f"PageRank, {ranks.supersteps} supersteps in {ranks.seconds:.3f} s:")
    for vertex, rank in ranks.top(5):
        print(f"  {vertex:6}  {rank:.6f}")

    components = Counter(label for _, label in graph.wcc(g))
    (_, largest), *rest = components.most_common()
    print(f"{len(components):,} components: one of {largest:,} vertices, {len(rest):,} others")


if __name__ == "__main__":
    main()
