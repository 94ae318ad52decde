"""The buckets of delta-stepping against lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from graph import compiled
from graph.buckets import Buckets

COUNT = 5


class BucketMachine(RuleBasedStateMachine):
    """Puts, reads and removals around the circle; the pool begins with room for two."""

    def __init__(self) -> None:
        super().__init__()
        self.buckets = Buckets(compiled.kernels("sssp", True), COUNT, entries=2)
        self.model: dict[int, list[int]] = {}
        self.lowest = 0
        self.entries = 0

    @rule(ahead=st.integers(0, COUNT - 1), vertex=st.integers(0, 2**32 - 2))
    def put(self, ahead: int, vertex: int) -> None:
        if self.entries == self.buckets.pool[2].size:
            self.buckets.grow()
        self.buckets.put(self.lowest + ahead, vertex)
        self.model.setdefault(self.lowest + ahead, []).insert(0, vertex)
        self.entries += 1

    @rule(room=st.integers(0, 6))
    def read(self, room: int) -> None:
        want = self.model.get(self.lowest, [])[:room]
        queue = np.empty(room, np.uint32)
        assert self.buckets.read(self.lowest, queue) == len(want)
        assert queue[: len(want)].tolist() == want

    @rule(share=st.floats(0, 1))
    def remove(self, share: float) -> None:
        row = self.model.get(self.lowest, [])
        count = int(share * len(row))
        self.buckets.remove(self.lowest, count)
        del row[:count]
        self.entries -= count

    @precondition(lambda self: not self.model.get(self.lowest))
    @rule()
    def go_on(self) -> None:
        filled = [bucket for bucket, row in self.model.items() if row]
        assert self.buckets.lowest(self.lowest) == min(filled, default=-1)
        self.lowest = min(filled, default=self.lowest)


@pytest.mark.skipif(not compiled.AVAILABLE, reason="numba is not installed")
class TestBuckets(BucketMachine.TestCase):  # type: ignore[name-defined,misc]
    """Runs the machine."""

    settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
