"""Partitions cover the vertices, are in order, and are balanced."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.partition import owners, split

DEGREES = st.lists(st.integers(0, 50), max_size=200)


def offsets_of(degrees: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(degrees)]).astype(np.uint64)


@given(DEGREES, st.integers(1, 9), st.sampled_from([1, 8, 64]))
def test_ranges_cover_all_vertices_in_order(degrees: list[int], parts: int, align: int) -> None:
    bounds = split(offsets_of(degrees), parts, align=align)
    assert bounds.size == parts + 1
    assert bounds[0] == 0
    assert bounds[-1] == len(degrees)
    assert (np.diff(bounds) >= 0).all()
    inner = bounds[1:-1]
    assert ((inner % align == 0) | (inner == len(degrees))).all()


@given(DEGREES, st.integers(1, 9))
def test_no_range_exceeds_its_share_by_more_than_a_vertex(degrees: list[int], parts: int) -> None:
    bounds = split(offsets_of(degrees), parts, alpha=2.0)
    work = np.array(degrees, float) + 2.0
    heaviest = max(work, default=0.0)
    for a, b in pairwise(bounds):
        assert work[a:b].sum() <= work.sum() / parts + heaviest + 1e-9


@given(DEGREES, st.integers(1, 9))
def test_owner_is_the_range_that_holds_the_vertex(degrees: list[int], parts: int) -> None:
    bounds = split(offsets_of(degrees), parts)
    for v, owner in enumerate(owners(bounds, np.arange(len(degrees)))):
        assert bounds[owner] <= v < bounds[owner + 1]


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        split(offsets_of([1, 2]), 0)
