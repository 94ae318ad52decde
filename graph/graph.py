"""The graph object: who the vertices are and who their neighbours are. Immutable.

Edges are kept exactly as given: parallel edges and self loops stay (a multigraph, as
``networkx.MultiDiGraph`` or a scipy matrix with summed duplicates would rank it). An undirected
edge is stored in both directions, a self loop once; the rows then serve as their own transpose.

Memory: 4 bytes an edge and direction, 8 a vertex and direction, and 8 an edge and direction for
weights; the reversed rows are made when an algorithm first needs them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import engine
from graph.csr import Csr
from graph.fingerprint import digest
from graph.ids import VertexIds

__all__ = ["Graph"]


class Graph:
    """A directed or undirected graph with optional edge weights; made by ``from_edges`` & co."""

    def __init__(self, ids: VertexIds, out: Csr, *, directed: bool, num_edges: int) -> None:
        """``out`` holds the out-edges of every vertex (both directions where undirected)."""
        if len(ids) != out.rows:
            raise ValueError(f"{len(ids)} vertex ids for {out.rows} rows")
        self.vertex_ids = ids
        self.out = out
        self._directed = directed
        self._num_edges = num_edges
        self._refs: dict[str, Any] = {}
        self._digests: dict[str, str] = {}

    @property
    def num_vertices(self) -> int:
        """How many vertices, those without edges included."""
        return self.out.rows

    @property
    def num_edges(self) -> int:
        """How many edges as given: an undirected edge counts once."""
        return self._num_edges

    @property
    def directed(self) -> bool:
        """Whether an edge (a, b) leads from a to b only."""
        return self._directed

    @property
    def weighted(self) -> bool:
        """Whether the edges carry weights."""
        return self.out.weight is not None

    @property
    def ids(self) -> pa.Array:
        """The user's vertex ids, in the order of the vertices."""
        return self.vertex_ids.arrow

    @property
    def out_degree(self) -> npt.NDArray[np.int64]:
        """Out-edges of each vertex, in vertex order."""
        return self.out.degree

    @property
    def in_degree(self) -> npt.NDArray[np.int64]:
        """In-edges of each vertex, in vertex order."""
        if not self._directed:
            return self.out.degree
        return np.bincount(self.out.targets, minlength=self.num_vertices)

    @cached_property
    def into(self) -> Csr:
        """The in-edges of every vertex: the out-edges themselves where undirected."""
        return self.out.transposed() if self._directed else self.out

    def locate(self, vertex: Any) -> int:
        """The local number of a vertex id. Raises ``KeyError`` if there is no such vertex."""
        return self.vertex_ids.locate(vertex)

    def estimate_memory(self) -> dict[str, int]:
        """Bytes by part: ``out``, ``in`` (0 where shared with ``out``), ``ids``, ``total``.

        ``in`` counts what the reversed rows will take even before they are made.
        """
        arrow = None if self.vertex_ids.identity else self.vertex_ids
        try:
            ids = 0 if arrow is None else arrow.arrow.nbytes
        except TypeError:  # Python objects without an Arrow type: a pointer and a small object
            ids = 64 * self.num_vertices
        parts = {"out": self.out.nbytes, "in": self.out.nbytes if self._directed else 0, "ids": ids}
        return {**parts, "total": sum(parts.values())}

    def array(self, name: str) -> npt.NDArray[Any]:
        """An array by the name that tasks use: ``out.offsets``, ``in.targets``, ``in.weight``."""
        side, part = name.split(".")
        rows = self.out if side == "out" else self.into
        found: npt.NDArray[Any] | None = getattr(rows, part)
        if found is None:
            raise ValueError("the graph has no weights; pass weight= when building it")
        return found

    def digest(self, name: str) -> str:
        """The checksum of an array, made at the first use."""
        if name not in self._digests:
            self._digests[name] = digest(self.array(name))
        return self._digests[name]

    def ref(self, name: str) -> Any:
        """The array in the object store, put there at the first use and mapped by every copy."""
        if not self._directed and name.startswith("in."):
            name = "out." + name.partition(".")[2]
        if name not in self._refs:
            self._refs[name] = engine.put(self.array(name))
        return self._refs[name]

    def __getstate__(self) -> dict[str, Any]:
        """Without the references into this process's object store."""
        return {**self.__dict__, "_refs": {}}

    def __repr__(self) -> str:
        """Kind, sizes and memory."""
        kind = "directed" if self._directed else "undirected"
        weights = ", weighted" if self.weighted else ""
        size = self.estimate_memory()["total"] / 2**20
        return (
            f"<Graph {kind}{weights}: {self.num_vertices:,} vertices, "
            f"{self.num_edges:,} edges, {size:.1f} MiB>"
        )
