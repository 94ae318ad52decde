"""What the node can tell for `engine.state`: its processes, the head's actors, what has happened.

Records have the names and, as far as they are true here, the values of Ray's state API.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from engine.core.control import History, WorkerDied
from engine.core.environments import decode_environment, said_by_user
from engine.core.gather import PATIENCE_SECONDS
from engine.core.ids import owner_of
from engine.core.node import Worker
from engine.core.resources import from_units

if TYPE_CHECKING:
    from engine.core.head import ActorRecord
    from engine.runtime.node import Node

__all__ = ["Inventory"]

# Dead processes, and things that have happened, that are told of.
_PAST_KEPT = 1_000
# Calls run by workers that have ended: of ten such at least.
_RECORDS_KEPT = 10_000
# How a driver ended: in order, or not, whatever its exit code was.
_JOB_ENDS = {"": "RUNNING", "ended": "SUCCEEDED"}
_ACTOR_STATES = {"pending": "PENDING_CREATION", "starting": "PENDING_CREATION"}


class Inventory:
    """Views of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._histories: deque[dict[str, Any]] = deque()
        self._kept = 0  # records in all of them
        self._dead: deque[dict[str, Any]] = deque(maxlen=_PAST_KEPT)
        self._happened: deque[dict[str, Any]] = deque(maxlen=_PAST_KEPT)
        self._listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "nodes": self._nodes,
            "jobs": self._jobs,
            "workers": self._workers,
            "actors": self._actors,
            "placement_groups": self._placement_groups,
            "runtime_envs": self._runtime_envs,
            "cluster_events": lambda: list(reversed(self._happened)),
            "waiting": self._node.machine.waiting,
        }

    # ------------------------------------------------------------------ what is noted

    def keep(self, message: History) -> None:
        """What a worker that ends has done."""
        self._histories.append(message.record)
        self._kept += len(message.record["ended"])
        while self._kept > _RECORDS_KEPT:
            self._kept -= len(self._histories.popleft()["ended"])

    def on_died(self, died: WorkerDied, worker: Worker | None, expected: bool) -> None:
        """A worker is gone. `expected`: the engine has killed it."""
        now = time() * 1e3
        actor = self._node.head.actors.get(worker.owner) if worker is not None else None
        if worker is not None and worker.use == "retiring":
            kind = "INTENDED_SYSTEM_EXIT"
        elif expected or died.cause == "exited with code 0":
            kind = "INTENDED_USER_EXIT"
        else:
            kind = "SYSTEM_ERROR"
        self._dead.append(
            self._worker(died.process, died.pid, "WORKER")
            | {"is_alive": False, "exit_type": kind, "exit_detail": died.cause, "end_time_ms": now}
        )
        what = f"actor {actor.title}" if actor is not None else "a worker"
        self._happened.append(
            {
                "time": now,
                "severity": "ERROR" if kind == "SYSTEM_ERROR" else "INFO",
                "source_type": "NODE",
                "message": f"{what} (pid {died.pid}) {died.cause}",
                "event_id": died.process.hex(),
            }
        )

    # ------------------------------------------------------------------ answers

    def gather(self, peer: bytes, number: int, about: str, patience: float) -> None:
        """Ask every process but `peer` what it knows, and pass it on."""
        node, now = self._node, perf_counter()
        others = [one for one in node.members() if one != peer]

        def deliver(records: list[Any], silent: list[bytes]) -> None:
            if about == "tasks":
                records = [*records, *self._histories]
            pids = {one: pid for one, _kind, pid, _started in node.processes()}
            unanswered = [pids.get(one, 0) for one in silent]
            node.reply(peer, number, {"records": records, "unanswered": unanswered})

        node.gatherings.ask(about, others, now, deliver, min(patience, PATIENCE_SECONDS))
        following = node.gatherings.tick(now)
        if following is not None:
            node.reactor.look_at(following)

    def answer(self, peer: bytes, number: int) -> None:
        """Everything that this node knows by itself, by kind."""
        self._node.reply(peer, number, {kind: tell() for kind, tell in self._listings.items()})

    def _nodes(self) -> list[dict[str, Any]]:
        node = self._node
        pool = node.machine.pool.statistics()
        return [
            {
                "node_id": node.id.hex(),
                "node_ip": "127.0.0.1",
                "is_head_node": True,
                "state": "ALIVE",
                "state_message": node.stopping,
                "resources_total": pool["total"],
                "resources_available": pool["free"],
                "labels": {},
                "start_time_ms": node.started * 1e3,
                "end_time_ms": None,
                "object_store_bytes_used": node.store.memory.used,
                "object_store_bytes_limit": node.store.memory.limit,
            }
        ]

    def _jobs(self) -> list[dict[str, Any]]:
        """Those that run, then those that ended last."""
        jobs = self._node.jobs
        live = [one for one in jobs.all.values() if not one.observer]
        return [
            {
                "job_id": job.id.hex(),
                "submission_id": None,
                "type": "DRIVER",
                "status": _JOB_ENDS.get(job.cause, "FAILED"),
                "message": f"its driver {job.cause}" if job.cause else "",
                "entrypoint": job.entrypoint,
                "start_time": job.started * 1e3,
                "end_time": job.ended * 1e3 or None,
                "driver_info": {"id": job.id.hex(), "pid": str(job.pid)},
            }
            for job in [*live, *reversed(jobs.ended)]
        ]

    def _worker(self, process: bytes, pid: int, kind: str) -> dict[str, Any]:
        return {
            "worker_id": process.hex(),
            "is_alive": True,
            "worker_type": kind,
            "exit_type": None,
            "exit_detail": None,
            "node_id": self._node.id.hex(),
            "ip": "127.0.0.1",
            "pid": pid,
            "use": "driver" if kind == "DRIVER" else "",
            "blocked": False,
            "resources": {},
            "worker_launch_time_ms": None,
            "end_time_ms": None,
        }

    def _workers(self) -> list[dict[str, Any]]:
        """Live ones, driver included, then those that ended last."""
        node, found = self._node, []
        for process, kind, pid, started in node.processes():
            worker = node.machine.workers.get(process)
            if kind != "driver" and worker is None:
                continue
            record = self._worker(process, pid, kind.upper())
            record["worker_launch_time_ms"] = started * 1e3
            if worker is not None:
                record |= {
                    "use": worker.use or "idle",
                    "blocked": worker.blocked,
                    "resources": from_units(worker.units),
                }
            found.append(record)
        return [*found, *reversed(self._dead)]

    def _actors(self) -> list[dict[str, Any]]:
        """Those that live first, then the latest."""
        records = reversed(self._node.head.actors.items())
        found = [self._actor(one, record) for one, record in records]
        return sorted(found, key=lambda one: one["state"] == "DEAD")

    def _actor(self, actor: bytes, record: ActorRecord) -> dict[str, Any]:
        options = record.create.options
        dead = record.state == "dead"
        return {
            "actor_id": actor.hex(),
            "class_name": options.get("class", ""),
            "state": _ACTOR_STATES.get(record.state, record.state.upper()),
            "job_id": self._node.jobs.of_environment(options.get("environment", b"")).hex(),
            "name": record.name[1] if record.name else "",
            "ray_namespace": options.get("namespace", ""),
            "node_id": self._node.id.hex() if record.process else None,
            "worker_id": record.process.hex() or None,
            "pid": record.pid,
            "death_cause": record.cause if dead else "",
            "num_restarts": record.create.restarts,
            "is_detached": options.get("lifetime") == "detached",
            "required_resources": options.get("resources", {}),
            "placement_group_id": options["group"].hex() if options.get("group") else None,
            "owner_id": owner_of(actor).hex(),
            "topology": options.get("topology"),
        }

    def _placement_groups(self) -> list[dict[str, Any]]:
        jobs, groups = self._node.jobs, self._node.machine.groups.all.values()
        return [
            one.table() | {"bundles": one.bundles, "creator_job_id": jobs.of(one.creator).hex()}
            for one in groups
        ]

    def _runtime_envs(self) -> list[dict[str, Any]]:
        """Those that live workers have, the empty one left out."""
        counts = Counter(one.environment for one in self._node.machine.workers.values())
        return [
            {
                "runtime_env": said_by_user(decode_environment(environment)),
                "ref_cnt": count,
                "success": True,
                "node_id": self._node.id.hex(),
            }
            for environment, count in counts.items()
            if said_by_user(decode_environment(environment))
        ]
