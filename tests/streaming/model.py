"""What the tests of streams share: an oracle in plain Python, one in SQL, and seeded runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import strategies as st

from engine.topology import InlineHandle
from streaming.compile import to_topology
from streaming.job import Job
from streaming.running import JobHandle, SinkCommits

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("k", pa.string()),
        ("v", pa.int64()),
        ("x", pa.float64()),
        ("ts", pa.int64()),
    ]
)


def run_seeded(job: Job, parallelism: int, seed: int) -> dict[str, Any]:
    """Run a job inline with the deliveries between members in a random order."""
    topology = to_topology(job.name, job._stages(parallelism), is_inline=True)
    with InlineHandle(topology, seed=seed, external=SinkCommits(job._sinks)) as handle:
        return dict(JobHandle(job.name, handle, job._sinks, False).wait())


def multiset(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """Rows as a multiset; floats rounded, for sums of doubles depend on their order."""
    rows: Counter[tuple[Any, ...]] = Counter()
    for row in table.to_pylist():
        rows[tuple(_rounded(row[name]) for name in sorted(row))] += 1
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.9g}")
    return value


def windows_of(ts: int, size: int, every: int, offset: int) -> list[int]:
    """Starts of the windows that contain an instant, by trying them one after the other."""
    last = (ts - offset) // every * every + offset
    starts = []
    while last > ts - size:
        starts.append(last)
        last -= every
    return starts


def window_model(
    rows: list[Row], keys: list[str], size: int, every: int, offset: int
) -> Counter[tuple[Any, ...]]:
    """count, count(v), sum, min, max, mean of v per key and window, as `multiset` gives them."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        for start in windows_of(row["ts"], size, every, offset):
            groups[(*(row[key] for key in keys), start)].append(row)
    result: Counter[tuple[Any, ...]] = Counter()
    for group, members in groups.items():
        values = [row["v"] for row in members if row["v"] is not None]
        made = {
            **dict(zip(keys, group, strict=False)),
            "window_start": group[-1],
            "window_end": group[-1] + size,
            "n": len(members),
            "present": len(values),
            "total": sum(values) if values else None,
            "lo": min(values) if values else None,
            "hi": max(values) if values else None,
            "avg": _rounded(sum(values) / len(values)) if values else None,
        }
        result[tuple(made[name] for name in sorted(made))] += 1
    return result


def window_sql(
    rows: list[Row], keys: list[str], size: int, every: int, offset: int
) -> Counter[tuple[Any, ...]]:
    """The same by DuckDB: rows join the windows they are in."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    key_list = "".join(f"{key}, " for key in keys)
    # The first window at or before an instant, with a modulus that is never negative.
    start = f"ts - (((ts - {offset}) % {every}) + {every}) % {every}"
    query = f"""
        with placed as (
            select rows.*, {start} - step * {every} as window_start
            from tbl as rows, range({-(-size // every)}) as steps(step)
            where {start} - step * {every} + {size} > ts
        )
        select {key_list} window_start, window_start + {size} as window_end, count(*) as n,
               count(v) as present, sum(v)::bigint as total, min(v) as lo, max(v) as hi,
               avg(v) as avg
        from placed group by {key_list} window_start
    """
    with duckdb.connect() as connection:
        connection.execute("set threads to 1")
        connection.register("tbl", table)
        return multiset(connection.sql(query).to_arrow_table())


@st.composite
def disordered_rows(draw: Any, bound: int, max_rows: int = 60) -> list[Row]:
    """Rows in an order in which none comes more than `bound` later than it may."""
    low = draw(st.sampled_from([0, -1000, -37, 10**12]))
    count = draw(st.integers(0, max_rows))
    ticks = draw(st.lists(st.integers(low, low + 300), min_size=count, max_size=count))
    delays = draw(st.lists(st.integers(0, bound), min_size=count, max_size=count))
    # Sorted by time + delay with delay <= bound: every earlier row is newer by `bound` at most.
    order = sorted(range(count), key=lambda i: (ticks[i] + delays[i], i))
    values = st.one_of(st.none(), st.integers(-1000, 1000))
    return [
        {
            "id": position,
            "k": draw(st.sampled_from(["a", "b", "c", None])),
            "v": draw(values),
            "x": float(position),
            "ts": ticks[i],
        }
        for position, i in enumerate(order)
    ]
