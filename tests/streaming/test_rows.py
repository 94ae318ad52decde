"""Rows to columns and back."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from streaming.rows import CHUNK_ROWS, RowBuilder, row_chunks, to_rows

EMPTY = pa.schema([])


def build(builder: RowBuilder, rows: list[Any], source: pa.Schema = EMPTY) -> pa.RecordBatch:
    builder.add(rows)
    made = builder.build(source)
    assert made is not None
    return made


VALUES: dict[str, tuple[pa.DataType, hs.SearchStrategy[Any]]] = {
    "i": (pa.int64(), hs.integers(-(2**63), 2**63 - 1)),
    "u": (pa.uint64(), hs.integers(0, 2**64 - 1)),
    "f": (pa.float64(), hs.floats(allow_nan=False)),
    "g": (pa.float32(), hs.floats(width=32, allow_nan=False)),
    "z": (pa.bool_(), hs.booleans()),
    "s": (pa.string(), hs.text()),
    "y": (pa.binary(), hs.binary()),
    "t": (pa.timestamp("us"), hs.datetimes()),
    "q": (pa.timestamp("s"), hs.datetimes().map(lambda t: t.replace(microsecond=0))),
    "d": (pa.date32(), hs.dates()),
    "l": (pa.list_(pa.int64()), hs.lists(hs.integers(0, 9))),
}


@given(hs.data(), hs.sampled_from(list(VALUES)))
def test_rows_are_what_arrow_says_they_are(data: hs.DataObject, name: str) -> None:
    type_, values = VALUES[name]
    drawn = data.draw(hs.lists(hs.one_of(hs.none(), values), min_size=1, max_size=8))
    for column in (drawn, [value for value in drawn if value is not None]):
        batch = pa.record_batch({name: pa.array(column, type_)})
        rows = to_rows(batch)
        assert rows == batch.to_pylist()
        if rows:
            assert all(
                type(a[name]) is type(b[name]) for a, b in zip(rows, batch.to_pylist(), strict=True)
            )
            built = build(RowBuilder("map", batch.schema), rows)
            assert built.equals(batch)


def test_times_with_zones_and_nanoseconds() -> None:
    zoned = pa.array([0], pa.timestamp("ms", tz="UTC"))
    batch = pa.record_batch({"z": zoned, "n": pa.array([1], pa.timestamp("ns"))})
    assert to_rows(batch) == batch.to_pylist()


def test_types_stay_as_they_were() -> None:
    source = pa.schema(
        [("ts", pa.timestamp("ms")), ("i", pa.int32()), ("s", pa.large_string()), ("n", pa.int8())]
    )
    builder = RowBuilder("map", None)
    rows = [{"ts": dt.datetime(2024, 1, 1), "i": 5, "s": "x", "n": 1000, "new": None}]
    first = build(builder, rows, source)
    assert first.schema == pa.schema([*list(source)[:3], ("n", pa.int64()), ("new", pa.null())])
    second = build(builder, [{**rows[0], "new": Decimal("1.5")}], source)
    assert second.schema.field("new").type == pa.decimal128(2, 1)
    with pytest.raises(TypeError, match=r"column 'i': expected int32 .* found 'x' in row"):
        build(builder, [{**rows[0], "new": None}, {**rows[0], "i": "x"}], source)


def test_missing_and_extra_keys() -> None:
    builder = RowBuilder("map", None)
    batch = build(builder, [{"a": 1}, {"b": "x"}, {"a": 2, "b": "y"}], EMPTY)
    assert batch.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": 2, "b": "y"}]
    assert build(builder, [{"a": 3}], EMPTY).to_pylist() == [{"a": 3, "b": None}]
    with pytest.raises(TypeError, match="has 'c', which the given schema has not"):
        build(RowBuilder("map", pa.schema([("a", pa.int64())])), [{"a": 1, "c": 2}])
    with pytest.raises(TypeError, match="the key 5 of the row"):
        build(builder, [{"a": 1, 5: 2}], EMPTY)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"expected values of one type, found .* in row"):
        build(RowBuilder("map", None), [{"a": 1}, {"a": "x"}])


def test_large_batches_come_in_chunks_and_are_built_as_one() -> None:
    batch = pa.record_batch({"a": range(3000), "it's": [f"{i}" for i in range(3000)]})
    chunks = list(row_chunks(batch))
    assert [len(chunk) for chunk in chunks] == [CHUNK_ROWS, CHUNK_ROWS, 3000 - 2 * CHUNK_ROWS]
    builder = RowBuilder("map", None)
    for chunk in chunks[:2]:
        builder.add(chunk)
    builder.add([{**row, "new": 1} for row in chunks[2]])
    made = builder.build(EMPTY)
    assert made is not None
    assert made.drop_columns(["new"]).equals(batch)
    assert made["new"].null_count == 2 * CHUNK_ROWS
    assert builder.build(EMPTY) is None


def test_rows_without_columns() -> None:
    batch = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert to_rows(batch) == [{}, {}]
