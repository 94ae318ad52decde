"""What the owner does when a large object is lost: the task that made it runs again.

Whoever cannot read a value says so: a reader in the owner's process calls `noticed`, one elsewhere
sends `Lost`. Nobody else looks, so a loss that nobody notices costs nothing. The reader may speak
of a place that the object has left; then it is told the present one. If no copy is left, the object
is pending again, and everybody who wants it waits as they did the first time: in `get`, as the
argument of a task, as a borrower. Places that others still have are true or lead to the same
report, since what lies on disk is checked when it is read.

The task runs again under its own id, ahead of all that waits in its shape (`core.lineage` has what
it needs, and why some cannot). What it needs and is gone is made first; what it needs and turns out
to be lost when it arrives at its worker is reported by that one, which gives the task back: its
worker, and what else it was given, may be what is needed now. A task that waits in its own code has
its CPUs lent out. So the depth of a recovery is not bounded, and it never waits behind new work:
not for a place in a queue, nor for calls in flight (it does not pass admission), nor for leases
(workers that wait for what was lost do not count), nor for memory (`core.pressure` has a reserve).
Results of the task that are still there stay as they are, and their new values are dropped.

Pure: effects leave through the object table and `start`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from engine.core.dispatch import Dispatcher, Task
from engine.core.ids import owner_of, short
from engine.core.lineage import METHOD, Record
from engine.core.messages import Details, Fetch, Lost
from engine.core.objects import ObjectTable
from engine.core.values import Block, Value, encode_failure

__all__ = ["Rebuild"]


class _Again(Task):
    """A task that runs again for a result that was lost."""

    __slots__ = ("record",)

    def __init__(self, record: Record, call: Any, shape: Any) -> None:
        task = record.task
        super().__init__(call, task.name, task.returns, task.retries - (task.retries > 0), shape)
        self.record = record
        self.retry_exceptions = task.retry_exceptions
        self.attempts = task.attempts + 1
        self.nbytes = task.nbytes
        self.brings = task.brings
        self.deps = record.deps

    def release(self) -> None:
        """It is over, in whatever way."""
        self.record.rerun = None
        super().release()


class Rebuild:
    """Lost objects of one process, and its part in those of others.

    `is_actor(id)` says whether an object stands for an actor; `start(task)` submits a task ahead of
    others; `refs_of` and `note` are as in the owner.
    """

    def __init__(
        self,
        objects: ObjectTable,
        dispatch: Dispatcher,
        start: Callable[[Task], None],
        refs_of: Callable[[Any], dict[bytes, Any]],
        is_actor: Callable[[bytes], bool],
        note: Callable[[Task, str, str], None],
    ) -> None:
        self._objects = objects
        self._entries = objects.entries
        self._lineage = objects.lineage
        self._dispatch = dispatch
        self._start = start
        self._refs_of = refs_of
        self._is_actor = is_actor
        self._note = note
        self.reruns = 0  # tasks run again, ever
        self.failures = 0  # objects that could not be rebuilt, ever

    # ------------------------------------------------------------------ lineage

    def keep(self, task: Task, keep: Any, deps: list[bytes] | None) -> None:
        """A task has ended and its results are known; `keep`, `deps` are what it has let go of."""
        live = {one for one in task.returns if self._in_block(one)}
        if not live:
            return
        if task.actor is not None:
            for object_id in live:
                self._lineage.note(object_id, METHOD)
            return
        call = task.call
        needs: dict[bytes, tuple[Any, int]] = {}
        if keep is not None:
            for object_id, ref in self._refs_of(keep).items():
                needs[object_id] = (ref, self._size_to_hold(object_id))
        task.parent, task.parts, call.deps = None, [], None
        nbytes = len(call.args) + sum(map(len, call.buffers or ()))
        self._lineage.keep(task, deps, live, needs, nbytes)

    def _in_block(self, object_id: bytes) -> bool:
        entry = self._entries.get(object_id)
        value = None if entry is None else entry.value
        return value is not None and value.block is not None

    def _size_to_hold(self, object_id: bytes) -> int:
        """What it takes to hold an object; -1 if it must not be."""
        if self._is_actor(object_id):
            return -1  # its end would be put off
        entry = self._entries.get(object_id)
        value = None if entry is None else entry.value
        if value is None:
            return 0
        if value.block is not None:
            return value.block.size if owner_of(object_id) == self._objects.me else 0
        return len(value.data) + sum(map(len, value.buffers or ()))

    # ------------------------------------------------------------------ losses

    def noticed(self, object_id: bytes, block: Block, why: str) -> None:
        """A reader in this process cannot read an object in `block`."""
        if owner_of(object_id) == self._objects.me:
            self._on_loss(object_id, block, why)
        else:
            self._objects.ask_again(object_id, block, why)

    def on_lost(self, peer: bytes, message: Lost) -> None:
        """A borrower cannot read an object of ours, and waits for it."""
        lease = self._dispatch.leases.get(peer)
        if lease is not None:
            lease.stuck = True  # until it has answered a call: nothing is to wait behind it
        self._on_loss(message.id, message.block, message.why)
        self.on_fetch(peer, Fetch(message.id, message.number))

    def on_fetch(self, peer: bytes, message: Fetch) -> None:
        """A borrower wants the value, now or when it exists."""
        self._objects.on_fetch(peer, message)
        lease = self._dispatch.leases.get(peer)
        entry = self._entries.get(message.id)
        if lease is not None and entry is not None and entry.value is None:
            # A worker of ours waits for an object of ours: what makes it may need one more.
            waiting = lease

            def arrived(_value: Value) -> None:
                waiting.waits -= 1

            self._objects.when_ready(message.id, arrived)
            self._dispatch.on_wait(lease)

    def _on_loss(self, object_id: bytes, block: Block, why: str) -> None:
        entry = self._entries.get(object_id)
        if entry is None or entry.value is None or entry.value.block is None:
            return  # released, or being rebuilt already, or found to be lost for good
        if not self._objects.spill.lose(object_id, block):
            return  # it lies elsewhere
        self._objects.lose(object_id)
        tasks = self._plan(object_id)
        if isinstance(tasks, str):
            self.failures += 1
            text = f"object {short(object_id)} is lost: {why} It cannot be rebuilt: {tasks}."
            failure = encode_failure("ObjectReconstructionFailedError", text)
            self._objects.resolve(object_id, failure)
            return
        if not tasks:  # the task runs already, for another of its results
            entry.task = self._lineage.known[object_id].rerun  # type: ignore[union-attr]
        prepared = [self._prepare(record, f"its result was lost: {why}") for record in tasks]
        for task in prepared:  # each goes to the front: what others need comes first in the end
            self._start(task)

    def _plan(self, object_id: bytes) -> list[Record] | str:
        """What has to run for an object, what is needed first at the end; or why it cannot be."""
        first = self._lineage.record_of(object_id)
        if first is None:
            return self._lineage.why_not(object_id)
        if first.rerun is not None:
            return []
        plan = {first.task.id: first}
        todo = [first]
        while todo:
            record = todo.pop()
            for need in record.needs:
                if need in self._entries:
                    continue
                maker = self._lineage.record_of(need)
                if maker is None:
                    return self._lineage.why_needs_are_missing(record, need)
                if maker.task.id not in plan and maker.rerun is None:
                    plan[maker.task.id] = maker
                    todo.append(maker)
        return list(plan.values())

    def _prepare(self, record: Record, why: str) -> Task:
        """The task that is to run again; its lost results, and what it needs, are pending."""
        self.reruns += 1
        old = record.task
        name = old.call.details.name if old.call.details is not None else ""
        call = msgspec.structs.replace(old.call, details=Details(name=name, recovery=True))
        call.final = False
        placing = old.shape.placing
        if placing.speculative:  # another copy of old may run still; and nobody waits for siblings
            placing = msgspec.structs.replace(placing, speculative=0.0, siblings=b"")
        task = record.rerun = _Again(record, call, self._dispatch.shape(placing))
        for object_id in old.returns:
            entry = self._entries.get(object_id)
            if entry is not None and entry.value is None:
                entry.task = task
        for need in record.needs:
            if need not in self._entries:
                maker = self._lineage.record_of(need)
                assert maker is not None
                self._lineage.revive(need, maker)
                self._objects.add_pending(need)
            entry = self._entries[need]
            if entry.value is None and entry.task is None:
                maker = self._lineage.record_of(need)
                entry.task = None if maker is None else maker.rerun
        task.keep = self._objects.make_refs(record.needs)
        self._note(task, "ObjectLostError", why)
        return task
