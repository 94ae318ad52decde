"""Sources and channels as members: watermarks on batches, idleness, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

import streaming as st
from streaming import member
from streaming.member import ChannelMember, SourceMember
from streaming.operator import Emitter, OperatorSpec
from streaming.operators.project import FilterOperator
from streaming.time import MAX_WATERMARK, EventTime

TIME = EventTime("ts", pa.int64(), out_of_orderness=2, idle_after_s=5.0)
EMIT = OperatorSpec("out", "send", partial(Emitter, "out"))


class Context:
    """What a member is given, with a record of what it did."""

    name, index, parallelism = "member", 0, 1
    outputs = {"out": 1}  # noqa: RUF012 (never changed)

    def __init__(self, inputs: dict[str, int] | None = None) -> None:
        self.inputs = inputs or {}
        self.counters: dict[str, int] = {}
        self.sent: list[tuple[list[int] | None, Any]] = []
        self.wakes: list[float] = []
        self.finished = False
        self.decided = False
        self.repeats = False

    def decide(self) -> bool:
        return not self.repeats or self.decided

    def emit(self, value: Any, meta: Any = None, *, channel: str | None = None) -> None:
        assert channel == "out"
        self.sent.append((None if value is None else value["ts"].to_pylist(), meta))

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + n

    def wake_after(self, seconds: float) -> None:
        self.wakes.append(seconds)

    def finish(self) -> None:
        self.finished = True


class Script(st.Source):
    """A source that plays a list of batches and pauses."""

    def __init__(self, steps: list[list[int | None] | float]) -> None:
        self._steps = steps

    def schema(self) -> pa.Schema:
        return pa.schema([("ts", pa.int64())])

    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> st.Reader:
        return _ScriptReader(self._steps)


class _ScriptReader(st.Reader):
    def __init__(self, steps: list[list[int | None] | float]) -> None:
        self._steps = steps
        self._next = 0

    def read(self) -> pa.RecordBatch | st.Pause | None:
        if self._next == len(self._steps):
            return None
        step = self._steps[self._next]
        self._next += 1
        if isinstance(step, float):
            return st.Pause(step)
        return pa.record_batch({"ts": pa.array(step, pa.int64())})

    def position(self) -> int:
        return self._next

    def seek(self, position: int) -> None:
        self._next = position


def source_member(
    steps: list[list[int | None] | float], specs: list[OperatorSpec] | None = None
) -> tuple[SourceMember, Context]:
    context = Context()
    made = SourceMember(Script(steps), None, None, TIME, specs or [EMIT], [0], True)
    made.open(context)  # type: ignore[arg-type]
    return made, context


def test_watermarks_ride_on_batches() -> None:
    made, context = source_member([[1, 9, 3], [4], [], [None, 12]])
    while not context.finished:
        made.poll()
    assert context.sent == [
        ([1, 9, 3], [7, 0]),
        ([4], [7, 0]),
        ([None, 12], [10, 0]),
        (None, [MAX_WATERMARK, 0]),
    ]
    assert context.counters == {"source_rows": 6, "watermark": 10}


def test_a_filter_that_drops_everything_still_lets_time_pass() -> None:
    never = pa.compute.scalar(False)
    specs = [OperatorSpec("none", "", partial(FilterOperator, never), {"main": [1]}), EMIT]
    made, context = source_member([[5], [5], [6]], specs)
    while not context.finished:
        made.poll()
    assert context.sent == [(None, [3, 0]), (None, [4, 0]), (None, [MAX_WATERMARK, 0])]


def test_a_silent_source_says_so_once_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(member.time, "monotonic", lambda: now[0])
    made, context = source_member([[5], 60.0, 60.0, 60.0, [6], 1.0])
    assert made.poll()
    assert not made.poll()
    assert context.wakes == [5.0]
    now[0] += 5.0
    made.poll()
    made.poll()
    assert context.wakes == [5.0, 60.0, 60.0]
    made.poll()
    made.poll()
    assert context.sent == [([5], [3, 0]), (None, [None, 0]), ([6], [4, 0])]
    assert context.wakes[-1] == 1.0


def channel_member(senders: int) -> tuple[ChannelMember, Context]:
    context = Context({"in": senders})
    made = ChannelMember([EMIT], [0], True)
    made.open(context)  # type: ignore[arg-type]
    return made, context


def rows(*ticks: int) -> pa.RecordBatch:
    return pa.record_batch({"ts": list(ticks)})


def test_a_receiver_takes_the_lowest_watermark_after_the_rows() -> None:
    made, context = channel_member(2)
    made.on_batch("in", rows(1), [10, 0], 0)
    made.on_batch("in", rows(2), [7, 1], 1)
    made.on_batch("in", None, [20, 0], 1)
    first = -(2**63)
    assert context.sent == [([1], [first, 0]), ([2], [7, 1]), (None, [10, 0])]


def test_a_copy_that_comes_back_is_idle_where_it_was() -> None:
    made, context = source_member([[1], [9]])
    context.decided = context.repeats = True
    assert made.poll()
    assert context.sent == [(None, [None, 0])]
    context.decided = False
    made.poll()
    assert context.sent[1][0] == [1]


def test_a_receiver_is_idle_when_all_senders_are() -> None:
    made, context = channel_member(2)
    made.on_batch("in", rows(1), [10, 0], 0)
    made.on_batch("in", None, [None, 0], 1)
    assert context.sent[1:] == [(None, [10, 0])]
    made.on_batch("in", None, [None, 0], 0)
    assert context.sent[2:] == [(None, [None, 0])]


def test_snapshots_bring_a_member_back() -> None:
    made, _ = source_member([[1], [9], [4]])
    made.poll()
    made.poll()
    again, context = source_member([[1], [9], [4]])
    again.restore(made.snapshot())
    again.poll()
    again.poll()
    assert context.sent[0][0] == [4]
    assert context.finished
    left, _ = channel_member(2)
    left.on_batch("in", None, [10, 0], 0)
    right, context = channel_member(2)
    right.restore(left.snapshot())
    right.on_batch("in", None, [12, 0], 1)
    assert context.sent == [(None, [10, 0])]
