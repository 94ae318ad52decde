"""The Nexmark stream and its queries."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as hs

from benchmarks.nexmark.events import FIRST_ID, Settings
from benchmarks.nexmark.generator import auctions, bids, persons
from benchmarks.nexmark.queries import QUERIES
from benchmarks.nexmark.verify import differences, verify

ORDERED = Settings()
MIXED = Settings(rate=10_000, group=1000)


@pytest.mark.parametrize("stream", [ORDERED, MIXED])
@pytest.mark.parametrize("make", [bids, auctions, persons])
def test_a_stream_does_not_depend_on_how_it_is_cut(make: Any, stream: Settings) -> None:
    whole = pa.Table.from_batches([make(0, 2500, settings=stream)])

    @settings(max_examples=20, deadline=None)
    @example([287])  # the first part's last event is as far from its first as if it were in order
    @given(hs.lists(hs.integers(0, 2500), max_size=5))
    def check(cuts: list[int]) -> None:
        edges = sorted({0, 2500, *cuts})
        parts = [make(a, b - a, settings=stream) for a, b in pairwise(edges)]
        assert pa.Table.from_batches(parts).equals(whole)

    check()
    column = whole.schema.names[-2]
    assert make(0, 2500, [column], settings=stream).schema.names == [column]


def test_kinds_come_in_the_known_proportions() -> None:
    sizes = [make(0, 100_000, settings=ORDERED).num_rows for make in (persons, auctions, bids)]
    assert sizes == [2000, 6000, 92_000]


def test_bids_have_hot_keys_and_log_uniform_prices() -> None:
    batch = bids(1_000_000, 100_000, settings=ORDERED)
    newest = FIRST_ID + (1_100_000 // 50)
    is_hot = batch["auction"].to_numpy() % 100 == 0
    assert 0.49 < is_hot.mean() < 0.53
    bidders = Counter(batch["bidder"].to_pylist())
    assert 0.74 < sum(n for _, n in bidders.most_common(21)) / batch.num_rows < 0.78
    assert max(bidders) <= newest + 10
    assert min(bidders) > FIRST_ID + 1_000_000 // 50 - 1000 - 100
    assert 100 <= pc.min(batch["price"]).as_py() < 110
    assert 9e7 < pc.max(batch["price"]).as_py() <= 10**8
    below_middle = pc.mean(pc.less(batch["price"], 100_000).cast("float64")).as_py()
    assert 0.49 < below_middle < 0.51
    hot_channels = pc.is_in(batch["channel"], pa.array(["Google", "Facebook", "Baidu", "Apple"]))
    assert 0.49 < pc.mean(hot_channels.cast("float64")).as_py() < 0.51
    assert 60 < pc.mean(pc.utf8_length(batch["extra"])).as_py() < 76


def test_auctions_refer_to_people_there_are() -> None:
    people, lots = persons(0, 50_000, settings=ORDERED), auctions(0, 50_000, settings=ORDERED)
    assert people["id"].to_pylist() == list(range(FIRST_ID, FIRST_ID + 1000))
    assert lots["id"].to_pylist() == list(range(FIRST_ID, FIRST_ID + 3000))
    known = pc.mean(pc.is_in(lots["seller"], people["id"]).cast("float64")).as_py()
    assert known > 0.99
    assert pc.all(pc.greater(lots["expires"], lots["date_time"])).as_py()
    assert set(lots["category"].to_pylist()) == {10, 11, 12, 13, 14}


def test_disorder_stays_within_its_bound() -> None:
    times = bids(0, 20_000, ["date_time"], settings=MIXED)["date_time"].cast(pa.int64())
    highest = -1
    lateness = 0
    for time in times.to_pylist():
        highest = max(highest, time)
        lateness = max(lateness, highest - time)
    assert 50 < lateness <= MIXED.disorder_ms


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="expected positive rate"):
        Settings(rate=0)
    with pytest.raises(ValueError, match="multiple of 953"):
        Settings(group=953)


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("stream", [ORDERED, MIXED])
def test_queries_equal_sql(name: str, stream: Settings) -> None:
    for parallelism in (1, 2):
        rows = verify(QUERIES[name], stream, 20_000, 3001, parallelism, inline=True)
        assert rows > 0


def test_differences_are_shown() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    assert differences(table, table.take([1, 0])) == ""
    assert "expected 1 rows" in differences(table, table.slice(1))
    assert "expected columns" in differences(table.select(["a"]), table)
    wrong = pa.table({"a": [1, 2], "b": ["x", "z"]})
    assert differences(wrong, table) == "column 'b': expected 'y', found 'z' (row 1)"
