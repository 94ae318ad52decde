"""Shared arrays with and without a backing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.topology import SharedArray, TopologyError
from engine.topology.hooks import attach, connect


class Segments:
    """A backing in one process: tokens are numbers of segments."""

    def __init__(self) -> None:
        self.segments: list[memoryview] = []

    def allocate(self, nbytes: int) -> tuple[memoryview, Any]:
        self.segments.append(np.zeros(nbytes + 64, dtype=np.uint8).data)
        return self.segments[-1], len(self.segments)

    def attach(self, token: int) -> memoryview:
        return self.segments[token - 1]


@pytest.fixture
def segments() -> Iterator[Segments]:
    made = Segments()
    before = connect(allocate=made.allocate, attach=made.attach)
    yield made
    connect(**before)


def test_zeros_are_zero_and_writable() -> None:
    array = SharedArray.zeros((2, 3), np.int32)
    assert array.array.tolist() == [[0, 0, 0], [0, 0, 0]]
    array.array[1, 2] = 5
    assert array.array.sum() == 5
    assert (array.shape, array.dtype, array.nbytes) == ((2, 3), np.int32, 24)
    assert repr(array) == "SharedArray(shape=(2, 3), dtype=int32, private)"


@pytest.mark.parametrize("shape", [0, (0, 3), (), 4])
def test_any_shape(shape: int | tuple[int, ...]) -> None:
    assert np.array_equal(SharedArray.zeros(shape).array, np.zeros(shape))


def test_private_memory_is_not_shipped() -> None:
    with pytest.raises(TopologyError, match="found one private to this process"):
        pickle.dumps(SharedArray.zeros(3))
    with pytest.raises(TopologyError, match="a process of the engine to attach"):
        attach(1)


def test_shipping_shares_the_memory(segments: Segments) -> None:
    here = SharedArray.zeros((2, 2), "float32")
    there = pickle.loads(pickle.dumps(here))
    there.array[0, 1] = 2.5
    assert here.array.tolist() == [[0.0, 2.5], [0.0, 0.0]]
    assert (there.shape, there.dtype) == (here.shape, here.dtype)
    assert len(segments.segments) == 1
    assert "shared" in repr(there)


def test_mistakes_are_named() -> None:
    with pytest.raises(TopologyError, match="dimensions >= 0"):
        SharedArray.zeros((2, -1))
    with pytest.raises(TopologyError, match="dtype of plain values"):
        SharedArray.zeros(2, object)
