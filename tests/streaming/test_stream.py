"""Operators end to end, in any parallelism, against the same in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from pyarrow.compute import field as col

import streaming as st
from tests.streaming.model import SCHEMA, Row, disordered_rows, multiset, run_seeded, window_model

ROWS: list[Row] = [
    {"id": i, "k": "abc"[i % 3], "v": i % 7 or None, "x": i / 4, "ts": 100 * i} for i in range(60)
]


def run(
    build: Callable[[st.Stream], st.Stream], rows: list[Row] = ROWS, parallelism: int = 2
) -> pa.Table:
    job = st.Job("job")
    stream = job.source(st.from_rows(rows, schema=SCHEMA, batch_rows=7), event_time="ts")
    build(stream).sink(st.collect())
    return job.run(parallelism, inline=True)["collect"]


def double(row: Row) -> Row:
    return {"id": row["id"], "twice": 2 * row["id"], "ts": row["ts"]}


def repeat(row: Row) -> Iterable[Row]:
    return ({"id": row["id"], "n": n} for n in range(row["id"] % 3))


def reverse(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pa.array(range(batch.num_rows - 1, -1, -1)))


CASES: dict[str, tuple[Callable[[st.Stream], st.Stream], Callable[[Row], list[Row]]]] = {
    "filter": (
        lambda s: s.filter(col("v") > 3),
        lambda r: [r] if r["v"] is not None and r["v"] > 3 else [],
    ),
    "filters": (
        lambda s: s.filter(col("id") >= 10).filter(pc.divide(col("id"), 10) == 2),
        lambda r: [r] if 20 <= r["id"] < 30 else [],
    ),
    "filter all": (lambda s: s.filter(col("id") < 0), lambda r: []),
    "select": (
        lambda s: s.select("x", "id", sum=col("x") + col("id")),
        lambda r: [{"x": r["x"], "id": r["id"], "sum": r["x"] + r["id"]}],
    ),
    "select of a selection": (
        lambda s: s.select("id", a=col("x") * 2, b=col("id") * 2).select(c=col("a") + 1),
        lambda r: [{"c": r["x"] * 2 + 1}],
    ),
    "with_columns": (
        lambda s: s.with_columns(x=col("id") * 2, y=col("x")),
        lambda r: [{**r, "x": r["id"] * 2, "y": r["x"]}],
    ),
    "map": (lambda s: s.map(double), lambda r: [double(r)]),
    "flat_map": (lambda s: s.flat_map(repeat), lambda r: list(repeat(r))),
    "map_batches": (lambda s: s.map_batches(reverse), lambda r: [r]),
    "chain": (
        lambda s: s.filter(col("id") > 5).map(double).filter(col("twice") > 40).select("twice"),
        lambda r: [{"twice": 2 * r["id"]}] if r["id"] > 20 else [],
    ),
    "union with itself": (
        lambda s: s.filter(col("id") < 9).union(s.filter(col("id") > 50), s),
        lambda r: [r] * (1 + (r["id"] < 9) + (r["id"] > 50)),
    ),
    "late of nothing": (
        lambda s: s.window(st.tumble(10)).agg(n=st.count()).late,
        lambda r: [],
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_operators(case: str, parallelism: int) -> None:
    build, expected = CASES[case]
    found = run(build, parallelism=parallelism)
    rows = [row for source in ROWS for row in expected(source)]
    if not rows:
        assert len(found) == 0
    else:
        assert multiset(found) == multiset(pa.Table.from_pylist(rows))


def test_schemas_are_known_before_the_run() -> None:
    job = st.Job("schemas")
    stream = job.source(st.from_rows(ROWS, schema=SCHEMA), event_time="ts")
    assert stream.schema == SCHEMA
    derived = stream.filter(col("v") > 1).with_columns(x=col("id") > 2, y=col("x") * 2)
    assert derived.schema == SCHEMA.set(3, pa.field("x", pa.bool_())).append(
        pa.field("y", "double")
    )
    windows = stream.key_by("k").window(st.tumble(10)).agg(m=st.mean("v"), s=st.sum("v"))
    names = ["k", "window_start", "window_end", "m", "s"]
    types = [pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.int64()]
    assert windows.schema == pa.schema(list(zip(names, types, strict=True)))
    assert stream.map(double).schema is None
    given_schema = pa.schema([("id", pa.int64()), ("twice", pa.int64()), ("ts", pa.int64())])
    assert stream.map(double, schema=given_schema).schema == given_schema
    assert run(lambda s: windowed(s)).schema == windows.schema


def windowed(stream: st.Stream) -> st.Stream:
    return stream.key_by("k").window(st.tumble(10)).agg(m=st.mean("v"), s=st.sum("v"))


def test_windows_of_windows() -> None:
    """The event time of a result is the last instant of its window."""

    def top(stream: st.Stream) -> st.Stream:
        counts = stream.key_by("k").window(st.hop(1000, every=500)).agg(n=st.count())
        return counts.window(st.tumble(500)).agg(most=st.max("n"), keys=st.count())

    counts = window_model(ROWS, ["k"], 1000, 500, 0)
    order = ["avg", "hi", "k", "lo", "n", "present", "total", "window_end", "window_start"]
    expected: dict[int, list[int]] = {}
    for values in counts:
        row = dict(zip(order, values, strict=True))
        expected.setdefault(row["window_end"] - 500, []).append(row["n"])
    for parallelism in (1, 2, 3):
        found = run(top, parallelism=parallelism).to_pylist()
        assert {row["window_start"]: (row["most"], row["keys"]) for row in found} == {
            start: (max(numbers), len(numbers)) for start, numbers in expected.items()
        }


@settings(max_examples=60, deadline=None)
@given(
    left=disordered_rows(10, 25),
    right=disordered_rows(10, 25),
    parallelism=hs.integers(1, 3),
    seed=hs.integers(0, 2**32),
)
def test_a_union_waits_for_its_slowest_input(
    left: list[Row], right: list[Row], parallelism: int, seed: int
) -> None:
    job = st.Job("union")
    streams = [
        job.source(
            st.from_rows(rows, schema=SCHEMA, batch_rows=3), event_time="ts", out_of_orderness=10
        )
        for rows in (left, right)
    ]
    both = streams[0].union(streams[1])
    both.filter(col("id") >= 0).sink(st.collect(), name="rows")
    aggregates = {"n": st.count(), "present": st.count("v"), "total": st.sum("v")}
    aggregates |= {"lo": st.min("v"), "hi": st.max("v"), "avg": st.mean("v")}
    result = both.key_by("k").window(st.tumble(20)).agg(**aggregates)
    result.sink(st.collect(), name="windows")
    result.late.sink(st.collect(), name="late")
    found = run_seeded(job, parallelism, seed)
    assert len(found["late"]) == 0
    assert multiset(found["rows"]) == multiset(pa.Table.from_pylist(left + right, schema=SCHEMA))
    assert multiset(found["windows"]) == window_model(left + right, ["k"], 20, 20, 0)


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_running_aggregates(parallelism: int) -> None:
    expected = {
        key: (
            len([r for r in ROWS if r["k"] == key]),
            sum(r["v"] or 0 for r in ROWS if r["k"] == key),
        )
        for key in "abc"
    }

    def final(stream: st.Stream) -> st.Stream:
        return stream.key_by("k").aggregate(n=st.count(), total=st.sum("v"))

    found = run(final, parallelism=parallelism).to_pylist()
    assert {row["k"]: (row["n"], row["total"]) for row in found} == expected
    everything = run(lambda s: s.aggregate(n=st.count()), parallelism=parallelism)
    assert everything.to_pylist() == [{"n": len(ROWS)}]

    def updates(stream: st.Stream) -> st.Stream:
        return stream.key_by("k").aggregate(emit="updates", n=st.count(), total=st.sum("v"))

    last: dict[str, tuple[int, int]] = {}
    for row in run(updates, parallelism=parallelism).to_pylist():
        assert row["n"] > last.get(row["k"], (0, 0))[0]
        last[row["k"]] = (row["n"], row["total"])
    assert last == expected


def test_updates_name_only_the_keys_of_the_batch_and_nulls_are_keys() -> None:
    rows = [{"k": k, "j": j} for k, j in [("a", 1), (None, 1), ("a", 1), (None, None), (None, 1)]]
    job = st.Job("updates")
    stream = job.source(st.from_rows(rows, batch_rows=1))
    stream.key_by("k", "j").aggregate(emit="updates", n=st.count()).sink(st.collect())
    found = [tuple(row.values()) for row in job.run(1, inline=True)["collect"].to_pylist()]
    assert found == [("a", 1, 1), (None, 1, 1), ("a", 1, 2), (None, None, 1), (None, 1, 2)]


def test_operators_after_a_keyed_step_stay_with_their_key() -> None:
    def twice(stream: st.Stream) -> st.Stream:
        per_window = stream.key_by("k").window(st.tumble(1000)).agg(n=st.count())
        return per_window.filter(col("n") > 0).key_by("k").aggregate(total=st.sum("n"))

    found: Any = {row["k"]: row["total"] for row in run(twice, parallelism=3).to_pylist()}
    assert found == {"a": 20, "b": 20, "c": 20}
