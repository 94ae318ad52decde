"""What one process can tell of its tasks and objects when somebody asks for a view of all.

Plain records, small enough for a frame; `engine.core.snapshot` makes one view of everybody's.
Called under the runtime's lock, by whichever thread serves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from engine.core.control import History
from engine.core.ids import is_quiet, owner_of
from engine.core.pending import pending_reason, waits_for_node
from engine.core.values import ERROR_NONE
from engine.runtime.events import kind_of

if TYPE_CHECKING:
    from engine.core.dispatch import Task
    from engine.core.objects import Entry
    from engine.runtime.client import Runtime

__all__ = ["RECORDS_MAX", "Views"]

# Records of one kind that one process tells of; the number left out is told.
RECORDS_MAX = 10_000
# Those that a worker leaves behind when it ends.
_LEFT_BEHIND = 1_000


class Views:
    """Tasks and objects of one process. A worker adds what it executes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # What runs or waits in this worker: (call, state, when it began or 0).
        self.executing: Callable[[], list[tuple[bytes, str, float]]] = list
        self.name_of: Callable[[Any], str] = str  # of what ran, by what `CallEvent` says of it
        self.actor_id = b""

    def _about(self) -> dict[str, Any]:
        home = self._runtime
        job = home.info["driver"]
        return {
            "job": job,
            "process": home.id,
            "pid": os.getpid(),
            "kind": "DRIVER" if job == home.id else "WORKER",
            # What makes wall-clock seconds of the readings below.
            "epoch": time() - perf_counter(),
        }

    # ------------------------------------------------------------------ tasks

    def tasks(self) -> list[Any]:
        """One record: calls submitted here and open, executing here, and ended lately."""
        events = self._runtime.events
        owned = [task for task in self._runtime.owner.open_tasks() if not is_quiet(task.id)]
        names: dict[Any, str] = {}
        ended = []
        for event in list(events.calls):
            what, given = event[1], ""
            if isinstance(what, tuple):
                what, given = what
            if what not in names:
                names[what] = self.name_of(what)
            kind = (
                "ACTOR_CREATION_TASK" if what is None
                else "NORMAL_TASK" if isinstance(what, bytes) else "ACTOR_TASK"
            )  # fmt: skip
            ended.append([event[0], given or names[what], kind, *event[2:], names[what]])
        record = self._about() | {
            "owned": [self._owned(task) for task in owned[:RECORDS_MAX]],
            "left_out": max(0, len(owned) - RECORDS_MAX),
            "executing": [
                [call_id, state, begun] for call_id, state, begun in self.executing()
                if not is_quiet(call_id)
            ],
            "ended": ended[-RECORDS_MAX:],
            "failures": list(events.failures)[-RECORDS_MAX:],
            "spans": list(events.spans),
            "actor": self.actor_id,
        }  # fmt: skip
        return [record]

    def history(self) -> History:
        """What is to be kept of this process, which is about to end."""
        (record,) = self.tasks()
        record["owned"], record["executing"] = [], []
        for kind in ("ended", "failures", "spans"):
            record[kind] = record[kind][-_LEFT_BEHIND:]
        return History(record)

    def _owned(self, task: Task) -> list[Any]:
        kind, submitted = kind_of(task.call)
        if task.missing:
            state = "PENDING_ARGS_AVAIL"
        elif task.worker:
            state = "SUBMITTED_TO_WORKER"
        else:
            state = "PENDING_NODE_ASSIGNMENT"
        actor = task.actor.id if task.actor is not None else b""
        owner = self._runtime.owner
        return [
            task.id, task.name, kind, state, task.attempts, task.worker, actor, submitted,
            pending_reason(owner, task.id), waits_for_node(owner, task.id),
            b"" if task.parent is None else task.parent.id,
            None if task.shape is None else task.shape.placing.resources,
        ]  # fmt: skip

    # ------------------------------------------------------------------ objects

    def objects(self) -> list[Any]:
        """One record: the objects that this process owns or borrows."""
        table = self._runtime.owner.objects
        used: dict[bytes, int] = {}
        for task in self._runtime.owner.open_tasks():
            for one in task.deps or ():
                used[one] = used.get(one, 0) + 1
        shown = list(islice(table.entries.items(), RECORDS_MAX))
        captured = {
            one for _id, entry in shown if entry.value is not None
            for one in entry.value.contains or ()
        }  # fmt: skip
        rows = [self._object(one, entry, used, captured) for one, entry in shown]
        return [self._about() | {"rows": rows, "left_out": len(table.entries) - len(rows)}]

    def _object(
        self, object_id: bytes, entry: Entry, used: dict[bytes, int], captured: set[bytes]
    ) -> list[Any]:
        table = self._runtime.owner.objects
        value = entry.value
        block = value.block if value is not None else None
        kinds = []
        if object_id in table.farewells:
            kinds.append("ACTOR_HANDLE")
        if block is not None and block.segment > 0 and owner_of(object_id) == table.me:
            kinds.append("PINNED_IN_MEMORY")
        if object_id in used:
            kinds.append("USED_BY_PENDING_TASK")
        if object_id in captured:
            kinds.append("CAPTURED_IN_OBJECT")
        if entry.local:
            kinds.append("LOCAL_REFERENCE")
        if value is None:
            state = pending_reason(self._runtime.owner, object_id)
        else:
            state = "ready" if value.error == ERROR_NONE else "an error"
        size = 0 if value is None else block.size if block is not None else len(value.data)
        if block is None and value is not None:
            size += sum(map(len, value.buffers or ()))
        holder = b"" if value is None else block.holder if block is not None else table.me
        segment = 0 if block is None else block.segment  # above 0 in memory, below on disk
        return [
            object_id, state, size, holder, segment, kinds, entry.local,
            used.get(object_id, 0), dict(entry.borrowers or {}),
        ]  # fmt: skip
