"""Jobs whose processes die, and what they must give all the same.

Light on imports: the processes of a job import this module to find its functions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import field as col

import streaming as st
from tests.faults.deaths import die_once

__all__ = ["EVENTS", "job_of", "model", "output_of", "write_input"]

EVENTS = 20_000


def write_input(folder: Path, events: int = EVENTS) -> None:
    """Events 1 ms apart, swapped pairwise, in Parquet files of unequal length."""
    numbers = np.arange(events)
    keys = [f"key {i * 7919 % 40}" for i in range(events)]
    ts = pa.array(numbers ^ 1, pa.int64())
    table = pa.table({"id": numbers, "k": keys, "v": numbers * 7 % 1000, "ts": ts})
    folder.mkdir(parents=True, exist_ok=True)
    for number, (begin, end) in enumerate(((0, 40), (40, 50), (50, 100))):
        part = table.slice(begin * events // 100, (end - begin) * events // 100)
        pq.write_table(part, folder / f"in-{number}.parquet", row_group_size=events // 20)


class Mortal(st.Sink):
    """Wraps a sink; dies once at each point that is named."""

    def __init__(self, sink: st.Sink, marks: Path, points: Sequence[str]) -> None:
        self.sink, self.marks, self.points = sink, marks, points
        self.default_name = sink.default_name

    def reach(self, point: str) -> None:
        if point in self.points:
            die_once(self.marks, point)

    def check(self, schema: pa.Schema | None) -> None:
        self.sink.check(schema)

    def begin(self) -> None:
        self.sink.begin()

    def open(self, index: int, parallelism: int) -> st.Writer:
        self.reach("open")
        return MortalWriter(self, self.sink.open(index, parallelism))

    def sync(self, token: Any) -> None:
        self.reach("before sync")
        self.sink.sync(token)
        self.reach("after sync")

    def commit(self, token: Any) -> None:
        self.reach("before commit")
        self.sink.commit(token)
        self.reach("after commit")

    def abort(self) -> None:
        self.sink.abort()

    def combine(self, results: Sequence[Any], schema: pa.Schema | None) -> Any:
        return self.sink.combine(results, schema)


class MortalWriter(st.Writer):
    """One copy of a mortal sink."""

    def __init__(self, sink: Mortal, writer: st.Writer) -> None:
        self.sink, self.writer = sink, writer
        self.batches = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.batches += 1
        if self.batches == 20:
            self.sink.reach("write")
        self.writer.write(batch)

    def prepare(self) -> Any:
        self.sink.reach("before prepare")
        token = self.writer.prepare()
        self.sink.reach("after prepare")
        return token

    def snapshot(self) -> Any:
        self.sink.reach("snapshot")
        return self.writer.snapshot()

    def restore(self, state: Any) -> None:
        self.sink.reach("restore")
        self.writer.restore(state)

    def result(self) -> Any:
        self.sink.reach("close")
        return self.writer.result()


def slowly(pause: float, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Takes its time, so that there is some to die in."""
    time.sleep(pause)
    return batch


def even(row: dict[str, Any]) -> dict[str, Any]:
    """A row function."""
    return {"even": row["id"] % 2 == 0, "v": row["v"]}


def job_of(
    folder: Path, *, pause: float = 0.0, points: Sequence[str] = (), batch_rows: int = 100
) -> st.Job:
    """Windows by key and a running sum by key, and the rows themselves; files in, files out."""
    mortal: Callable[[st.Sink], st.Sink] = partial(Mortal, marks=folder, points=points)
    job = st.Job("mortal")
    events = job.source(
        st.read_parquet(folder / "in", batch_rows=batch_rows), event_time="ts", out_of_orderness=1
    )
    kept = events.map_batches(partial(slowly, pause), schema=SCHEMA).filter(col("v") >= 10)
    windows = kept.key_by("k").window(st.hop("400ms", every="100ms"))
    windows.agg(n=st.count(), top=st.max("v")).sink(
        mortal(st.write_parquet(folder / "windows")), name="windows"
    )
    kept.map(even).key_by("even").aggregate(n=st.count(), total=st.sum("v")).sink(
        st.write_json(folder / "totals"), name="totals"
    )
    kept.select("id", "v").sink(mortal(st.write_csv(folder / "rows")), name="rows")
    return job


SCHEMA = pa.schema(
    {"id": pa.int64(), "k": pa.string(), "v": pa.int64(), "ts": pa.int64()}
)


def output_of(folder: Path) -> dict[str, Counter[Any]]:
    """What is visible in the files; nothing else may be there."""
    hidden = [path.name for path in folder.rglob(".part-*")]
    assert hidden == [], "temporary files are left"
    windows = pq.read_table(folder / "windows").to_pylist()
    found = {"windows": Counter(tuple(row.values()) for row in windows)}
    for kind in ("totals", "rows"):
        parts = sorted((folder / kind).glob("part-*"))
        lines = (line for path in parts for line in path.read_text().splitlines())
        found[kind] = Counter(line for line in lines if line != '"id","v"')
    return found


def model(events: int = EVENTS) -> dict[str, Counter[Any]]:
    """The output, computed in plain Python."""
    rows = [(i, f"key {i * 7919 % 40}", i * 7 % 1000, i ^ 1) for i in range(events)]
    kept = [row for row in rows if row[2] >= 10]
    groups: dict[tuple[str, int], list[int]] = {}
    for _, key, value, ts in kept:
        for start in range(ts // 100 * 100, ts - 400, -100):
            groups.setdefault((key, start), []).append(value)
    windows = Counter(
        (key, start, start + 400, len(values), max(values))
        for (key, start), values in groups.items()
    )
    totals: Counter[str] = Counter()
    for flag in (True, False):
        values = [value for i, _, value, _ in kept if (i % 2 == 0) is flag]
        text = f'{{"even": {str(flag).lower()}, "n": {len(values)}, "total": {sum(values)}}}'
        totals[text] += 1
    return {
        "windows": windows,
        "totals": totals,
        "rows": Counter(f"{i},{value}" for i, _, value, _ in kept),
    }
