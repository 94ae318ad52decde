"""Why an object of a process is not there yet: what its owner machine knows of it, in words.

For messages to people; what the node knows of the same thing is in `core.reasons`. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.core.ids import owner_of, short

if TYPE_CHECKING:
    from engine.core.dispatch import Task
    from engine.core.owner import Owner

__all__ = ["pending_reason", "waits_for_node"]


def pending_reason(owner: Owner, object_id: bytes) -> str:
    """Why an object is not there yet, for messages to people."""
    entry = owner.objects.entries.get(object_id)
    if entry is None:
        return "unknown here"
    if entry.value is not None:
        return "ready"
    task: Task | None = entry.task
    if task is None:
        return f"waiting for its owner, process {short(owner_of(object_id))}"
    if task.missing:
        return f"{task.name} waits for its arguments"
    if task.actor is not None and not task.worker:
        return f"{task.name} waits for its actor ({task.actor.state})"
    if not task.worker and any(one is task for _when, one in owner.delayed):
        return f"{task.name} was stopped for its memory and waits before it is tried again"
    if not task.worker:
        return f"{task.name} waits for a worker with {task.shape.placing.resources}"
    return f"{task.name} is on its way to, or runs in, process {short(task.worker)}"


def waits_for_node(owner: Owner, object_id: bytes) -> tuple[bytes, bytes] | None:
    """What the node knows it by (see `Reasons.of`), if an object waits for a worker."""
    entry = owner.objects.entries.get(object_id)
    task: Task | None = None if entry is None else entry.task
    if task is None or task.worker or task.missing:
        return None
    return (owner.me, task.shape.key) if task.actor is None else (b"", task.actor.id)
