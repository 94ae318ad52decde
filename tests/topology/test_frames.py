"""Frames keep through an encoding, and what values cost in credit."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from engine.topology.frames import (
    Credit,
    Data,
    End,
    Frame,
    Marker,
    Trigger,
    estimate_nbytes,
    estimate_rows,
)


@pytest.mark.parametrize(
    "frame",
    [
        Data(1, 2, 3, 4, 5, 6, {"w": [1, 2.5, None, True, b"x"]}),
        Credit(1, 2, 3, 4),
        End(1, 2, 3),
        Marker(1, 2, 3, 4),
        Trigger(1),
    ],
)
def test_frames_survive_msgpack(frame: Frame) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(frame), type=Frame) == frame


def test_a_slice_costs_what_it_shows() -> None:
    batch = pa.record_batch({"a": np.arange(10_000), "s": ["xyz"] * 10_000})
    assert estimate_nbytes(batch) == batch.nbytes > 110_000
    assert estimate_nbytes(batch.slice(5000, 100)) < 2000
    assert estimate_rows(batch.slice(5000, 100)) == 100


@pytest.mark.parametrize(
    "column",
    [
        pa.array(range(16)),
        pa.array([1.5, None] * 8),
        pa.array([True, False] * 8),
        pa.array(range(16), pa.timestamp("us")),
        pa.array([b"abcd"] * 16, pa.binary(4)),
        pa.array(["a"] * 16).dictionary_encode(),
        pa.nulls(16),
        pa.array([[1, 2]] * 16),
    ],
    ids=lambda column: str(column.type),
)
def test_a_batch_costs_what_arrow_says(column: pa.Array) -> None:
    plain = pa.array(range(16))
    for columns in ([column], [plain, column], [plain, plain, column]):
        whole = pa.record_batch(columns, [str(n) for n in range(len(columns))])
        for batch in (whole, whole.slice(0, 12), whole.slice(3), whole.slice(8, 8)):
            assert estimate_nbytes(batch) == max(64, batch.nbytes)


def test_costs_of_other_values() -> None:
    assert (estimate_rows(None), estimate_nbytes(None)) == (0, 0)
    assert (estimate_rows(np.zeros(1000)), estimate_nbytes(np.zeros(1000))) == (1, 8000)
    assert estimate_nbytes(pa.table({"a": np.arange(1000)})) == 8000
    assert (estimate_rows("x" * 500), estimate_nbytes("x" * 500)) == (1, 500)
    assert estimate_nbytes(list(range(100))) == 6400
    assert estimate_nbytes(object()) == estimate_nbytes(b"") == estimate_nbytes([]) == 64


def test_every_value_costs_something() -> None:
    assert estimate_nbytes(pa.record_batch({"a": pa.array([], pa.int64())})) == 64
