"""Whole topologies in one thread: random graphs, interleavings, cycles, errors, stalls, epochs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.exceptions import GetTimeoutError, TaskError
from engine.topology import (
    InlineHandle,
    Member,
    MemberContext,
    Topology,
    TopologyError,
    TopologyStalledError,
    broadcast,
    custom,
    forward,
    hashed,
    rebalance,
)
from engine.topology.snapshot import Snapshot
from tests.topology.members import HandClock, Numbers, Relay

ROWS = 40


def to_odd_receivers(value: Any, meta: Any, receivers: int) -> list[tuple[int, Any]]:
    """Custom: alternating by the item's number."""
    return [(meta % receivers, value)]


PARTITIONINGS = {
    "hashed": hashed("key"),
    "hashed two": hashed("id", "key"),
    "broadcast": broadcast(),
    "rebalance": rebalance(),
    "custom": custom(to_odd_receivers),
    "forward": forward(),
}


@st.composite
def graphs(draw: st.DrawFn) -> Topology:
    """A random acyclic topology of one or two sources and up to four relays."""
    made = Topology("random")
    names: list[str] = []
    parallelism: dict[str, int] = {}
    for number in range(draw(st.integers(1, 2))):
        name = f"source{number}"
        parallelism[name] = draw(st.integers(1, 3))
        batch_rows = draw(st.lists(st.integers(1, 17), min_size=1, max_size=3))
        made.member(name, Numbers, ROWS, batch_rows, number * 1000, parallelism=parallelism[name])
        names.append(name)
    for number in range(draw(st.integers(1, 4))):
        name = f"relay{number}"
        parallelism[name] = draw(st.integers(1, 3))
        made.member(name, Relay, draw(st.integers(1, 3)), parallelism=parallelism[name])
        senders = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        for sender in senders:
            kinds = sorted(PARTITIONINGS)
            if parallelism[sender] != parallelism[name]:
                kinds.remove("forward")
            made.channel(
                sender,
                name,
                PARTITIONINGS[draw(st.sampled_from(kinds))],
                capacity_rows=draw(st.sampled_from([1, 5, 30, 1000])),
                capacity_bytes=draw(st.sampled_from([1, 500, 1 << 20])),
            )
        names.append(name)
    return made


def expected_rows(made: Topology, emitted: dict[str, Counter[int]]) -> dict[str, Counter[int]]:
    """The oracle: how often each member, over all copies, gets each row."""
    got: dict[str, Counter[int]] = {}
    emitted = dict(emitted)
    for member in made.members:
        if member.name in emitted:
            continue
        rows: Counter[int] = Counter()
        for channel in made.channels:
            if channel.receiver is member:
                times = member.parallelism if channel.partitioning == broadcast() else 1
                for row, count in emitted[channel.sender.name].items():
                    rows[row] += count * times
        got[member.name] = emitted[member.name] = rows
    return got


def source_rows(made: Topology, positions: dict[str, list[int]]) -> dict[str, Counter[int]]:
    """What the sources have emitted at the given positions."""
    rows: dict[str, Counter[int]] = {}
    for member in made.members:
        if member.is_polled:
            rows[member.name] = Counter(
                member.args[2] + index * ROWS + row
                for index, position in enumerate(positions[member.name])
                for row in range(position)
            )
    return rows


def check_relays(made: Topology, states: dict[str, list[Any]], rows: dict[str, Any]) -> None:
    """Every row as often as the oracle says, items of each pair in order, equal keys together."""
    expected = expected_rows(made, rows)
    for name, wanted in expected.items():
        got: Counter[int] = Counter()
        for seen, _ in states[name]:
            for metas, ids in seen.values():
                assert metas == list(range(len(metas)))
                got.update(ids)
        assert got == wanted
    for channel in made.channels:
        if channel.partitioning == hashed("key"):
            owners: dict[int, int] = {}
            for index, (seen, _) in enumerate(states[channel.receiver.name]):
                for (port, _), (_, ids) in seen.items():
                    if port == channel.port:
                        for row in ids:
                            assert owners.setdefault(row % 7, index) == index


def check_waiting(handle: InlineHandle) -> None:
    """What waits for credit is at most what one call emitted: a relay's pieces but the first."""
    for loop in handle.loops:
        pieces = getattr(loop.member, "pieces", 1)
        for outlet in loop.outbox().outlets():
            assert len(outlet.waiting) <= pieces - 1 + 2 * loop.ended


FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.one_of(st.none(), st.integers(0, 1 << 30))


@given(graphs(), seeds)
@FAST
def test_random_graphs_deliver_every_row_once_and_in_order(
    made: Topology, seed: int | None
) -> None:
    handle = InlineHandle(made, seed=seed)
    while handle.run_turn():
        handle.check_credits()
        check_waiting(handle)
    results = handle.wait()
    check_relays(made, results, source_rows(made, results))
    for statistics in handle.statistics():
        assert statistics.queue_rows == 0
        if statistics.member.startswith("relay"):
            seen = results[statistics.member][statistics.index][0]
            assert statistics.rows_in == sum(len(ids) for _, ids in seen.values())
    assert not any(wire.frames for wire in handle._wires)


@given(graphs(), seeds, st.integers(0, 60))
@FAST
def test_a_checkpoint_is_a_consistent_cut_and_can_be_resumed(
    made: Topology, seed: int | None, turns: int
) -> None:
    handle = InlineHandle(made, seed=seed)
    for _ in range(turns):
        handle.run_turn()
    states = handle.snapshots()
    positions = {
        member.name: [ROWS if one.ended else one.state[0] for one in states[member.name]]
        for member in made.members
        if member.is_polled
    }
    relays = {name: [one.state for one in copies] for name, copies in states.items()}
    check_relays(made, relays, source_rows(made, positions))
    resumed = InlineHandle(made, seed=seed, restore=states).wait()
    check_relays(made, resumed, source_rows(made, resumed))
    assert {name: len(copies) for name, copies in handle.wait().items()} == {
        name: len(copies) for name, copies in resumed.items()
    }


def small(seed: int | None = None, **options: Any) -> InlineHandle:
    made = Topology("small")
    made.member("a", Numbers, 200, (1, 7), parallelism=2)
    made.member("b", Relay, 2, parallelism=2)
    made.channel("a", "b", hashed("id"), capacity_rows=10)
    return InlineHandle(made, seed=seed, **options)


def test_epochs_follow_one_another() -> None:
    handle = small(seed=5)
    previous = -1
    for _ in range(5):
        states = {
            name: [one.state for one in copies] for name, copies in handle.snapshots().items()
        }
        position = sum(position for position, _ in states["a"])
        check_relays(
            handle.topology,
            states,
            {"a": Counter(i * 200 + r for i, (p, _) in enumerate(states["a"]) for r in range(p))},
        )
        assert position >= previous
        previous = position
    handle.wait()


def test_a_restored_topology_must_have_the_same_members() -> None:
    states = small().snapshots()
    states["b"].pop()
    with pytest.raises(TopologyError, match="expected states of the members and copies"):
        small(restore=states)


def test_a_seed_is_one_run() -> None:
    def story(seed: int | None) -> list[Any]:
        handle = small(seed=seed, clock=HandClock())
        states = [handle.statistics()]
        while handle.run_turn():
            states.append(handle.statistics())
        return states

    assert story(3) == story(3)
    assert story(None) == story(None)
    assert story(3) != story(4)


# --- cycles ----------------------------------------------------------------------------------


class Superstep(Member):
    """Copies send each other `items` items a step, all to all, and start the next step together."""

    def __init__(self, steps: int, items: int) -> None:
        self.steps = steps
        self.items = items
        self.step = 0
        self.got = [0]
        self.done: Counter[int] = Counter()

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx
        self._begin()

    def _begin(self) -> None:
        for item in range(self.items):
            for receiver in range(self.ctx.parallelism):
                self.ctx.send("ring", receiver, item + 1, self.step)
        self.ctx.announce({"step": self.step})

    def poll(self) -> bool:
        return False

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if value is not None:
            while len(self.got) <= meta:
                self.got.append(0)
            self.got[meta] += value
            return
        self.done[meta["step"]] += 1
        if self.done[self.step] == self.ctx.parallelism:
            self.step += 1
            if self.step == self.steps:
                self.ctx.finish()
            else:
                self._begin()

    def close(self) -> list[int]:
        return self.got


@pytest.mark.parametrize("seed", [None, *range(10)])
@pytest.mark.parametrize("capacity", [1, 3, 1000])
def test_supersteps_on_a_channel_to_itself(seed: int | None, capacity: int) -> None:
    made = Topology("bsp")
    made.member("v", Superstep, 5, 9, parallelism=3)
    made.channel("v", "v", broadcast(), name="ring", capacity_rows=capacity)
    handle = InlineHandle(made, seed=seed)
    while handle.run_turn():
        handle.check_credits()
    assert handle.wait() == {"v": [[3 * 45] * 5] * 3}


class Countdown(Relay):
    """Sends each number back, one less, until it is 0."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        self.emitted += 1
        if value > 0:
            self.ctx.emit(value - 1)
        else:
            self.ctx.finish()

    def close(self) -> int:
        return self.emitted


class Start(Numbers):
    def poll(self) -> bool:
        self.ctx.emit(100)
        self.ctx.finish()
        return True


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_cycle_of_two_members_ends_after_finish(seed: int | None) -> None:
    made = Topology("ping-pong")
    made.member("start", Start, 1, (1,))
    made.member("ping", Countdown)
    made.member("pong", Countdown)
    made.channel("start", "ping", forward())
    made.channel("ping", "pong", forward(), capacity_rows=1)
    made.channel("pong", "ping", forward(), capacity_rows=1)
    handle = InlineHandle(made, seed=seed)
    with pytest.raises(TopologyError, match="a topology without cycles"):
        handle.snapshots()
    results = handle.wait()
    assert results["ping"][0] + results["pong"][0] == 101


# --- ends, errors, stalls, time --------------------------------------------------------------


class First(Relay):
    """Takes the first items and ends early."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        super().on_batch(port, value, meta, sender)
        self.ctx.finish()


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_receiver_that_ends_early_blocks_nobody(seed: int | None) -> None:
    made = Topology("early")
    made.member("a", Numbers, 500, (10,), parallelism=2)
    made.member("b", First)
    made.channel("a", "b", rebalance(), capacity_rows=5)
    handle = InlineHandle(made, seed=seed)
    results = handle.wait()
    assert results["a"] == [500, 500]
    assert sum(len(ids) for _, ids in results["b"][0][0].values()) == 10
    handle.check_credits()


class Strict(Relay):
    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if meta == 3:
            raise LookupError("item three")
        super().on_batch(port, value, meta, sender)


@pytest.mark.parametrize("seed", [None, 1])
def test_an_error_stops_everything_and_is_raised_as_both_classes(seed: int | None) -> None:
    made = Topology("broken")
    made.member("a", Numbers, 50, (1,))
    made.member("b", Strict, parallelism=2)
    made.channel("a", "b", custom(lambda value, meta, n: [(1, value)]))
    handle = InlineHandle(made, seed=seed)
    with pytest.raises(LookupError, match="item three") as caught:
        handle.wait()
    assert isinstance(caught.value, TaskError)
    assert "member 'b' copy" in str(caught.value)
    assert "on_batch()" in str(caught.value)
    with pytest.raises(TaskError):
        handle.wait()
    with pytest.raises(TaskError):
        handle.snapshots()
    with pytest.raises(TopologyError, match="expected checkpoints of"):
        handle.checkpoint()


class Unbuildable(Numbers):
    def __init__(self) -> None:
        raise OSError("no file")


def test_a_constructor_that_raises_is_a_task_error() -> None:
    made = Topology("broken")
    made.member("a", Unbuildable)
    with pytest.raises(OSError, match="no file") as caught:
        made.deploy(inline=True)
    assert "member 'a' copy 0, __init__()" in str(caught.value)


class Silent(Numbers):
    def poll(self) -> bool:
        return False


def test_a_stall_says_who_waits_for_what() -> None:
    made = Topology("stuck")
    made.member("a", Silent, 1, (1,))
    made.member("b", Relay, parallelism=2)
    made.channel("a", "b", rebalance(), port="in")
    with pytest.raises(TopologyStalledError) as caught:
        made.deploy(inline=True).wait()
    text = str(caught.value)
    assert "a[0] waits for a frame, because poll() returned False without wake_after()" in text
    assert "b[1] waits for input or the end from port 'in' copy 0" in text


def test_a_stalled_barrier_is_reported() -> None:
    made = Topology("stuck")
    made.member("a", Silent, 1, (1,))
    made.member("b", Relay)
    made.channel("a", "b", rebalance())
    handle = InlineHandle(made)
    assert handle.snapshots() == {"a": [Snapshot((0, 0), {})], "b": [Snapshot(({}, 0), {})]}
    with pytest.raises(TopologyStalledError):
        handle.wait()


class Ticking(Numbers):
    """One batch every two seconds."""

    def poll(self) -> bool:
        super().poll()
        self.ctx.wake_after(2.0)
        return False


def ticking(clock: HandClock) -> InlineHandle:
    made = Topology("ticking")
    made.member("a", Ticking, 5, (1,))
    made.member("b", Relay)
    made.channel("a", "b", forward())
    return InlineHandle(made, clock=clock, sleep=clock.sleep)


def test_sleep_takes_as_long_as_the_earliest_wake_up() -> None:
    clock = HandClock()
    results = ticking(clock).wait()
    assert clock.slept == [2.0] * 4
    assert results["a"] == [5]


def test_a_timeout_is_raised_and_the_topology_goes_on() -> None:
    clock = HandClock()
    handle = ticking(clock)
    with pytest.raises(GetTimeoutError, match="has not ended in time"):
        handle.wait(timeout=3.0)
    assert clock.now == 3.0
    assert handle.wait(timeout=100)["a"] == [5]
    assert clock.now == 8.0


class Endless(Numbers):
    def poll(self) -> bool:
        self.ctx.emit(1)
        return True


def test_a_busy_topology_times_out_too() -> None:
    made = Topology("endless")
    made.member("a", Endless, 1, (1,))
    ticks = iter(range(1000))
    handle = InlineHandle(made, clock=lambda: float(next(ticks)))
    with pytest.raises(GetTimeoutError):
        handle.wait(timeout=50)


def test_stop_is_idempotent_and_final() -> None:
    handle = small()
    handle.run_turn()
    handle.stop()
    handle.stop()
    with pytest.raises(TopologyError, match="topology 'small' to be running"):
        handle.wait()


def test_results_outlive_the_stop() -> None:
    with small() as handle:
        results = handle.wait()
    assert handle.wait() == results
    assert [statistics.member for statistics in handle.statistics()] == ["a", "a", "b", "b"]


def test_backpressure_shows_in_the_statistics() -> None:
    clock = HandClock()
    made = Topology("slow")

    class Slow(Relay):
        def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
            clock.now += 1.0

    made.member("a", Numbers, 50, (1,))
    made.member("b", Slow)
    made.channel("a", "b", forward(), capacity_rows=2)
    handle = InlineHandle(made, clock=clock, sleep=clock.sleep)
    handle.wait()
    source, slow = handle.statistics()
    assert source.backpressured > 0.9
    assert slow.busy == 1.0
    assert (source.rows_out, slow.rows_in, slow.batches_in) == (50, 50, 50)
