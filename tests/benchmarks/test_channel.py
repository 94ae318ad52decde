"""The channel benchmark, with both members in one thread: it counts what it sends."""

from __future__ import annotations

import pytest

from benchmarks import channel


def test_throughput_is_positive_and_bytes_follow_rows() -> None:
    found = channel.throughput(rows=1000, seconds=0.02, inline=True)
    bytes_a_batch = found["gb_per_second"] * 1e9 / found["batches_per_second"]
    assert bytes_a_batch == pytest.approx(1000 * channel.COLUMNS * 8, rel=0.01)


def test_pipe_carries_the_same_bytes() -> None:
    found = channel.pipe_throughput(rows=1000, seconds=0.02)
    bytes_a_batch = found["gb_per_second"] * 1e9 / found["batches_per_second"]
    assert bytes_a_batch == pytest.approx(1000 * channel.COLUMNS * 8, rel=0.01)


def test_latencies_grow_with_the_percentile_and_include_the_schedule() -> None:
    found = channel.latency(rows=10, rate=2000, seconds=0.05, inline=True)
    for one in found.values():
        assert 0 < one["p50"] <= one["p95"] <= one["p99"] <= one["p99.9"]
    assert found["from schedule"]["p50"] >= found["one way"]["p50"]


def test_round_trips_are_all_counted() -> None:
    assert channel.round_trip(rows=10, count=50, inline=True)["p50"] > 0


@pytest.mark.usefixtures("leak_check")
def test_between_processes() -> None:
    arguments = ["--rows", "100", "--seconds", "0.05", "--trials", "1"]
    try:
        assert channel.main(arguments) == 0
    finally:
        import engine

        engine.shutdown()
