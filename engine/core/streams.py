"""Generator tasks: a call that yields many objects while it runs.

The executor numbers its items; the caller makes an object of its own out of each. A replay after a
crash yields the same items again, and those already received are dropped by number. At most
`window` items are unconsumed: the executor waits for `Consumed`.

Pure: effects leave through `send`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import structs

from engine.core.ids import IdSource
from engine.core.lineage import STREAM
from engine.core.messages import Consumed, Item, Settled
from engine.core.objects import ObjectTable
from engine.core.values import ERROR_NONE, Value, encode_failure

__all__ = ["ItemStream", "ItemStreams", "settle_key"]


class ItemStream:
    """One generator call as its caller sees it."""

    __slots__ = (
        *("attempt", "consumed", "finished", "ready", "received", "replayed", "task", "told"),
        *("waiters", "window"),
    )

    def __init__(self, task: Any, window: int) -> None:
        self.task = task
        self.window = window
        self.ready: deque[bytes] = deque()  # ids of items nobody has taken yet
        self.received = 0
        self.consumed = 0
        self.told = 0  # what the executor knows of `consumed`
        self.finished = False
        self.attempt = 0  # of the task: the executor yields from the beginning in each
        self.replayed = 0  # items of this attempt
        self.waiters: list[Callable[[], None]] = []

    @property
    def value(self) -> Any:
        """Not None when there is something to take or the end is known (as of an object)."""
        return self.ready or self.finished or None


class ItemStreams:
    """All generator calls of one process."""

    def __init__(
        self, ids: IdSource, objects: ObjectTable, send: Callable[[bytes, Any], None]
    ) -> None:
        self._ids = ids
        self._objects = objects
        self._send = send
        self.streams: dict[bytes, ItemStream] = {}

    def open(self, task: Any, window: int) -> ItemStream:
        """A new stream for a task that is about to be submitted and whose object exists."""
        stream = self.streams[task.id] = ItemStream(task, window)
        self._objects.when_ready(task.id, lambda value: self._end(stream, value))
        if (value := self._objects.gone) is not None:
            self._end(stream, value)
        return stream

    def on_item(self, worker: bytes, message: Item) -> None:
        """The executor yielded an item."""
        stream = self.streams.get(message.id)
        value = message.value
        if stream is not None and worker == stream.task.worker:  # not a former one's last words
            stream.attempt, stream.replayed = stream.task.attempts, message.index + 1
            if message.index == 0:  # it begins, perhaps once more
                stream.told = 0
                if stream.window and stream.consumed:
                    self._tell(stream, stream.consumed)  # or a window of repeats would stop it
        if stream is None or stream.finished or message.index < stream.received:
            if value.block is not None:
                self._objects.free(value.block)
            if value.contains:  # not taken up here: the executor may let go of them
                self._send(worker, Settled(settle_key(message.id, message.index)))
            return
        assert message.index == stream.received, "items of one executor arrive in order"
        stream.received += 1
        object_id = self._ids.new()
        self._objects.add(object_id)
        self._objects.resolve(object_id, value)
        if value.block is not None:
            self._objects.lineage.note(object_id, STREAM)
        stream.ready.append(object_id)
        if value.contains:
            settled = Settled(settle_key(message.id, message.index))
            if not self._objects.after_settled(value.contains, worker, settled):
                self._send(worker, settled)
        self._wake(stream)

    def _end(self, stream: ItemStream, value: Value) -> None:
        again = stream.replayed if stream.attempt == stream.task.attempts else 0
        if value.error == ERROR_NONE and again != stream.received:
            text = (
                f"{stream.task.name} ran again and yielded {again} items; {stream.received} had "
                "come from it before. A generator that may be retried must yield the same items "
                "each time, or have max_retries=0."
            )
            value = encode_failure("StreamingGeneratorReplayInconsistentError", text)
        dropped = stream.task.id not in self.streams
        if value.error != ERROR_NONE and not dropped:  # the last reference carries the error
            object_id = self._ids.new()
            self._objects.add(object_id, value)
            stream.ready.append(object_id)
        stream.finished = True
        self._wake(stream)

    @staticmethod
    def _wake(stream: ItemStream) -> None:
        waiters, stream.waiters = stream.waiters, []
        for wake in waiters:
            wake()

    def take(self, stream: ItemStream) -> bytes:
        """The next item's id; the caller makes the reference that owns its local count."""
        object_id = stream.ready.popleft()
        stream.consumed += 1
        step = max(1, stream.window // 4)
        if stream.window and stream.consumed - stream.told >= step and not stream.finished:
            self._tell(stream, stream.consumed)
        return object_id

    def lift(self, stream: ItemStream) -> None:
        """Somebody waits for the end: let the executor run on."""
        stream.window = 0
        call = stream.task.call
        if call.details is not None:  # it may have yet to be sent; its details are others' as well
            call.details = structs.replace(call.details, window=0)
        self._tell(stream, 1 << 60)

    def _tell(self, stream: ItemStream, consumed: int) -> None:
        worker = stream.task.worker  # not whose items came last: those may be a dead one's
        if worker:
            stream.told = consumed
            self._send(worker, Consumed(stream.task.id, consumed))

    def drop(self, task_id: bytes) -> ItemStream | None:
        """Nobody listens any more: the items not taken are released."""
        stream = self.streams.pop(task_id, None)
        if stream is not None:
            while stream.ready:
                self._objects.release(stream.ready.popleft())
        return stream


def settle_key(call_id: bytes, index: int) -> bytes:
    """What `Settled` names when the references came in an item."""
    return call_id + index.to_bytes(8, "little")
