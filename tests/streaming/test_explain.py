"""The plan in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import field as col

import streaming as st


def price_up(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "price": row["price"] + 1}


def bids_job(path: Path) -> tuple[st.Job, st.Stream]:
    table = pa.table(
        {
            "auction": [1, 2],
            "price": [10, 20],
            "url": ["a", "b"],
            "date_time": pa.array([0, 1], pa.timestamp("ms")),
        }
    )
    pq.write_table(table, path / "bids.parquet")
    job = st.Job("hot-items")
    source = st.read_parquet(path)
    return job, job.source(source, name="bids", event_time="date_time", out_of_orderness="4s")


def test_the_whole_text(tmp_path: Path) -> None:
    job, bids = bids_job(tmp_path)
    hot = bids.filter(col("price") > 100).key_by("auction").window(st.hop("10s", every="2s"))
    hot.agg(n=st.count()).sink(st.collect(), name="hot")
    bids.map(price_up).sink(st.write_json(tmp_path / "out"))
    expected = """\
job 'hot-items'

member 'bids' (2 copies, 5 operators fused, 1 on the row path)
    read read_parquet, 1 files, 1 row groups
    columns auction, price, url, date_time
    event time date_time (timestamp[ms]), out of order by 4s
    -> filter (price > 100) -> auction, date_time
      -> pre-aggregate per batch and slice by auction: n=count()
      -> send hash(auction)
    -> map price_up   [row path: one Python call per row]
      -> sink 'json': write_json('out')

member 'window' (2 copies, 2 operators fused)
    receive from 'bids', hash(auction)
    -> window hop(10s, every=2s) by auction: n=count()
    -> sink 'hot': collect()
"""
    assert job.explain(2) == expected


def test_one_copy_needs_no_shuffle(tmp_path: Path) -> None:
    job, bids = bids_job(tmp_path)
    windows = bids.window(st.tumble("1s")).agg(n=st.count())
    windows.sink(st.discard())
    windows.late.sink(st.collect(), name="late")
    text = job.explain(1)
    assert text.count("member") == 1
    assert "pre-aggregate" not in text
    assert "  -> [late] sink 'late': collect()" in text
    assert "all to one copy" in job.explain(2)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    job, bids = bids_job(tmp_path)
    bids.select("url").sink(st.discard())
    text = job.explain()
    assert "columns url   [pushed down; not read: auction, price, date_time]" in text
    assert "[no window uses it: no watermarks]" in text
