"""Deploying a topology: one actor a copy, placed as a gang, lines opened before the first frame.

The handle lives in the driver. It needs a way to place an actor, the address of its process and
notice of its death, nothing else, so another engine's actors could host the members too.
"""

from __future__ import annotations

import secrets
from typing import Any

from engine import api
from engine.actor import ActorClass, ActorHandle
from engine.exceptions import ActorError, GetTimeoutError
from engine.topology.errors import expected
from engine.topology.handle import TopologyHandle
from engine.topology.plan import MemberPlan, plan_topology
from engine.topology.process import MemberActor
from engine.topology.spec import Topology
from engine.topology.statistics import MemberStatistics

__all__ = ["ProcessHandle", "deploy"]

_START_SECONDS = 60.0
_host = ActorClass(MemberActor, {"max_restarts": 0})


def deploy(topology: Topology) -> ProcessHandle:
    """Run a topology in processes of the engine, which is started when it does not run.

    Raises:
        TopologyError: the declaration is not complete.
        TaskError: a member's constructor raised.
    """
    return ProcessHandle(topology, plan_topology(topology))


class ProcessHandle(TopologyHandle):
    """A topology whose copies are actors."""

    def __init__(self, topology: Topology, plans: list[MemberPlan]) -> None:
        self.topology = topology
        self._plans = plans
        self._stopped = False
        self._results: dict[str, list[Any]] | None = None
        self._error: BaseException | None = None
        self._last: list[MemberStatistics] = []
        name = secrets.token_bytes(8)
        self._actors: list[ActorHandle] = []
        for plan in plans:
            resources = dict(plan.resources or {})
            host = _host.options(num_cpus=plan.num_cpus, resources=resources)
            host._fresh = True
            self._actors.append(host.remote(name, plan))
        try:
            ready = [actor.__ray_ready__.remote() for actor in self._actors]
            api.get(ready, timeout=_START_SECONDS)
            addresses = {
                plan.copy: actor._client.process
                for plan, actor in zip(plans, self._actors, strict=True)
            }
            api.get([actor.configure.remote(addresses) for actor in self._actors])
        except BaseException:
            self._end_all()
            raise
        self._running = [actor.start.remote() for actor in self._actors]

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
            self._end_all()
        return self._results

    def _gather(self, timeout: float | None) -> dict[str, list[Any]]:
        try:
            values = api.get(self._running, timeout=timeout)
        except GetTimeoutError:
            raise self._timed_out(timeout) from None
        except BaseException as error:
            self._error = self._first_cause(error)
            self._end_all()
            raise self._error from error.__cause__
        results: dict[str, list[Any]] = {member.name: [] for member in self.topology.members}
        for plan, value in zip(self._plans, values, strict=True):
            results[plan.name].append(value)
        return results

    def _first_cause(self, error: BaseException) -> BaseException:
        """A member that raised says more than the death of one that was stopped for it."""
        if not isinstance(error, ActorError):
            return error
        ready, _rest = api.wait(self._running, num_returns=len(self._running), timeout=0)
        for ref in ready:
            try:
                api.get(ref)
            except ActorError:
                continue
            except Exception as other:  # the error of the member itself
                return other
        return error

    def _timed_out(self, timeout: float | None) -> GetTimeoutError:
        lines = [actor.describe.remote() for actor in self._actors]
        ready, _rest = api.wait(lines, num_returns=len(lines), timeout=1.0)
        return GetTimeoutError(
            f"topology '{self.topology.name}' has not ended within {timeout} s:\n"
            + "\n".join(f"  {line}" for line in api.get(ready))
        )

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy, in order of declaration; the last known ones once it has ended."""
        if self._actors:
            found = api.get([actor.statistics.remote() for actor in self._actors], timeout=30)
            self._last = [one for one in found if one is not None]
        return self._last

    def stop(self) -> None:
        """End all members without results. Idempotent."""
        self._stopped = True
        self._end_all()

    def _end_all(self) -> None:
        if self._results is not None:
            self.statistics()
        actors, self._actors = self._actors, []
        for actor in actors:
            api.kill(actor)
        self._running = []

    def __repr__(self) -> str:
        state = "ended" if self._results is not None else "stopped" if self._stopped else "running"
        return f"<topology '{self.topology.name}', {len(self._plans)} copies, {state}>"
