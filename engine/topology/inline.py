"""A whole topology in one thread: deterministic, for tests and debugging.

The loops of all copies take turns; frames go through one mailbox per (sender, receiver), in order.
Credits, epochs and ends are the same as between processes, because the loops are the same. Values
are passed as they are, so members must not change what they emitted or received.

With a `seed` the order of steps and of deliveries is drawn at random, frames may stay on the
way for long, and still each run of the same seed is the same run: tests explore interleavings.

Checkpoints are kept as between processes, by the same coordinator; states are written by this
thread. Nothing here dies by itself: `crash` stands for the death of a process. What that had sent
and nobody has received is lost then; with a seed, a part of it that is drawn at random.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from engine.core.credits import CreditError
from engine.core.epochs import Recover, RollBack
from engine.exceptions import GetTimeoutError
from engine.topology.coordinator import Coordinator, Start, Todo
from engine.topology.errors import (
    DamagedCheckpointError,
    MemberError,
    ReplayError,
    TopologyError,
    TopologyStalledError,
    expected,
    task_error,
)
from engine.topology.frames import Credit, Data, Frame, Trigger
from engine.topology.handle import MemberStatistics, TopologyHandle
from engine.topology.loop import MemberLoop
from engine.topology.member import Member
from engine.topology.plan import MemberPlan, construct, plan_topology
from engine.topology.policy import Checkpoints, External
from engine.topology.rejoin import Rejoin, Unrecoverable, combine
from engine.topology.snapshot import Handed, Snapshot, SnapshotWriter
from engine.topology.spec import Topology
from engine.topology.statefile import read_state
from engine.topology.statistics import CheckpointStatistics

__all__ = ["InlineHandle"]

States = dict[str, list[Snapshot]]

# Steps a copy may do before the next one has its turn: batches of work keep caches warm, and the
# turns stay short enough for credits to flow.
_STEPS_A_TURN = 16


class _Wire:
    """The frames on the way from one copy to one other copy."""

    __slots__ = ("frames", "receiver", "sender")

    def __init__(self, sender: int, receiver: int) -> None:
        self.sender = sender
        self.receiver = receiver
        self.frames: deque[Frame] = deque()


class _InlineTransport:
    """The outgoing wires of one copy."""

    __slots__ = ("wires",)

    def __init__(self, plan: MemberPlan) -> None:
        self.wires = {peer: _Wire(plan.copy, peer) for peer in sorted(plan.peers)}

    def send(self, copy: int, frame: Frame, value: Any) -> None:
        """Queue the frame with its value; it is delivered when the receiver has its turn."""
        if value is not None:
            frame.value = value  # type: ignore[union-attr]
        self.wires[copy].frames.append(frame)


class InlineHandle(TopologyHandle):
    """Runs a topology in the thread that calls `wait`, `run_turn`, `snapshots` or `checkpoint`.

    Args:
        topology: a complete declaration.
        seed: shuffles steps and deliveries; None takes turns in order of declaration.
        clock: seconds that never go back.
        sleep: called with the seconds until the next wake-up when everybody sleeps; with a
            hand-driven clock it has to advance that clock.
        restore: what `snapshots` returned, for a topology with the same members.
        checkpoints, external: as for `Topology.deploy`.

    Raises:
        TopologyError: the declaration is not complete, or `restore` does not fit it.
        TaskError: a constructor raised.
        CheckpointError: the checkpoint directory cannot be used.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        restore: Mapping[str, list[Snapshot]] | None = None,
        checkpoints: Checkpoints | None = None,
        external: External | None = None,
    ) -> None:
        self.topology = topology
        self._clock = clock
        self._sleep = sleep
        self._random = None if seed is None else random.Random(seed)
        self._stopped = False
        self._finished = False
        self._error: BaseException | None = None
        self._epoch = 0
        self._snapshots: dict[int, dict[int, Snapshot]] = {}
        self._plans = plans = plan_topology(topology)
        self._external = External() if external is None else external
        self._coordinator: Coordinator | None = None
        self.loops: list[MemberLoop] = []
        self._writers: dict[int, SnapshotWriter] = {}
        self._told: set[int] = set()  # ended copies whose end was reported
        self._untold: set[int] = set()  # those of them that could not store it
        if restore is not None:
            _check_restore(plans, restore)
        if checkpoints is None:
            self._external.begin(False)
            self._external.undo(0)
            self._make_loops(None, restore)
            return
        self._coordinator = Coordinator(topology, plans, checkpoints, self._external, clock())
        try:
            self._restart()
        except BaseException as error:  # of a member's code too: what is open outside is undone
            self._fail(error)
            raise

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Run until every member has ended; see `TopologyHandle.wait`."""
        deadline = None if timeout is None else self._clock() + timeout
        if not self._finished:
            self._check_usable()
        while not self._finished:
            if self.run_turn():
                if deadline is not None and self._clock() >= deadline:
                    raise self._timed_out()
            elif self._is_done():
                self._finish()
            else:
                self._sleep_until_wake(deadline)
        results: dict[str, list[Any]] = {member.name: [] for member in self.topology.members}
        for loop in self.loops:
            results[loop.plan.name].append(loop.result)
        return results

    def run_turn(self) -> bool:
        """Give every copy one turn (with a seed: do one random thing); whether anything was done.

        Raises:
            as `wait`.
        """
        self._check_usable()
        try:
            worked = self._random_action() if self._random else self._round()
            # A poll that said there is nothing more to do may have sent something all the same.
            return self._coordinate() or worked or any(wire.frames for wire in self._wires)
        except ReplayError as error:  # told in the statistics
            coordinator = self._with_checkpoints()
            now = self._clock()
            self._carry_out(coordinator.on_not_recovered(self._attempt, str(error), now))
            return True
        except MemberError as error:
            made = task_error(error)
            self._fail(made)
            raise made from error.__cause__
        except Exception as error:  # of a check, or of the outside: it ends the run as well
            self._fail(error)
            raise

    def snapshots(self) -> States:
        """Close an epoch in every member and return member name -> snapshots of its copies.

        Runs the topology as far as that takes. Give the result to `InlineHandle(restore=...)`.

        Raises:
            as `wait`.
        """
        self._check_usable()
        if any(plan.feedback for loop in self.loops for plan in loop.plan.inputs):
            raise expected("a topology without cycles", "a cycle", "no barrier can align on one")
        self._epoch += 1
        taken = self._snapshots[self._epoch] = {}
        self._trigger(self._epoch, self.loops)
        while True:
            for loop in self.loops:
                if loop.ended and loop.plan.copy not in taken:
                    taken[loop.plan.copy] = loop.final_snapshot()[0]
            if len(taken) == len(self.loops):
                break
            if not self.run_turn():
                self._sleep_until_wake(None)
        del self._snapshots[self._epoch]
        states: States = {member.name: [] for member in self.topology.members}
        for loop in self.loops:
            states[loop.plan.name].append(taken[loop.plan.copy])
        return states

    def checkpoint(self, timeout: float | None = None) -> int:
        """Close an epoch now, running the topology; see `TopologyHandle.checkpoint`."""
        coordinator = self._with_checkpoints()
        self._check_usable()
        deadline = None if timeout is None else self._clock() + timeout
        commits, aborts = coordinator.progress
        self._carry_out(coordinator.request(self._clock()))
        while coordinator.progress == (commits, aborts) and not coordinator.finished:
            if not self.run_turn():
                self._sleep_until_wake(deadline)
            elif deadline is not None and self._clock() >= deadline:
                raise self._timed_out()
        if coordinator.progress[0] == commits and not coordinator.finished:
            raise TopologyError(
                "expected an epoch to be committed, found that "
                f"{coordinator.statistics().last_abort}"
            )
        return coordinator.committed

    def checkpoint_statistics(self) -> CheckpointStatistics:
        """See `TopologyHandle.checkpoint_statistics`."""
        return self._with_checkpoints().statistics()

    def crash(self, story: str = "crashed", copy: int | None = None) -> None:
        """As if a process had died.

        Args:
            story: how.
            copy: id of the copy that it ran: comes back alone if that can be. None: all go back
                to the last committed epoch.

        Raises:
            TopologyError: there are no checkpoints.
            TopologyFailedError: it was once too often.
        """
        coordinator = self._with_checkpoints()
        self._check_usable()
        attempt, now = coordinator.statistics().attempt, self._clock()
        try:
            if copy is None:
                self._carry_out(coordinator.on_death(attempt, story, now))
            else:
                self._carry_out(coordinator.on_lost(attempt, self._plans[copy], story, now))
        except Exception as error:  # too many deaths, or the outside: it ends the run
            self._fail(error)
            raise

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy; see `TopologyHandle.statistics`."""
        return [loop.statistics() for loop in self.loops]

    def stop(self, savepoint: str | os.PathLike[str] | None = None) -> None:
        """See `TopologyHandle.stop`."""
        if savepoint is not None:
            self.checkpoint()
            self._with_checkpoints().export(savepoint)
        if not self._stopped and not self._finished and self._error is None:
            self._end_early()
        self._stopped = True
        for wire in self._wires:
            wire.frames.clear()

    def check_credits(self) -> None:
        """Check for every outlet that what is in flight is on the way, held, due, or coming back.

        Raises:
            CreditError: credit was lost or made.
        """
        wires = {(w.sender, w.receiver): w for w in self._wires}
        for loop in self.loops:
            for outlet in loop.outbox().outlets():
                there = wires[loop.plan.copy, outlet.copy].frames
                back = wires[outlet.copy, loop.plan.copy].frames
                account = self.loops[outlet.copy].accounts()[outlet.channel, outlet.sender]
                rows = account.held_rows + account.due_rows
                nbytes = account.held_bytes + account.due_bytes
                for kind, frames in ((Data, there), (Credit, back)):
                    for frame in frames:
                        if isinstance(frame, kind) and frame.channel == outlet.channel:
                            rows += frame.rows
                            nbytes += frame.nbytes
                window = outlet.window
                if (rows, nbytes) != (window.rows_in_flight, window.bytes_in_flight):
                    raise CreditError(
                        f"{loop.plan.name}[{loop.plan.index}] {outlet.describe()}: expected "
                        f"{window.rows_in_flight} rows and {window.bytes_in_flight} bytes in "
                        f"flight, found {rows} rows and {nbytes} bytes"
                    )

    # --- running -----------------------------------------------------------------------------

    def _make_loops(
        self, start: Start | None, restore: Mapping[str, list[Snapshot]] | None
    ) -> None:
        """All copies and wires, anew: what was under way is gone."""
        self._wires: list[_Wire] = []
        found = {
            plan.copy: read_state(start.directory, start.states[plan.copy])
            for plan in self._plans
            if start is not None and start.states
        }
        if restore is not None:
            found = {plan.copy: restore[plan.name][plan.index] for plan in self._plans}
        ended = {copy for copy, snapshot in found.items() if snapshot.ended}
        self.loops = [
            self._make_loop(plan, start, found.get(plan.copy), ended) for plan in self._plans
        ]
        self._connect()

    def _connect(self) -> None:
        self._incoming = [[w for w in self._wires if w.receiver == p.copy] for p in self._plans]

    def _make_loop(
        self,
        plan: MemberPlan,
        start: Start | None,
        restore: Snapshot | None,
        ended: Collection[int],
        rejoin: Rejoin | None = None,
    ) -> MemberLoop:
        transport = _InlineTransport(plan)
        self._wires.extend(transport.wires.values())
        try:
            member = Member() if plan.copy in ended else construct(plan)
        except MemberError as error:
            raise task_error(error) from error.__cause__
        return MemberLoop(
            plan,
            member,
            transport,
            self._clock,
            partial(self._on_snapshot, plan.copy),
            epoch=0 if start is None else start.epoch,
            restore=restore,
            ended=ended,
            retain_bytes=None if start is None else start.retain_bytes,
            rejoin=rejoin,
        )

    def _round(self) -> bool:
        worked = False
        for loop, incoming in zip(self.loops, self._incoming, strict=True):
            for wire in incoming:
                frames = wire.frames
                worked = worked or bool(frames)
                while frames:
                    loop.receive(frames.popleft())
            for _ in range(_STEPS_A_TURN):
                if not loop.step():
                    break
                worked = True
            else:
                loop.rest()
        return worked

    def _random_action(self) -> bool:
        """One delivery or one step, tried in random order until something happens."""
        assert self._random is not None
        actions: list[_Wire | MemberLoop] = [wire for wire in self._wires if wire.frames]
        actions.extend(self.loops)
        self._random.shuffle(actions)
        for action in actions:
            if isinstance(action, _Wire):
                self.loops[action.receiver].receive(action.frames.popleft())
                return True
            if action.step():
                action.rest()
                return True
        return False

    # --- checkpoints -------------------------------------------------------------------------

    def _with_checkpoints(self) -> Coordinator:
        if self._coordinator is None:
            raise self._without_checkpoints()
        return self._coordinator

    def _restart(self) -> None:
        """Start all copies from the last committed epoch that can be read."""
        coordinator = self._with_checkpoints()
        while True:
            start = coordinator.prepare()
            try:
                self._make_loops(start, None)
                break
            except DamagedCheckpointError as error:  # the epoch before it may be whole
                coordinator.on_damage(start.attempt, str(error), self._clock())
        self._told, self._untold = set(), set()
        for plan in self._plans:
            self._make_writer(plan, start)
        self._attempt = start.attempt
        self._carry_out(coordinator.begin(self._clock()))

    def _make_writer(self, plan: MemberPlan, start: Start) -> None:
        title = f"{plan.name}-{plan.index}"
        writer = SnapshotWriter(start.directory, plan.copy, title, start.salt, _nothing)
        if plan.copy in start.states:
            writer.adopt(start.epoch, start.states[plan.copy])
        self._writers[plan.copy] = writer

    def _recover(self, copy: int) -> None:
        """One copy has died and comes back alone, or all go back."""
        coordinator, plan = self._with_checkpoints(), self._plans[copy]
        start = coordinator.start()
        self._lose_wires(copy)
        ended = copy in start.ended
        peers = [self.loops[peer] for peer in sorted(plan.peers)]
        answers = [peer.rejoin(copy, start.epoch, ended) for peer in peers]
        try:
            rejoin = combine(plan, answers)
            state = start.states.get(copy)
            found = None if state is None else read_state(start.directory, state)
        except Unrecoverable as error:  # counted, and told in the statistics
            now = self._clock()
            self._carry_out(coordinator.on_not_recovered(start.attempt, str(error), now))
            return
        except DamagedCheckpointError as error:  # the epoch before it may be whole
            self._carry_out(coordinator.on_damage(start.attempt, str(error), self._clock()))
            return
        self.loops[copy] = self._make_loop(plan, start, found, start.ended, rejoin)
        self._connect()
        self._make_writer(plan, start)
        self._told.discard(copy)
        self._untold.discard(copy)
        for epoch in coordinator.taken:
            self._trigger(epoch, [self.loops[copy]])

    def _lose_wires(self, copy: int) -> None:
        """What the copy had sent arrives as far as chance will have it; nothing reaches it."""
        for wire in self._wires:
            if wire.sender == copy:
                count = 0 if self._random is None else self._random.randint(0, len(wire.frames))
                for _ in range(count):
                    self.loops[wire.receiver].receive(wire.frames.popleft())
        for wire in self._wires:  # with the credit that came back for its last words
            if wire.receiver == copy:
                wire.frames.clear()
        self._wires = [wire for wire in self._wires if wire.sender != copy]

    def _coordinate(self) -> bool:
        """See to epochs; whether there was something to do."""
        coordinator = self._coordinator
        if coordinator is None:
            return False
        worked = False
        for loop in self.loops:
            copy = loop.plan.copy
            if loop.ended and copy not in self._told:
                self._told.add(copy)
                worked = True
                self._store(copy, 0, *loop.final_snapshot())
        due = coordinator.due()
        if due is not None and self._clock() >= due:
            worked = True
            self._carry_out(coordinator.tick(self._clock()))
        return worked

    def _on_snapshot(
        self, copy: int, epoch: int, snapshot: Snapshot, handed: list[Handed]
    ) -> None:
        if epoch in self._snapshots:
            self._snapshots[epoch][copy] = snapshot
        elif self._coordinator is not None:
            self._store(copy, epoch, snapshot, handed)

    def _store(self, copy: int, epoch: int, snapshot: Snapshot, handed: list[Handed]) -> None:
        report = self._writers[copy].store_now(epoch, snapshot, handed)
        coordinator = self._with_checkpoints()
        if report.state is None and not epoch:
            self._untold.add(copy)
        self._carry_out(coordinator.on_report(self._attempt, copy, report, self._clock()))

    def _carry_out(self, effects: list[Todo]) -> None:
        for effect in effects:
            if isinstance(effect, RollBack):
                self._restart()
                continue
            if isinstance(effect, Recover):
                self._recover(effect.copy)
                continue
            self._told -= self._untold  # they try again, once an epoch
            self._untold.clear()
            for loop in self.loops:
                loop.on_committed(effect.committed)
                self._writers[loop.plan.copy].on_committed(effect.committed)
            if not self._with_checkpoints().self_paced:
                self._trigger(effect.epoch, self.loops)

    def _trigger(self, epoch: int, loops: list[MemberLoop]) -> None:
        for loop in loops:
            if loop.plan.is_root and not loop.ended:
                loop.receive(Trigger(epoch))

    def _finish(self) -> None:
        """All have ended: make what they did outside visible."""
        coordinator = self._coordinator
        if coordinator is None:
            tokens = [one.token for loop in self.loops for one in loop.context.handed]
            self._external.commit(tokens)
        else:
            while not coordinator.finished:
                self.checkpoint()
            coordinator.finish()
        self._finished = True

    def _fail(self, error: BaseException) -> None:
        """The run ends with this error."""
        self._error = error
        self._end_early()

    def _end_early(self) -> None:
        if self._coordinator is None:
            self._external.undo(0)
        else:
            self._coordinator.stop()

    def _is_done(self) -> bool:
        return all(loop.drained for loop in self.loops)

    def _check_usable(self) -> None:
        if self._error is not None:
            raise self._error
        if self._stopped:
            raise expected(
                f"topology '{self.topology.name}' to be running",
                "that it was stopped",
                "deploy it again",
            )

    def _sleep_until_wake(self, deadline: float | None) -> None:
        wakes = [wake for loop in self.loops if (wake := loop.next_wake()) is not None]
        due = self._coordinator.due() if self._coordinator is not None else None
        if due is not None and not self._is_done():
            wakes.append(due)
        if not wakes:
            if self._is_done():
                return
            stalled = TopologyStalledError(
                f"topology '{self.topology.name}' is stalled: no member can make progress and "
                "none sleeps\n" + "\n".join(f"  {loop.describe()}" for loop in self.loops)
            )
            self._fail(stalled)
            raise stalled
        until = min(wakes) if deadline is None else min(*wakes, deadline)
        now = self._clock()
        if until > now:
            self._sleep(until - now)
        if deadline is not None and self._clock() >= deadline:
            raise self._timed_out()

    def _timed_out(self) -> GetTimeoutError:
        return GetTimeoutError(
            f"topology '{self.topology.name}' has not ended in time:\n"
            + "\n".join(f"  {loop.describe()}" for loop in self.loops)
        )


def _nothing() -> None:
    """Nobody has to be woken: one thread does it all."""


def _check_restore(plans: list[MemberPlan], restore: Mapping[str, list[Snapshot]]) -> None:
    wanted = {plan.name: plan.parallelism for plan in plans}
    found = {name: len(states) for name, states in restore.items()}
    if wanted != found:
        raise TopologyError(
            f"expected states of the members and copies {wanted}, found {found}; restore into a "
            "topology with the same members and parallelism"
        )
