"""The stopwatch: shares of time, read from a hand-driven clock."""

from __future__ import annotations

import dataclasses

import pytest

from engine.topology.statistics import BACKPRESSURED, BUSY, IDLE, MemberStatistics, Stopwatch
from tests.topology.members import HandClock


def test_shares_follow_the_modes() -> None:
    clock = HandClock()
    watch = Stopwatch(clock)
    assert watch.shares() == (0.0, 0.0, 0.0)
    for mode, seconds in ((BUSY, 1.0), (BUSY, 1.0), (BACKPRESSURED, 5.0), (IDLE, 3.0)):
        watch.switch(mode)
        clock.now += seconds
    assert watch.shares() == (0.2, 0.3, 0.5)


def test_statistics_are_frozen_and_readable() -> None:
    statistics = MemberStatistics("m", 1, 10, 20, 1, 2, 80, 160, 0.5, 0.25, 0.25, {"late": 3}, 7)
    assert repr(statistics) == (
        "<m[1] in 10 rows/1 batches, out 20 rows/2 batches, queued 7 rows, "
        "busy 50% idle 25% backpressured 25%, late=3>"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        statistics.rows_in = 1  # type: ignore[misc]
