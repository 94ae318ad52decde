"""The arithmetic of windows and slices, against counting."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as hs

import streaming as st
from streaming.windows import Slices
from tests.streaming.model import windows_of


@hs.composite
def slices(draw: hs.DrawFn) -> Slices:
    size = draw(hs.integers(1, 500))
    every = draw(hs.integers(1, size))
    return Slices(size, every, draw(hs.integers(0, every - 1)))


@given(slices(), hs.integers(-(10**6), 10**6))
def test_a_window_contains_exactly_its_slices(shape: Slices, tick: int) -> None:
    assume(shape.size // shape.every < 200)
    slice_ = shape.slice_of(tick)
    assert shape.of(np.array([tick]))[0] == slice_
    windows = range(shape.first_window(slice_), shape.last_window(slice_) + 1)
    starts = windows_of(tick, shape.size, shape.every, shape.offset)
    assert [shape.start(window) for window in windows] == sorted(starts)
    for window in windows:
        assert shape.start(window) <= tick < shape.end(window)
        assert 0 <= slice_ - window * shape.step < shape.per_window


@given(slices(), hs.integers(-(10**6), 10**6))
def test_closing_and_lateness(shape: Slices, watermark: int) -> None:
    closed = shape.last_closed(watermark)
    assert shape.end(closed) <= watermark < shape.end(closed + 1)
    threshold = shape.late_before(watermark)
    for tick in (threshold - 1, threshold):
        last = max(windows_of(tick, shape.size, shape.every, shape.offset), default=None)
        assert (last is None or last + shape.size <= watermark) == (tick < threshold)


def test_shapes_say_what_they_are() -> None:
    assert str(st.tumble("10s")) == "tumble(10s)"
    assert str(st.tumble("1d", offset="-2h")) == "tumble(1d, offset=22h)"
    assert str(st.hop(10_000, every="2s")) == "hop(10s, every=2s)"
    assert st.hop("10s", every="10s") == st.tumble("10s")


def test_limits_of_64_bits() -> None:
    shape = st.tumble("1s").bind(pa.int64())
    shape.check_range(-(2**62), 2**62)
    with pytest.raises(ValueError, match="too close to the limits"):
        shape.check_range(0, 2**63 - 5)
