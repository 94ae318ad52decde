"""A topology in processes with checkpoints: the thread that runs its coordinator.

The thread waits on one queue: answers of the copies (and with them news of their deaths), what the
user asks for, and the coordinator's next date. It starts the copies. After a death it brings that
copy back alone if that can be, and the others go on. Else it ends them all and starts them again
from the last committed epoch: every process anew, which costs a fork, and leaves nothing of the old
attempt to reason about.

Each start of a copy is a *birth*; what is heard of an earlier one is dropped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from engine.core.epochs import Recover, RollBack
from engine.exceptions import (
    ActorError,
    EngineError,
    GetTimeoutError,
    ObjectLostError,
    WorkerCrashedError,
)
from engine.session import runtime
from engine.store.refs import ObjectRef
from engine.topology.attempt import Attempt
from engine.topology.coordinator import Coordinator, Todo
from engine.topology.errors import (
    DamagedCheckpointError,
    LostSenderError,
    ReplayError,
    TopologyError,
    expected,
)
from engine.topology.handle import TopologyHandle
from engine.topology.plan import MemberPlan
from engine.topology.policy import Checkpoints, External
from engine.topology.spec import Topology
from engine.topology.statistics import CheckpointStatistics, MemberStatistics

__all__ = ["SupervisedHandle"]

# What the death of a process looks like, from wherever it is seen.
_DEATHS = (ActorError, LostSenderError, ObjectLostError, WorkerCrashedError)
_STOP_SECONDS = 30.0
# Nothing is due: look whether the engine still runs, all the same.
_IDLE_SECONDS = 5.0

Event = Callable[[], None]


class _Request:
    """What a user's thread wants of the supervisor's: an event with an answer."""

    def __init__(self, handle: Callable[[Future[Any]], None]) -> None:
        self.future: Future[Any] = Future()
        self._handle = handle

    def __call__(self) -> None:
        self._handle(self.future)


class SupervisedHandle(TopologyHandle):
    """A topology whose copies are actors and come back.

    Args:
        topology, plans: what to run.
        policy: its checkpoints.
        external: the world outside; its methods are called on the supervisor's thread.

    Raises:
        CheckpointError: the directory cannot be used.
    """

    def __init__(
        self,
        topology: Topology,
        plans: list[MemberPlan],
        policy: Checkpoints,
        external: External,
    ) -> None:
        self.topology = topology
        self._plans = plans
        self._home = runtime()  # starts the engine, in the user's thread
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._coordinator = Coordinator(topology, plans, policy, external, perf_counter())
        self._attempt: Attempt | None = None
        self._number = 0
        self._births = [0] * len(plans)
        self._catching: dict[int, tuple[float, float]] = {}  # copy -> its death, its last date
        self._told = 0  # the committed epoch that the copies know of
        self._results: dict[int, Any] = {}
        self._waiters: list[tuple[tuple[int, int], Future[int]]] = []
        self._ended = threading.Event()
        self._stop_asked = False
        self._error: BaseException | None = None
        self._last: list[MemberStatistics] = []
        self._thread = threading.Thread(
            target=self._run, name=f"topology-{topology.name}", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------------ the user's side

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Wait until every member has ended; see `TopologyHandle.wait`."""
        if not self._ended.wait(timeout):
            attempt = self._attempt
            lines = [] if attempt is None else attempt.describe()
            raise GetTimeoutError(
                f"topology '{self.topology.name}' has not ended within {timeout} s "
                f"({self._coordinator.statistics()}):" + "".join(f"\n  {line}" for line in lines)
            )
        if self._error is not None:
            raise self._error
        results: dict[str, list[Any]] = {member.name: [] for member in self.topology.members}
        for plan in self._plans:
            results[plan.name].append(self._results[plan.copy])
        return results

    def checkpoint(self, timeout: float | None = None) -> int:
        """Close an epoch now; see `TopologyHandle.checkpoint`."""
        if self._coordinator.self_paced:
            raise expected(
                "a topology without cycles to ask for a checkpoint",
                "members that close epochs by themselves",
                "let them choose",
            )
        request = _Request(self._on_request)
        self._ask_thread(request)
        try:
            found: int = request.future.result(timeout)
            return found
        except TimeoutError:  # of the future: the engine's own says more
            raise GetTimeoutError(
                f"no epoch of topology '{self.topology.name}' was committed within {timeout} s: "
                f"{self._coordinator.statistics()}"
            ) from None

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy, in order of declaration; the last known ones while it restarts."""
        attempt = self._attempt
        if attempt is not None:
            try:
                self._last = attempt.statistics()
            except EngineError:  # a copy died or the attempt ends: what was known last will do
                return self._last
        return self._last

    def checkpoint_statistics(self) -> CheckpointStatistics:
        """See `TopologyHandle.checkpoint_statistics`."""
        return self._coordinator.statistics()

    def stop(self, savepoint: str | os.PathLike[str] | None = None) -> None:
        """End all members without results; see `TopologyHandle.stop`."""
        if savepoint is not None and not self._ended.is_set():
            self.checkpoint(_STOP_SECONDS)
            request = _Request(partial(self._on_export, savepoint))
            self._ask_thread(request)
            request.future.result(_STOP_SECONDS)
        self._stop_asked = True
        self._events.put(_nothing)
        if threading.current_thread() is not self._thread:
            self._ended.wait(_STOP_SECONDS)

    def _ask_thread(self, request: _Request) -> None:
        """Have the thread look at a request; its future is answered in any case."""
        self._events.put(request)
        if self._ended.is_set():  # it may have looked at its queue for the last time before
            self._refuse_requests()

    def _refuse_requests(self) -> None:
        while True:
            try:
                event = self._events.get_nowait()
            except Empty:  # all are answered
                return
            if isinstance(event, _Request):
                event.future.set_exception(
                    TopologyError(
                        f"expected topology '{self.topology.name}' to be running, "
                        "found that the topology has ended"
                    )
                )

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            self._restart()
            while not self._is_complete() and not self._stop_asked:
                self._next()
            if self._is_complete():
                self._last = self.statistics()
                self._end_attempt()
                self._coordinator.finish()
            else:
                self._error = expected(
                    f"topology '{self.topology.name}' to be running",
                    "that it was stopped",
                    "start it again: it goes on from its checkpoints",
                )
                self._give_up()
        except BaseException as error:  # it is raised in whoever waits
            self._error = error
            self._give_up()
        finally:
            self._ended.set()
            self._settle_waiters()
            self._refuse_requests()

    def _is_complete(self) -> bool:
        """The last epoch is committed, and every copy has answered with its result.

        Either comes first: the end of a copy is stored while others may still send to it, and it
        answers only when they no longer do.
        """
        return self._coordinator.finished and len(self._results) == len(self._plans)

    def _give_up(self) -> None:
        try:
            self._end_attempt()
            self._coordinator.stop()
        except Exception as error:  # the first error is the one to tell, this one with it
            assert self._error is not None
            self._error.add_note(f"while it was ended: {error}")

    def _next(self) -> None:
        """Do the next thing: what has happened, or what is due."""
        self._check_catching()
        due = self._coordinator.due()
        seconds = _IDLE_SECONDS if due is None else due - perf_counter()
        if self._catching:
            last = min(last for _death, last in self._catching.values())
            seconds = min(seconds, last - perf_counter())
        try:
            event = self._events.get(timeout=max(0.0, seconds))
        except Empty:
            if not self._home.node_alive:
                raise EngineError("the engine has ended, and the topology with it") from None
            self._carry_out(self._coordinator.tick(perf_counter()))
            if due is None and len(self._results) == len(self._plans):
                # The last epoch was aborted, and none comes by the clock.
                self._carry_out(self._coordinator.request(perf_counter()))
            return
        event()
        if not self._coordinator.finished:
            self._carry_out(self._coordinator.tick(perf_counter()))
            self._tell_committed()
        self._settle_waiters()

    def _tell_committed(self) -> None:
        """Have the copies drop what they kept for those that might have gone further back."""
        committed = self._coordinator.committed
        if self._coordinator.is_local and committed != self._told and self._attempt is not None:
            self._told = committed
            self._attempt.committed(committed)

    def _restart(self) -> None:
        """Start all copies from the last committed epoch, again if some die meanwhile."""
        while not self._stop_asked:
            self._end_attempt()
            self._births = [birth + 1 for birth in self._births]
            self._catching.clear()
            start = self._coordinator.prepare()
            self._number = start.attempt
            try:
                self._attempt = Attempt(self._plans, start)
                self._told = start.epoch
                for index in range(len(self._plans)):
                    self._attend(index)
                self._carry_out(self._coordinator.begin(perf_counter()))
                return
            except _DEATHS as error:
                self._check_engine(error)
                self._coordinator.on_death(start.attempt, _first_line(error), perf_counter())

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.end(wait=True)

    def _recover(self, copy: int) -> None:
        """Bring one copy back, or all if that cannot be."""
        attempt, coordinator, began = self._attempt, self._coordinator, perf_counter()
        assert attempt is not None
        self._results.pop(copy, None)
        self._births[copy] += 1
        try:
            attempt.revive(copy, coordinator.start(), coordinator.taken)
        except EngineError as error:  # whatever it is: the rollback starts from nothing
            self._check_engine(error)
            self._not_recovered(_first_line(error))
            return
        self._catching[copy] = began, began + coordinator.policy.timeout
        self._attend(copy)
        birth = self._births[copy]
        self._listen(attempt.caught_up(copy), partial(self._on_caught_up, birth, copy))

    def _not_recovered(self, why: str) -> None:
        now = perf_counter()
        self._carry_out(self._coordinator.on_not_recovered(self._number, why, now))

    def _on_caught_up(self, birth: int, copy: int, future: Future[Any]) -> None:
        if birth == self._births[copy] and future.exception() is None:
            began, _last = self._catching.pop(copy)
            self._coordinator.last_recovery_seconds = perf_counter() - began

    def _check_catching(self) -> None:
        for copy, (_began, last) in self._catching.items():
            if perf_counter() >= last:
                plan, seconds = self._plans[copy], self._coordinator.policy.timeout
                self._not_recovered(
                    f"{plan.name}[{plan.index}] did not catch up within {seconds:g} s"
                )
                return

    def _carry_out(self, effects: list[Todo]) -> None:
        for effect in effects:
            if isinstance(effect, RollBack):
                self._results.clear()
                self._restart()
            elif isinstance(effect, Recover):
                self._recover(effect.copy)
            elif self._attempt is not None:
                begin = not self._coordinator.self_paced
                self._attempt.trigger(effect.epoch, effect.committed, begin)

    # ------------------------------------------------------------------ events

    def _listen(self, ref: ObjectRef[Any], handle: Callable[[Future[Any]], None]) -> None:
        """Have `handle` called on this thread when the answer is there."""
        ref.future().add_done_callback(lambda future: self._events.put(partial(handle, future)))

    def _attend(self, index: int) -> None:
        """Listen to a copy that has been started."""
        assert self._attempt is not None
        birth = self._births[index]
        self._listen(self._attempt.running[index], partial(self._on_ran, birth, index))
        self._ask(index)

    def _ask(self, index: int) -> None:
        assert self._attempt is not None
        ref = self._attempt.report(index)
        self._listen(ref, partial(self._on_report, self._births[index], index))

    def _on_ran(self, birth: int, index: int, future: Future[Any]) -> None:
        if birth != self._births[index]:
            return  # the death of one that was ended, or is back already
        error = future.exception()
        if error is not None:
            self._on_error(index, error)
            return
        self._results[self._plans[index].copy] = future.result()[0]
        if len(self._results) == len(self._plans) and not self._coordinator.finished:
            self._carry_out(self._coordinator.request(perf_counter()))

    def _on_report(self, birth: int, index: int, future: Future[Any]) -> None:
        if birth != self._births[index]:
            return
        error = future.exception()
        if error is not None:
            self._on_error(index, error)
            return
        self._ask(index)
        copy, now = self._plans[index].copy, perf_counter()
        self._carry_out(self._coordinator.on_report(self._number, copy, future.result(), now))

    def _on_error(self, index: int, error: BaseException) -> None:
        number, now, plan = self._number, perf_counter(), self._plans[index]
        if isinstance(error, DamagedCheckpointError):
            self._carry_out(self._coordinator.on_damage(number, _first_line(error), now))
        elif isinstance(error, ReplayError):
            self._not_recovered(_first_line(error))
        elif isinstance(error, ActorError):
            self._check_engine(error)
            self._carry_out(self._coordinator.on_lost(number, plan, _first_line(error), now))
        elif isinstance(error, _DEATHS):
            self._check_engine(error)
            self._carry_out(self._coordinator.on_death(number, _first_line(error), now))
        else:
            raise error

    def _check_engine(self, error: BaseException) -> None:
        """Nothing comes back when the engine itself has ended."""
        if not self._home.node_alive:
            raise error

    def _on_request(self, future: Future[int]) -> None:
        self._waiters.append((self._coordinator.progress, future))
        self._carry_out(self._coordinator.request(perf_counter()))

    def _on_export(self, savepoint: str | os.PathLike[str], done: Future[None]) -> None:
        try:
            self._coordinator.export(savepoint)
        except Exception as error:  # it belongs to who asked; the topology goes on
            done.set_exception(error)
        else:
            done.set_result(None)

    def _settle_waiters(self) -> None:
        """Answer those who wait for an epoch that is committed, or will never be."""
        commits, aborts = self._coordinator.progress
        left = []
        for since, future in self._waiters:
            if commits > since[0]:
                future.set_result(self._coordinator.committed)
            elif aborts > since[1] or self._ended.is_set():
                reason = self._coordinator.statistics().last_abort or "the topology has ended"
                future.set_exception(
                    TopologyError(f"expected an epoch to be committed, found that {reason}")
                )
            else:
                left.append((since, future))
        self._waiters = left

    def __repr__(self) -> str:
        state = "running"
        if self._ended.is_set():
            state = "ended" if self._error is None else "stopped or failed"
        return f"<topology '{self.topology.name}', {len(self._plans)} copies, {state}>"


def _first_line(error: BaseException) -> str:
    """What happened, in one line: remote errors carry a traceback whose end says it."""
    cause = getattr(error, "cause", None)
    text = str(cause if isinstance(cause, BaseException) else error)
    return text.splitlines()[0] if text else type(error).__name__


def _nothing() -> None:
    """Wakes the thread."""
