"""Jobs as a whole: results, statistics, progress, and real processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.compute import field as col

import streaming as st
from streaming.progress import ProgressBar, SourceProgress
from streaming.time import EventTime
from tests.streaming.model import SCHEMA, Row, multiset, window_model


def events(start: int, n: int, spread: int) -> dict[str, Any]:
    """Events 1 ms apart, swapped pairwise, on a few keys."""
    numbers = np.arange(start, start + n)
    return {
        "id": numbers,
        "k": [f"key {i % spread}" for i in numbers],
        "v": numbers * 7 % 1000,
        "x": numbers / 2,
        "ts": numbers ^ 1,
    }


def hot_items(count: int, spread: int = 50) -> st.Job:
    job = st.Job("hot-items")
    source = st.generate(partial(events, spread=spread), count=count, batch_rows=1000)
    stream = job.source(source, name="events", event_time="ts", out_of_orderness=1)
    kept = stream.filter(col("v") >= 10)
    windows = kept.key_by("k").window(st.hop("2s", every="500ms")).agg(
        n=st.count(), present=st.count("v"), total=st.sum("v"), lo=st.min("v"), hi=st.max("v"),
        avg=st.mean("v"),
    )  # fmt: skip
    windows.sink(st.collect(), name="windows")
    windows.late.sink(st.discard(), name="late")
    kept.map(odd).aggregate(n=st.count()).sink(st.collect(), name="total")
    return job


def odd(row: Row) -> Row:
    return {"odd": row["id"] % 2}


def kept_rows(count: int, spread: int = 50) -> list[Row]:
    batch = pa.RecordBatch.from_pydict(events(0, count, spread), schema=SCHEMA)
    return [row for row in batch.to_pylist() if row["v"] >= 10]


def test_results_by_name() -> None:
    result = hot_items(5000).run(2, inline=True)
    assert list(result) == ["windows", "late", "total"]
    assert len(result) == 3
    assert result.late_rows == result["late"] == 0
    assert "late_rows=0" in repr(result)
    with pytest.raises(KeyError, match=r"no sink 'out'; there are \['windows', 'late', 'total'\]"):
        result["out"]
    rows = sum(copy.counters.get("source_rows", 0) for copy in result.statistics)
    assert rows == 5000
    assert {copy.member for copy in result.statistics} == {"events", "window", "aggregate"}


def test_late_rows_are_counted_without_a_sink() -> None:
    job = st.Job("late")
    rows = [{"ts": 100}, {"ts": 5}, {"ts": 101}]
    stream = job.source(st.from_rows(rows, batch_rows=1), event_time="ts")
    stream.window(st.tumble(10)).agg(n=st.count()).sink(st.collect())
    result = job.run(1, inline=True)
    assert result.late_rows == 1
    assert result["collect"]["n"].to_pylist() == [2]


def test_a_job_can_run_again() -> None:
    job = hot_items(3000)
    first, second = job.run(1, inline=True), job.run(3, inline=True)
    assert multiset(first["windows"]) == multiset(second["windows"])


@pytest.mark.processes
@pytest.mark.parametrize("parallelism", [1, 2])
def test_processes_give_the_same(parallelism: int, tmp_path: Path) -> None:
    job = hot_items(20_000)
    result = job.run(parallelism)
    assert multiset(result["windows"]) == window_model(kept_rows(20_000), ["k"], 2000, 500, 0)
    assert result["total"].to_pylist() == [{"n": len(kept_rows(20_000))}]


@pytest.mark.processes
def test_processes_share_tables_and_write_files(tmp_path: Path) -> None:
    table = pa.table({"i": range(100_000), "s": [f"row {i}" for i in range(100_000)]})
    job = st.Job("files")
    job.source(st.from_arrow(table, batch_rows=1000)).sink(st.write_parquet(tmp_path / "out"))
    written = job.run(2)["parquet"]
    assert written.rows == 100_000
    back = st.Job("back")
    back.source(st.read_parquet(tmp_path / "out")).aggregate(n=st.count(), total=st.sum("i")).sink(
        st.collect()
    )
    assert back.run(2)["collect"].to_pylist() == [{"n": 100_000, "total": 4_999_950_000}]


@pytest.mark.processes
def test_an_error_in_a_process_names_the_row() -> None:
    job = st.Job("fails")
    rows = [{"v": v} for v in range(10)]
    job.source(st.from_rows(rows, batch_rows=1)).map(divide).sink(st.collect())
    with pytest.raises(ZeroDivisionError, match="source"):
        job.run(2)


def divide(row: Row) -> Row:
    return {"v": 1 // (row["v"] - 5)}


@dataclass
class Copy:
    member: str
    counters: Mapping[str, int]


def test_progress_in_words() -> None:
    now = [0.0]
    times: dict[str, EventTime | None] = {
        "bids": EventTime("t", pa.timestamp("ms")),
        "odd": EventTime("t", pa.int64()),
        "plain": None,
    }
    progress = SourceProgress(times, clock=lambda: now[0])
    now[0] = 2.0
    copies = [
        Copy("bids", {"source_rows": 3000, "watermark": 90_061_001}),
        Copy("bids", {"source_rows": 1000, "watermark": 90_061_000}),
        Copy("plain", {"source_rows": 1}),
    ]
    text = "4,001 rows, 2,000 rows/s, watermark 1970-01-02 01:01:01.000+00:00"
    assert progress.text(copies) == text
    far = [Copy("odd", {"watermark": 2**62})]
    assert progress.text(far) == f"0 rows, 0 rows/s, watermark {2**62}"


def test_the_bar_is_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    progress = SourceProgress({})
    with ProgressBar("job", progress, None) as bar:
        assert not bar.is_shown
        bar.update([])
    assert capfd.readouterr() == ("", "")
    with ProgressBar("job", progress, True) as bar:
        assert bar.is_shown
        bar.update([Copy("a", {"source_rows": 5})])
    assert hot_items(2000).run(1, inline=True, progress=True)["late"] == 0
