"""Grouped aggregation in any number of merges, against DuckDB."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import streaming as st
from streaming.grouping import Grouping, merge_tables
from tests.streaming.model import multiset

INT64 = hs.integers(-(2**63), 2**63 - 1)

TYPES: dict[str, tuple[pa.DataType, hs.SearchStrategy[Any]]] = {
    "i": (pa.int64(), hs.one_of(hs.none(), hs.integers(-(2**50), 2**50))),
    "b": (pa.int8(), hs.one_of(hs.none(), hs.integers(-128, 127))),
    "u": (pa.uint32(), hs.one_of(hs.none(), hs.integers(0, 2**32 - 1))),
    "f": (pa.float64(), hs.one_of(hs.none(), hs.integers(-(2**40), 2**40).map(float))),
    "g": (pa.float32(), hs.one_of(hs.none(), hs.integers(-(2**20), 2**20).map(float))),
    "d": (pa.decimal128(10, 2), hs.one_of(hs.none(), hs.integers(-999, 999).map(Decimal))),
    "z": (pa.bool_(), hs.one_of(hs.none(), hs.booleans())),
}
NUMBERS = list(TYPES)
SCHEMA = pa.schema([("k", pa.string()), *((name, type_) for name, (type_, _) in TYPES.items())])

ROWS = hs.lists(
    hs.fixed_dictionaries(
        {"k": hs.sampled_from(["a", "b", None]), **{n: values for n, (_, values) in TYPES.items()}}
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, cut=hs.integers(1, 40), keyed=hs.booleans())
def test_partials_merged_in_any_way_equal_sql(
    rows: list[dict[str, Any]], cut: int, keyed: bool
) -> None:
    aggregates = {"n": st.count()}
    select = ["count(*)::bigint as n"]
    for name in NUMBERS:
        aggregates |= {f"{name}_sum": st.sum(name), f"{name}_min": st.min(name)}
        aggregates |= {f"{name}_max": st.max(name), f"{name}_n": st.count(name)}
        aggregates[f"{name}_avg"] = st.mean(name)
        sql = f"{name}::int" if name == "z" else name
        select += [f"sum({sql}) as {name}_sum", f"min({name}) as {name}_min"]
        select += [f"max({name}) as {name}_max", f"count({name}) as {name}_n"]
        select.append(f"avg({sql})::double as {name}_avg")
    keys = ["k"] if keyed else []
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    grouping = Grouping(aggregates)
    parts = [grouping.partials(batch, keys) for batch in table.to_batches(max_chunksize=cut)]
    half = len(parts) // 2
    groups = [group for group in (parts[:half], parts[half:]) if group]
    merged = grouping.merge(
        merge_tables([grouping.merge(merge_tables(g), keys) for g in groups]), keys
    )
    columns = {key: merged[key] for key in keys} | dict(grouping.finish(merged))
    with duckdb.connect() as connection:
        connection.register("rows", table)
        query = f"select {', '.join([*keys, *select])} from rows {'group by k' if keyed else ''}"
        expected = connection.sql(query).to_arrow_table()
    found = pa.table(columns)
    for name in NUMBERS:
        assert found.schema.field(f"{name}_min").type == TYPES[name][0]
    assert multiset(found) == multiset(expected.select(found.schema.names))


@settings(max_examples=100, deadline=None)
@given(hs.lists(INT64, min_size=1, max_size=6), hs.integers(1, 6))
def test_sums_of_integers_are_exact_or_refused(values: list[int], cut: int) -> None:
    table = pa.table({"v": pa.array(values, pa.int64())})
    grouping = Grouping({"total": st.sum("v")})

    def total() -> int:
        parts = [grouping.partials(batch, []) for batch in table.to_batches(max_chunksize=cut)]
        [(_, column)] = grouping.finish(grouping.merge(merge_tables(parts), []))
        found: int = column[0].as_py()
        return found

    partial_sums = [sum(values[i : i + cut]) for i in range(0, len(values), cut)]
    if all(-(2**63) <= one < 2**63 for one in [*partial_sums, sum(values)]):
        assert total() == sum(values)
    else:
        with pytest.raises(OverflowError, match="exceeds 64 bits"):
            total()


def test_unsigned_values_beyond_int64_are_refused() -> None:
    batch = pa.record_batch({"v": pa.array([2**63], pa.uint64())})
    with pytest.raises(OverflowError, match=r"sum\('v'\)"):
        Grouping({"total": st.sum("v")}).partials(batch, [])


def test_partials_are_shared() -> None:
    batch = pa.record_batch({"v": [1, 2]})
    grouping = Grouping({"a": st.mean("v"), "b": st.count("v"), "c": st.mean("v")})
    assert grouping.partials(batch, []).schema.names == ["__partial_double_v", "__partial_count_v"]
    assert str(st.mean("v")) == "mean(v)"
    assert str(st.count()) == "count()"


def test_tables_of_different_columns_are_joined_by_name() -> None:
    left, right = pa.table({"a": [1]}), pa.table({"a": [1.5], "b": ["x"]})
    assert merge_tables([left, right]).to_pylist() == [{"a": 1.0, "b": None}, {"a": 1.5, "b": "x"}]
