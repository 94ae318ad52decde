"""Numbering of vertex ids of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from graph.ids import number

KINDS = st.one_of(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))),
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))),
    st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3))),
)


@given(KINDS)
def test_numbers_stand_for_the_sorted_ids(edges: list[tuple[Any, Any]]) -> None:
    src, dst = [a for a, _ in edges], [b for _, b in edges]
    ids, local_src, local_dst = number(src, dst)
    names = ids.tolist()
    assert names == sorted({*src, *dst})
    assert [names[i] for i in local_src] == src
    assert [names[i] for i in local_dst] == dst
    assert [ids.locate(name) for name in names] == list(range(len(names)))
    assert ids.arrow.to_pylist() == names


@pytest.mark.parametrize(
    "wrap",
    [list, np.array, pa.array, pd.Series, pl.Series, lambda x: pa.chunked_array([x[:1], x[1:]])],
)
@pytest.mark.parametrize("ids", [[0, 1, 2, 0], [5, 7, 10**15, 5], ["b", "a", "c", "b"]])
def test_every_kind_of_column(wrap: Any, ids: list[Any]) -> None:
    g = graph.from_edges(wrap(ids[:3]), wrap(ids[1:]))
    assert g.ids.to_pylist() == sorted(set(ids))
    assert g.num_edges == 3
    assert g.num_vertices == 3


def test_objects_keep_the_order_of_appearance() -> None:
    g = graph.from_edges([(1, "x"), "a", 3], ["a", 3, (1, "x")])
    assert list(g.vertex_ids) == [(1, "x"), "a", 3]
    assert graph.bfs(g, "a", inline=True).to_dict() == {(1, "x"): 2, "a": 0, 3: 1}
    with pytest.raises(TypeError, match="no Arrow type"):
        _ = g.ids


def test_vertices_without_edges() -> None:
    g = graph.from_edges([5], [9], vertices=[9, 5, 2, 7])
    assert g.ids.to_pylist() == [2, 5, 7, 9]
    assert g.out_degree.tolist() == [0, 1, 0, 0]
    assert graph.from_edges([], [], vertices=3).num_vertices == 3
    assert graph.from_edges([], []).num_vertices == 0


@pytest.mark.parametrize(
    ("src", "dst", "vertices", "message"),
    [
        ([1, -2], [1, 2], None, r"src: negative vertex id -2 at position 1"),
        ([1, 2], [1, -7], None, r"dst: negative vertex id -7 at position 1"),
        ([1, 2], [1], None, r"src has 2 values and dst has 1"),
        ([1, None], [1, 1], None, r"src: a vertex id is missing at position 1"),
        ([1, 8], [1, 2], [1, 2], r"src: vertex 8 at position 1 is not in `vertices`"),
        ([1, 8], [1, 2], -1, r"expected a count or a column of ids, found -1"),
        (np.zeros((2, 2), int), [1, 2], None, r"array of shape \(2, 2\)"),
        (np.array([2**63], np.uint64), [1], None, r"exceeds 2\*\*63 - 1"),
    ],
)
def test_wrong_values_are_named(src: Any, dst: Any, vertices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph.from_edges(src, dst, vertices=vertices)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ([1.5], [2.5], "vertex ids are double"),
        ("ab", [1, 2], "expected a column of values"),
        ([[1], [2]], [[2], [1]], "hashable"),
        (["a"], [1], "different types"),
    ],
)
def test_wrong_types_are_named(src: Any, dst: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        graph.from_edges(src, dst)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1.0], ValueError, r"weight has shape \(1,\), but there are 2 edges"),
        ([1.0, float("nan")], ValueError, "weight: NaN at position 1"),
        ([None, 1.0], ValueError, "weight: a value is missing at position 0"),
        (["x", "y"], TypeError, "expected a column of numbers"),
    ],
)
def test_wrong_weights_are_named(weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        graph.from_edges([1, 2], [2, 1], weight)
