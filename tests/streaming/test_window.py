"""Windowed aggregation against two oracles, for any disorder, batch cut and parallelism."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import streaming as st
from streaming.operators import window as window_module
from streaming.operators.window import PreAggregateOperator, WindowOperator, WindowSpec
from streaming.time import MAX_WATERMARK, EventTime
from streaming.windows import WindowShape
from tests.streaming.model import (
    SCHEMA,
    Row,
    disordered_rows,
    multiset,
    run_seeded,
    window_model,
    window_sql,
    windows_of,
)

AGGREGATES = {
    "n": st.count(),
    "present": st.count("v"),
    "total": st.sum("v"),
    "lo": st.min("v"),
    "hi": st.max("v"),
    "avg": st.mean("v"),
}
BOUND = 25


@hs.composite
def shapes(draw: Any) -> tuple[int, int, int]:
    """size, every, offset in ticks."""
    size = draw(hs.integers(1, 60))
    every = draw(hs.one_of(hs.just(size), hs.integers(max(1, size // 12), size)))
    return size, every, draw(hs.integers(-10, 70))


def shape_of(size: int, every: int, offset: int) -> WindowShape:
    return st.hop(size, every=every, offset=offset)


def windowed(
    rows: list[Row], shape: WindowShape, keys: list[str], batch_rows: int, bound: int
) -> st.Job:
    """A job with a filter, a window and a sink for the late rows."""
    job = st.Job("windows")
    source = st.from_rows(rows, schema=SCHEMA, batch_rows=batch_rows)
    stream = job.source(source, event_time="ts", out_of_orderness=bound)
    cut = stream.key_by(*keys).window(shape) if keys else stream.window(shape)
    result = cut.agg(**AGGREGATES)
    result.sink(st.collect(), name="out")
    result.late.sink(st.collect(), name="late")
    return job


@settings(max_examples=150, deadline=None)
@given(
    rows=disordered_rows(BOUND),
    shape=shapes(),
    keys=hs.sampled_from([[], ["k"], ["k", "v"]]),
    batch_rows=hs.integers(1, 40),
    parallelism=hs.integers(1, 3),
    seed=hs.integers(0, 2**32),
)
def test_windows_equal_both_oracles(
    rows: list[Row],
    shape: tuple[int, int, int],
    keys: list[str],
    batch_rows: int,
    parallelism: int,
    seed: int,
) -> None:
    job = windowed(rows, shape_of(*shape), keys, batch_rows, BOUND)
    result = run_seeded(job, parallelism, seed)
    assert len(result["late"]) == 0
    expected = window_model(rows, keys, *shape)
    assert multiset(result["out"]) == expected
    assert window_sql(rows, keys, *shape) == expected


@settings(max_examples=100, deadline=None)
@given(
    rows=disordered_rows(200),
    shape=shapes(),
    batch_rows=hs.integers(1, 10),
    parallelism=hs.integers(1, 3),
    bound=hs.integers(0, 20),
    seed=hs.integers(0, 2**32),
)
def test_late_and_on_time_rows_are_all_rows(
    rows: list[Row],
    shape: tuple[int, int, int],
    batch_rows: int,
    parallelism: int,
    bound: int,
    seed: int,
) -> None:
    result = run_seeded(
        windowed(rows, shape_of(*shape), ["k"], batch_rows, bound), parallelism, seed
    )
    late = result["late"].to_pylist()
    assert all(row == rows[row["id"]] for row in late)
    late_ids = Counter(row["id"] for row in late)
    assert all(n == 1 for n in late_ids.values())
    on_time = [row for row in rows if row["id"] not in late_ids]
    size, every, offset = shape
    if size == every:
        assert multiset(result["out"]) == window_model(on_time, ["k"], *shape)
    else:
        # A row may be on time for some of its windows only; it is never in a window twice.
        most = Counter[int]()
        for row in on_time:
            most.update(windows_of(row["ts"], size, every, offset))
        counted = Counter[int]()
        for row in result["out"].to_pylist():
            counted[row["window_start"]] += row["n"]
        assert counted <= most
        last = {windows_of(row["ts"], size, every, offset)[0] for row in on_time}
        assert last <= set(counted)


@settings(max_examples=60, deadline=None)
@given(rows=disordered_rows(100), size=hs.integers(1, 50), batch_rows=hs.integers(1, 10))
def test_with_one_copy_exactly_the_rows_of_closed_windows_are_late(
    rows: list[Row], size: int, batch_rows: int
) -> None:
    result = run_seeded(windowed(rows, st.tumble(size), ["k"], batch_rows, 5), 1, 0)
    expected = []
    watermark = -(2**63)
    for begin in range(0, len(rows), batch_rows):
        batch = rows[begin : begin + batch_rows]
        expected += [r["id"] for r in batch if (r["ts"] // size + 1) * size <= watermark]
        watermark = max(watermark, *(r["ts"] - 5 for r in batch))
    assert result["late"]["id"].to_pylist() == expected if expected else not len(result["late"])


@pytest.mark.parametrize(
    "type_", ["timestamp[s]", "timestamp[ms]", "timestamp[us]", "timestamp[ns]"]
)
def test_timestamps_of_every_unit_and_before_the_epoch(type_: str) -> None:
    unit = type_[10:-1]
    seconds = [-3601, -3600, -1, 0, 3599, 3600]
    table = pa.table({"ts": pa.array(seconds, pa.timestamp("s")).cast(pa.timestamp(unit))})
    job = st.Job("hours")
    stream = job.source(st.from_arrow(table), event_time="ts")
    stream.window(st.tumble("1h")).agg(n=st.count()).sink(st.collect())
    out = job.run(2, inline=True)["collect"].sort_by("window_start")
    assert out["window_start"].type == out["window_end"].type == table["ts"].type
    starts = out["window_start"].cast(pa.timestamp("s")).cast(pa.int64())
    assert starts.to_pylist() == [-7200, -3600, 0, 3600]
    assert out["n"].to_pylist() == [1, 2, 2, 1]


def test_time_zones_are_kept() -> None:
    table = pa.table({"ts": pa.array([0, 90_000_000], pa.timestamp("us", tz="Europe/Rome"))})
    job = st.Job("zones")
    stream = job.source(st.from_arrow(table), event_time="ts")
    stream.window(st.tumble("1m")).agg(n=st.count()).sink(st.collect())
    assert job.run(1, inline=True)["collect"].schema.field("window_end").type == table["ts"].type


def test_state_is_compacted_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "COMPACT_ROWS", 8)
    spec = WindowSpec(("k",), st.tumble(10), AGGREGATES, EventTime("ts", pa.int64()))
    rows = [{"id": i, "k": "ab"[i % 2], "v": i, "x": 0.0, "ts": i % 40} for i in range(200)]
    batches = pa.Table.from_pylist(rows, schema=SCHEMA).to_batches(max_chunksize=5)
    first, second = _Harness(WindowOperator(spec)), _Harness(WindowOperator(spec))
    for batch in batches[:20]:
        first.operator.on_batch(batch, 0)
    assert first.operator._rows <= 20
    first.operator.on_watermark(10)
    second.operator.restore(first.operator.snapshot())
    for batch in batches[20:]:
        second.operator.on_batch(batch, 0)
    second.operator.on_watermark(MAX_WATERMARK)
    on_time = [row for row in rows if row["ts"] >= 10 or row["id"] < 100]
    assert second.late_rows == len(rows) - len(on_time) == 20
    found = multiset(pa.Table.from_batches(first.rows + second.rows))
    assert found == window_model(on_time, ["k"], 10, 10, 0)


def test_pre_aggregation_turns_itself_off_when_keys_do_not_repeat() -> None:
    spec = WindowSpec(("id",), st.tumble(1000), {"n": st.count()}, EventTime("ts", pa.int64()))
    harness = _Harness(PreAggregateOperator(spec))
    batch = pa.record_batch({"id": list(range(2000)), "ts": [5] * 2000})
    harness.operator.on_batch(batch, 0)
    harness.operator.on_batch(batch, 0)
    assert [rows.schema.names for rows in harness.rows] == [
        ["__slice", "id", "__partial_rows_"],
        ["id", "ts"],
    ]


def test_a_sum_beyond_64_bits_is_an_error_and_never_wraps() -> None:
    job = st.Job("overflow")
    rows = [{"v": 2**62, "ts": t} for t in (1, 2)]
    stream = job.source(st.from_rows(rows, batch_rows=1), event_time="ts")
    stream.window(st.tumble(10)).agg(total=st.sum("v")).sink(st.collect())
    with pytest.raises(OverflowError, match="exceeds 64 bits"):
        job.run(1, inline=True)


class _Harness:
    """An operator alone, with what it pushed."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.rows: list[pa.RecordBatch] = []
        self.late_rows = 0
        self.index, self.parallelism = 0, 1
        operator.outputs["main"].targets.append(self)
        operator.open(self)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        self.rows.append(batch)

    def on_watermark(self, watermark: int) -> None:
        pass

    def count(self, name: str, n: int = 1) -> None:
        self.late_rows += n
