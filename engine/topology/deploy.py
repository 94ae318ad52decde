"""Deploying a topology in processes: one actor a copy.

Without checkpoints, here: a death is the end. With them see `engine.topology.supervisor`.
"""

from __future__ import annotations

import os
from typing import Any

from engine import api
from engine.exceptions import ActorError, GetTimeoutError
from engine.topology.attempt import Attempt
from engine.topology.errors import LostSenderError, expected
from engine.topology.handle import TopologyHandle
from engine.topology.plan import MemberPlan, plan_topology
from engine.topology.policy import Checkpoints, External
from engine.topology.spec import Topology
from engine.topology.statistics import MemberStatistics
from engine.topology.supervisor import SupervisedHandle

__all__ = ["ProcessHandle", "deploy"]

# A receiver hears of a death from its line, this process from the node: at about the same time.
_NOTICE_SECONDS = 1.0


def deploy(
    topology: Topology, checkpoints: Checkpoints | None, external: External | None
) -> TopologyHandle:
    """Run a topology in processes of the engine, which is started when it does not run.

    Raises:
        TopologyError: the declaration is not complete.
        TaskError: a member's constructor raised.
        CheckpointError: the checkpoint directory cannot be used.
    """
    plans = plan_topology(topology)
    outside = External() if external is None else external
    if checkpoints is None:
        return ProcessHandle(topology, plans, outside)
    return SupervisedHandle(topology, plans, checkpoints, outside)


class ProcessHandle(TopologyHandle):
    """A topology whose copies are actors; a death of one of them ends it."""

    def __init__(self, topology: Topology, plans: list[MemberPlan], external: External) -> None:
        self.topology = topology
        self._plans = plans
        self._external = external
        self._stopped = False
        self._results: dict[str, list[Any]] | None = None
        self._error: BaseException | None = None
        external.begin(False)
        external.undo(0)
        self._attempt = Attempt(plans)

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Wait until every member has ended; see `TopologyHandle.wait`."""
        if self._results is None:
            if self._error is not None:
                raise self._error
            if self._stopped:
                raise expected(
                    f"topology '{self.topology.name}' to be running",
                    "that it was stopped",
                    "deploy it again",
                )
            self._results = self._gather(timeout)
            self._attempt.statistics()
            self._attempt.end()
        return self._results

    def _gather(self, timeout: float | None) -> dict[str, list[Any]]:
        try:
            values = api.get(self._attempt.running, timeout=timeout)
        except GetTimeoutError:
            raise self.timed_out(timeout) from None
        except BaseException as error:  # an interruption too: nobody waits for the copies any more
            self._error = self._first_cause(error)
            self.stop()
            raise self._error from error.__cause__
        results: dict[str, list[Any]] = {member.name: [] for member in self.topology.members}
        for plan, (value, _tokens) in zip(self._plans, values, strict=True):
            results[plan.name].append(value)
        self._external.commit([token for _, tokens in values for token in tokens])
        return results

    def _first_cause(self, error: BaseException) -> BaseException:
        """A member that raised says more than the death of one that was stopped for it."""
        if not isinstance(error, ActorError | LostSenderError):
            return error
        seconds = _NOTICE_SECONDS if isinstance(error, LostSenderError) else 0.0
        running = self._attempt.running
        ready, _rest = api.wait(running, num_returns=len(running), timeout=seconds)
        died = error
        for ref in ready:
            try:
                api.get(ref)
            except LostSenderError:  # that is how a death looks from afar: go on looking for it
                continue
            except ActorError as other:
                died = other
            except Exception as other:  # the error of the member itself
                return other
        return died

    def timed_out(self, timeout: float | None) -> GetTimeoutError:
        """The error that says what everybody waits for."""
        lines = "".join(f"\n  {line}" for line in self._attempt.describe())
        return GetTimeoutError(
            f"topology '{self.topology.name}' has not ended within {timeout} s:{lines}"
        )

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy, in order of declaration; the last known ones once it has ended."""
        return self._attempt.statistics()

    def stop(self, savepoint: str | os.PathLike[str] | None = None) -> None:
        """End all members without results. Idempotent."""
        if savepoint is not None:
            raise self._without_checkpoints()
        if self._stopped:
            return
        self._stopped = True
        undo = self._results is None
        self._attempt.end(wait=undo)
        if undo:
            self._external.undo(0)

    def __repr__(self) -> str:
        state = "ended" if self._results is not None else "stopped" if self._stopped else "running"
        return f"<topology '{self.topology.name}', {len(self._plans)} copies, {state}>"
