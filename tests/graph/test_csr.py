"""Compressed rows against plain dictionaries and against scipy."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given

from graph import csr
from tests.graph.oracles import Sample, samples


def rows_of(rows: csr.Csr) -> list[list[tuple[int, float]]]:
    weight = np.ones(rows.targets.size) if rows.weight is None else rows.weight
    pairs = list(zip(rows.targets.tolist(), weight.tolist(), strict=True))
    ends = rows.offsets.tolist()
    return [sorted(pairs[a:b]) for a, b in pairwise(ends)]


@given(samples())
def test_rows_and_their_transpose_hold_every_edge(tier: str, sample: Sample) -> None:
    g = sample.graph
    out, into = defaultdict(list), defaultdict(list)
    for a, b, w in sample.arcs:
        out[a].append((b, w))
        into[b].append((a, w))
    assert rows_of(g.out) == [sorted(out[v]) for v in range(sample.count)]
    assert rows_of(g.into) == [sorted(into[v]) for v in range(sample.count)]


@given(samples())
def test_rows_ascend(tier: str, sample: Sample) -> None:
    for rows in (sample.graph.out, sample.graph.into):
        for v in range(sample.count):
            row = rows.row(v).astype(np.int64)
            assert (np.diff(row) >= 0).all()


@given(samples(weighted=True))
def test_rows_are_scipys(tier: str, sample: Sample) -> None:
    shape = (sample.count, sample.count)
    arcs = np.array(sample.arcs).reshape(-1, 3)
    ends = arcs[:, :2].astype(int).T
    want = sp.coo_matrix((arcs[:, 2], tuple(ends)), shape=shape).toarray()
    out = sample.graph.out
    got = sp.csr_matrix((out.weight, out.targets.astype(int), out.offsets.astype(int)), shape)
    np.testing.assert_allclose(got.toarray(), want)


def test_arrays_are_frozen_and_small() -> None:
    rows = csr.from_arcs([0, 1, 1], [1, 0, 1], 2)
    assert rows.targets.dtype == np.uint32
    assert rows.offsets.dtype == np.uint64
    assert rows.nbytes == 3 * 4 + 3 * 8
    with pytest.raises(ValueError, match="read-only"):
        rows.targets[0] = 5


def test_a_last_offset_that_is_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match="last offset"):
        csr.Csr(np.array([0, 2], np.uint64), np.array([0], np.uint32))
