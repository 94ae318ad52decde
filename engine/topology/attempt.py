"""One start of all copies of a topology: actors placed as a gang, lines open, members running.

It needs a way to place an actor, the address of its process and notice of its death, nothing
else, so another engine's actors could host the members too.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from engine import api
from engine.actor import ActorClass, ActorHandle
from engine.exceptions import EngineError
from engine.runtime import client
from engine.store.refs import ObjectRef
from engine.topology.coordinator import Start
from engine.topology.plan import MemberPlan
from engine.topology.process import MemberActor
from engine.topology.rejoin import combine
from engine.topology.statistics import MemberStatistics

__all__ = ["Attempt"]

_START_SECONDS = 60.0
_ASK_SECONDS = 30.0
# A process is there in tens of milliseconds, and the others answer between two batches. Whoever
# takes longer than this is waited for in a rollback just as well.
_REVIVE_SECONDS = 10.0
# Killed processes are gone in milliseconds; a machine that swaps may need longer.
_END_SECONDS = 10.0
_host = ActorClass(MemberActor, {"max_restarts": 0})


class Attempt:
    """The actors of one start.

    Args:
        plans: one a copy.
        start: what they go on from; None without checkpoints.

    Attributes:
        running: (result, tokens) of each copy, in order of the plans, which is that of their ids.

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
        self._name = secrets.token_bytes(8)
        try:
            for plan in plans:
                self._actors.append(self._place(plan))
            self._home = client.current()
            ready = [actor.__ray_ready__.remote() for actor in self._actors]
            api.get(ready, timeout=_START_SECONDS)
            addresses = self._addresses()
            lines = [actor.configure.remote(addresses) for actor in self._actors]
            api.get(lines, timeout=_START_SECONDS)
        except BaseException:  # told by whoever asked for the start; no copy may stay
            self.end()
            raise
        self.running = [actor.start.remote(start) for actor in self._actors]

    def _place(self, plan: MemberPlan) -> ActorHandle:
        host = _host.options(num_cpus=plan.num_cpus, resources=dict(plan.resources or {}))
        host._fresh = True
        copies = len(self.plans)
        host._topology = [self._name.hex(), plan.topology, plan.name, plan.index, copies]
        placed: ActorHandle = host.remote(self._name, plan)
        return placed

    def _addresses(self) -> dict[int, bytes]:
        pairs = zip(self.plans, self._actors, strict=True)
        return {plan.copy: actor._client.process for plan, actor in pairs}

    def revive(self, copy: int, start: Start, taken: Sequence[int]) -> None:
        """Start one copy again, alone; its process is dead, all others go on.

        Args:
            copy: its id.
            start: what it goes on from.
            taken: epochs that the others have been asked for since.

        Raises:
            Unrecoverable: what it needs is not there any more.
            EngineError: another one died, or does not answer in time.
        """
        plan, actors = self.plans[copy], self._actors
        actor = actors[copy] = self._place(plan)
        api.get(actor.__ray_ready__.remote(), timeout=_REVIVE_SECONDS)
        addresses = self._addresses()
        news = copy, addresses[copy], start.epoch, copy in start.ended
        asked = [actors[peer].rejoin.remote(*news) for peer in sorted(plan.peers)]
        rejoin = combine(plan, api.get(asked, timeout=_REVIVE_SECONDS))
        api.get(actor.configure.remote(addresses), timeout=_REVIVE_SECONDS)
        self.running[copy] = actor.start.remote(start, rejoin)
        for epoch in taken:
            actor.trigger.options(num_returns=0).remote(epoch, start.epoch, True)

    def caught_up(self, copy: int) -> ObjectRef[Any]:
        """Answered when a revived copy is where the one before it was."""
        found: ObjectRef[Any] = self._actors[copy].caught_up.remote()
        return found

    def committed(self, epoch: int) -> None:
        """Tell all copies that nobody goes back behind the beginning of `epoch`."""
        for actor in self._actors:
            actor.committed.options(num_returns=0).remote(epoch)

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
