"""A whole topology in one thread: deterministic, for tests and debugging.

The loops of all copies take turns; frames go through one mailbox per (sender, receiver), in order.
Credits, epochs and ends are the same as between processes, because the loops are the same. Values
are passed as they are, so members must not change what they emitted or received.

With a `seed` the order of steps and of deliveries is drawn at random, frames may stay on the
way for long, and still each run of the same seed is the same run: tests explore interleavings.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from engine.core.credits import CreditError
from engine.exceptions import GetTimeoutError
from engine.topology.errors import (
    MemberError,
    TopologyError,
    TopologyStalledError,
    expected,
    task_error,
)
from engine.topology.frames import Credit, Data, Frame, Trigger
from engine.topology.handle import MemberStatistics, TopologyHandle
from engine.topology.loop import MemberLoop
from engine.topology.plan import MemberPlan, construct, plan_topology
from engine.topology.spec import Topology

__all__ = ["InlineHandle"]

States = dict[str, list[Any]]

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
    """Runs a topology in the thread that calls `wait`, `run_steps` or `checkpoint`.

    Args:
        topology: a complete declaration.
        seed: shuffles steps and deliveries; None takes turns in order of declaration.
        clock: seconds that never go back.
        sleep: called with the seconds until the next wake-up when everybody sleeps; with a
            hand-driven clock it has to advance that clock.
        restore: what `checkpoint` returned, for a topology with the same members.

    Raises:
        TopologyError: the declaration is not complete, or `restore` does not fit it.
        TaskError: a constructor raised.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        restore: Mapping[str, list[Any]] | None = None,
    ) -> None:
        self.topology = topology
        self._clock = clock
        self._sleep = sleep
        self._random = None if seed is None else random.Random(seed)
        self._stopped = False
        self._error: BaseException | None = None
        self._epoch = 0
        self._snapshots: dict[int, dict[int, Any]] = {}
        self._wires: list[_Wire] = []
        self._incoming: list[list[_Wire]] = []
        plans = plan_topology(topology)
        if restore is not None:
            _check_restore(plans, restore)
        self.loops = [self._make_loop(plan, restore) for plan in plans]
        self._incoming = [[w for w in self._wires if w.receiver == p.copy] for p in plans]

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Run until every member has ended; see `TopologyHandle.wait`."""
        deadline = None if timeout is None else self._clock() + timeout
        if not (self._is_done() and self._error is None):
            self._check_usable()
        while not self._is_done():
            if not self.run_turn():
                self._sleep_until_wake(deadline)
            elif deadline is not None and self._clock() >= deadline:
                raise self._timed_out()
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
            return self._random_action() if self._random else self._round()
        except MemberError as error:
            self._error = task_error(error)
            raise self._error from error.__cause__
        except Exception as error:
            self._error = error
            raise

    def checkpoint(self) -> States:
        """Close an epoch in every member and return member name -> states of its copies.

        Runs the topology as far as that takes. Give the result to `InlineHandle(restore=...)`.

        Raises:
            TopologyError: a copy has ended, before or meanwhile, so there is no state of it.
            and as `wait`.
        """
        self._check_usable()
        if any(plan.feedback for loop in self.loops for plan in loop.plan.inputs):
            raise expected("a topology without cycles", "a cycle", "no barrier can align on one")
        self._epoch += 1
        epoch = self._epoch
        taken = self._snapshots[epoch] = {}
        for loop in self.loops:
            if loop.plan.is_root and not loop.ended:
                loop.receive(Trigger(epoch))
        while len(taken) < len(self.loops):
            for loop in self.loops:
                if loop.ended and loop.plan.copy not in taken:
                    raise expected(
                        f"all copies to take part in epoch {epoch}",
                        f"that '{loop.plan.name}' copy {loop.plan.index} has ended",
                        "take the checkpoint earlier",
                    )
            if not self.run_turn():
                self._sleep_until_wake(None)
        del self._snapshots[epoch]
        states: States = {member.name: [] for member in self.topology.members}
        for loop in self.loops:
            states[loop.plan.name].append(taken[loop.plan.copy])
        return states

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy; see `TopologyHandle.statistics`."""
        return [loop.statistics() for loop in self.loops]

    def stop(self) -> None:
        """See `TopologyHandle.stop`."""
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

    def _make_loop(self, plan: MemberPlan, restore: Mapping[str, list[Any]] | None) -> MemberLoop:
        transport = _InlineTransport(plan)
        self._wires.extend(transport.wires.values())
        try:
            member = construct(plan)
        except MemberError as error:
            raise task_error(error) from error.__cause__
        copy = plan.copy
        return MemberLoop(
            plan,
            member,
            transport,
            self._clock,
            lambda epoch, state: self._snapshots[epoch].__setitem__(copy, state),
            state=restore[plan.name][plan.index] if restore is not None else None,
            restored=restore is not None,
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
        if not wakes:
            if self._is_done():
                return
            self._error = TopologyStalledError(
                f"topology '{self.topology.name}' is stalled: no member can make progress and "
                "none sleeps\n" + "\n".join(f"  {loop.describe()}" for loop in self.loops)
            )
            raise self._error
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


def _check_restore(plans: list[MemberPlan], restore: Mapping[str, list[Any]]) -> None:
    wanted = {plan.name: plan.parallelism for plan in plans}
    found = {name: len(states) for name, states in restore.items()}
    if wanted != found:
        raise TopologyError(
            f"expected states of the members and copies {wanted}, found {found}; restore into a "
            "topology with the same members and parallelism"
        )
