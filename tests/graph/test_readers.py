"""Edge lists as text: every spelling that is allowed, and complaints about those that are not."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graph
from graph import readers

EDGES = st.lists(
    st.tuples(
        st.integers(0, 2**63 - 1) | st.integers(0, 20),
        st.integers(0, 20),
        st.floats(allow_nan=False) | st.integers(-1000, 1000).map(lambda x: x / 100),
    )
)
NOISE = st.sampled_from(["", "# a comment\n", "\n", "   \n", "\t# 1 2\n"])
FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def edges_of(g: graph.Graph) -> list[tuple[int, int, float]]:
    names = g.vertex_ids.tolist()
    weight = np.ones(g.out.targets.size) if g.out.weight is None else g.out.weight
    source = np.repeat(np.arange(g.num_vertices), g.out_degree).tolist()
    triples = zip(source, g.out.targets.tolist(), weight.tolist(), strict=True)
    return sorted((names[a], names[b], w) for a, b, w in triples)


@FRESH
@given(EDGES, st.sampled_from([" ", "\t", ",", "  ", " , "]), NOISE, st.sampled_from(["", "\r"]))
def test_what_was_written_is_read(
    tier: str, tmp_path: Path, edges: list[tuple[int, int, float]], gap: str, noise: str, end: str
) -> None:
    path = tmp_path / "edges.txt"
    lines = [f"{noise}{a}{gap}{b}{gap}{w!r}{end}" for a, b, w in edges]
    path.write_text("\n".join(lines))
    g = graph.read_edges(path, weighted=True)
    assert edges_of(g) == sorted(edges)
    assert edges_of(graph.read_edges(path)) == sorted((a, b, 1.0) for a, b, _ in edges)


def test_pieces_of_a_large_file_are_put_together_in_order(
    tier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES_MIN", 64)
    path = tmp_path / "edges.txt"
    want = [(i, (i * 7) % 1000, i / 8) for i in range(1000)]
    path.write_text("".join(f"{a} {b} {w}\n" for a, b, w in want))
    assert edges_of(graph.read_edges(path, weighted=True)) == want


@pytest.mark.parametrize(
    ("text", "weighted", "number", "found"),
    [
        ("1 2\n3\n", False, 2, "3"),
        ("1 2\n\n# x\n3 x\n", False, 4, "3 x"),
        ("1 2\n3 -4\n", False, 2, "3 -4"),
        ("-1 2\n", False, 1, "-1 2"),
        ("1 2\n3 4 5 6\n", False, 2, "3 4 5 6"),
        ("1 2 0.5\n3 4\n", True, 2, "3 4"),
        ("1 2 0.5\n3 4 1.2.3\n", True, 2, "3 4 1.2.3"),
        ("1 2 0.5\n3 4 nan\n", True, 2, "3 4 nan"),
        ("1 2 0.5\n3 4 x7\n5 6 1\n", True, 2, "3 4 x7"),
        ("1 9223372036854775808\n", False, 1, "1 9223372036854775808"),
    ],
)
def test_a_bad_line_is_named(
    tier: str, tmp_path: Path, text: str, weighted: bool, number: int, found: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.txt, line {number}: .*found '{found}'"):
        graph.read_edges(path, weighted=weighted)


def test_strings_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# who knows whom\nann bob 0.5\nbob,cid,2\n")
    g = graph.read_edges(path, weighted=True)
    assert edges_of(g) == [("ann", "bob", 0.5), ("bob", "cid", 2.0)]
    path.write_text("ann bob\nbob\n")
    with pytest.raises(ValueError, match=r"names\.txt, line 2: expected 'src dst', found 'bob'"):
        graph.read_edges(path)


def test_vertices_undirected_comments_and_compression(tier: str, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "e.gz", "wt") as file:
        file.write("% header\n1 2 % tail\n2 9\n")
    (tmp_path / "v").write_text("1\n2\n4\n9\n")
    g = graph.read_edges(tmp_path / "e.gz", directed=False, vertices=tmp_path / "v", comments="%")
    assert g.ids.to_pylist() == [1, 2, 4, 9]
    assert g.out_degree.tolist() == [1, 2, 0, 1]
    assert g.num_edges == 2
    (tmp_path / "v").write_text("1\n2\nx\n")
    with pytest.raises(ValueError, match="line 3: expected 'a vertex id'"):
        graph.read_edges(tmp_path / "e.gz", vertices=tmp_path / "v", comments="%")


def test_empty_and_missing_files(tier: str, tmp_path: Path) -> None:
    (tmp_path / "e").write_text("# nothing\n")
    assert graph.read_edges(tmp_path / "e").num_vertices == 0
    (tmp_path / "e").write_text("")
    assert graph.read_edges(tmp_path / "e").num_vertices == 0
    with pytest.raises(FileNotFoundError):
        graph.read_edges(tmp_path / "none")


def test_parquet(tmp_path: Path) -> None:
    for i in range(2):
        pq.write_table(
            pa.table({"a": [i, 2], "b": [2, 3], "w": [0.5, i]}), tmp_path / f"{i}.parquet"
        )
    g = graph.read_parquet(tmp_path, src="a", dst="b", weight="w")
    assert edges_of(g) == [(0, 2, 0.5), (1, 2, 0.5), (2, 3, 0.0), (2, 3, 1.0)]


def test_matrix_market(tmp_path: Path) -> None:
    matrix = sp.coo_matrix(([1.0, 2.0, 2.0], ([0, 0, 2], [0, 2, 0])), (4, 4))
    scipy.io.mmwrite(tmp_path / "s.mtx", matrix, symmetry="symmetric")
    g = graph.read_mtx(tmp_path / "s.mtx")
    assert (g.directed, g.num_edges, g.num_vertices) == (False, 2, 4)
    assert edges_of(g) == [(0, 0, 1.0), (0, 2, 2.0), (2, 0, 2.0)]
    scipy.io.mmwrite(tmp_path / "g.mtx", matrix, symmetry="general")
    assert graph.read_mtx(tmp_path / "g.mtx").num_edges == 3
