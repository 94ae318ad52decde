"""Values to bytes and back: whatever goes in comes out, shared memory or not."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import threading
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from engine.exceptions import SerializationError, TaskError
from engine.store import codec


def round_trip(value: Any) -> Any:
    """Through a block, as through shared memory."""
    encoded = codec.encode(value)
    block = bytearray(encoded.block_bytes())
    encoded.write_into(memoryview(block))
    data, buffers = codec.read_parts(memoryview(bytes(block)))
    assert len(buffers) == len(encoded.buffers)
    found = codec.decode(data, buffers)
    inline = codec.decode(encoded.data, encoded.inline_buffers())
    assert same(found, inline)
    return found


def same(one: Any, other: Any) -> bool:
    """Deep equality that knows arrays, tables and NaN, and tells types apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and _equal(one, other)
    if isinstance(one, pa.Table | pa.RecordBatch | pa.Array | pa.ChunkedArray):
        return bool(one.equals(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind in "fc":
        return bool(np.array_equal(one, other, equal_nan=True))
    return bool(np.array_equal(one, other))


dtypes = st.one_of(
    hnp.integer_dtypes(),
    hnp.floating_dtypes(sizes=(32, 64)),
    hnp.boolean_dtypes(),
    hnp.unicode_string_dtypes(max_len=4),
    hnp.byte_string_dtypes(max_len=4),
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
columns = st.one_of(
    st.lists(st.none() | st.integers(-(2**62), 2**62), max_size=12).map(
        lambda x: pa.array(x, pa.int64())
    ),
    st.lists(st.none() | st.text(max_size=5), max_size=12).map(lambda x: pa.array(x, pa.string())),
    st.lists(st.none() | st.text(max_size=2), max_size=12).map(
        lambda x: pa.array(x, pa.string()).dictionary_encode()
    ),
    st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=12).map(
        lambda x: pa.array(x, pa.list_(pa.int8()))
    ),
    st.lists(st.none() | st.booleans(), max_size=12).map(lambda x: pa.array(x, pa.bool_())),
    st.lists(
        st.none()
        | st.fixed_dictionaries({"a": st.integers(0, 5), "b": st.none() | st.text(max_size=2)}),
        max_size=12,
    ).map(lambda x: pa.array(x, pa.struct({"a": pa.int32(), "b": pa.string()}))),
)


@st.composite
def arrow(draw: st.DrawFn) -> Any:
    """An Arrow value, often a slice, with one or several chunks."""
    column = draw(columns)
    start = draw(st.integers(0, len(column)))
    column = column.slice(start, draw(st.integers(0, len(column) - start)))
    kind = draw(st.sampled_from(["array", "batch", "table", "chunked", "chunks"]))
    if kind == "array":
        return column
    if kind == "batch":
        return pa.record_batch([column], ["c"])
    if kind == "table":
        return pa.table({"c": column, "d": column}).replace_schema_metadata({"k": "v"})
    chunked = pa.chunked_array([column, column] if kind == "chunks" else [column], column.type)
    return chunked.slice(draw(st.integers(0, len(chunked))))


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
    st.binary(max_size=20), st.binary(max_size=20).map(bytearray), arrays, arrow(),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_round_trip(value: Any) -> None:
    assert same(round_trip(value), value)


@settings(max_examples=100, deadline=None)
@given(arrow())
def test_round_trip_of_arrow(value: Any) -> None:
    found = round_trip(value)
    assert found.equals(value)
    if isinstance(value, pa.Table | pa.RecordBatch):
        assert found.schema.equals(value.schema, check_metadata=True)


@pytest.mark.parametrize("delta", [-1, 0, 1])
@pytest.mark.parametrize("make", [bytes, bytearray, lambda size: np.zeros(size, np.uint8)])
def test_sizes_around_the_inline_limit(make: Any, delta: int) -> None:
    value = make(100 * 1024 + delta)
    encoded = codec.encode(value)
    assert encoded.nbytes == len(encoded.data) + sum(part.nbytes for part in encoded.buffers)
    assert same(round_trip(value), value)


def test_arrays_leave_the_pickle_stream() -> None:
    encoded = codec.encode([np.zeros(1000), np.zeros((100, 100), order="F")])
    assert len(encoded.data) < 500
    assert [part.nbytes for part in encoded.buffers] == [8000, 80_000]


def test_a_strided_view_is_copied_right() -> None:
    array = np.arange(1000).reshape(10, 100)[::2, ::3]
    assert same(round_trip(array), np.ascontiguousarray(array))


def test_parts_are_aligned() -> None:
    found = codec.encode([np.zeros(3, np.uint8), np.zeros(5)])
    raw = np.zeros(found.block_bytes() + 64, np.uint8)
    start = -raw.ctypes.data % 64
    view = memoryview(raw)[start : start + found.block_bytes()]
    found.write_into(view)
    _data, buffers = codec.read_parts(view)
    assert [np.frombuffer(one, np.uint8).ctypes.data % 64 for one in buffers] == [0, 0]


@pytest.mark.parametrize(
    "value",
    [
        pa.table({}),
        pa.table({"a": pa.array([], pa.int32())}),
        pa.chunked_array([], pa.int64()),
        pa.array([], pa.string()),
        pa.nulls(5),
        pa.record_batch([pa.array([], pa.int8())], ["x"]),
        pa.array([b"x" * 300_000]),
        pa.table({"same": [1]}).rename_columns(["__main__"]),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value)}",
)
def test_arrow_at_the_edges(value: Any) -> None:
    assert round_trip(value).equals(value)


class Colour(enum.Enum):
    """Importable."""

    RED = 1


@dataclasses.dataclass
class Point:
    """Importable."""

    x: int
    y: Any


@pytest.mark.parametrize(
    "value",
    [
        *(Colour.RED, Point(1, [2]), {1, 2}, frozenset("ab"), range(5), slice(1, 2), 1j),
        *(..., NotImplemented, "__main__", b"__main__", {"__main__": 1}),
    ],
    ids=repr,
)
def test_other_values(value: Any) -> None:
    assert round_trip(value) == value


def test_functions_and_local_classes_travel_by_value() -> None:
    offset = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    assert through_frame(lambda x: x + offset)(1) == 11
    assert through_frame(functools.partial(lambda a, b: a - b, 5))(3) == 2
    assert through_frame(Local(4)).x == 4


def test_recursive_containers() -> None:
    value: list[Any] = [1]
    value.append(value)
    found = through_frame(value)
    assert found[1] is found


def through_frame(value: Any) -> Any:
    encoded = codec.encode(value)
    return codec.decode(encoded.data, encoded.inline_buffers())


def test_very_deep_values_are_a_named_error_or_travel() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="recursion"):
        codec.encode(value)


class Node:
    """Part of a chain that ends in a lock."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "lock"),
        ([1, threading.Lock()], r"value\[1\]"),
        ({"a": (0, threading.Lock())}, r"value\['a'\]\[1\]"),
        (Node([Node(threading.Lock())]), r"value\.inner\[0\]\.inner"),
    ],
    ids=["itself", "list", "dict", "objects"],
)
def test_what_cannot_be_pickled_is_named(value: Any, path: str) -> None:
    message = rf"cannot pickle {path}.*inside the task"
    with pytest.raises(SerializationError, match=message) as caught:
        codec.encode(value)
    assert isinstance(caught.value, TypeError)
    assert codec.contained_refs() is None, "the collector of references is put away"


def test_an_error_in_a_users_reduce_is_told() -> None:
    class Bad:
        def __reduce__(self) -> Any:
            raise RuntimeError("my own reason")

    with pytest.raises(SerializationError, match="my own reason"):
        codec.encode([Bad()])


def test_definitions_have_the_hash_of_their_code_as_key() -> None:
    def make(number: int) -> Any:
        return lambda: number

    one, again, two = (codec.encode_definition(make(n), 1 << 20) for n in (1, 1, 2))
    assert one[0] == again[0] != two[0]
    assert codec.decode(one[1], None)() == 1


def test_a_definition_above_the_limit_names_both_sizes() -> None:
    data = bytes(5000)
    with pytest.raises(ValueError, match=r"above the limit of 1,000.*engine\.put"):
        codec.encode_definition(lambda: data, 1000)


def test_encode_error_never_fails() -> None:
    class Worst(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError

        def __str__(self) -> str:
            raise RuntimeError

    for error in (Worst(), ValueError(threading.Lock()), KeyboardInterrupt(), SystemExit(3)):
        found = codec.decode(codec.encode_error(error, "f", 7), None)
        assert isinstance(found, TaskError)
        assert (found.function_name, found.pid) == ("f", 7)
        assert type(error).__name__ in found.traceback_str
