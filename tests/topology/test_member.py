"""What a member may do through its context, and how wrong use is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.exceptions import TaskError
from engine.topology import (
    Member,
    MemberContext,
    Topology,
    TopologyError,
    broadcast,
    custom,
    forward,
    hashed,
    rebalance,
)

Action = Callable[[MemberContext], Any]


class Acting(Member):
    """A source that does one thing and ends."""

    def __init__(self, action: Action) -> None:
        self.action = action

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def poll(self) -> bool:
        self.action(self.ctx)
        self.ctx.finish()
        return True


class Listening(Member):
    """Its result is what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any, Any, int]] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        shown = value.column(0).to_pylist() if isinstance(value, pa.RecordBatch) else value
        self.got.append((port, shown, meta, sender))

    def close(self) -> Any:
        return self.got


def outcome(action: Action, **channels: Any) -> dict[str, list[Any]]:
    """Results of three listeners per channel, after one source copy acted."""
    made = Topology("t")
    made.member("source", Acting, action, parallelism=1)
    for name, partitioning in channels.items():
        made.member(name, Listening, parallelism=3)
        made.channel("source", name, partitioning)
    return made.deploy(inline=True).wait()


def test_the_context_knows_its_place() -> None:
    seen: list[Any] = []

    def look(ctx: MemberContext) -> None:
        seen.append((ctx.name, ctx.index, ctx.parallelism, dict(ctx.inputs), dict(ctx.outputs)))

    class Looking(Listening):
        def open(self, ctx: MemberContext) -> None:
            look(ctx)

    made = Topology("t")
    made.member("source", Acting, look, parallelism=2)
    made.member("sink", Looking, parallelism=2)
    made.channel("source", "sink", broadcast(), name="all", port="in")
    made.channel("source", "sink", forward(), name="own", port="mine")
    made.deploy(inline=True).wait()
    outputs = {"all": 2, "own": 1}
    assert ("sink", 0, 2, {"in": 2, "mine": 1}, {}) in seen
    assert ("source", 1, 2, {}, outputs) in seen


def test_emit_goes_to_all_channels_or_to_one() -> None:
    def act(ctx: MemberContext) -> None:
        ctx.emit("everywhere")
        ctx.emit("here", 7, channel="left")

    results = outcome(act, left=broadcast(), right=broadcast())
    assert results["left"] == [
        [("source", "everywhere", None, 0), ("source", "here", 7, 0)] for _ in range(3)
    ]
    assert results["right"] == [[("source", "everywhere", None, 0)]] * 3


@pytest.mark.parametrize(
    "partitioning", [hashed("k"), rebalance(), custom(lambda v, m, n: [(1, v)]), broadcast()]
)
def test_meta_reaches_every_receiver_once(partitioning: Any) -> None:
    batch = pa.record_batch({"k": np.zeros(10, dtype=np.int64)})
    (results,) = (outcome(lambda ctx: ctx.emit(batch, "m"), sink=partitioning)["sink"],)
    assert [[meta for _, _, meta, _ in got] for got in results] == [["m"]] * 3
    served = [value for got in results for _, value, _, _ in got if value is not None]
    assert len(served) == (3 if partitioning == broadcast() else 1)


def test_without_meta_only_those_with_rows_hear() -> None:
    batch = pa.record_batch({"k": np.zeros(10, dtype=np.int64)})
    results = outcome(lambda ctx: ctx.emit(batch), sink=hashed("k"))["sink"]
    assert sorted(len(got) for got in results) == [0, 0, 1]


def test_a_meta_alone_and_an_announcement_reach_everybody() -> None:
    def act(ctx: MemberContext) -> None:
        ctx.emit(None, "meta")
        ctx.announce({"w": 1})

    results = outcome(act, sink=rebalance())["sink"]
    assert results == [[("source", None, "meta", 0), ("source", None, {"w": 1}, 0)]] * 3


def test_send_names_the_receiver() -> None:
    results = outcome(lambda ctx: ctx.send("sink", 2, "v", "m"), sink=rebalance())["sink"]
    assert results == [[], [], [("source", "v", "m", 0)]]


WRONG: list[tuple[Action, str]] = [
    (lambda ctx: ctx.emit(None), "a value or a meta to emit"),
    (lambda ctx: ctx.emit(1, channel="no"), r"found 'no'; its channels are \['sink'\]"),
    (lambda ctx: ctx.send("no", 0, 1), "an outgoing channel of member 'source'"),
    (lambda ctx: ctx.send("sink", 3, 1), r"one of the receivers \[0, 1, 2\] of channel 'sink'"),
    (lambda ctx: ctx.send("sink", -1, 1), "one of the receivers"),
    (lambda ctx: ctx.announce(None), "a meta to announce"),
    (lambda ctx: ctx.wake_after(-1), "expected seconds >= 0"),
    (lambda ctx: ctx.wake_after(float("nan")), "expected seconds >= 0"),
]


@pytest.mark.parametrize(("action", "message"), WRONG, ids=[m[:30] for _, m in WRONG])
def test_wrong_use_is_explained(action: Action, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        outcome(action, sink=rebalance())
    assert isinstance(caught.value.cause, TopologyError)


class Talkative(Listening):
    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def close(self) -> Any:
        self.ctx.emit("too late")


def test_nothing_is_emitted_in_close() -> None:
    made = Topology("t")
    made.member("source", Acting, lambda ctx: None)
    made.member("late", Talkative)
    made.member("sink", Listening)
    made.channel("source", "late", forward())
    made.channel("late", "sink", forward())
    with pytest.raises(TaskError, match=r"member 'late' copy 0, close\(\).*(.|\n)*before it ends"):
        made.deploy(inline=True).wait()


class Waking(Listening):
    def open(self, ctx: MemberContext) -> None:
        ctx.wake_after(1)


def test_only_a_polled_member_can_be_woken() -> None:
    made = Topology("t")
    made.member("source", Acting, lambda ctx: None)
    made.member("sink", Waking)
    made.channel("source", "sink", forward())
    with pytest.raises(TaskError, match=r"expected a poll\(\) in member 'sink'"):
        made.deploy(inline=True).wait()


def test_counters_add_up_in_the_statistics() -> None:
    def act(ctx: MemberContext) -> None:
        ctx.count("late")
        ctx.count("late", 4)
        ctx.count("dropped", 0)

    made = Topology("t")
    made.member("source", Acting, act)
    handle = made.deploy(inline=True)
    handle.wait()
    (statistics,) = handle.statistics()
    assert statistics.counters == {"late": 5, "dropped": 0}
    assert ", dropped=0, late=5>" in repr(statistics)
