"""GAP's kernels on GAP's graphs: ours against scipy, GAP's own binaries, NetworKit, igraph."""

__all__: list[str] = []
