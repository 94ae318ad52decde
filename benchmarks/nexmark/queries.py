"""The queries, each as a job of ours and as SQL over the same events (the check).

q0, q1 and q2 are the published ones. q7 is reduced to its aggregate (the highest price of each
tumbling 10 s, without joining the bid back), and q12 uses event time where the published one uses
processing time; both are named so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.compute import field as col

import streaming as st
from benchmarks.nexmark.events import Settings
from benchmarks.nexmark.generator import bids

__all__ = ["QUERIES", "Query", "all_bids", "bid_source", "build"]

_BID_ROW = ("auction", "bidder", "price", "date_time", "extra")


@dataclass(frozen=True)
class Query:
    """`plan` turns the stream of bids into the result; `sql` does the same to the table bids.

    `columns` are those of the bids it reads, which is what the generator alone is timed with.
    """

    name: str
    meaning: str
    plan: Callable[[st.Stream], st.Stream]
    sql: str
    columns: tuple[str, ...]


def _q0(stream: st.Stream) -> st.Stream:
    return stream.select(*_BID_ROW)


def _q1(stream: st.Stream) -> st.Stream:
    price = pc.multiply(col("price").cast("double"), 0.908)
    return stream.with_columns(price=price).select(*_BID_ROW)


def _q2(stream: st.Stream) -> st.Stream:
    quotient = pc.divide(col("auction"), 123)
    return stream.filter(col("auction") == quotient * 123).select("auction", "price")


def _q7(stream: st.Stream) -> st.Stream:
    return stream.window(st.tumble("10s")).agg(price=st.max("price"))


def _q12(stream: st.Stream) -> st.Stream:
    return stream.key_by("bidder").window(st.tumble("10s")).agg(bids=st.count())


_START = "epoch_ms(epoch_ms(date_time) // 10000 * 10000)"
_END = "epoch_ms(epoch_ms(date_time) // 10000 * 10000 + 10000)"

QUERIES = {
    query.name: query
    for query in (
        Query(
            "q0",
            "pass through",
            _q0,
            "select auction, bidder, price, date_time, extra from bids",
            _BID_ROW,
        ),
        Query(
            "q1",
            "price in euros",
            _q1,
            "select auction, bidder, price::double * 0.908::double as price, date_time, extra "
            "from bids",
            _BID_ROW,
        ),
        Query(
            "q2",
            "bids on every 123rd auction",
            _q2,
            "select auction, price from bids where auction % 123 = 0",
            ("auction", "price"),
        ),
        Query(
            "q7-max",
            "highest price of each 10 s",
            _q7,
            f"select {_START} as window_start, {_END} as window_end, max(price) as price "
            "from bids group by all",
            ("price", "date_time"),
        ),
        Query(
            "q12-event",
            "bids per bidder in each 10 s",
            _q12,
            f"select bidder, {_START} as window_start, {_END} as window_end, count(*) as bids "
            "from bids group by all",
            ("bidder", "date_time"),
        ),
    )
}


def bid_source(settings: Settings, size: int, batch_rows: int) -> st.Source:
    """The bids among the first `size` events, made in blocks of `batch_rows` events."""
    return st.generate(partial(bids, settings=settings), count=size, batch_rows=batch_rows)


def build(query: Query, settings: Settings, size: int, batch_rows: int, sink: st.Sink) -> st.Job:
    """The job of a query with one sink, named "out"."""
    job = st.Job(query.name)
    stream = job.source(
        bid_source(settings, size, batch_rows),
        name="bids",
        event_time="date_time",
        out_of_orderness=settings.disorder_ms,
    )
    query.plan(stream).sink(sink, name="out")
    return job


def all_bids(settings: Settings, size: int) -> pa.Table:
    """The bids among the first `size` events as one table."""
    return pa.Table.from_batches([bids(0, size, settings=settings)])
