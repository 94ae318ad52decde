"""What the engine is doing: lists of actors, workers, objects, nodes, tasks.

Every function returns a list of plain dictionaries, a snapshot of this moment.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from engine.api import nodes
from engine.core.ids import owner_of, short
from engine.logs import get_log, list_logs
from engine.session import runtime

__all__ = [
    "get_log",
    "list_actors",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
    "why_pending",
]


def list_nodes() -> list[dict[str, Any]]:
    """One record a node: id, resources, bytes of the object store in use."""
    return nodes()


def list_workers() -> list[dict[str, Any]]:
    """One record a worker process: id, pid, what it is used for, whether it is blocked."""
    return list(runtime().ask("state")["workers"])


def list_actors() -> list[dict[str, Any]]:
    """One record an actor, dead ones included: class, state, name, pid, cause of death."""
    return list(runtime().ask("state")["actors"])


def list_objects() -> list[dict[str, Any]]:
    """Objects that this process owns or borrows: id, owner, ready or why not, bytes, holders.

    `in_shared_memory` and `spilled` say where a value lies that does not travel inside messages.
    """
    home = runtime()
    found = []
    with home.lock:
        home.drain()
        for object_id, entry in home.owner.objects.entries.items():
            value = entry.value
            size = 0
            if value is not None:
                size = value.block.size if value.block is not None else len(value.data)
            found.append(
                {
                    "object_id": object_id.hex(),
                    "owner": owner_of(object_id).hex(),
                    "state": home.owner.pending_reason(object_id),
                    "size": size,
                    "local": entry.local,
                    "borrowers": [short(one) for one in entry.borrowers or ()],
                    "in_shared_memory": value is not None
                    and value.block is not None
                    and value.block.segment > 0,
                    "spilled": value is not None
                    and value.block is not None
                    and value.block.segment < 0,
                }
            )
    return found


def list_tasks() -> list[dict[str, Any]]:
    """Calls that this process has submitted and that are not answered yet, with the reason."""
    home = runtime()
    found: dict[bytes, dict[str, Any]] = {}
    with home.lock:
        for entry in home.owner.objects.entries.values():
            task = entry.task
            if task is None:
                continue
            found[task.id] = {
                "task_id": task.id.hex(),
                "name": task.name,
                "state": "RUNNING_OR_QUEUED" if task.worker else "PENDING",
                "reason": home.owner.pending_reason(task.id),
                "worker_id": task.worker.hex(),
                "attempt": task.attempts,
            }
    return list(found.values())


def why_pending(ref: Any) -> str:
    """In words, why a reference is not ready yet ("ready" when it is)."""
    return runtime().reason(ref.binary(), True)


def _count(records: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    counted = Counter(tuple(record[name] for name in names) for record in records)
    return [
        dict(zip(names, key, strict=True)) | {"count": count} for key, count in counted.items()
    ]


def summarize_tasks() -> list[dict[str, Any]]:
    """Unanswered calls counted by name and state."""
    return _count(list_tasks(), "name", "state")


def summarize_actors() -> list[dict[str, Any]]:
    """Actors counted by class and state."""
    return _count(list_actors(), "class_name", "state")


def summarize_objects() -> list[dict[str, Any]]:
    """Objects of this process counted by whether they lie in shared memory."""
    return _count(list_objects(), "in_shared_memory")
