"""Which objects of a process lie in shared memory and which on disk; how one leaves memory safely.

A value may lie in a memory block, in a disk block, or in both: objects are immutable, so a copy on
disk stays true, and once there is one the memory can be given back without a write. Everybody may
read a disk block, which never moves and lives as long as its object. So nobody ever waits for
memory in order to read, and spilling, reading back and new values cannot wait for each other.

A memory block may go only when nobody can use its location any more. Only the owner tells
locations, so it knows who may:

- Where a call of its own carries the location, it is *used* until the call is answered; an executor
  that keeps the object has registered as a borrower by then. A view is a use, too.
- A borrower may have the location in its table. The owner writes the copy, then tells each borrower
  where it is (`Evict`). A borrower without uses takes the new location and says that the old one is
  `gone`; from then on it takes the owner's word before what a call brings. If one says that it is
  not gone, or the location was handed out meanwhile, the memory stays: both locations are true.
  (That borrower says so once it has let go, and is not asked again before.)

Pure: effects leave through `send`, `free` and `work`; time comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from engine.core.ids import node_of
from engine.core.messages import Evict, Evicted
from engine.core.values import Block, Value

if TYPE_CHECKING:
    from engine.core.objects import Entry

__all__ = ["COPY", "READ", "SPILL_STATISTICS", "WRITE", "SpillMachine"]

WRITE, READ, COPY = "write", "read", "copy"
SPILL_STATISTICS = ("spilled_objects", "spilled_bytes", "written_bytes", "restored_bytes")
_NOBODY: frozenset[bytes] = frozenset()
_RESTING, _WRITING, _ASKING, _READING, _COPYING = range(5)
# A value read from disk so often is worth memory again, if there is some to spare.
_HOT_READS = 2
# Borrowers that have not answered for so long are not counted on.
_PATIENCE_SECONDS = 1.0


class _Held:
    """An object of ours with a block: where it lies, and what is under way with it."""

    __slots__ = (
        *("awaited", "disk", "disturbed", "kept_by", "memory", "reads", "since", "size", "spare"),
        *("state", "used"),
    )

    def __init__(self, block: Block, spare: Block | None = None) -> None:
        self.size = block.size
        self.spare = spare  # one more copy on disk, which nobody reads while there is another
        self.memory = block if block.segment > 0 else None
        self.disk = block if block.segment < 0 else None
        self.state = _RESTING
        self.awaited = _NOBODY  # borrowers that have not answered yet
        self.kept_by = _NOBODY  # borrowers that use the memory, and will say when not
        self.disturbed = False  # the location was handed out, or kept, during the round
        self.since = 0.0
        self.reads = 0
        self.used = 0  # the machine's count of uses at the last one


class SpillMachine:
    """The large objects of one process.

    `free(block)` gives a block back to its holder. `work(WRITE, id, memory block)` and
    `work(READ, id, disk block)` have a copy made; `on_written` and `on_read` follow; so does
    `on_copied` after `work(COPY, id, disk block)`, which makes a spare copy on disk. They are given
    that very block back as `source`: an object released meanwhile may have been made again, in
    another place or in the same, and what was copied is not it.
    """

    def __init__(
        self,
        entries: dict[bytes, Entry],
        send: Callable[[bytes, Any], None],
        free: Callable[[Block], None],
    ) -> None:
        self._entries = entries
        self._send = send
        self._free = free
        self.work: Callable[[str, bytes, Block], None] = lambda kind, object_id, block: None
        self.number: int | None = None  # of this node, where there are several
        # Told when an object of ours lies elsewhere, or is lost (None), before its place is free.
        self.moved: Callable[[bytes, Value | None], None] = lambda object_id, value: None
        self.held: dict[bytes, _Held] = {}
        self._clock = 0  # counts uses
        self.uses: dict[bytes, int] = {}  # views and calls under way here, of any object
        # Objects of which a view is gone: noted at any moment, by any thread; counted when asked.
        self.unseen: deque[bytes] = deque()
        self.short = False  # the node has said that memory is short
        self.resident = 0  # bytes of our objects in memory
        self.trouble = ""
        self.wait_until = 0.0  # no writing before then
        self._moving: set[bytes] = set()
        self._refused: dict[bytes, bytes] = {}  # objects of others that we keep in memory -> owner
        self._reading = b""
        self.written_bytes = 0  # to disk and back, ever
        self.read_bytes = 0

    # ------------------------------------------------------------------ life of an object

    def keep(self, object_id: bytes, block: Block, spare: Block | None = None) -> None:
        """An object of ours has got its value, in a block; `spare` is a second copy, on disk.

        One on another node stays there until it is released: there is no copying it to disk here.
        """
        if self.number is not None and node_of(block.holder) != self.number:
            return
        held = self.held[object_id] = _Held(block, spare)
        self._clock += 1
        held.used = self._clock
        if held.memory is not None:
            self.resident += held.size

    def fix(self, object_id: bytes) -> None:
        """An object of ours must stay where it is: others write to it."""
        held = self.held.pop(object_id)
        assert held.memory is not None, "what is on disk cannot be written to"
        self.resident -= held.size

    def forget(self, object_id: bytes, block: Block) -> None:
        """An object of ours is released: nobody has a reference any more."""
        held = self.held.pop(object_id, None)
        if held is None:
            self._free(block)
            return
        self._moving.discard(object_id)
        # While a copy is being made, whoever makes it owns the block that is written to.
        if held.memory is not None:
            self.resident -= held.size
            self._free(held.memory)
        if held.disk is not None:
            self._free(held.disk)
        if held.spare is not None:
            self._free(held.spare)

    def blocks(self) -> list[Block]:
        """Blocks of our objects besides those that their entries name."""
        found = [
            held.disk
            for held in self.held.values()
            if held.memory is not None and held.disk is not None
        ]
        return found + [held.spare for held in self.held.values() if held.spare is not None]

    def lose(self, object_id: bytes, block: Block) -> bool:
        """A copy of an object of ours cannot be read. True when there is no other.

        The object is then forgotten here. It may have been another copy than the present ones.
        """
        held, entry = self.held.get(object_id), self._entries[object_id]
        if held is None:  # there is one copy, which stays where it is
            lost = entry.value is not None and entry.value.block == block
            if lost:
                self.moved(object_id, None)
                self._free(block)
            return lost
        if block == held.memory:
            self.resident -= held.size
            held.memory = None
        elif block == held.disk:
            held.disk = None
        else:
            return False
        self._moving.discard(object_id)
        if held.memory is None and held.disk is None and held.spare is None:
            del self.held[object_id]
            self.moved(object_id, None)
            self._free(block)
            return True
        # What is under way with it does not count any more.
        held.state, held.awaited, held.reads = _RESTING, _NOBODY, 0
        if held.memory is None and held.disk is None:
            held.disk, held.spare = held.spare, None
            assert held.disk is not None
            held.state = _COPYING
            self.work(COPY, object_id, held.disk)
        entry.value = _at(entry.value, held.memory or held.disk)
        self.moved(object_id, entry.value)
        self._free(block)
        return False

    def on_copied(self, object_id: bytes, source: Block, block: Block | None) -> None:
        """There is a second copy again of an object that is to have one; None: it failed."""
        held = self._at_work(object_id, source, _COPYING)
        if held is not None:
            held.state, held.spare = _RESTING, block
        elif block is not None:
            self._free(block)

    # ------------------------------------------------------------------ use

    def look(self, object_id: bytes, block: Block) -> Block:
        """Somebody here is about to look at an object; the block to look at.

        `block` is where a message says that it lies. A view of memory counts as a use, which ends
        when it is noted in `unseen`.
        """
        if self.unseen:
            self.settle()
        entry = self._entries.get(object_id)
        if entry is not None:
            value = entry.value
            if value is not None and value.block is not None:
                block = value.block
        if block.segment < 0:
            self._read(object_id)
            return block
        held = self.held.get(object_id)
        if held is not None:
            self._clock += 1
            held.used = self._clock
        self.uses[object_id] = self.uses.get(object_id, 0) + 1
        return block

    def settle(self) -> None:
        """Count the views that are gone."""
        unseen, uses = self.unseen, self.uses
        while unseen:
            object_id = unseen.popleft()
            left = uses[object_id] - 1
            if left:
                uses[object_id] = left
            else:
                self._unused(object_id)

    def carry(self, object_id: bytes, block: Block) -> bool:
        """A call is about to carry the location of an object. True when that is a use."""
        if block.segment < 0:
            self._read(object_id)
            return False
        self._touch(object_id)
        self.uses[object_id] = self.uses.get(object_id, 0) + 1
        return True

    def unuse(self, object_id: bytes) -> None:
        """A view is gone, or a call that carried the location is answered."""
        left = self.uses[object_id] - 1
        if left:
            self.uses[object_id] = left
        else:
            self._unused(object_id)

    def _unused(self, object_id: bytes) -> None:
        del self.uses[object_id]
        if self._refused and object_id in self._refused:
            self._send(self._refused.pop(object_id), Evicted(object_id, True))

    def handed_out(self, object_id: bytes) -> None:
        """A borrower of an object of ours registers, or is told where it lies."""
        held = self._touch(object_id)
        if held is not None:
            held.disturbed = True

    def _touch(self, object_id: bytes) -> _Held | None:
        held = self.held.get(object_id)
        if held is not None:
            self._clock += 1
            held.used = self._clock
        return held

    def _read(self, object_id: bytes) -> None:
        """A value on disk is about to be read, here or where a call takes it."""
        held = self._touch(object_id)
        if held is None or held.memory is not None:
            return
        held.reads += 1
        resting = held.state == _RESTING
        if held.reads >= _HOT_READS and resting and not (self.short or self._reading):
            assert held.disk is not None
            held.state, self._reading = _READING, object_id
            self.work(READ, object_id, held.disk)

    # ------------------------------------------------------------------ out of memory

    def spill(self, nbytes: int, now: float) -> None:
        """Begin to move objects of `nbytes` in all out of memory, as far as there are some.

        The least recently used ones that make up `nbytes`; of those the large ones first, which
        takes the fewest.
        """
        able = [item for item in self.held.items() if self._can_move(*item, now)]
        able.sort(key=lambda item: item[1].used)
        enough = 0
        for count, (_object_id, held) in enumerate(able, 1):
            enough += held.size
            if enough >= nbytes:
                able = able[:count]
                break
        able.sort(key=lambda item: -item[1].size)
        for object_id, held in able:
            if nbytes <= 0:
                break
            nbytes -= held.size
            if held.disk is not None:
                self._leave(object_id, held, now)
            else:
                assert held.memory is not None
                held.state = _WRITING
                self._moving.add(object_id)
                self.work(WRITE, object_id, held.memory)

    def _can_move(self, object_id: bytes, held: _Held, now: float) -> bool:
        return (
            held.memory is not None
            and held.state == _RESTING
            and object_id not in self.uses
            and not held.kept_by
            and (held.disk is not None or now >= self.wait_until)
        )

    def spillable(self, enough: int, now: float) -> int:
        """Bytes that `spill` could begin to move; counted no further than `enough`."""
        found = 0
        for object_id, held in self.held.items():
            if found >= enough:
                break
            if self._can_move(object_id, held, now):
                found += held.size
        return found

    def spilling(self, now: float) -> int:
        """Bytes on their way out of memory."""
        return sum(
            held.size
            for held in (self.held[one] for one in self._moving)
            if held.state == _WRITING or now - held.since < _PATIENCE_SECONDS
        )

    def _at_work(self, object_id: bytes, source: Block, state: int) -> _Held | None:
        """The object of which a copy was made; None if it was released meanwhile, or lost."""
        held = self.held.get(object_id)
        if held is None or held.state != state:
            return None
        return held if source is (held.memory if state == _WRITING else held.disk) else None

    def on_written(self, object_id: bytes, source: Block, block: Block, now: float) -> None:
        """The copy on disk is there."""
        held = self._at_work(object_id, source, _WRITING)
        if held is None:
            self._free(block)
            return
        self.trouble = ""
        self.written_bytes += held.size
        held.disk = block
        held.state = _RESTING
        self._moving.discard(object_id)
        self._leave(object_id, held, now)

    def on_write_failed(self, object_id: bytes, source: Block, why: str, again: float) -> None:
        """No copy could be made; the object stays in memory. Nothing is written before `again`."""
        held = self._at_work(object_id, source, _WRITING)
        if held is not None:  # else it was released, which may be why
            held.state = _RESTING
            self._moving.discard(object_id)
            self.trouble, self.wait_until = why, again

    def _leave(self, object_id: bytes, held: _Held, now: float) -> None:
        """There is a copy on disk: give the memory back once nobody uses it."""
        if object_id in self.uses:
            return
        entry = self._entries[object_id]
        if not entry.borrowers:
            self._evict(object_id, entry, held)
            return
        held.state, held.since, held.disturbed = _ASKING, now, False
        held.awaited = frozenset(entry.borrowers)
        self._moving.add(object_id)
        message = Evict(object_id, _at(entry.value, held.disk))
        for borrower in entry.borrowers:
            self._send(borrower, message)

    def on_evicted(self, peer: bytes, message: Evicted) -> None:
        """A borrower has taken the new location, or uses the old one, or does so no longer."""
        held = self.held.get(message.id)
        if held is None:
            return
        if message.gone:
            held.kept_by -= {peer}
        else:
            held.kept_by |= {peer}
            held.disturbed = True
        self._answered(message.id, held, peer)

    def on_borrower_gone(self, object_id: bytes, peer: bytes) -> None:
        """A borrower has let go, or is dead."""
        held = self.held.get(object_id)
        if held is not None:
            held.kept_by -= {peer}
            self._answered(object_id, held, peer)

    def _answered(self, object_id: bytes, held: _Held, peer: bytes) -> None:
        if peer not in held.awaited:
            return
        held.awaited -= {peer}
        if held.awaited:
            return
        held.state = _RESTING
        self._moving.discard(object_id)
        if held.disturbed or object_id in self.uses:
            self._touch(object_id)
        else:
            self._evict(object_id, self._entries[object_id], held)

    def _evict(self, object_id: bytes, entry: Entry, held: _Held) -> None:
        assert held.memory is not None
        memory, held.memory, held.reads = held.memory, None, 0
        entry.value = _at(entry.value, held.disk)
        self.resident -= held.size
        self.moved(object_id, entry.value)
        self._free(memory)

    def on_evict(self, peer: bytes, message: Evict) -> Value | None:
        """The owner has moved an object that we borrow; answers it.

        Returns the value for an entry that was still waiting for one.
        """
        object_id = message.id
        gone = object_id not in self.uses
        if not gone:
            self._refused[object_id] = peer
        self._send(peer, Evicted(object_id, gone))
        entry = self._entries.get(object_id)
        if entry is None or not gone:
            return None
        if entry.value is None:
            return message.value
        if entry.value.block is not None:
            entry.value = message.value
        return None

    # ------------------------------------------------------------------ back into memory

    def on_read(self, object_id: bytes, source: Block, block: Block | None) -> None:
        """The copy in memory is there; None: there was no room, or it could not be read."""
        self._reading = b""
        held = self._at_work(object_id, source, _READING)
        if held is None:
            if block is not None:
                self._free(block)
            return
        held.state, held.reads = _RESTING, 0
        if block is not None:
            held.memory = block
            self.resident += held.size
            self.read_bytes += held.size
            entry = self._entries[object_id]
            entry.value = _at(entry.value, block)

    def statistics(self) -> dict[str, int]:
        """Objects and bytes that lie on disk only, bytes written to disk and read back, ever."""
        spilled = [held.size for held in self.held.values() if held.memory is None]
        found = (len(spilled), sum(spilled), self.written_bytes, self.read_bytes)
        return dict(zip(SPILL_STATISTICS, found, strict=True))


def _at(value: Value | None, block: Block | None) -> Value:
    """The same value, lying elsewhere."""
    assert value is not None
    assert block is not None
    return msgspec.structs.replace(value, block=block)
