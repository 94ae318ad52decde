"""Values that outlive the process that put them: the driver owns them.

An object lives as long as its owner, and a worker may be killed at any time; the driver may not,
everything ends with it. So who puts a value that is to last hands it to the driver (`Entrust`),
which makes an object of its own of it, and lends that back (`Entrusted`). A value in a block comes
with a second copy on disk (`core.spill`), since a block may be lost though its owner lives.

Whoever entrusts a value keeps the references inside until the driver has registered for them.

Pure: effects leave through the object table and `send`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.core.ids import IdSource
from engine.core.lineage import BOTH
from engine.core.messages import Entrust, Entrusted
from engine.core.objects import ObjectTable
from engine.core.values import Block, Value

__all__ = ["Trusts"]


class Trusts:
    """Values entrusted by, or to, one process."""

    def __init__(
        self, ids: IdSource, objects: ObjectTable, send: Callable[[bytes, Any], None]
    ) -> None:
        self._ids = ids
        self._objects = objects
        self._send = send
        self._count = 0
        self.answers: dict[int, bytes] = {}  # by number: the object, b"" until it is known

    def put(self, value: Value, spare: Block | None, keep: Any) -> bytes:
        """A value of our own that is to last, with its second copy; its id, with one reference."""
        object_id = self._ids.new()
        self._objects.add(object_id, value, keep, spare)
        if value.block is not None:
            self._objects.lineage.note(object_id, BOTH)
        return object_id

    def entrust(self, driver: bytes, value: Value, spare: Block | None) -> int:
        """Hand a value over; `answers` has the id of the object under this number later."""
        self._count += 1
        self.answers[self._count] = b""
        self._send(driver, Entrust(self._count, value, spare))
        return self._count

    def abandon(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        object_id = self.answers.pop(number, b"")
        if object_id:
            self._objects.release(object_id)

    def on_entrusted(self, message: Entrusted) -> None:
        """The driver owns it now, and has lent it to us: with one reference here."""
        self._objects.accept_loan(message.id)
        if message.number in self.answers:
            self.answers[message.number] = message.id
        else:
            self._objects.release(message.id)

    def on_entrust(self, peer: bytes, message: Entrust) -> None:
        """A process that lives hands a value over to us."""
        object_id = self.put(message.value, message.spare, None)
        entry = self._objects.entries[object_id]
        entry.local, entry.borrowers = 0, {peer: 1}
        contained = message.value.contains
        answer = Entrusted(message.number, object_id)
        if contained:
            entry.keep = self._objects.make_refs(contained)
            if self._objects.after_settled(contained, peer, answer):
                return
        self._send(peer, answer)
