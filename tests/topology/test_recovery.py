"""Crashes at random steps, inline: what comes out is what an undisturbed run gives."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import engine.topology.durable as durable
from engine.exceptions import TaskError
from engine.topology import (
    CheckpointError,
    Checkpoints,
    External,
    InlineHandle,
    Member,
    MemberContext,
    Topology,
    TopologyError,
    TopologyFailedError,
    broadcast,
    forward,
    hashed,
)
from tests.topology.members import Faulty, HandClock, Numbers, Relay, ids_of

ROWS = 60
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 500)]


class Output(External):
    """What is visible outside: parts by name, and what was prepared and is not visible yet."""

    def __init__(self) -> None:
        self.prepared: dict[str, list[int]] = {}
        self.visible: dict[str, list[int]] = {}
        self.began: list[bool] = []
        self.undone: list[int] = []

    def begin(self, resumed: bool) -> None:
        self.began.append(resumed)

    def commit(self, tokens: Sequence[Any]) -> None:
        for token in tokens:
            if token in self.prepared:
                self.visible[token] = self.prepared.pop(token)
            assert token in self.visible, "committed and never prepared"

    def undo(self, epoch: int) -> None:
        self.undone.append(epoch)
        self.prepared.clear()

    def rows(self) -> Counter[int]:
        return Counter(row for part in self.visible.values() for row in part)


OUTPUT: list[Output] = []


class Parts(Member):
    """Writes what it gets in parts, one an epoch, that become visible by commits."""

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx
        self.part: list[int] = []
        self.number = 0

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if value is not None:
            self.part.extend(ids_of(value))

    def _prepare(self) -> None:
        if self.part:
            name = f"{self.ctx.index}-{self.number}"
            self.ctx.hand_over(name, lambda part=self.part: self._sync(name, part))
            self.part, self.number = [], self.number + 1

    def _sync(self, name: str, part: list[int]) -> None:
        assert name not in OUTPUT[-1].visible
        OUTPUT[-1].prepared[name] = part

    def snapshot(self) -> Any:
        self._prepare()
        return self.number

    def restore(self, state: Any) -> None:
        self.number = state

    def close(self) -> int:
        self._prepare()
        return self.number


class Counting(Relay):
    """A relay that counts, so that counters are seen to be restored."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        super().on_batch(port, value, meta, sender)
        if value is not None:
            self.ctx.count("rows", value.num_rows)


def pipeline(output: Output) -> Topology:
    """Sources of unequal length (they end early), a stateful step, and a sink."""
    OUTPUT[:] = [output]
    made = Topology("pipeline")
    made.member("long", Numbers, ROWS, (3, 5), parallelism=2)
    made.member("short", Numbers, 7, (2,), 1000)
    made.member("relay", Counting, 2, parallelism=3)
    made.member("sink", Parts, parallelism=2)
    made.channel("long", "relay", hashed("key"), capacity_rows=8)
    made.channel("short", "relay", broadcast(), capacity_rows=3)
    made.channel("relay", "sink", hashed("id"), capacity_rows=6)
    return made


def wanted() -> Counter[int]:
    rows: Counter[int] = Counter(range(2 * ROWS))
    rows.update({1000 + row: 3 for row in range(7)})
    return rows


def policy(path: Path, **options: Any) -> Checkpoints:
    return Checkpoints(directory=path, **{"every": None, "restarts": 1000, **options})


def check_results(handle: InlineHandle, results: dict[str, list[Any]]) -> None:
    """The relays have seen each row once, in order; the counters agree."""
    seen: Counter[int] = Counter()
    for copy, statistics in zip(
        results["relay"],
        [one for one in handle.statistics() if one.member == "relay"],
        strict=True,
    ):
        rows = 0
        for metas, ids in copy[0].values():
            assert metas == list(range(len(metas)))
            seen.update(ids)
            rows += len(ids)
        assert statistics.counters.get("rows", 0) == rows
    assert seen == wanted()


@pytest.mark.parametrize("seed", [*range(8), *SLOW])
def test_crashes_at_random_steps_change_nothing(seed: int, tmp_path: Path) -> None:
    """Epochs and deaths at random; every tenth death is that of the whole program."""
    draw = random.Random(seed)
    clock = HandClock()
    output = Output()

    def start() -> InlineHandle:
        return InlineHandle(
            pipeline(output),
            seed=draw.randrange(1 << 30),
            clock=clock,
            sleep=clock.sleep,
            checkpoints=policy(tmp_path, every=draw.choice([None, 5.0, 50.0]), timeout=40.0),
            external=output,
        )

    handle = start()
    deaths = 0
    while True:
        clock.now += draw.random()
        worked = handle.run_turn()
        if not worked and handle._is_done():
            break
        chance = draw.random()
        if chance < 0.01 and deaths < 25:
            deaths += 1
            if draw.random() < 0.2:
                # The program dies: locks go with it, and nothing else is told.
                assert handle._coordinator is not None
                handle._coordinator.directory.close()
                output.prepared = dict(output.prepared)
                handle = start()
            else:
                handle.crash()
        elif chance < 0.05:
            handle._carry_out(handle._coordinator.request(clock.now))  # type: ignore[union-attr]
    check_results(handle, handle.wait())
    assert output.rows() == wanted()
    assert output.prepared == {}
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["driver.lock", "members.lock", "states"]
    statistics = handle.checkpoint_statistics()
    assert statistics.commits > 0
    assert output.began[0] is False


def test_an_epoch_is_visible_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    output = Output()
    handle = InlineHandle(pipeline(output), checkpoints=policy(tmp_path), external=output)
    for _ in range(3):
        handle.run_turn()
    assert output.visible == {}
    assert handle.checkpoint() == 1
    rows = output.rows()
    assert rows
    handle.run_turn()
    handle.stop()
    assert output.rows() == rows
    assert output.prepared == {}
    again = InlineHandle(pipeline(output), checkpoints=policy(tmp_path), external=output)
    assert output.began == [False, True]
    check_results(again, again.wait())
    assert output.rows() == wanted()


class Still(Numbers):
    """Has one state and never ends by itself."""

    def poll(self) -> bool:
        self.ctx.wake_after(1.0)
        return False


def still(path: Path, clock: HandClock, **options: Any) -> InlineHandle:
    made = Topology("still")
    made.member("a", Still, 1, (1,))
    made.member("b", Relay)
    made.channel("a", "b", forward())
    return InlineHandle(
        made, clock=clock, sleep=clock.sleep, checkpoints=policy(path, **options)
    )


def test_equal_states_are_named_again(tmp_path: Path) -> None:
    clock = HandClock()
    handle = still(tmp_path, clock)
    for number in (1, 2, 3):
        assert handle.checkpoint() == number
    assert handle.checkpoint_statistics().states_reused == 4
    names = sorted(path.name[:12] for path in (tmp_path / "states").iterdir())
    assert names == ["00000001-a_0", "00000001-b_0"]
    assert sorted(path.name for path in tmp_path.glob("manifest-*")) == [
        "manifest-00000002",
        "manifest-00000003",
    ]


def test_epochs_come_by_the_clock(tmp_path: Path) -> None:
    clock = HandClock()
    handle = still(tmp_path, clock, every=2.5)
    with pytest.raises(TimeoutError):
        handle.wait(timeout=11.0)
    statistics = handle.checkpoint_statistics()
    assert statistics.commits == 4
    assert statistics.epoch == 4


def test_a_savepoint_is_another_start(tmp_path: Path) -> None:
    output = Output()
    first = InlineHandle(pipeline(output), checkpoints=policy(tmp_path / "ck"), external=output)
    first.run_turn()
    first.stop(savepoint=tmp_path / "save")
    with pytest.raises(TopologyError, match="that it was stopped"):
        first.wait()
    second = InlineHandle(
        pipeline(output), checkpoints=policy(tmp_path / "save", resume=True), external=output
    )
    check_results(second, second.wait())
    assert output.rows() == wanted()
    with pytest.raises(TopologyError, match=r"expected checkpoints of .*found none"):
        InlineHandle(pipeline(output)).stop(savepoint=tmp_path / "none")


def test_what_is_resumed_must_be_the_same_topology(tmp_path: Path) -> None:
    output = Output()
    first = InlineHandle(pipeline(output), checkpoints=policy(tmp_path), external=output)
    first.run_turn()
    first.checkpoint()
    first.stop()
    with pytest.raises(CheckpointError, match=r"expected a checkpoint in .*found none"):
        InlineHandle(pipeline(output), checkpoints=policy(tmp_path / "new", resume=True))
    other = pipeline(output)
    other.member("more", Parts)
    other.channel("long", "more", broadcast())
    with pytest.raises(CheckpointError, match=r"differs: .*'member more: 1 copies of Parts' here"):
        InlineHandle(other, checkpoints=policy(tmp_path))
    with pytest.raises(CheckpointError, match="'other sums' only here"):
        InlineHandle(pipeline(output), checkpoints=policy(tmp_path, fingerprint="other sums"))
    anew = InlineHandle(pipeline(output), checkpoints=policy(tmp_path, resume=False))
    assert anew.checkpoint_statistics().epoch == 0
    with pytest.raises(CheckpointError, match="found that another driver runs with"):
        InlineHandle(pipeline(output), checkpoints=policy(tmp_path))
    anew.stop()


def test_too_many_deaths_end_it_with_their_story(tmp_path: Path) -> None:
    output = Output()
    handle = InlineHandle(
        pipeline(output), checkpoints=policy(tmp_path, restarts=1), external=output
    )
    handle.checkpoint()
    handle.crash("killed by signal 9 (pid 1)")
    with pytest.raises(TopologyFailedError, match=r"(?s)more than 1 times.*pid 1.*pid 2.*epoch 1"):
        handle.crash("killed by signal 9 (pid 2)")
    with pytest.raises(TopologyFailedError):
        handle.wait()
    assert output.undone[-1] == 1


class Refusing(Parts):
    def snapshot(self) -> Any:
        return lambda: self  # a closure over a context: nothing that can be pickled

    def open(self, ctx: MemberContext) -> None:
        super().open(ctx)
        self.lock = open(__file__)  # noqa: SIM115 (what cannot be pickled)

    def close(self) -> int:
        self.lock.close()
        return 0


def test_a_state_that_cannot_be_pickled_is_the_members_error(tmp_path: Path) -> None:
    made = Topology("refusing")
    made.member("a", Numbers, 9, (1,))
    made.member("b", Refusing)
    made.channel("a", "b", forward())
    handle = InlineHandle(made, checkpoints=policy(tmp_path))
    with pytest.raises(TaskError, match=r"member 'b' copy 0, snapshot\(\)"):
        handle.checkpoint()
    handle.loops[1].member.lock.close()  # type: ignore[attr-defined]


def test_a_full_disk_aborts_epochs_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output()
    handle = InlineHandle(pipeline(output), checkpoints=policy(tmp_path), external=output)
    handle.run_turn()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("engine.topology.statefile.write_durably", full)
        with pytest.raises(TopologyError, match="No space left on device"):
            handle.checkpoint()
    assert handle.checkpoint_statistics().aborts == 1
    handle.checkpoint()
    check_results(handle, handle.wait())
    assert output.rows() == wanted()


@pytest.mark.parametrize("then", ["stopped", "crashed", "gone on with"])
def test_whatever_call_of_an_epoch_fails_rows_are_visible_once(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the manifest is there and only its last sync has failed."""
    for at in range(1, 200):
        output, folder, failed = Output(), tmp_path / str(at), False
        handle = InlineHandle(pipeline(output), checkpoints=policy(folder), external=output)
        handle.run_turn()
        handle.checkpoint()
        handle.run_turn()
        with monkeypatch.context() as broken:
            broken.setattr(durable, "os", Faulty(OSError(28, "No space left on device"), at))
            try:
                handle.checkpoint()
            except TopologyError:
                failed = True
        if then == "stopped":
            handle.stop()
            handle = InlineHandle(pipeline(output), checkpoints=policy(folder), external=output)
        elif then == "crashed":
            handle.crash()
        check_results(handle, handle.wait())
        assert output.rows() == wanted()
        if not failed:
            assert at > 10
            return
    raise AssertionError("it never passed untouched")
