"""The node machine: workers, leases, and who waits for one.

Owners say how many more workers of a shape they want (`LeaseRequest`, a level, not an event); the
node grants while resources last, one at a time in turn, starts workers when none is idle, and asks
for leases back when others wait: idle ones at once, busy ones after a quantum. A worker that blocks
inside a task lends its resources out until it goes on.

Pure: effects leave through the `NodeEdge`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from engine.config import Config
from engine.core.control import LeaseGrant, LeaseReclaim, LeaseRequest, Retire
from engine.core.resources import Pool, fits, to_units

__all__ = ["Demand", "NodeEdge", "NodeMachine", "Worker"]

# Forks in one go: more would starve the workers that already run.
_START_LIMIT = 8


class NodeEdge(Protocol):
    """What the node machine has done for it."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process of this node."""

    def connect(self, one: bytes, other: bytes) -> None:
        """See to it that two processes have a direct connection."""

    def start_worker(self) -> None:
        """Fork a worker; `on_worker_ready` follows."""

    def placed(self, actor: bytes, worker: bytes) -> None:
        """An actor demand was met by this worker."""

    def group_placed(self, group: bytes) -> None:
        """All bundles of a placement group are reserved."""

    def kill(self, process: bytes, cause: str) -> None:
        """Kill a worker at once."""


class Worker:
    """A worker process. `use` says what for: "" (idle), "lease" or "actor"."""

    __slots__ = (
        "blocked",
        "owner",
        "pid",
        "pool",
        "process",
        "reclaim",
        "shape",
        "since",
        "units",
        "use",
    )

    def __init__(self, process: bytes, pid: int) -> None:
        self.process = process
        self.pid = pid
        self.use = ""
        self.owner = b""
        self.shape = b""
        self.units: dict[str, int] = {}
        self.pool: Pool | None = None
        self.blocked = False
        self.since = 0.0
        self.reclaim = 0


class Demand:
    """`wanted` workers of one shape for one owner, or one for an actor."""

    __slots__ = ("actor", "bundle", "fresh", "group", "owner", "shape", "since", "units", "wanted")

    def __init__(self, owner: bytes, shape: bytes, units: dict[str, int], since: float) -> None:
        self.owner = owner
        self.shape = shape
        self.units = units
        self.wanted = 0
        self.since = since
        self.actor = b""
        self.group = b""
        self.bundle = -1
        self.fresh = False


class NodeMachine:
    """Leases and workers of one node."""

    def __init__(self, resources: dict[str, float], config: Config, edge: NodeEdge) -> None:
        self.pool = Pool(to_units(resources))
        self.workers: dict[bytes, Worker] = {}
        self.bundles: dict[bytes, list[Pool]] = {}  # placement group -> pools
        self._config = config
        self._edge = edge
        self._groups_waiting: dict[bytes, list[dict[str, int]]] = {}
        self._idle: list[Worker] = []
        self._demands: dict[tuple[bytes, bytes], Demand] = {}
        self.starting = 0
        # Whether a worker started now has more loaded than the idle ones (see `engine.preload`).
        self.fresh_is_warm = False

    # ------------------------------------------------------------------ demands

    def on_lease_request(self, owner: bytes, message: LeaseRequest, now: float) -> None:
        """An owner wants `wanted` more workers of a shape (0: no more)."""
        key = (owner, message.shape)
        if message.wanted <= 0:
            self._demands.pop(key, None)
            return
        demand = self._demands.get(key)
        if demand is None:
            units = to_units(message.resources)
            demand = self._demands[key] = Demand(owner, message.shape, units, now)
            demand.group, demand.bundle = message.group, message.bundle
        demand.wanted = message.wanted
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
    ) -> None:
        """The head wants a worker for an actor; `placed` follows.

        `fresh`: a new process if that has more loaded than an idle one.
        """
        demand = Demand(b"", actor, to_units(resources), now)
        demand.wanted, demand.actor = 1, actor
        demand.fresh = fresh and self.fresh_is_warm
        demand.group, demand.bundle = group, bundle
        self._demands[b"", actor] = demand
        self.schedule(now)

    def drop_actor_demand(self, actor: bytes) -> None:
        """The actor is dead before it was placed."""
        self._demands.pop((b"", actor), None)

    # ------------------------------------------------------------------ placement groups

    def want_group(self, group: bytes, bundles: list[dict[str, float]], now: float) -> bool:
        """Reserve all bundles, now or when they are free; False when this node never can.

        One node: every strategy but STRICT_SPREAD packs here (the caller refuses that one).
        """
        wanted = [to_units(bundle) for bundle in bundles]
        if not fits(_sum(wanted), self.pool.total):
            return False
        self._groups_waiting[group] = wanted
        self.schedule(now)
        return True

    def _place_groups(self) -> None:
        for group, wanted in list(self._groups_waiting.items()):
            whole = _sum(wanted)
            if not fits(whole, self.pool.free):
                return  # in order: a large group must not starve behind small ones
            del self._groups_waiting[group]
            self.pool.take(whole)
            self.bundles[group] = [Pool(bundle) for bundle in wanted]
            self._edge.group_placed(group)

    def remove_group(self, group: bytes, now: float) -> None:
        """Give the bundles back and end what runs in them. Removing twice is no error."""
        self._groups_waiting.pop(group, None)
        pools = self.bundles.pop(group, None)
        if pools is None:
            return
        for worker in self.workers.values():
            if worker.pool is not None and any(worker.pool is pool for pool in pools):
                self._edge.kill(worker.process, "was killed: its placement group was removed")
        self.pool.give(_sum([pool.total for pool in pools]))
        self.schedule(now)

    def schedule(self, now: float, newcomer: Worker | None = None) -> None:
        """Meet demands in turn, as far as resources and workers go.

        `newcomer` is a worker that has just started.
        """
        if self._groups_waiting:
            self._place_groups()
        needed = 0
        limit = self.starting + _START_LIMIT
        turn = deque((key, demand, demand.wanted) for key, demand in self._demands.items())
        promised: dict[int, dict[str, int]] = {}
        while turn and needed < limit:
            key, demand, left = turn.popleft()
            pool = self._pool_for(demand.units, demand.group, demand.bundle)
            if pool is None or not self._fits_beside(demand, pool, promised):
                continue
            if demand.fresh and newcomer is not None:
                worker, newcomer = newcomer, None
            elif self._idle and not needed and not demand.fresh:
                worker = self._idle[-1]  # the one used last is the warmest
            else:
                worker = None
            if worker is not None:
                self._idle.remove(worker)
                self._grant(demand, pool, worker, now)
                if demand.wanted == 0:
                    del self._demands[key]
            else:  # promise the resources to a worker yet to be started, and go on counting
                needed += 1
                share = promised.setdefault(id(pool), {})
                for name, amount in demand.units.items():
                    share[name] = share.get(name, 0) + amount
            if left > 1:
                turn.append((key, demand, left - 1))
        for _ in range(needed - self.starting):
            self.starting += 1
            self._edge.start_worker()
        if self._demands:
            self._reclaim(now)

    def _fits_beside(
        self, demand: Demand, pool: Pool, promised: dict[int, dict[str, int]]
    ) -> bool:
        share = promised.get(id(pool))
        if share is None:
            return fits(demand.units, pool.free)
        free = {name: pool.free.get(name, 0) - share.get(name, 0) for name in demand.units}
        return fits(demand.units, free)

    def _pool_for(self, units: dict[str, int], group: bytes, bundle: int) -> Pool | None:
        if not group:
            return self.pool
        pools = self.bundles.get(group)
        if pools is None:
            return None
        if bundle >= 0:
            return pools[bundle]
        return next((pool for pool in pools if fits(units, pool.free)), pools[0])

    def _grant(self, demand: Demand, pool: Pool, worker: Worker, now: float) -> None:
        demand.wanted -= 1
        demand.since = now
        pool.take(demand.units)
        worker.units, worker.pool, worker.since = demand.units, pool, now
        worker.reclaim = 0
        if demand.actor:
            worker.use, worker.owner = "actor", demand.actor
            self._edge.placed(demand.actor, worker.process)
        else:
            worker.use, worker.owner, worker.shape = "lease", demand.owner, demand.shape
            self._edge.connect(demand.owner, worker.process)
            grant = LeaseGrant(demand.shape, worker.process, worker.pid)
            self._edge.send(demand.owner, grant)

    # ------------------------------------------------------------------ fairness

    def _reclaim(self, now: float) -> None:
        quantum = self._config.lease_quantum_seconds
        for (owner, shape), demand in self._demands.items():
            pool = self._pool_for(demand.units, demand.group, demand.bundle)
            if pool is None or fits(demand.units, pool.free):
                continue  # waits for a worker to start, not for resources
            mine = self._held(owner, shape)
            for worker in self.workers.values():
                if worker.use != "lease" or worker.reclaim == 2 or worker.blocked:
                    continue
                if (worker.owner, worker.shape) == (owner, shape):
                    continue
                if now - demand.since >= quantum and now - worker.since >= quantum:
                    if self._held(worker.owner, worker.shape) > mine:
                        worker.reclaim = 2
                        self._edge.send(worker.owner, LeaseReclaim(worker.process, True))
                        break
                elif worker.reclaim == 0:
                    worker.reclaim = 1
                    self._edge.send(worker.owner, LeaseReclaim(worker.process, False))

    def _held(self, owner: bytes, shape: bytes) -> int:
        return sum(
            1
            for worker in self.workers.values()
            if worker.use == "lease" and worker.owner == owner and worker.shape == shape
            and worker.reclaim < 2
        )

    def tick(self, now: float) -> float | None:
        """Look whether somebody has waited for a quantum; returns the time of the next look."""
        if not self._demands:
            return self._retire(now)
        for worker in self.workers.values():
            if worker.reclaim == 1:
                worker.reclaim = 0
        self._reclaim(now)
        return now + self._config.lease_quantum_seconds

    def _retire(self, now: float) -> float | None:
        """End workers that have been idle for long, the oldest first, one a CPU excepted."""
        spare = len(self._idle) - max(1, self.pool.total.get("CPU", 0) // 10_000)
        limit = self._config.worker_idle_seconds
        while spare > 0 and self._idle[0].since + limit <= now:
            worker = self._idle.pop(0)
            worker.use = "retiring"
            self._edge.send(worker.process, Retire())
            spare -= 1
        return self._idle[0].since + limit if spare > 0 else None

    def on_kept(self, process: bytes, now: float) -> None:
        """A worker that was to end is still needed as an owner; it may as well work."""
        worker = self.workers.get(process)
        if worker is not None and worker.use == "retiring":
            worker.use, worker.since = "", now
            self._idle.append(worker)
            self.schedule(now)

    # ------------------------------------------------------------------ workers

    def on_worker_ready(self, process: bytes, pid: int, now: float) -> None:
        """A started worker said hello."""
        self.starting = max(0, self.starting - 1)
        worker = self.workers[process] = Worker(process, pid)
        worker.since = now
        self._idle.append(worker)
        self.schedule(now, worker)

    def on_start_failed(self, now: float) -> None:
        """A worker died before its hello."""
        self.starting = max(0, self.starting - 1)
        self.schedule(now)

    def on_lease_return(self, process: bytes, now: float) -> None:
        """An owner gives a worker back."""
        worker = self.workers.get(process)
        if worker is None or worker.use != "lease":
            return
        self._release(worker)
        worker.use, worker.owner, worker.since = "", b"", now
        self._idle.append(worker)
        self.schedule(now)

    def on_blocked(self, process: bytes, blocked: bool, now: float) -> None:
        """A worker waits inside user code (its resources are lent out), or goes on."""
        worker = self.workers.get(process)
        if worker is None or worker.pool is None or worker.blocked == blocked:
            return
        worker.blocked = blocked
        if blocked:
            worker.pool.give(worker.units)
            self.schedule(now)
        else:
            worker.pool.take(worker.units)

    def _release(self, worker: Worker) -> None:
        if worker.pool is not None and not worker.blocked:
            worker.pool.give(worker.units)
        worker.pool, worker.units, worker.blocked = None, {}, False

    def on_died(self, process: bytes, now: float) -> Worker | None:
        """A process is gone: its demands and leases go, its resources come back."""
        for key in [key for key in self._demands if key[0] == process]:
            del self._demands[key]
        orphans = [one for one in self.workers.values() if one.owner == process]
        worker = self.workers.pop(process, None)
        if worker is not None:
            self._release(worker)
            if worker in self._idle:
                self._idle.remove(worker)
        for orphan in orphans:
            # It may still run the dead owner's task; the edge kills it (see runtime.node).
            orphan.reclaim = 2
        self.schedule(now)
        return worker

    def waiting(self) -> list[dict[str, Any]]:
        """Demands that are not met, for people."""
        return [
            {"owner": demand.owner.hex(), "wanted": demand.wanted, "actor": demand.actor.hex()}
            for demand in self._demands.values()
        ]


def _sum(bundles: list[dict[str, int]]) -> dict[str, int]:
    whole: dict[str, int] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            whole[name] = whole.get(name, 0) + amount
    return whole
