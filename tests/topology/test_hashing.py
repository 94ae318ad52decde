"""The hash: equal values hash equally however they are stored; the values themselves are pinned."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.topology import TopologyError, key_groups
from engine.topology.hashing import hash_array, hash_columns

MASK = (1 << 64) - 1


def model(value: int) -> int:
    """The hash of an integer in plain Python."""
    mixed = (value & MASK) * 0x9E3779B97F4A7C15 & MASK
    mixed ^= mixed >> 32
    return mixed * 0xD6E8FEB86659FD93 & MASK


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_integers_follow_the_model(values: list[int]) -> None:
    assert hash_array(pa.array(values, pa.int64())).tolist() == [model(v) for v in values]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()],
    ids=str,
)
def test_the_width_of_an_integer_does_not_matter(kind: pa.DataType) -> None:
    low = 0 if pa.types.is_unsigned_integer(kind) else -100
    values = list(range(low, 100))
    assert hash_array(pa.array(values, kind)).tolist() == [model(v) for v in values]
    assert hash_array(pa.array([True, False])).tolist() == [model(1), model(0)]


texts = st.lists(st.one_of(st.none(), st.text(max_size=30), st.just("long " * 100)), max_size=40)


@given(texts, st.data())
@settings(max_examples=100)
def test_strings_hash_alike_in_every_encoding_and_slice(
    values: list[str | None], data: st.DataObject
) -> None:
    plain = pa.array(values, pa.string())
    expected = hash_array(plain).tolist()
    one_by_one = [hash_array(pa.array([value], pa.string()))[0] for value in values]
    assert expected == one_by_one
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        assert hash_array(plain.cast(kind)).tolist() == expected
    encoded = plain.dictionary_encode()
    assert hash_array(encoded).tolist() == expected
    start = data.draw(st.integers(0, len(values)))
    length = data.draw(st.integers(0, len(values) - start))
    for array in (plain, encoded, plain.cast(pa.large_string())):
        assert hash_array(array.slice(start, length)).tolist() == expected[start : start + length]


@given(st.lists(st.text(max_size=300), max_size=40, unique=True))
def test_different_strings_differ(values: list[str]) -> None:
    assert len(set(hash_array(pa.array(values, pa.string())).tolist())) == len(values)


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "k{}",
        "{:08}",
        "user-{:012}",
        "{0}{0}",
        "{0:05}/{0:05}",
        "{:03}aaaaaaaaaaaaaaaaaaaaaaa",
    ],
)
def test_numbered_strings_spread_evenly(form: str) -> None:
    count = 200_000
    array = pa.array([form.format(number) for number in range(count)])
    hashes = hash_array(array)
    assert len(np.unique(hashes)) == count
    fill = np.bincount((hashes >> np.uint64(52)).astype(np.int64), minlength=4096)
    # Of a fair hash the variance of the fill is its mean: 48.8 a group.
    assert 0.8 < fill.var() / fill.mean() < 1.2


def test_trailing_zero_bytes_count() -> None:
    values = [b"\0" * n for n in range(20)]
    assert len(set(hash_array(pa.array(values, pa.binary())).tolist())) == 20


@given(st.lists(st.floats(width=32)))
def test_floats_hash_by_value(values: list[float]) -> None:
    wide = hash_array(pa.array(values, pa.float64())).tolist()
    assert hash_array(pa.array(values, pa.float32())).tolist() == wide
    by_value: dict[float | str, int] = {}
    for value, found in zip(values, wide, strict=True):
        assert by_value.setdefault("nan" if math.isnan(value) else value, found) == found
    assert len(set(by_value.values())) == len(by_value)


def test_zeros_are_one_and_so_are_nans() -> None:
    odd_nan = np.array([0x7FF0000000000123], dtype=np.uint64).view(np.float64)[0]
    hashes = hash_array(pa.array([0.0, -0.0, math.nan, -math.nan, odd_nan])).tolist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes[2:])) == 1


KINDS = [
    (pa.int32(), [1, None, 3]),
    (pa.bool_(), [True, None, False]),
    (pa.float64(), [1.5, None, 2.5]),
    (pa.float16(), [np.float16(1.5), None, np.float16(2.5)]),
    (pa.date32(), [datetime.date(2020, 1, 1), None, datetime.date(2021, 1, 1)]),
    (pa.date64(), [datetime.date(2020, 1, 1), None, datetime.date(2021, 1, 1)]),
    (pa.timestamp("us", "UTC"), [1, None, 2]),
    (pa.time32("s"), [1, None, 2]),
    (pa.duration("ns"), [1, None, 2]),
    (pa.string(), ["a", None, "b"]),
    (pa.binary(3), [b"abc", None, b"abd"]),
    (pa.decimal128(10, 2), [1, None, 2]),
    (pa.decimal256(50, 2), [1, None, 2]),
    (pa.month_day_nano_interval(), [(1, 2, 3), None, (1, 2, 4)]),
    (pa.list_(pa.int64()), [[1], None, [1, 2]]),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), [{"a": 1, "b": "x"}, None, {"a": 2}]),
    (pa.null(), [None, None, None]),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_every_type_hashes_by_value_alone(kind: pa.DataType, values: list[object]) -> None:
    array = pa.array(values, kind)
    hashes = hash_array(array).tolist()
    assert hash_array(pa.concat_arrays([array, array]).slice(2, 3)).tolist() == [
        hashes[2],
        *hashes[:2],
    ]
    if kind != pa.null():
        assert len(set(hashes)) == 3
    if kind != pa.struct([("a", pa.int64()), ("b", pa.string())]):
        assert hashes[1] == hash_array(pa.nulls(1))[0], "null is one constant for all types"


def test_values_under_nulls_do_not_matter() -> None:
    bits = pa.py_buffer(b"\x05")  # rows 0 and 2 are there, row 1 is null
    arrays = [
        pa.Array.from_buffers(pa.int64(), 3, [bits, pa.py_buffer(np.array([1, junk, 3]))])
        for junk in (7, 8)
    ]
    assert hash_array(arrays[0]).tolist() == hash_array(arrays[1]).tolist()


def test_nulls_in_dictionary_values_and_indices_are_null() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    assert hash_array(array).tolist() == hash_array(pa.array(["a", None, None])).tolist()


def test_a_small_slice_of_a_large_dictionary_is_not_hashed_whole() -> None:
    values = [f"v{n}" for n in range(1000)]
    array = pa.array(values).dictionary_encode().slice(500, 3)
    assert hash_array(array).tolist() == hash_array(pa.array(values[500:503])).tolist()


def test_several_columns_are_combined_in_order() -> None:
    batch = pa.record_batch({"a": [1, 2, 1], "b": [2, 1, 2], "c": ["x", "y", "x"]})
    both = hash_columns(batch, ("a", "b")).tolist()
    assert both[0] == both[2] != both[1]
    assert both != hash_columns(batch, ("b", "a")).tolist()
    three = hash_columns(batch, ("a", "b", "c")).tolist()
    assert three[0] == three[2] != both[0]


def test_the_hash_of_today_is_the_hash_of_tomorrow() -> None:
    """Key groups name parts of stored state: a change here loses the state of every user."""
    batch = pa.record_batch(
        {
            "i": pa.array([0, 1, -1, 1 << 40, None]),
            "f": pa.array([0.0, 1.0, -2.5, math.inf, None]),
            "s": pa.array(["", "a", "key-12345", "x" * 300, None]),
        }
    )
    assert key_groups(batch, "i").tolist() == PINNED["i"]
    assert key_groups(batch, "f").tolist() == PINNED["f"]
    assert key_groups(batch, "s").tolist() == PINNED["s"]
    assert key_groups(batch, ["i", "s"]).tolist() == PINNED["i,s"]


PINNED: dict[str, list[int]] = {
    "i": [0, 383, 505, 2028, 2283],
    "f": [3061, 3067, 2721, 1634, 2283],
    "s": [3963, 3876, 3742, 3822, 2283],
    "i,s": [2084, 1221, 882, 2706, 1854],
}


@pytest.mark.parametrize("groups", [1, 7, 4096, 65536])
def test_groups_are_in_range_and_even(groups: int) -> None:
    count = 200_000
    for column in (np.arange(count), np.arange(count) << 20, np.arange(count) * 1.5):
        batch = pa.record_batch({"k": column})
        found = key_groups(batch, "k", groups)
        assert found.dtype == np.uint16
        assert len(found) == count
        per_part = np.bincount(found.astype(np.int64) * 4 // groups, minlength=4)
        if groups >= 4096:
            assert per_part.min() > 0.9 * count / 4
            assert per_part.max() < 1.1 * count / 4


def test_mistakes_are_named() -> None:
    batch = pa.record_batch({"k": [1]})
    with pytest.raises(TopologyError, match=r"expected a column 'x'.*found the columns \['k'\]"):
        key_groups(batch, "x")
    with pytest.raises(TopologyError, match="at least one key column"):
        key_groups(batch, [])
    with pytest.raises(TopologyError, match="1 <= groups <= 65536"):
        key_groups(batch, "k", 0)
