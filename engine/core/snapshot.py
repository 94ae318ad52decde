"""One view of all tasks and objects, made of what each process tells (`runtime.views`).

Nobody knows a task whole. Its owner knows name, attempts and why it waits; its executor when it
began, what it waits in and how it ended. Here the two are put together by the task's id. Reports
are not taken at one moment, so a task that moves meanwhile is seen once, in one of its states.

Pure: records in, records out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.core.ids import owner_of

__all__ = ["objects", "tasks", "topologies"]

# What an attempt that failed is filed under, by the name of its error; others by that name.
_ERROR_TYPES = {
    "TaskCancelledError": "TASK_CANCELLED",
    "WorkerCrashedError": "WORKER_DIED",
    "ActorDiedError": "ACTOR_DIED",
    "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "OutOfMemoryError": "OUT_OF_MEMORY",
    "NodeDiedError": "NODE_DIED",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR",
}
_EXECUTED = "TASK_EXECUTION_EXCEPTION"


def tasks(
    reports: Iterable[dict[str, Any]],
    node: bytes,
    job: bytes,
    waiting: Iterable[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Every attempt that somebody knows of: open ones first, then the latest.

    `job` is whose they are where a report does not say.
    `waiting` are the demands that the node has not met, with its reasons.
    """
    why = {
        (bytes.fromhex(one["owner"]), bytes.fromhex(one["shape"])): one["reason"]
        for one in waiting
    }


    def of_job(report: dict[str, Any]) -> dict[str, str]:
        return {"job_id": report.get("job", job).hex()}

    reports = list(reports)
    pids = {report["process"]: report["pid"] for report in reports}
    ended: dict[bytes, list[dict[str, Any]]] = {}
    executing: dict[bytes, tuple[str, float, dict[str, Any]]] = {}
    for report in reports:
        for row in report["ended"]:
            ended.setdefault(row[0], []).append(_ended(row, report) | of_job(report))
        for row in report["failures"]:
            ended.setdefault(row[0], []).append(_failed(row, report, pids) | of_job(report))
        for task_id, state, begun in report["executing"]:
            executing[task_id] = (state, begun, report)
    found = []
    for report in reports:
        for row in report["owned"]:
            before = ended.get(row[0], ())
            if len(before) <= row[4]:  # else it has ended, and the answer is on its way
                one = _open(row, report, executing.get(row[0]), pids, why)
                found.append(one | of_job(report))
    for attempts in ended.values():
        attempts.sort(key=lambda record: record["start_time_ms"] or record["end_time_ms"])
        for number, record in enumerate(attempts):
            record["attempt_number"] = number
            found.append(record)
    for record in found:
        task_id = record["task_id"]
        record["node_id"] = node.hex() if record["worker_id"] else None
        record["task_id"] = task_id.hex()
    found.sort(key=_order)
    return found


def _order(record: dict[str, Any]) -> tuple[bool, float]:
    end = record["end_time_ms"]
    return end is not None, -(end or record["creation_time_ms"] or 0.0)


def _record(task_id: bytes, name: str, kind: str, **known: Any) -> dict[str, Any]:
    record = {
        "task_id": task_id,
        "attempt_number": 0,
        "name": name,
        "state": "",
        "type": kind,
        "func_or_class_name": name,
        "actor_id": None,
        "parent_task_id": None,
        "owner_id": owner_of(task_id).hex(),
        "worker_id": None,
        "worker_pid": None,
        "error_type": None,
        "reason": "",
        "error_message": None,
        "required_resources": None,
        "creation_time_ms": None,
        "start_time_ms": None,
        "end_time_ms": None,
    }
    return record | known


def _wall(report: dict[str, Any], reading: float) -> float | None:
    return (report["epoch"] + reading) * 1e3 if reading else None


def _open(
    row: list[Any],
    report: dict[str, Any],
    executing: tuple[str, float, dict[str, Any]] | None,
    pids: dict[bytes, int],
    waiting: dict[tuple[bytes, bytes], str],
) -> dict[str, Any]:
    task_id, name, kind, state, attempts, worker, actor, submitted, reason, *rest = row
    asked, parent, resources = rest
    begun = 0.0
    if executing is not None:
        state, begun, executor = executing
        worker = executor["process"]
        actor = actor or executor["actor"]
        reason = f"{name} runs" if begun else reason
    return _record(
        task_id, name, kind,
        attempt_number=attempts,
        state=state,
        reason=waiting.get(tuple(asked), reason) if asked else reason,
        parent_task_id=parent.hex() or None,
        required_resources=resources,
        actor_id=actor.hex() or None,
        worker_id=worker.hex() or None,
        worker_pid=pids.get(worker),
        creation_time_ms=_wall(report, submitted),
        start_time_ms=_wall(report, begun),
    )  # fmt: skip


def _ended(row: list[Any], report: dict[str, Any]) -> dict[str, Any]:
    task_id, name, kind, submitted, start, _ready, _end, stored, error, function = row
    cause = error.partition(":")[0]
    return _record(
        task_id, name, kind,
        func_or_class_name=function,
        state="FAILED" if error else "FINISHED",
        actor_id=None if kind == "NORMAL_TASK" else report["actor"].hex() or None,
        worker_id=report["process"].hex(),
        worker_pid=report["pid"],
        error_type=(_ERROR_TYPES.get(cause, _EXECUTED) if error else None),
        error_message=error or None,
        creation_time_ms=_wall(report, submitted),
        start_time_ms=_wall(report, start),
        end_time_ms=_wall(report, stored),
    )  # fmt: skip


def _failed(
    row: list[Any], report: dict[str, Any], pids: dict[bytes, int]
) -> dict[str, Any]:
    task_id, name, kind, cause, text, submitted, when, worker = row
    return _record(
        task_id, name, kind,
        state="FAILED",
        worker_id=worker.hex() or None,
        worker_pid=pids.get(worker),
        error_type=_ERROR_TYPES.get(cause, cause),
        error_message=f"{cause}: {text}",
        creation_time_ms=_wall(report, submitted),
        end_time_ms=_wall(report, when),
    )  # fmt: skip


def objects(reports: Iterable[dict[str, Any]], node: bytes) -> list[dict[str, Any]]:
    """One record an object and process that owns it or holds references to it."""
    found = []
    for report in reports:
        for row in report["rows"]:
            object_id, state, size, holder, segment, kinds, local, submitted, borrowers = row
            status = {"ready": "FINISHED", "an error": "FAILED"}.get(state, "PENDING")
            found.append(
                {
                    "object_id": object_id.hex(),
                    "object_size": size,
                    "task_status": status,
                    "reference_type": kinds[0] if kinds else "UNKNOWN_STATUS",
                    "reference_kinds": kinds,
                    "type": report["kind"],
                    "pid": report["pid"],
                    "process_id": report["process"].hex(),
                    "owner_id": owner_of(object_id).hex(),
                    "holder_id": holder.hex() or None,
                    "node_id": node.hex(),
                    "in_shared_memory": segment > 0,
                    "spilled": segment < 0,
                    "local_references": local,
                    "pending_uses": submitted,
                    "borrowers": {one.hex(): count for one, count in borrowers.items()},
                    "reason": state,
                }
            )
    return found


def topologies(actors: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a topology, made of the records of the actors that host its copies."""
    found: dict[str, dict[str, Any]] = {}
    for actor in actors:
        if actor["topology"] is None:
            continue
        topology_id, name, member, index, copies = actor["topology"]
        record = found.setdefault(
            topology_id,
            {"topology_id": topology_id, "name": name, "state": "", "copies": copies,
             "members": []},
        )  # fmt: skip
        record["members"].append(
            {
                "member": member,
                "index": index,
                **{key: actor[key] for key in ("actor_id", "state", "pid", "node_id")},
            }
        )
    for record in found.values():
        states = {member["state"] for member in record["members"]}
        if "DEAD" in states:
            record["state"] = "ENDED"
        else:
            record["state"] = "RUNNING" if states == {"ALIVE"} else "STARTING"
    return list(found.values())
