"""What is to outlive its process: the contents of scopes, and detached actors.

A journal is a list of events and the state that they make; `events()` of a state makes the same
state again, shorter. The node keeps the state in memory, so a scope's keeper that dies finds it
there; a standing node writes the events behind, into its directory, for the node that comes after.

A scope's *entry* has a number, a key unless it is only needed by others, how it is made (`recipe`,
opaque; empty for what was put), the numbers of the entries that its making needs, and its value
once it has one. An entry lives while it has a key, or one that lives needs it. Entries of earlier
numbers never need later ones, so there are no cycles.

Pure: no time, no disk. The events are input when they are read again: who reads them checks them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.core.control import Checkpoint
from engine.core.values import Block, Value

__all__ = [
    "ActorGone",
    "ActorMade",
    "CheckpointStored",
    "Dropped",
    "Entry",
    "Event",
    "Journal",
    "Made",
    "Ready",
    "ScopeGone",
    "decode_event",
    "encode_event",
]


class Entry(msgspec.Struct, array_like=True):
    """One thing in a scope."""

    number: int
    key: str
    recipe: bytes
    needs: list[int]
    value: Value | None = None


class Made(msgspec.Struct, array_like=True, tag="m"):
    """New entries, what is needed first; others of their keys lose them."""

    scope: str
    entries: list[Entry]


class Ready(msgspec.Struct, array_like=True, tag="r"):
    """An entry has its value, or it lies elsewhere now; None: it is lost and to be made again."""

    scope: str
    number: int
    value: Value | None


class Dropped(msgspec.Struct, array_like=True, tag="d"):
    """An entry loses its key."""

    scope: str
    key: str


class ScopeGone(msgspec.Struct, array_like=True, tag="g"):
    """A scope is deleted with all it holds."""

    scope: str


class ActorMade(msgspec.Struct, array_like=True, tag="a"):
    """A detached actor was asked for: its encoded CreateActor."""

    id: bytes
    create: bytes


class ActorGone(msgspec.Struct, array_like=True, tag="e"):
    """A detached actor is dead for good."""

    id: bytes


class CheckpointStored(msgspec.Struct, array_like=True, tag="c"):
    """A checkpoint of a detached actor is safe in a file of its own."""

    checkpoint: Checkpoint


Event = Made | Ready | Dropped | ScopeGone | ActorMade | ActorGone | CheckpointStored

encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(Event).decode


class Journal:
    """The state that events make."""

    def __init__(self) -> None:
        self.scopes: dict[str, dict[int, Entry]] = {}
        self.actors: dict[bytes, bytes] = {}
        self.checkpoints: dict[bytes, Checkpoint] = {}

    def apply(self, event: Event) -> list[Block]:
        """Take an event; returns the blocks that nothing here names any more.

        Events about what is not there any more say nothing: they were under way when it went.
        """
        if isinstance(event, Made | Ready | Dropped):
            return self._change(event)
        if isinstance(event, ScopeGone):
            entries = self.scopes.pop(event.scope, {})
            return [one for entry in entries.values() for one in _blocks(entry.value)]
        if isinstance(event, ActorMade):
            self.actors[event.id] = event.create
        elif isinstance(event, ActorGone):
            self.actors.pop(event.id, None)
            self.checkpoints.pop(event.id, None)
        elif event.checkpoint.actor in self.actors:
            self.checkpoints[event.checkpoint.actor] = event.checkpoint
        return []

    def _change(self, event: Made | Ready | Dropped) -> list[Block]:
        if isinstance(event, Made):
            entries = self.scopes.setdefault(event.scope, {})
            for entry in event.entries:
                if entry.key:
                    _take_key(entries, entry.key)
                entries[entry.number] = msgspec.structs.replace(entry)
            return _sweep(entries)
        entries = self.scopes.get(event.scope, {})
        if isinstance(event, Dropped):
            _take_key(entries, event.key)
            return _sweep(entries)
        found = entries.get(event.number)
        if found is None:
            return _blocks(event.value)
        gone = _blocks(found.value)
        found.value = event.value
        return [one for one in gone if one not in _blocks(event.value)]

    def events(self) -> Iterator[Event]:
        """The shortest list of events that makes this state."""
        for scope, entries in self.scopes.items():
            yield Made(scope, sorted(entries.values(), key=lambda one: one.number))
        for actor, create in self.actors.items():
            yield ActorMade(actor, create)
        for checkpoint in self.checkpoints.values():
            yield CheckpointStored(checkpoint)

    def blocks(self) -> Iterator[Block]:
        """Where the values lie that are too large to lie here."""
        for entries in self.scopes.values():
            for entry in entries.values():
                yield from _blocks(entry.value)

    def forget_memory(self) -> None:
        """Values that lay in the memory of a node that is dead are lost; recipes are not."""
        for entries in self.scopes.values():
            for entry in entries.values():
                if _blocks(entry.value):
                    entry.value = None


def _blocks(value: Value | None) -> list[Block]:
    return [] if value is None or value.block is None else [value.block]


def _take_key(entries: dict[int, Entry], key: str) -> None:
    for entry in entries.values():
        if entry.key == key:
            entry.key = ""


def _sweep(entries: dict[int, Entry]) -> list[Block]:
    """Drop what has no key and is not needed; later entries first, since they need earlier ones."""
    gone = []
    needed: set[int] = set()
    for number in sorted(entries, reverse=True):
        entry = entries[number]
        if entry.key or number in needed:
            needed.update(entry.needs)
        else:
            del entries[number]
            gone += _blocks(entry.value)
    return gone
