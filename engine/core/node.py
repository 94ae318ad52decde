"""The node machine: workers, leases, and who waits for one.

Owners say how many more workers of a shape they want (`LeaseRequest`, a level, not an event); the
node grants while resources last, one at a time in turn, starts workers when none is idle, and asks
for leases back when others wait: idle ones at once, busy ones after a quantum. A worker that blocks
inside a task lends its CPUs out until it goes on; what else it has, it keeps: a device's memory or
a licence is in use all the same.

Workers belong to a runtime environment and never change it. One that was given GPUs is not used
again after its lease: a process keeps the devices it has once seen, and memory on them.

Pure: effects leave through the `NodeEdge`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from engine.config import Config
from engine.core.control import LeaseGrant, LeaseReclaim, LeaseRequest, Unplaceable
from engine.core.groups import INFEASIBLE, Group, Groups
from engine.core.reasons import Reasons
from engine.core.resources import GPU, UNIT, Pool, add_up, fits, to_units
from engine.core.roster import Roster, Worker

__all__ = ["Demand", "NodeEdge", "NodeMachine", "Worker"]

# Forks in one go: more would starve the workers that already run.
_START_LIMIT = 8
_REMOVED = "its placement group was removed"
# So many in a row that die before their hello, and starting more is no use.
_STILLBORN_MAX = 20


class NodeEdge(Protocol):
    """What the node machine has done for it."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process of this node."""

    def connect(self, one: bytes, other: bytes) -> None:
        """See to it that two processes have a direct connection."""

    def start_worker(self, environment: bytes) -> None:
        """Fork a worker; `on_worker_ready` follows."""

    def placed(self, actor: bytes, worker: bytes) -> None:
        """An actor demand was met by this worker."""

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        """An actor cannot be, or can no longer be, where it was to run."""

    def group_placed(self, group: bytes) -> None:
        """All bundles of a placement group are reserved."""

    def group_removed(self, group: bytes) -> None:
        """A placement group is no more."""

    def kill(self, process: bytes, cause: str) -> None:
        """Kill a worker at once."""


class Demand:
    """`wanted` workers of one shape for one owner, or one for an actor.

    `since`: when it was last met in part, or made.
    """

    __slots__ = (
        *("actor", "bundle", "environment", "fresh", "group", "owner", "shape", "since", "spare"),
        *("title", "units", "unused", "wanted"),
    )

    def __init__(self, owner: bytes, shape: bytes, units: dict[str, int], since: float) -> None:
        self.owner = owner
        self.shape = shape
        self.units = units
        self.wanted = 0
        self.since = since
        self.actor = b""
        self.group = b""
        self.bundle = -1
        self.environment = b""
        self.title = ""
        self.fresh = False
        self.unused = False
        self.spare = False  # content with what nobody else wants

    def kind(self, what: str) -> str:
        """The class of an error about this demand: of tasks, or of actors."""
        return ("Actor" if self.actor else "Task") + what


class NodeMachine:
    """Leases and workers of one node.

    `devices` names its GPUs; `environment` is the one for which idle workers are kept.
    """

    def __init__(
        self,
        resources: dict[str, float],
        config: Config,
        edge: NodeEdge,
        *,
        devices: list[str] | None = None,
        environment: bytes = b"",
    ) -> None:
        shares = None if devices is None else dict.fromkeys(devices, UNIT)
        self.pool = Pool(to_units(resources), shares)
        self.groups = Groups(self.pool)
        kept = max(1, self.pool.total.get("CPU", 0) // UNIT)
        self.roster = Roster(config, edge, environment, kept)
        self.workers = self.roster.workers
        self._config = config
        self._edge = edge
        self.demands: dict[tuple[bytes, bytes], Demand] = {}
        self.reasons = Reasons(self, config.waiting_warning_seconds, edge.send)
        # Whether a worker started now has more loaded than the idle ones (see `engine.preload`).
        self.fresh_is_warm = False

    # ------------------------------------------------------------------ demands

    def on_lease_request(self, owner: bytes, message: LeaseRequest, now: float) -> None:
        """An owner wants `wanted` more workers of a shape (0: no more)."""
        key = (owner, message.shape)
        if message.wanted <= 0:
            self.demands.pop(key, None)
            return
        demand = self.demands.get(key)
        if demand is None:
            units = to_units(message.resources)
            demand = self.demands[key] = Demand(owner, message.shape, units, now)
            demand.group, demand.bundle = message.group, message.bundle
            demand.environment, demand.title = message.environment, f"task {message.name}"
        demand.wanted, demand.spare = message.wanted, message.spare
        if not self._refuse(demand):
            self.schedule(now)

    def want_actor(
        self,
        actor: bytes,
        resources: dict[str, float],
        group: bytes,
        bundle: int,
        now: float,
        *,
        fresh: bool = False,
        unused: bool = False,
        environment: bytes = b"",
        title: str = "",
    ) -> None:
        """The head wants a worker for an actor; `placed` or `unplaceable` follows.

        `fresh`: a new process if that has more loaded than an idle one. `unused`: one that has had
        no work, for an actor that is replayed: a process that has called such actors answers for
        those calls under its own name, and an actor that it became would call under another.
        """
        demand = Demand(b"", actor, to_units(resources), now)
        demand.wanted, demand.actor = 1, actor
        demand.fresh, demand.unused = fresh and self.fresh_is_warm, unused
        demand.group, demand.bundle = group, bundle
        demand.environment, demand.title = environment, title
        self.demands[b"", actor] = demand
        if not self._refuse(demand):
            self.schedule(now)

    def _refuse(self, demand: Demand) -> bool:
        """Whether a demand can never be met where it has to be; then it has failed."""
        if not demand.group:
            return False
        group = self.groups.all.get(demand.group)
        if group is None:
            self._fail(demand, demand.kind("PlacementGroupRemoved"), _REMOVED)
        elif group.state == INFEASIBLE or not group.can_hold(demand.units, demand.bundle):
            where = "" if demand.bundle < 0 else f"bundle {demand.bundle} of "
            text = f"what it asks for fits nowhere in {where}its placement group {group.bundles}"
            self._fail(demand, demand.kind("UnschedulableError"), text)
        else:
            return False
        return True

    def _fail(self, demand: Demand, kind: str, text: str) -> None:
        del self.demands[demand.owner, demand.shape]
        if demand.actor:
            self._edge.unplaceable(demand.actor, kind, text)
        else:
            self._edge.send(demand.owner, Unplaceable(demand.shape, kind, text))

    def drop_actor_demand(self, actor: bytes) -> None:
        """The actor is dead before it was placed."""
        self.demands.pop((b"", actor), None)

    # ------------------------------------------------------------------ placement groups

    def want_group(self, group: Group, now: float) -> Group | None:
        """Reserve all bundles, now or when they are free.

        Returns the group that has the same name, if there is one: then nothing happens.
        """
        taken = self.groups.add(group)
        if taken is None:
            self.schedule(now)
        return taken

    def remove_group(self, group_id: bytes, now: float) -> None:
        """Give the bundles back and end what runs in them. Removing twice is no error."""
        group = self.groups.remove(group_id)
        if group is None:
            return
        for demand in [one for one in self.demands.values() if one.group == group_id]:
            self._fail(demand, demand.kind("PlacementGroupRemoved"), _REMOVED)
        for worker in list(self.workers.values()):
            if worker.pool not in group.pools:
                continue
            if worker.use == "actor":
                self._edge.unplaceable(worker.owner, "ActorPlacementGroupRemoved", _REMOVED)
            else:  # before its death is told, which would have its tasks tried again
                gone = Unplaceable(worker.shape, "TaskPlacementGroupRemoved", _REMOVED, True)
                self._edge.send(worker.owner, gone)
                worker.use = "doomed"  # its owner may return it before its death is known
                self._edge.kill(worker.process, f"was killed: {_REMOVED}")
        self._edge.group_removed(group_id)
        self.schedule(now)

    def kept_for_group(self) -> set[str]:
        """Resources that nobody else is given, so that the next placement group comes to its turn.

        Only while it would be placed if all leases were given back: it does not wait for actors at
        the expense of tasks.
        """
        group = self.groups.next_waiting()
        if group is None:
            return set()
        whole = add_up(group.units)
        leased = [
            one.units for one in self.workers.values()
            if one.use == "lease" and one.pool is self.pool and not one.blocked
        ]
        if not fits(whole, add_up([self.pool.free, *leased])):
            return set()
        return {name for name, amount in whole.items() if self.pool.free.get(name, 0) < amount}

    def schedule(self, now: float, newcomer: Worker | None = None) -> None:
        """Meet demands in turn, as far as resources and workers go.

        `newcomer` is a worker that has just started.
        """
        for group in self.groups.place():
            self._edge.group_placed(group.id)
        kept = self.kept_for_group()
        needed: dict[bytes, int] = {}
        limit = self.roster.starting + _START_LIMIT
        demands = sorted(self.demands.items(), key=lambda item: item[1].spare)
        turn = deque((key, demand, demand.wanted) for key, demand in demands)
        short = bool(kept)  # somebody waits for resources
        promised: dict[int, dict[str, int]] = {}
        while turn and limit > 0:
            key, demand, left = turn.popleft()
            pool = self.pool_for(demand)
            if pool is None or not self._fits_beside(demand, pool, promised):
                short = True
                continue
            if demand.spare and short:
                continue
            if pool is self.pool and not kept.isdisjoint(demand.units):
                continue
            environment = demand.environment
            if not demand.fresh:
                worker = self.roster.take(environment, demand.owner, demand.unused)
            elif newcomer is not None and newcomer.environment == environment:
                worker, newcomer = self.roster.take_this(newcomer), None
            else:
                worker = None
            if worker is not None:
                self._grant(demand, pool, worker, now)
                if demand.wanted == 0:
                    del self.demands[key]
            else:  # promise the resources to a worker yet to be started, and go on counting
                limit -= 1
                needed[environment] = needed.get(environment, 0) + 1
                share = promised.setdefault(id(pool), {})
                for name, amount in demand.units.items():
                    share[name] = share.get(name, 0) + amount
            if left > 1:
                turn.append((key, demand, left - 1))
        for environment, count in needed.items():
            self.roster.start(environment, count)
        self._reclaim(now)

    def _fits_beside(
        self, demand: Demand, pool: Pool, promised: dict[int, dict[str, int]]
    ) -> bool:
        share = promised.get(id(pool))
        if share is None or not pool.has_room(demand.units):
            return pool.has_room(demand.units)
        free = {name: pool.free.get(name, 0) - share.get(name, 0) for name in demand.units}
        return fits(demand.units, free)

    def pool_for(self, demand: Demand) -> Pool | None:
        """Where its resources are to come from; None while its placement group waits."""
        if not demand.group:
            return self.pool
        return self.groups.all[demand.group].pool_for(demand.units, demand.bundle)

    def _grant(self, demand: Demand, pool: Pool, worker: Worker, now: float) -> None:
        demand.wanted -= 1
        demand.since = now
        pool.take(demand.units)
        worker.devices = pool.devices.take(demand.units.get(GPU, 0)) or {}
        worker.units, worker.pool, worker.since = demand.units, pool, now
        worker.reclaim, worker.title, worker.used = 0, demand.title, True
        if demand.actor:
            worker.use, worker.owner = "actor", demand.actor
            self._edge.placed(demand.actor, worker.process)
        else:
            worker.use, worker.owner, worker.shape = "lease", demand.owner, demand.shape
            self._edge.connect(demand.owner, worker.process)
            devices = list(worker.devices) or None
            grant = LeaseGrant(demand.shape, worker.process, worker.pid, devices)
            self._edge.send(demand.owner, grant)

    # ------------------------------------------------------------------ fairness

    def _reclaim(self, now: float) -> None:
        quantum = self._config.lease_quantum_seconds
        for (owner, shape), demand in self.demands.items():
            pool = self.pool_for(demand)
            if demand.spare or pool is None or pool.has_room(demand.units):
                continue  # waits for a worker to start, not for resources
            mine = self.held(owner, shape)
            for worker in self.workers.values():
                if worker.use != "lease" or worker.reclaim == 2 or worker.blocked:
                    continue
                if (worker.owner, worker.shape) == (owner, shape):
                    continue
                if now - demand.since >= quantum and now - worker.since >= quantum:
                    if self.held(worker.owner, worker.shape) > mine:
                        worker.reclaim = 2
                        self._edge.send(worker.owner, LeaseReclaim(worker.process, True))
                        break
                elif worker.reclaim == 0:
                    worker.reclaim = 1
                    self._edge.send(worker.owner, LeaseReclaim(worker.process, False))
        if self.kept_for_group():
            self._reclaim_for_group(now, quantum)

    def _reclaim_for_group(self, now: float, quantum: float) -> None:
        group = self.groups.next_waiting()
        assert group is not None
        for worker in self.workers.values():
            if worker.use != "lease" or worker.pool is not self.pool or worker.blocked:
                continue
            drain = now - max(group.since, worker.since) >= quantum
            if worker.reclaim < (2 if drain else 1):
                worker.reclaim = 2 if drain else 1
                self._edge.send(worker.owner, LeaseReclaim(worker.process, drain))

    def held(self, owner: bytes, shape: bytes) -> int:
        """How many leases of this shape the owner has and may keep."""
        return sum(
            1
            for worker in self.workers.values()
            if worker.use == "lease" and worker.owner == owner and worker.shape == shape
            and worker.reclaim < 2
        )

    def tick(self, now: float) -> float | None:
        """Look whether somebody has waited for long; returns the time of the next look."""
        following = self.roster.retire(now)
        if not self.demands and self.groups.next_waiting() is None:
            return following
        for worker in self.workers.values():
            if worker.reclaim == 1:
                worker.reclaim = 0
        self._reclaim(now)
        self.reasons.warn(now)
        look = now + self._config.lease_quantum_seconds
        return look if following is None else min(look, following)

    # ------------------------------------------------------------------ workers

    def on_kept(self, process: bytes, now: float) -> None:
        """A worker that was to end is still needed as an owner; it may as well work.

        One that has run as many calls as it may only lives on, and ends by itself.
        """
        worker = self.workers.get(process)
        if worker is None:
            return
        if worker.leaving:
            self._release(worker)
            self.schedule(now)
        elif self.roster.keep(process, now):
            self._release(worker)  # what it still has: devices
            self.schedule(now)

    def on_leaving(self, process: bytes, now: float) -> None:
        """A worker has run as many calls as it may; it gives back what it is sent from now on."""
        worker = self.workers.get(process)
        if worker is None:
            return
        worker.leaving = True
        if worker.use == "lease":
            worker.reclaim = 2
            self._edge.send(worker.owner, LeaseReclaim(process, True))
        elif worker.use == "":
            self.roster.end(worker)

    def on_worker_ready(
        self, process: bytes, pid: int, now: float, environment: bytes = b""
    ) -> None:
        """A started worker said hello."""
        worker = self.roster.ready(process, pid, environment, now)
        self.schedule(now, worker)

    def on_start_failed(self, now: float, environment: bytes = b"", cause: str = "") -> bool:
        """A worker died before its hello. False when so many have in a row that none will live."""
        failed = self.roster.failed(environment)
        if environment and failed >= self._config.worker_starts_max:
            text = f"{failed} workers in a row died before they were ready; the last {cause}"
            self.on_setup_failed(environment, text)
        elif failed >= _STILLBORN_MAX:
            return False
        self.schedule(now)
        return True

    def on_no_room(self, environment: bytes, text: str) -> None:
        """There cannot be one more process. Actors fail, but those for which one is on its way.

        Tasks wait for the workers that there are; without any they fail too.
        """
        coming = self.roster.not_started(environment)
        waiting = [
            demand for demand in self.demands.values()
            if demand.environment == environment and (demand.actor or not self.workers)
        ]
        for demand in waiting[coming:]:
            pool = self.pool_for(demand)
            if pool is not None and pool.has_room(demand.units):  # else it waits for resources
                self._fail(demand, demand.kind("UnschedulableError"), text)

    def on_setup_failed(self, environment: bytes, text: str) -> None:
        """An environment cannot be set up: what waits for it fails; later work tries again."""
        self.roster.forgive(environment)
        for demand in list(self.demands.values()):
            if demand.environment == environment:
                self._fail(demand, "RuntimeEnvSetupError", text)

    def on_lease_return(self, process: bytes, now: float) -> None:
        """An owner gives a worker back."""
        worker = self.workers.get(process)
        if worker is None or worker.use != "lease":
            return
        if worker.leaving:  # what it holds (a GPU) is free when the process is gone
            self.roster.end(worker)
            return
        if worker.devices:  # likewise, and nobody else may find its memory on them
            self.roster.spend(worker)
            return
        self._release(worker)
        self.roster.rest(worker, now)
        self.schedule(now)

    def on_blocked(self, process: bytes, blocked: bool, now: float) -> None:
        """A worker waits inside user code (its CPUs are lent out), or goes on."""
        worker = self.workers.get(process)
        if worker is None or worker.pool is None or worker.blocked == blocked:
            return
        worker.blocked = blocked
        if blocked:
            worker.lent = {name: worker.units[name] for name in ("CPU",) if name in worker.units}
            worker.pool.give(worker.lent)
            self.schedule(now)
        else:
            worker.pool.take(worker.lent)
            worker.lent = {}

    def _release(self, worker: Worker) -> None:
        if worker.pool is not None:
            worker.pool.give(worker.kept_units())
            worker.pool.devices.give(worker.devices)
        worker.pool, worker.units, worker.blocked = None, {}, False
        worker.devices, worker.lent = {}, {}

    def on_died(self, process: bytes, now: float) -> Worker | None:
        """A process is gone: its demands and leases go, its resources come back."""
        for key in [key for key in self.demands if key[0] == process]:
            del self.demands[key]
        orphans = [one for one in self.workers.values() if one.owner == process]
        worker = self.roster.remove(process)
        if worker is not None:
            self._release(worker)
        for orphan in orphans:
            # It may still run the dead owner's task; the edge kills it (see runtime.node).
            orphan.reclaim = 2
        for group in self.groups.made_by(process):
            self.remove_group(group, now)
        self.schedule(now)
        return worker

    def waiting(self) -> list[dict[str, Any]]:
        """Demands that are not met, for people."""
        return [
            {
                "owner": demand.owner.hex(),
                "wanted": demand.wanted,
                "actor": demand.actor.hex(),
                "shape": demand.shape.hex(),
                "title": demand.title,
                "reason": self.reasons.of_demand(demand),
            }
            for demand in self.demands.values()
        ]
