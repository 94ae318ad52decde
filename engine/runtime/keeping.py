"""What the node does so that scopes and detached actors outlive their process, and the node itself.

Its journal (`core.journal`) is told by keepers (`Noted`), and by the node of detached actors. A
standing node writes it behind into its directory (`runtime.journal`); the one that starts there
next makes actors again, the keepers among them, and those ask for what they held.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from engine.core.control import Checkpoint, CreateActor, Noted
from engine.core.ids import owner_of, short
from engine.core.journal import (
    ActorGone,
    ActorMade,
    Event,
    Journal,
    decode_event,
)
from engine.runtime.journal import JournalFile

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["Keeping"]

# Entries are told in parts of about this size.
_PART_BYTES = 4 << 20
_encode = msgspec.msgpack.Encoder().encode
_decode_create = msgspec.msgpack.Decoder(CreateActor).decode


class Keeping:
    """The journal of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.state = Journal()
        self.told: list[str] = []
        self._file: JournalFile | None = None
        self._events: list[Event] = []
        self._then: list[tuple[bytes, int]] = []
        self._checkpoints: list[tuple[Checkpoint, int]] = []
        self._due = 0.0
        self.handlers: dict[str, Callable[..., None]] = {
            "scope_entries": self._entries, "journal_sync": self._sync, "journal": self._tell
        }  # fmt: skip

    def open(self, directory: Path) -> None:
        """Go on from what a node before has written here, and write from now on."""
        node = self._node
        file = JournalFile(directory, node.config.journal_events_max, self._written)
        self._file, self.state, self.told = file, file.state, file.told
        for actor, encoded in list(self.state.actors.items()):
            create = _decode_create(encoded)
            values = [one.value for one in [*(create.deps or ()), create.large] if one is not None]
            if any(value.block is not None for value in values):
                self._lose(actor, create, "its arguments lay in the memory of a node that has died")
                continue
            name = create.options.get("name")
            if name:
                node.head.reserve(create.options["namespace"], name, actor, create.options)
            node.head.on_create(owner_of(actor), create)
            record = node.head.actors[actor]
            record.watchers.clear()  # they were processes of the node before
            found = self.state.checkpoints.get(actor)
            if found is not None:
                record.checkpoint = found
                node.checkpoints.keep(found, file.load(found))

    def _written(self) -> None:
        """On the writing thread: something is on disk."""
        reactor = self._node.reactor
        reactor.after_turn.append(self._answer)
        reactor.kick()

    def _lose(self, actor: bytes, create: CreateActor, why: str) -> None:
        text = f"actor {create.options.get('class', '')} ({short(actor)}) is lost: {why}"
        self.told.append(text)
        sys.stderr.write(f"penstock: {text}\n")
        self.note(ActorGone(actor), b"")

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._file is not None:
            self._file.close()

    # ------------------------------------------------------------------ events

    def note(self, event: Event, owner: bytes) -> None:
        """Something has happened; `owner` is the process that it happened to."""
        for block in self.state.apply(event):
            self._node.store.no_longer_kept(block, owner)
        if self._file is not None:
            self._events.append(event)
            self._soon()

    def _soon(self) -> None:
        if not self._due:
            self._due = perf_counter() + self._node.config.journal_seconds
            self._node.reactor.look_at(self._due)

    def on_noted(self, peer: bytes, message: Noted) -> None:
        """A keeper has something to note."""
        self.note(decode_event(message.event), peer)

    def on_create(self, peer: bytes, message: CreateActor) -> None:
        """A process wants an actor: a detached one is remembered, if anything outlives the node."""
        detached = self._file is not None and message.options.get("lifetime") == "detached"
        encoded = _encode(message) if detached else b""
        self._node.head.on_create(peer, message)
        if detached:
            self.note(ActorMade(message.id, encoded), peer)

    def keeps(self, actor: bytes) -> bool:
        """Whether an actor's checkpoints are to outlive the node."""
        return self._file is not None and actor in self.state.actors

    def on_checkpoint(self, message: Checkpoint, fd: int) -> None:
        """The node has a new checkpoint of an actor; `fd` stays the caller's."""
        self._checkpoints.append((message, os.dup(fd)))
        self._soon()

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> float | None:
        """Write what has gathered; returns when to look again."""
        actors = self._node.head.actors
        for actor in list(self.state.actors):
            if actor not in actors or actors[actor].state == "dead":
                self.note(ActorGone(actor), b"")
        if self._due and self._due <= now:
            self._flush()
        return self._due or None

    def _answer(self) -> None:
        """Tell those who wait for it that what they noted is on disk, or cannot be."""
        file, node = self._file, self._node
        assert file is not None
        with node.reactor.lock:
            while file.done:
                peer, number = file.done.pop(0)
                result = {"kind": "EngineError"} if file.trouble else True
                node.reply(peer, number, result, file.trouble)
            node.reactor.flush()

    def _flush(self) -> None:
        self._due = 0.0
        if self._file is None:
            return
        if self._events or self._then or self._checkpoints:
            self._file.write(self._events, self._then, self._checkpoints)
            self._events, self._then, self._checkpoints = [], [], []

    # ------------------------------------------------------------------ answers

    def _sync(self, peer: bytes, number: int) -> None:
        """Answered when all that is noted by now is on disk: whether it is written at all."""
        if self._file is None:
            self._node.reply(peer, number, False)
            return
        self._then.append((peer, number))
        self._flush()

    def _tell(self, peer: bytes, number: int) -> None:
        """What was not as it should be."""
        trouble = self._file.trouble if self._file is not None else ""
        self._node.reply(peer, number, [*self.told, *([trouble] if trouble else [])])

    def _entries(self, peer: bytes, number: int, scope: str, after: int) -> None:
        """The entries of a scope with higher numbers than `after`, encoded, as far as they go."""
        part, size = [], 0
        entries = self.state.scopes.get(scope, {})
        for one in sorted(entries.values(), key=lambda entry: entry.number):
            if one.number > after and size < _PART_BYTES:
                part.append(one)
                size += len(one.recipe) + (0 if one.value is None else len(one.value.data))
        self._node.reply(peer, number, _encode(part) if part else b"")
