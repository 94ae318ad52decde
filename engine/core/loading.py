"""What a call takes along of its arguments: small values, and where the large ones lie.

Written into the call when it leaves, not when it is submitted: it may wait for long in between, and
what is to be moved to disk must not be held up by calls that nobody has begun.

Pure.
"""

from __future__ import annotations

from engine.config import Config
from engine.core.dispatch import Task
from engine.core.ids import owner_of
from engine.core.messages import Dependencies
from engine.core.objects import ObjectTable
from engine.core.values import ELSEWHERE, ERROR_NONE, ObjectValue, Value

__all__ = ["Loader"]


class Loader:
    """Fills in the arguments of the calls of one process."""

    def __init__(self, objects: ObjectTable, config: Config) -> None:
        self._objects = objects
        self._room = config.frame_bytes_max // 4

    def load(self, task: Task, lasting: bool = False) -> None:
        """A call is about to leave; all its arguments are there.

        Where it says that they lie they stay until it is answered. Only the owner can promise that:
        for objects of others the reader asks their owner, and for a `lasting` call, which may be
        read again much later, for all that lies in blocks (or is too much for one frame).
        """
        self.unload(task)
        carried: list[bytes] = []
        values: list[ObjectValue] = []
        parts: list[Dependencies] = []
        room = self._room
        for object_id in task.deps or ():
            value = self._as_sent(object_id, carried, lasting)
            nbytes = len(value.data) + sum(map(len, value.buffers or ()))
            room -= nbytes
            if room < 0 and lasting:
                value, room = Value(block=ELSEWHERE), room + nbytes
            elif room < 0 and values:
                parts.append(Dependencies(task.id, values))
                values, room = [], self._room
            values.append(ObjectValue(object_id, value))
        call = task.call
        if task.deps is not None:
            call.deps, task.parts = values, parts
        if call.large is not None:
            large = call.large.id
            call.large = ObjectValue(large, self._as_sent(large, carried, lasting))
        task.carried = carried

    def _as_sent(self, object_id: bytes, carried: list[bytes], lasting: bool) -> Value:
        value = self._objects.entries[object_id].value
        if value is None or value.error != ERROR_NONE:  # it has been lost meanwhile
            return Value(block=ELSEWHERE)
        if value.block is None:
            return value
        if lasting or owner_of(object_id) != self._objects.me:
            return Value(block=ELSEWHERE)
        if self._objects.spill.carry(object_id, value.block):
            carried.append(object_id)
        return value

    def unload(self, task: Task) -> None:
        """A call is answered, or will be sent again: what it carried may move."""
        for object_id in task.carried or ():
            self._objects.spill.unuse(object_id)
        task.carried = None
