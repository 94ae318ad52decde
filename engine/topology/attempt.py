"""One start of all copies of a topology: actors placed as a gang, lines open, members running.

It needs a way to place an actor, the address of its process and notice of its death, nothing
else, so another engine's actors could host the members too.
"""

from __future__ import annotations

import secrets
from typing import Any

from engine import api
from engine.actor import ActorClass, ActorHandle
from engine.exceptions import EngineError
from engine.runtime import client
from engine.store.refs import ObjectRef
from engine.topology.coordinator import Start
from engine.topology.plan import MemberPlan
from engine.topology.process import MemberActor
from engine.topology.statistics import MemberStatistics

__all__ = ["Attempt"]

_START_SECONDS = 60.0
_ASK_SECONDS = 30.0
# Killed processes are gone in milliseconds; a machine that swaps may need longer.
_END_SECONDS = 10.0
_host = ActorClass(MemberActor, {"max_restarts": 0})


class Attempt:
    """The actors of one start.

    Args:
        plans: one a copy.
        start: what they go on from; None without checkpoints.

    Attributes:
        running: (result, tokens) of each copy, in order of the plans.

    Raises:
        TaskError: a member's constructor raised.
        ActorError: a process died meanwhile.
    """

    def __init__(self, plans: list[MemberPlan], start: Start | None = None) -> None:
        self.plans = plans
        self.running: list[ObjectRef[Any]] = []
        self._home = client.current()
        self._last: list[MemberStatistics] = []
        self._actors: list[ActorHandle] = []
        name = secrets.token_bytes(8)
        try:
            for plan in plans:
                resources = dict(plan.resources or {})
                host = _host.options(num_cpus=plan.num_cpus, resources=resources)
                host._fresh = True
                host._topology = [name.hex(), plan.topology, plan.name, plan.index, len(plans)]
                self._actors.append(host.remote(name, plan))
            self._home = client.current()
            ready = [actor.__ray_ready__.remote() for actor in self._actors]
            api.get(ready, timeout=_START_SECONDS)
            addresses = {
                plan.copy: actor._client.process
                for plan, actor in zip(plans, self._actors, strict=True)
            }
            lines = [actor.configure.remote(addresses) for actor in self._actors]
            api.get(lines, timeout=_START_SECONDS)
        except BaseException:  # told by whoever asked for the start; no copy may stay
            self.end()
            raise
        self.running = [actor.start.remote(start) for actor in self._actors]

    def report(self, index: int) -> ObjectRef[Any]:
        """The next report of a copy on its snapshots."""
        found: ObjectRef[Any] = self._actors[index].report.remote()
        return found

    def trigger(self, epoch: int, committed: int, begin: bool) -> None:
        """Tell all copies that an epoch is taken; see `MemberActor.trigger`."""
        for actor in self._actors:
            actor.trigger.options(num_returns=0).remote(epoch, committed, begin)

    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy that has started; the last known ones once they have ended."""
        if self._actors:
            found = api.get([one.statistics.remote() for one in self._actors], timeout=_ASK_SECONDS)
            self._last = [one for one in found if one is not None]
        return self._last

    def describe(self) -> list[str]:
        """One line a copy that answers: what it is doing or waiting for."""
        lines = [actor.describe.remote() for actor in self._actors]
        if not lines:
            return []
        ready, _rest = api.wait(lines, num_returns=len(lines), timeout=1.0)
        found = []
        for line in ready:
            try:
                found.append(api.get(line))
            except EngineError as error:  # a dead copy is part of the picture
                found.append(str(error))
        return found

    def end(self, wait: bool = False) -> None:
        """Kill all copies. Idempotent. `wait`: until they are dead, or for some seconds."""
        actors, self._actors = self._actors, []
        if self._home is None or client.current() is not self._home:
            return  # the engine was shut down, and they with it
        for actor in actors:
            api.kill(actor)
        if wait and actors:
            last = [actor.__ray_ready__.remote() for actor in actors]
            api.wait(last, num_returns=len(last), timeout=_END_SECONDS)
