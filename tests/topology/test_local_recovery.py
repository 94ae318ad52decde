"""One copy dies and comes back alone, inline: nobody else goes back, and nothing is different."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.topology import (
    Checkpoints,
    InlineHandle,
    Member,
    MemberContext,
    Topology,
    broadcast,
    hashed,
    rebalance,
)
from engine.topology.outbox import Outbox
from engine.topology.plan import plan_topology
from tests.topology.members import HandClock, Numbers, batch_of, ids_of
from tests.topology.test_loop import Sent
from tests.topology.test_recovery import OUTPUT, Output, Parts

ROWS = 60
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 1000)]


class Trail(Member):
    """Passes on what it gets, with a number that depends on all it has got, in order.

    Receivers note the numbers: whoever came back and did things in another order is found out.
    """

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx
        self.heard: dict[tuple[str, int], list[int]] = {}
        self.told: list[int] = []
        self.rows: list[int] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if isinstance(meta, list):
            self.heard.setdefault((port, sender), []).append(meta[0])
        if value is not None:
            self.rows += ids_of(value)
            self.ctx.count("rows", value.num_rows)
        self.say(value)

    def on_end(self, port: str) -> None:
        self.say(None)

    def say(self, value: Any) -> None:
        self.told.append(hash((tuple(self.rows), len(self.told))))
        self.ctx.emit(value, [self.told[-1]])

    def snapshot(self) -> Any:
        heard = {key: list(trail) for key, trail in self.heard.items()}
        return heard, list(self.told), list(self.rows)

    def restore(self, state: Any) -> None:
        self.heard, self.told, self.rows = state
        self.heard = {key: list(trail) for key, trail in self.heard.items()}
        self.told, self.rows = list(self.told), list(self.rows)

    def close(self) -> Any:
        return self.snapshot()


class Batching(Trail):
    """Sends what has gathered when it is polled, which is at some time or other."""

    def open(self, ctx: MemberContext) -> None:
        super().open(ctx)
        self.gathered: list[Any] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if isinstance(meta, list):
            self.heard.setdefault((port, sender), []).append(meta[0])
        if value is not None:
            self.rows += ids_of(value)
            self.gathered.append(value)

    def poll(self) -> bool:
        self.flush()
        return False

    def on_all_ended(self) -> None:
        self.flush()

    def flush(self) -> None:
        for value in self.gathered:
            self.say(value)
        self.gathered = []

    def snapshot(self) -> Any:
        return super().snapshot(), list(self.gathered)

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.gathered = list(state[1])

    def close(self) -> Any:
        return super().snapshot()


class Trails(Parts):
    """A sink that notes the numbers too."""

    def open(self, ctx: MemberContext) -> None:
        super().open(ctx)
        self.heard: dict[tuple[str, int], list[int]] = {}

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        super().on_batch(port, value, meta, sender)
        self.heard.setdefault((port, sender), []).append(meta[0])

    def snapshot(self) -> Any:
        return super().snapshot(), {key: list(trail) for key, trail in self.heard.items()}

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.heard = {key: list(trail) for key, trail in state[1].items()}

    def close(self) -> Any:
        super().close()
        return self.heard


def pipeline(output: Output, seed: int = 0) -> Topology:
    """Sources of unequal length, two stateful steps in a row, a sink: each sees all before it."""
    OUTPUT[:] = [output]
    draw = random.Random(seed)
    steps = [draw.choice([Trail, Trail, Batching]) for _ in range(2)]
    made = Topology("trails")
    made.member("long", Numbers, ROWS, (3, 5), parallelism=draw.choice([1, 2]))
    made.member("short", Numbers, 7, (2,), 1000)
    made.member("first", steps[0], parallelism=draw.choice([1, 2, 3]))
    made.member("second", steps[1], parallelism=draw.choice([1, 2]))
    made.member("sink", Trails)
    made.channel("long", "first", draw.choice([hashed("key"), rebalance()]), capacity_rows=8)
    made.channel("short", "first", broadcast(), capacity_rows=3)
    made.channel("short", "second", broadcast(), capacity_rows=3)
    made.channel("first", "second", broadcast(), capacity_rows=draw.choice([4, 50]))
    made.channel("second", "sink", broadcast(), capacity_rows=6)
    return made


def policy(path: Path, **options: Any) -> Checkpoints:
    return Checkpoints(directory=path, **{"every": None, "restarts": 1000, **options})


def check(handle: InlineHandle, results: dict[str, list[Any]], output: Output) -> None:
    """Every row everywhere once, and everybody has heard what everybody has told."""
    counts = {member.name: member.parallelism for member in handle.topology.members}
    long, first, second = counts["long"] * ROWS, counts["first"], counts["second"]
    numbers, few = Counter(range(long)), Counter(range(1000, 1007))
    times = lambda rows, n: Counter({row: n * one for row, one in rows.items()})  # noqa: E731
    seen = Counter(row for _, _, rows in results["first"] for row in rows)
    assert seen == numbers + times(few, first)
    for heard, _told, rows in results["second"]:
        assert Counter(rows) == numbers + times(few, first + 1)
        for sender, (_, told, _) in enumerate(results["first"]):
            assert heard["first", sender] == told
    [at_sink] = results["sink"]
    for sender, (_, told, _) in enumerate(results["second"]):
        assert at_sink["second", sender] == told
    assert output.rows() == times(numbers + times(few, first + 1), second)
    assert output.prepared == {}


@pytest.mark.parametrize("seed", [*range(8), *SLOW])
def test_deaths_of_any_copy_at_random_steps(seed: int, tmp_path: Path) -> None:
    """Epochs and deaths at random, also while a copy still does again what it had done."""
    draw = random.Random(seed)
    clock, output = HandClock(), Output()
    handle = InlineHandle(
        pipeline(output, seed),
        seed=seed,
        clock=clock,
        sleep=clock.sleep,
        checkpoints=policy(
            tmp_path,
            every=draw.choice([None, 5.0, 50.0]),
            timeout=draw.choice([40.0, 400.0]),
        ),
        external=output,
    )
    deaths = 0
    chance = draw.choice([0.003, 0.01, 0.03])
    while True:
        clock.now += draw.random()
        worked = handle.run_turn()
        if not worked and handle._is_done():
            break
        if draw.random() < chance and deaths < 40:
            deaths += 1
            handle.crash(f"death {deaths}", draw.randrange(len(handle.loops)))
            handle.check_credits()
        elif draw.random() < 0.04:
            handle._carry_out(handle._coordinator.request(clock.now))  # type: ignore[union-attr]
    check(handle, handle.wait(), output)
    statistics = handle.checkpoint_statistics()
    assert statistics.recoveries == deaths
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["driver.lock", "members.lock", "states"]


# --- what cannot be repeated --------------------------------------------------------------------


def run_and_lose(
    path: Path, member: type[Member], copy: int, **options: Any
) -> tuple[InlineHandle, dict[str, list[Any]]]:
    """Two sources, `member`, a sink; a copy dies when something has come out."""
    made = Topology("small")
    made.member("one", Numbers, 20, (3,))
    made.member("two", Numbers, 20, (3,), 100)
    made.member("middle", member)
    made.member("sink", Trails)
    for source in ("one", "two"):
        made.channel(source, "middle", broadcast())
    made.channel("middle", "sink", broadcast())
    output = Output()
    OUTPUT[:] = [output]
    handle = InlineHandle(made, seed=7, checkpoints=policy(path, **options), external=output)
    handle.checkpoint()
    for _ in range(40):
        handle.run_turn()
    handle.crash("killed", copy)
    results = handle.wait()
    assert output.rows() == Counter([*range(20), *range(100, 120)])
    return handle, results


class Whim(Trail):
    """Splits what it gets as it likes at the moment."""

    moods = 0

    def say(self, value: Any) -> None:
        Whim.moods += 1
        cut = 0 if value is None else Whim.moods % value.num_rows
        if cut:
            super().say(value.slice(0, cut))
            value = value.slice(cut)
        super().say(value)


class Honest(Whim):
    """And says so."""

    replayable = False


@pytest.mark.parametrize(
    ("member", "options", "why"),
    [
        (Whim, {}, "it does not do the same for the same input"),
        (Honest, {}, "member 'middle' is not replayable: killed"),
    ],
)
def test_a_member_that_does_something_else_takes_all_back(
    tmp_path: Path, member: type[Member], options: dict[str, Any], why: str
) -> None:
    handle, _results = run_and_lose(tmp_path, member, 2, **options)
    statistics = handle.checkpoint_statistics()
    assert (statistics.recoveries, statistics.rollbacks) == (1, 1)
    assert why in statistics.last_fallback


def test_what_is_too_much_is_not_retained(tmp_path: Path) -> None:
    handle, _results = run_and_lose(tmp_path, Trail, 2, retain_bytes=1500)
    statistics = handle.checkpoint_statistics()
    assert (statistics.recoveries, statistics.rollbacks) == (1, 1)
    assert "more than 1500 bytes since the last epoch" in statistics.last_fallback


def test_a_copy_that_gives_up_again_and_again_leaves_epochs_out() -> None:
    made = Topology("fast")
    made.member("source", Numbers, 1, (1,))
    made.member("sink", Trail)
    made.channel("source", "sink", broadcast())
    outbox = Outbox(plan_topology(made)[0], Sent(), 0, retain_bytes=4000)
    (outlet,) = outbox.outlets()

    def run(items: int) -> bool:
        """An epoch of that many items; whether they were too much."""
        before = outbox.given_up
        for _ in range(items):
            outbox.outputs[0].emit(batch_of(range(4)), None)
            assert outbox.retained_bytes <= 4000
        outbox.on_committed(outbox.epoch)
        outbox.send_markers(outbox.epoch + 1)
        assert bool(outlet.retained) == bool(outbox.retained_bytes)
        return outbox.given_up > before

    assert [epoch for epoch in range(60) if run(20)] == [0, 1, 3, 7, 15, 31, 47]
    while outlet.since is None:
        run(20)
    assert not run(1)
    assert outlet.retained, "a whole epoch was kept"
    assert [run(20), run(20), run(20), run(20)] == [True, True, False, True]


@pytest.mark.parametrize("copy", range(4))
def test_a_copy_comes_back_alone(tmp_path: Path, copy: int) -> None:
    handle, results = run_and_lose(tmp_path, Trail, copy)
    statistics = handle.checkpoint_statistics()
    assert (statistics.attempt, statistics.recoveries, statistics.rollbacks) == (1, 1, 0)
    assert results["sink"][0]["middle", 0] == results["middle"][0][1]


def test_local_recovery_can_be_turned_off(tmp_path: Path) -> None:
    handle, _results = run_and_lose(tmp_path, Trail, 2, local=False)
    statistics = handle.checkpoint_statistics()
    assert (statistics.recoveries, statistics.rollbacks) == (0, 1)
    assert all(not one.retained for loop in handle.loops for one in loop.outbox().outlets())


class Moody(Numbers):
    """A source that a clock tells now and then to say something else."""

    clock = 0

    def poll(self) -> bool:
        if self.ctx.decided:
            self.ctx.announce("late")
            return True
        Moody.clock += 1
        if Moody.clock % 3 == 0 and self.ctx.decide():
            self.ctx.announce("late")
            return True
        return super().poll()


def test_what_a_clock_decided_is_repeated(tmp_path: Path) -> None:
    made = Topology("moody")
    made.member("source", Moody, 40, (3,))
    made.member("trail", Trail)
    made.channel("source", "trail", broadcast())
    handle = InlineHandle(made, seed=1, checkpoints=policy(tmp_path))
    handle.checkpoint()
    for _ in range(30):
        handle.run_turn()
    trail = handle.loops[1].member.told.copy()  # type: ignore[attr-defined]
    Moody.clock += 1  # it would decide elsewhere
    handle.crash("killed", 0)
    [(_heard, told, rows)] = handle.wait()["trail"]
    assert rows == list(range(40))
    assert told[: len(trail)] == trail
    assert len(told) > 40 // 3 + 2, "the clock has decided something"
    statistics = handle.checkpoint_statistics()
    assert (statistics.recoveries, statistics.rollbacks) == (1, 0), statistics
