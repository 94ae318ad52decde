"""One loop, driven frame by frame: what it does, what it sends, and when it refuses to work."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core.credits import CreditError
from engine.topology import Member, Topology, broadcast, forward, rebalance
from engine.topology.errors import MemberError, ProtocolError, TopologyError
from engine.topology.frames import Credit, Data, End, Frame, Marker, Trigger
from engine.topology.loop import MemberLoop
from engine.topology.plan import construct, plan_topology
from engine.topology.snapshot import Snapshot
from tests.topology.members import HandClock, Numbers, Relay, batch_of, ids_of


class Sent:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.log: list[tuple[int, Frame, Any]] = []

    def send(self, copy: int, frame: Frame, value: Any) -> None:
        self.log.append((copy, frame, value))

    def take(self) -> list[tuple[int, Frame, Any]]:
        log, self.log = self.log, []
        return log


def middle(pieces: int = 1, capacity_rows: int = 4) -> tuple[MemberLoop, Sent, HandClock]:
    """The relay (copy 2) between two senders (copies 0, 1) and two receivers (copies 3, 4)."""
    made = Topology("t")
    made.member("a", Numbers, 10, (1,), parallelism=2)
    made.member("b", Relay, pieces)
    made.member("c", Relay, parallelism=2)
    made.channel("a", "b", broadcast(), capacity_rows=100)
    made.channel("b", "c", broadcast(), capacity_rows=capacity_rows)
    plan = plan_topology(made)[2]
    sent, clock = Sent(), HandClock()
    return MemberLoop(plan, construct(plan), sent, clock), sent, clock


def data(sender: int, seq: int, rows: int, epoch: int = 0, meta: Any = None) -> Data:
    batch = batch_of(range(rows))
    return Data(0, sender, seq, rows, batch.nbytes, epoch, meta, batch)


def run(loop: MemberLoop) -> int:
    steps = 0
    while loop.step():
        steps += 1
    return steps


def test_an_item_goes_in_and_its_parts_go_out_numbered() -> None:
    loop, sent, _ = middle()
    assert loop.step()  # open
    assert not loop.step()
    loop.receive(data(0, 0, 3))
    loop.receive(data(0, 1, 1))
    assert run(loop) == 2
    frames = [(copy, frame.seq) for copy, frame, _ in sent.take() if isinstance(frame, Data)]
    assert frames == [(3, 0), (4, 0), (3, 1), (4, 1)]


def test_an_open_channel_takes_one_item_too_many_and_the_rest_waits() -> None:
    loop, sent, _ = middle(pieces=5)
    loop.receive(data(0, 0, 10))  # leaves as 5 items of 2 rows; the capacity is 4 rows
    run(loop)
    assert [(copy, ids_of(value)) for copy, _, value in sent.take()] == [
        (3, [0, 1]),
        (4, [0, 1]),
        (3, [2, 3]),
        (4, [2, 3]),
    ]
    assert not loop.context.can_emit()
    assert loop.outbox().waiting_count() == 6
    assert "waits for credit on channel 'c' to copy 0" in loop.describe()

    loop.receive(data(1, 0, 1))
    assert not loop.step(), "no input without credit"
    loop.receive(Credit(1, 0, 4, 64))
    assert [(copy, ids_of(value)) for copy, _, value in sent.take()] == [(3, [4, 5]), (3, [6, 7])]
    assert not loop.step(), "one of the two receivers still lacks credit"
    for receiver, rows in ((0, 4), (1, 4), (1, 4)):
        loop.receive(Credit(1, receiver, rows, rows * 16))
    assert loop.context.can_emit()
    assert [ids_of(value) for copy, _, value in sent.take() if copy == 4] == [
        [4, 5],
        [6, 7],
        [8, 9],
    ]
    assert loop.step()


def test_around_a_cycle_input_is_taken_without_credit_there_but_not_elsewhere() -> None:
    made = Topology("t")
    made.member("a", Numbers, 1, (1,))
    made.member("b", Relay)
    made.member("c", Relay)
    made.channel("a", "b", forward(), capacity_rows=100)
    made.channel("b", "b", forward(), capacity_rows=2)
    made.channel("b", "c", forward(), capacity_rows=4)
    plan = plan_topology(made)[1]
    loop = MemberLoop(plan, construct(plan), Sent(), HandClock())

    loop.receive(data(0, 0, 4))
    assert run(loop) == 2  # open, and the item: it went around, and on to c
    assert loop.outbox().closed_count == 2
    assert loop.outbox().closed_feedback_count == 1
    loop.receive(Data(1, 0, 0, 2, 32, 0, None, batch_of(range(2))))
    assert run(loop) == 0, "no credit to c, which is not on the cycle"
    loop.receive(Credit(2, 0, 4, 64))
    assert loop.outbox().closed_count == loop.outbox().closed_feedback_count == 1
    loop.receive(data(0, 1, 1))
    assert run(loop) == 1, "only the item from the cycle"
    assert loop.statistics().queue_rows == 1


class Ports(Member):
    """Notes by which port each item came."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        self.order.append(port)


def test_neither_the_cycle_nor_the_outside_starves() -> None:
    made = Topology("t")
    made.member("out", Numbers, 1, (1,))
    made.member("b", Ports)
    made.channel("out", "b", forward())
    made.channel("b", "b", forward(), port="around")
    plan = plan_topology(made)[1]
    member = Ports()
    loop = MemberLoop(plan, member, Sent(), HandClock())
    for seq in range(4):
        loop.receive(data(0, seq, 1))
        loop.receive(Data(1, 0, seq, 1, 16, 0, None, batch_of([1])))
    run(loop)
    assert sorted(member.order) == ["around"] * 4 + ["out"] * 4
    assert len(set(member.order[:2])) == len(set(member.order[2:4])) == 2


def test_an_item_larger_than_the_capacity_passes() -> None:
    loop, sent, _ = middle()
    loop.receive(data(0, 0, 50))
    run(loop)
    assert [value.num_rows for _, frame, value in sent.take() if isinstance(frame, Data)] == [
        50
    ] * 2


def test_metas_and_ends_use_no_credit_but_keep_their_place() -> None:
    loop, sent, _ = middle(pieces=5)
    loop.receive(data(0, 0, 10))
    run(loop)
    sent.take()
    loop.context.announce("late")
    assert sent.take() == [], "behind what waits"
    loop.context.finish()
    loop.receive(Credit(1, 0, 4, 64))
    loop.receive(Credit(1, 0, 4, 64))
    first = [(frame, value) for copy, frame, value in sent.take() if copy == 3]
    assert [getattr(frame, "meta", None) for frame, _ in first] == [2, 3, 4, "late"]
    assert first[-1][1] is None

    free, sent, _ = middle()
    free.receive(data(0, 0, 4))
    run(free)
    assert not free.context.can_emit()
    sent.take()
    free.context.announce("w")
    assert [frame.meta for _, frame, _ in sent.take() if isinstance(frame, Data)] == ["w", "w"]


def test_credit_comes_back_in_chunks_and_not_before_the_item_is_done() -> None:
    loop, sent, _ = middle(capacity_rows=1000)
    for seq in range(30):
        loop.receive(data(0, seq, 1))
    assert not [frame for _, frame, _ in sent.take() if isinstance(frame, Credit)]
    run(loop)
    assert [(c, f.rows) for c, f, _ in sent.take() if isinstance(f, Credit)] == [(0, 25)]


@pytest.mark.parametrize("frame", [data(0, 1, 1), End(0, 0, 2), Marker(0, 0, 5, 1)])
def test_a_lost_frame_is_noticed(frame: Frame) -> None:
    loop, _, _ = middle()
    with pytest.raises(ProtocolError, match=r"copy 0, port 'a' copy 0: expected seq 0"):
        loop.receive(frame)


def test_nothing_may_follow_an_end_nor_come_from_another_epoch() -> None:
    loop, _, _ = middle()
    loop.receive(End(0, 0, 0))
    with pytest.raises(ProtocolError, match="expected nothing after the end"):
        loop.receive(data(0, 1, 1))
    loop.receive(data(1, 0, 1, epoch=3))
    with pytest.raises(ProtocolError, match="seq 1 in epoch 0, found Data"):
        run(loop)


def test_too_much_credit_is_refused() -> None:
    loop, _, _ = middle()
    with pytest.raises(CreditError, match="in flight were only 0 rows"):
        loop.receive(Credit(1, 0, 1, 1))


def test_the_member_ends_when_all_senders_have_ended() -> None:
    loop, sent, _ = middle()
    loop.receive(End(0, 0, 0))
    run(loop)
    assert not loop.ended
    loop.receive(data(1, 0, 2, meta="m"))
    loop.receive(End(0, 1, 1))
    run(loop)
    assert loop.ended
    assert loop.drained
    assert loop.result == ({("a", 1): (["m"], [0, 1])}, 1)
    assert [type(frame) for _, frame, _ in sent.take()] == [Data, Data, End, End]
    assert not loop.step()


def test_an_ended_copy_throws_away_and_returns_credit_until_its_senders_end() -> None:
    loop, sent, _ = middle()
    loop.receive(data(0, 0, 60))
    loop.context.finish()
    run(loop)
    assert loop.ended
    assert not loop.drained
    loop.receive(data(1, 0, 60))
    credits = [(c, f.rows) for c, f, _ in sent.take() if isinstance(f, Credit)]
    assert credits == [(0, 60), (1, 60)]
    assert "has ended and waits for input or the end from port 'a' copy 0" in loop.describe()
    loop.receive(End(0, 0, 1))
    loop.receive(End(0, 1, 1))
    assert loop.drained
    assert loop.describe() == "b[0] has ended"


class Failing(Member):
    def __init__(self, hook: str) -> None:
        self.hook = hook

    def _maybe(self, hook: str) -> None:
        if hook == self.hook:
            raise ZeroDivisionError(hook)

    def open(self, ctx: Any) -> None:
        self._maybe("open")

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        self._maybe("on_batch")

    def on_end(self, port: str) -> None:
        self._maybe("on_end")

    def on_all_ended(self) -> None:
        self._maybe("on_all_ended")

    def snapshot(self) -> Any:
        self._maybe("snapshot")

    def restore(self, state: Any) -> None:
        self._maybe("restore")

    def close(self) -> None:
        self._maybe("close")


@pytest.mark.parametrize(
    "hook", ["open", "restore", "on_batch", "snapshot", "on_end", "on_all_ended", "close"]
)
def test_an_error_names_member_copy_and_hook_and_sends_no_end(hook: str) -> None:
    made = Topology("t")
    made.member("a", Numbers, 1, (1,))
    made.member("b", Failing, hook)
    made.member("c", Relay)
    made.channel("a", "b", forward())
    made.channel("b", "c", forward())
    plan = plan_topology(made)[1]
    sent = Sent()
    loop = MemberLoop(plan, construct(plan), sent, HandClock(), restore=Snapshot(1, {}))
    for frame in (data(0, 0, 1), Marker(0, 0, 1, 1), End(0, 0, 2)):
        loop.receive(frame)
    with pytest.raises(MemberError, match=rf"member 'b' copy 0 failed in {hook}\(\)") as caught:
        run(loop)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not [frame for _, frame, _ in sent.log if isinstance(frame, End)]
    with pytest.raises(TopologyError, match="no step after the failure"):
        loop.step()


def test_items_behind_a_marker_are_held_until_all_markers_are_there() -> None:
    loop, sent, _ = middle(capacity_rows=1000)
    snapshots: list[tuple[int, Any]] = []
    loop._on_snapshot = lambda epoch, found, handed: snapshots.append((epoch, found.state))
    loop.receive(data(0, 0, 1, meta="old"))
    loop.receive(Marker(0, 0, 1, 1))
    loop.receive(data(0, 2, 1, epoch=1, meta="new"))
    loop.receive(Marker(0, 0, 3, 2))
    loop.receive(data(0, 4, 1, epoch=2, meta="newest"))
    loop.receive(data(1, 0, 1, meta="old"))
    run(loop)
    assert snapshots == []
    assert "the marker of epoch 1 from port 'a' copy 1" in loop.describe()
    assert loop.statistics().queue_rows == 2
    loop.receive(Marker(0, 1, 1, 1))
    run(loop)
    ((epoch, (seen, emitted)),) = snapshots
    assert (epoch, emitted) == (1, 2)
    assert [metas for metas, _ in seen.values()] == [["old"], ["old"]]
    loop.receive(End(0, 1, 2))  # an end stands for all markers to come
    run(loop)
    assert [epoch for epoch, _ in snapshots] == [1, 2]
    to_first = [frame for copy, frame, _ in sent.take() if copy == 3]
    assert [(type(f), f.epoch) for f in to_first if not isinstance(f, End | Credit | Trigger)] == [
        (Data, 0),
        (Data, 0),
        (Marker, 1),
        (Data, 1),
        (Marker, 2),
        (Data, 2),
    ]


def test_triggers_are_for_copies_without_inputs_only() -> None:
    loop, _, _ = middle()
    loop.receive(Trigger(1))
    with pytest.raises(ProtocolError, match="a trigger of an epoch > 0 at a copy without inputs"):
        run(loop)


class Sleeper(Member):
    def open(self, ctx: Any) -> None:
        self.ctx = ctx
        self.polls = 0

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        self.ctx.wake_after(2.0)

    def poll(self) -> bool:
        self.polls += 1
        if self.polls == 2:
            self.ctx.wake_after(5.0)
        return self.polls == 1


def sleeper() -> tuple[MemberLoop, Sleeper, HandClock]:
    made = Topology("t")
    made.member("a", Numbers, 1, (1,))
    made.member("b", Sleeper)
    made.channel("a", "b", rebalance())
    plan = plan_topology(made)[1]
    clock = HandClock()
    member = Sleeper()
    return MemberLoop(plan, member, Sent(), clock), member, clock


def test_a_polled_member_sleeps_until_its_time_or_a_frame() -> None:
    loop, member, clock = sleeper()
    run(loop)
    assert (member.polls, loop.next_wake()) == (2, 5.0)
    clock.now = 4.9
    assert not loop.step()
    assert member.polls == 2
    clock.now = 5.0
    loop.step()
    assert (member.polls, loop.next_wake()) == (3, None)
    loop.step()
    assert member.polls == 3
    loop.receive(data(0, 0, 1))
    run(loop)
    assert (member.polls, loop.next_wake()) == (4, None)


def test_inputs_come_before_polls() -> None:
    loop, member, _ = sleeper()
    loop.step()
    loop.receive(data(0, 0, 1))
    loop.step()
    assert member.polls == 0
    assert loop.next_wake() == 2.0


def test_time_is_divided_by_what_the_loop_could_do() -> None:
    loop, _, clock = middle()
    run(loop)
    clock.now = 1.0  # idle
    loop.receive(data(0, 0, 10))
    assert loop.step()
    clock.now = 2.0  # busy: the edge is about to step again
    assert not loop.step()
    clock.now = 4.0  # backpressured
    shares = loop.statistics()
    assert (shares.idle, shares.busy, shares.backpressured) == (0.25, 0.25, 0.5)
    assert (shares.rows_in, shares.rows_out, shares.batches_in, shares.batches_out) == (
        10,
        20,
        1,
        2,
    )
    assert (shares.bytes_in, shares.bytes_out) == (160, 320)
