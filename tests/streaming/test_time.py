"""Durations, event-time columns and the merging of watermarks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from streaming.time import (
    MAX_WATERMARK,
    MIN_WATERMARK,
    EventTime,
    WatermarkMerge,
    duration_ns,
    format_duration,
)


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        ("4s", 4 * 10**9),
        ("10ms", 10**7),
        ("1m", 60 * 10**9),
        ("1min", 60 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("1d 2h", 26 * 3600 * 10**9),
        ("0.5s", 5 * 10**8),
        ("250us", 250_000),
        ("7ns", 7),
        ("-2h", -7200 * 10**9),
        (" 10 S ", 10**10),
        (1500, 1500 * 10**6),
        (-1, -(10**6)),
        (timedelta(days=-1, microseconds=1), -86_400 * 10**9 + 1000),
    ],
)
def test_durations(value: Any, ns: int) -> None:
    assert duration_ns(value) == ns


@pytest.mark.parametrize("value", ["", "s", "10", "10x", "1s2", "1,5s", "0.1ns", "s10"])
def test_unreadable_durations(value: str) -> None:
    with pytest.raises(ValueError, match="lateness: "):
        duration_ns(value, "lateness")


@pytest.mark.parametrize("value", [1.5, None, True, b"1s"])
def test_durations_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a timedelta"):
        duration_ns(value)


@given(hs.integers(0, 10**18))
def test_formatted_durations_read_back(ns: int) -> None:
    assert duration_ns(format_duration(ns)) == ns


def test_ticks_are_exact_or_refused() -> None:
    assert EventTime.ticks_in(2 * 10**9, pa.timestamp("s"), "size") == 2
    assert EventTime.ticks_in(2 * 10**9, pa.timestamp("ns"), "size") == 2 * 10**9
    with pytest.raises(ValueError, match=r"size: 500ms is finer than .* timestamp\[s\]"):
        EventTime.ticks_in(5 * 10**8, pa.timestamp("s"), "size")
    with pytest.raises(TypeError, match="found double"):
        EventTime.ticks_in(1, pa.float64(), "size")


def test_event_times_of_rows() -> None:
    time = EventTime("t", pa.timestamp("us"), shift=-1)
    batch = pa.record_batch({"t": pa.array([5, None, 9], pa.timestamp("us"))})
    assert time.highest(batch) == 8
    assert time.ticks(batch.slice(2)).tolist() == [8]
    with pytest.raises(ValueError, match=r"is null in the row \{'t': None\}"):
        time.ticks(batch)
    assert time.highest(batch.slice(1, 1)) is None


Sender = tuple[str, int]
SENDERS: list[Sender] = [("a", 0), ("a", 1), ("b", 0)]


def test_the_slowest_sender_decides_and_everyone_counts_from_the_start() -> None:
    merge = WatermarkMerge(len(SENDERS))
    assert not merge.update(("a", 0), 10)
    assert not merge.update(("a", 1), 20)
    assert merge.current == MIN_WATERMARK
    assert merge.update(("b", 0), 5)
    assert merge.current == 5
    assert not merge.update(("b", 0), 4)
    assert merge.update(("b", 0), MAX_WATERMARK)
    assert merge.current == 10


def test_idle_senders_are_left_out_until_they_speak() -> None:
    merge = WatermarkMerge(len(SENDERS))
    merge.update(("a", 0), 10)
    merge.update(("a", 1), 7)
    assert merge.idle(("b", 0))
    assert merge.current == 7
    assert not merge.update(("b", 0), 3)
    assert not merge.update(("a", 1), 12)
    assert merge.current == 7
    assert merge.update(("b", 0), 8)
    assert merge.current == 8


@given(hs.permutations(SENDERS))
def test_when_all_are_idle_the_highest_mark_holds_in_any_order(order: list[Sender]) -> None:
    merge = WatermarkMerge(len(SENDERS))
    for position, sender in enumerate(SENDERS):
        merge.update(sender, 10 * position)
    for sender in order:
        merge.idle(sender)
    assert merge.all_idle
    assert merge.current == 20


@given(hs.lists(hs.tuples(hs.sampled_from(SENDERS), hs.one_of(hs.none(), hs.integers(-50, 50)))))
def test_the_watermark_never_falls_and_survives_a_snapshot(
    steps: list[tuple[Sender, int | None]],
) -> None:
    merge = WatermarkMerge(len(SENDERS))
    for sender, mark in steps:
        before = merge.current
        risen = merge.idle(sender) if mark is None else merge.update(sender, mark)
        assert merge.current >= before
        assert risen == (merge.current > before)
    copy = WatermarkMerge(len(SENDERS))
    copy.restore(merge.snapshot())
    assert (copy.current, copy.all_idle) == (merge.current, merge.all_idle)
    for sender in SENDERS:
        assert copy.update(sender, 60) == merge.update(sender, 60)
        assert copy.current == merge.current
