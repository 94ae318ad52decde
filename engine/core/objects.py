"""The object table of one process: what it owns, what it borrows, who else holds it.

Ownership (the paper's successor, NSDI'21): the process that submits a task or puts a value owns the
object. Its id names the owner, the value or its location lies in the owner's table, and so does the
set of borrowers. An object lives while the owner holds a local reference or a borrower is
registered; local references are counted by the `ObjectRef` objects themselves.

Borrowing is safe under any delay because of one rule: *whoever hands a reference over keeps it
until the receiver is registered with the owner*. Registration is AddBorrower -> BorrowAck; a
reference whose ack is outstanding is `unsettled`, and what would release the sender's hold (a
reply, Settled, DropBorrower of an enclosing object) waits for it. On one connection order alone
is enough, so only references of a third party ever wait.

Pure: effects leave through `send(process, message)` and `free(block)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from engine.core.ids import node_of, owner_of
from engine.core.lineage import Lineage
from engine.core.messages import AddBorrower, BorrowAck, DropBorrower, Evict, Fetch, Lost
from engine.core.spill import SpillMachine
from engine.core.values import ERROR_NONE, Block, ObjectValue, Value, encode_failure

__all__ = ["Entry", "ObjectTable"]


class Entry:
    """One object as this process knows it. `value` is None while it is pending."""

    __slots__ = (
        *("borrowers", "fetching", "keep", "local", "registered", "task", "value", "waiters"),
    )

    def __init__(self, local: int, value: Value | None = None) -> None:
        self.value = value
        self.local = local
        # Registrations by process: a borrower may register (or be lent the object) several times.
        self.borrowers: dict[bytes, int] | None = None
        self.registered = 0  # how often we are registered with the owner, if that is not us
        self.waiters: list[Callable[[Value], None]] | None = None
        self.keep: Any = None  # references that the value contains, held while it lives
        self.fetching = 0  # the number of our Fetch, once there is one
        self.task: Any = None  # the task that makes it, while it is pending


class ObjectTable:
    """Objects owned or borrowed by process `me`."""

    def __init__(
        self,
        me: bytes,
        send: Callable[[bytes, Any], None],
        free: Callable[[Block], None],
        make_refs: Callable[[list[bytes]], Any],
        lineage_bytes: int = 0,
    ) -> None:
        self.me = me
        self.lineage = Lineage(lineage_bytes)
        self._made = self.lineage.known
        self.entries: dict[bytes, Entry] = {}
        self._send = send
        self.free = free
        self.make_refs = make_refs
        self.spill = SpillMachine(self.entries, send, free)
        self._fetches = 0
        # Set when nothing can come any more: what is pending from then on is this error.
        self.gone: Value | None = None
        self.errors = 0  # values that were errors, ever: tells a waiter that it is worth a look
        self.unsettled: dict[bytes, int] = {}  # registrations not yet confirmed, by object
        self._after: list[tuple[set[bytes], bytes, Any]] = []
        # Messages sent when an object of ours is released (an actor's last handle ends the actor).
        self.farewells: dict[bytes, tuple[bytes, Any]] = {}

    # ------------------------------------------------------------------ owned

    def add(
        self,
        object_id: bytes,
        value: Value | None = None,
        keep: Any = None,
        spare: Block | None = None,
    ) -> Entry:
        """A new object of ours with one local reference; `spare` is a second copy of its value."""
        entry = self.entries[object_id] = Entry(1, value)
        if keep:
            entry.keep = keep
        if value is not None and value.block is not None:
            self.spill.keep(object_id, value.block, spare)
        return entry

    def add_pending(self, object_id: bytes) -> None:
        """An object of ours that was released is wanted again: who asks is about to refer to it."""
        self.entries[object_id] = Entry(0)

    def lend(self, object_id: bytes, value: Value, borrower: bytes) -> None:
        """A value of ours that only `borrower` holds, registered before it hears of it."""
        entry = self.entries[object_id] = Entry(0, value)
        entry.borrowers = {borrower: 1}

    def lend_again(self, object_id: bytes, borrower: bytes) -> bool:
        """Lend the same value to one more process. False when it is gone already."""
        entry = self.entries.get(object_id)
        if entry is None or entry.borrowers is None:
            return False
        entry.borrowers[borrower] = entry.borrowers.get(borrower, 0) + 1
        return True

    def accept_loan(self, object_id: bytes) -> None:
        """We were lent an object: a reference to it now exists here, and its owner knows."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(1, self.gone)
        else:
            entry.local += 1
        entry.registered += 1

    def resolve(self, object_id: bytes, value: Value) -> None:
        """The value of an object has arrived (or its failure). Later ones are dropped.

        A value nobody waits for any more gives its block back at once.
        """
        entry = self.entries.get(object_id)
        if entry is None or entry.value is not None:
            second = entry is None or entry.value is not value
            if second and value.block is not None and owner_of(object_id) == self.me:
                self.free(value.block)
            return
        entry.value = value
        entry.task = None
        if value.block is not None and owner_of(object_id) == self.me:
            self.spill.keep(object_id, value.block)
        self.errors += value.error != ERROR_NONE
        if value.contains:
            entry.keep = self.make_refs(value.contains)
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            for wake in waiters:
                wake(value)
        if not entry.local and not entry.borrowers:
            self._drop(object_id, entry)

    def when_ready(self, object_id: bytes, wake: Callable[[Value], None]) -> bool:
        """Call `wake` once the value is there. True when it is there already (not called)."""
        entry = self.entries[object_id]
        if entry.value is not None:
            return True
        self.want(object_id, entry)
        if entry.waiters is None:
            entry.waiters = []
        entry.waiters.append(wake)
        return False

    def want(self, object_id: bytes, entry: Entry) -> None:
        """Ask the owner for a borrowed value, once."""
        if entry.value is None and not entry.fetching and owner_of(object_id) != self.me:
            self._fetches += 1
            entry.fetching = self._fetches
            self._send(owner_of(object_id), Fetch(object_id, entry.fetching))

    def lose(self, object_id: bytes) -> None:
        """An object of ours has no value any more: it is pending again."""
        entry = self.entries[object_id]
        entry.value = entry.keep = None

    def ask_again(self, object_id: bytes, block: Block, why: str) -> None:
        """Somebody here cannot read a borrowed object in `block`: tell the owner, and ask anew."""
        entry = self.entries.get(object_id)
        if entry is None or (entry.value is not None and entry.value.block != block):
            return  # its place is another one by now
        entry.value, entry.keep = self.gone, None  # the owner lets go of what it contains as well
        self._fetches += 1
        entry.fetching = self._fetches
        self._send(owner_of(object_id), Lost(object_id, block, why, entry.fetching))

    # ------------------------------------------------------------------ references

    def hold(self, object_id: bytes) -> None:
        """A new `ObjectRef` object for this id exists in this process."""
        entry = self.entries.get(object_id)
        if entry is not None:
            entry.local += 1
            return
        owner = owner_of(object_id)
        entry = self.entries[object_id] = Entry(1, self.gone)
        if owner == self.me:
            # Ours, and already released: a holder kept it longer than it was registered.
            entry.value = encode_failure(
                "ObjectFreedError", f"object {object_id.hex()} was already released by its owner"
            )
            return
        entry.registered = 1
        self.unsettled[object_id] = self.unsettled.get(object_id, 0) + 1
        self._send(owner, AddBorrower(object_id))

    def release(self, object_id: bytes) -> None:
        """An `ObjectRef` object of this process died."""
        entry = self.entries.get(object_id)
        if entry is None:
            return
        entry.local -= 1
        assert entry.local >= 0, f"object {object_id.hex()} released more often than held"
        if entry.local == 0 and not entry.borrowers:
            self._drop(object_id, entry)

    def _drop(self, object_id: bytes, entry: Entry) -> None:
        del self.entries[object_id]
        value, entry.keep = entry.value, None
        owner = owner_of(object_id)
        if owner == self.me:
            if value is not None and value.block is not None:
                self.spill.forget(object_id, value.block)
            if self._made:
                self.lineage.forget(object_id)
            farewell = self.farewells.pop(object_id, None)
            if farewell is not None:
                self._send(*farewell)
            return
        message = DropBorrower(object_id, entry.registered)
        inner = value.contains if value is not None else None
        if inner and self.unsettled and self.after_settled(inner, owner, message):
            return
        self._send(owner, message)

    def after_settled(
        self, ids: Iterable[bytes], peer: bytes, message: Any, *, in_order: bool = False
    ) -> bool:
        """Send `message` to `peer` once the owners know that we hold `ids`.

        False when nothing is outstanding: the caller sends it itself. References owned by `peer`
        or by us need no waiting: registration and message share one ordered connection.
        `in_order`: nor may it overtake what waits for `peer` already.
        """
        open_ids = {one for one in ids if one in self.unsettled and owner_of(one) != peer}
        if in_order:
            for earlier, other, _message in self._after:
                if other == peer:
                    open_ids |= earlier
        if not open_ids:
            return False
        self._after.append((open_ids, peer, message))
        return True

    def unsettled_except(self, peer: bytes) -> list[bytes]:
        """References still held here whose registration a third party has not confirmed."""
        return [
            one
            for one in self.unsettled
            if owner_of(one) != peer and one in self.entries and self.entries[one].local
        ]

    # ------------------------------------------------------------------ messages

    def on_add_borrower(self, peer: bytes, message: AddBorrower) -> None:
        """Another process holds a reference to an object of ours."""
        entry = self.entries.get(message.id)
        if entry is not None:
            if entry.borrowers is None:
                entry.borrowers = {}
            entry.borrowers[peer] = entry.borrowers.get(peer, 0) + 1
            self.spill.handed_out(message.id)
        self._send(peer, BorrowAck(message.id, entry is not None))

    def on_borrow_ack(self, message: BorrowAck) -> None:
        """The owner has registered us (or no longer has the object)."""
        self._settle(message.id)
        if not message.known and message.id not in self.unsettled:
            self._lost(message.id, "ObjectFreedError", "was already released by its owner")

    def _settle(self, object_id: bytes) -> None:
        left = self.unsettled.get(object_id, 0) - 1
        if left > 0:  # let go and taken up again meanwhile: the later one counts
            self.unsettled[object_id] = left
            return
        self.unsettled.pop(object_id, None)
        if self._after:
            still = []
            for item in self._after:
                ids, peer, message = item
                ids.discard(object_id)
                if ids:
                    still.append(item)
                else:
                    self._send(peer, message)
            self._after = still

    def on_drop_borrower(self, peer: bytes, message: DropBorrower) -> None:
        """A borrower let go."""
        entry = self.entries.get(message.id)
        if entry is not None and entry.borrowers is not None:
            left = entry.borrowers.get(peer, 0) - message.count
            if left > 0:
                entry.borrowers[peer] = left
                return
            entry.borrowers.pop(peer, None)
            if not entry.borrowers and not entry.local:
                self._drop(message.id, entry)
            else:
                self.spill.on_borrower_gone(message.id, peer)

    def on_fetch(self, peer: bytes, message: Fetch) -> None:
        """A borrower wants the value, now or when it exists."""
        object_id = message.id
        entry = self.entries.get(object_id)
        if entry is None:
            text = f"object {object_id.hex()} was already released by its owner"
            gone = encode_failure("ObjectFreedError", text)
            self._send(peer, ObjectValue(object_id, gone, message.number))
        elif entry.value is not None:
            self.spill.handed_out(object_id)
            self._send(peer, ObjectValue(object_id, entry.value, message.number))
        else:
            if entry.waiters is None:
                entry.waiters = []
            entry.waiters.append(
                lambda value: self._send(peer, ObjectValue(object_id, value, message.number))
            )

    def on_value(self, message: ObjectValue) -> None:
        """The owner answers a Fetch.

        One that was sent before we let go and borrowed the object again may have the answer of
        then: it must not count, the value may lie elsewhere by now.
        """
        entry = self.entries.get(message.id)
        if entry is not None and entry.fetching == message.fetch:
            self.resolve(message.id, message.value)

    def on_evict(self, peer: bytes, message: Evict) -> None:
        """The owner has moved an object that we borrow."""
        value = self.spill.on_evict(peer, message)
        if value is not None:
            self.resolve(message.id, value)

    def on_process_died(self, peer: bytes, cause: str) -> None:
        """A process is gone: it borrows nothing any more, and what it owned is lost."""
        for object_id, entry in list(self.entries.items()):
            if entry.borrowers and peer in entry.borrowers:
                del entry.borrowers[peer]
                if not entry.borrowers and not entry.local:
                    self._drop(object_id, entry)
                else:
                    self.spill.on_borrower_gone(object_id, peer)
            elif owner_of(object_id) == peer and entry.value is None:
                self._lost(object_id, "OwnerDiedError", f"is lost: its owner {cause}")
        for object_id in [one for one in self.unsettled if owner_of(one) == peer]:
            self.unsettled[object_id] = 1
            self._settle(object_id)
        self._after = [item for item in self._after if item[1] != peer]

    def _lost(self, object_id: bytes, kind: str, what: str) -> None:
        entry = self.entries.get(object_id)
        if entry is not None and entry.value is None:
            self.resolve(object_id, encode_failure(kind, f"object {object_id.hex()} {what}"))

    def processes(self) -> set[bytes]:
        """Processes that own what is borrowed here, or borrow what is owned here."""
        found = {owner_of(object_id) for object_id in (*self.entries, *self.unsettled)}
        for entry in self.entries.values():
            found.update(entry.borrowers or ())
        found.discard(self.me)
        return found

    def blocks_in(self, segments: set[int], node: int = -1) -> list[tuple[int, int]]:
        """(segment, offset) of each block in these segments that belongs to an object of ours.

        Of several nodes, the segments of this one are meant.
        """
        blocks = self.spill.blocks() + [
            entry.value.block
            for object_id, entry in self.entries.items()
            if entry.value is not None
            and entry.value.block is not None
            and owner_of(object_id) == self.me
        ]
        if node >= 0:
            blocks = [one for one in blocks if node_of(one.holder) == node]
        return [(one.segment, one.offset) for one in blocks if one.segment in segments]

    def counts(self) -> dict[str, dict[str, int]]:
        """Held ids in hex with the number of local references and of borrowers."""
        return {
            one.hex(): {"local": entry.local, "borrowers": len(entry.borrowers or ())}
            for one, entry in self.entries.items()
        }
