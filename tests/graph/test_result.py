"""Results as tables, dictionaries, arrays and rankings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import graph
from graph import Result
from graph.ids import VertexIds

IDS = VertexIds(4, pa.array(["a", "b", "c", "d"]))


def test_every_view_has_the_same_values() -> None:
    result = Result(IDS, np.array([0.5, 2.0, 1.0, 2.0]), supersteps=3, seconds=0.25)
    want = {"a": 0.5, "b": 2.0, "c": 1.0, "d": 2.0}
    assert result.to_dict() == dict(result) == want
    assert result.to_arrow().to_pydict() == {"id": list(want), "value": list(want.values())}
    assert result.to_numpy().tolist() == list(want.values())
    pd.testing.assert_series_equal(
        result.to_pandas(), pd.Series(want, index=pd.Index(list(want), name="id"))
    )
    assert len(result) == 4
    assert result["c"] == 1.0
    assert type(result["c"]) is float
    assert all(type(value) is float for value in result.to_dict().values())
    assert repr(result) == ("<Result of 4 vertices: [0.5, 2.0, 1.0, ...]; 3 supersteps, 0.250 s>")
    with pytest.raises(KeyError, match="'z' is not in the graph"):
        result["z"]


def test_top_is_stable_and_leaves_nulls_out() -> None:
    assert Result(IDS, np.array([0.5, 2.0, np.nan, 2.0])).top(3) == [
        ("b", 2.0), ("d", 2.0), ("a", 0.5),
    ]  # fmt: skip
    assert Result(IDS, pa.array([None, 3, 7, None])).top(9) == [("c", 7), ("b", 3)]
    assert Result(IDS, np.array([0, 1, 2, 3], np.uint32)).top(1) == [("d", 3)]
    assert Result(IDS, np.zeros(4)).top(0) == []
    with pytest.raises(ValueError, match="at least 0"):
        Result(IDS, np.zeros(4)).top(-1)
    with pytest.raises(TypeError, match="needs numbers"):
        Result(IDS, pa.array(["x", "y", "z", "u"])).top(1)


def test_nulls_and_objects() -> None:
    result = Result(IDS, pa.array([1, None, 3, 4], pa.int32()))
    assert result["b"] is None
    assert np.isnan(result.to_numpy()[1])
    odd = Result(IDS, [1, "x", None, (2,)])
    assert odd.to_dict()["d"] == (2,)
    with pytest.raises(TypeError, match="no Arrow type"):
        odd.to_arrow()
    with pytest.raises(ValueError, match="3 values for 4 vertices"):
        Result(IDS, np.zeros(3))


def test_results_of_algorithms_are_python_objects() -> None:
    g = graph.from_edges([1, 2], [2, 3], vertices=[1, 2, 3, 9])
    depth = graph.bfs(g, 1, inline=True).to_dict()
    assert depth == {1: 0, 2: 1, 3: 2, 9: None}
    assert {type(x) for pair in depth.items() for x in pair} == {int, type(None)}
    assert type(graph.wcc(g, inline=True)[3]) is int
