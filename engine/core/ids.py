"""Identifiers.

A process has a random 8-byte id. Whatever it owns (tasks, objects, actors) is numbered by a counter
behind that id, so an object's id names its owner and no table is needed to find it:

    object id (16 bytes) = process id (8) + counter (8)

A task has the id of its first return value.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["ID_BYTES", "PROCESS_BYTES", "IdSource", "owner_of", "short"]

PROCESS_BYTES = 8
ID_BYTES = 16
_pack = Struct(">Q").pack


class IdSource:
    """Hands out the ids of one process. `process` must be unique and is drawn by the caller."""

    __slots__ = ("count", "process")

    def __init__(self, process: bytes) -> None:
        assert len(process) == PROCESS_BYTES
        self.process = process
        self.count = 0

    def new(self) -> bytes:
        """A fresh 16-byte id, never given out before by this source."""
        self.count += 1
        return self.process + _pack(self.count)


def owner_of(object_id: bytes) -> bytes:
    """The id of the process that owns the object, task or actor."""
    return object_id[:PROCESS_BYTES]


def short(any_id: bytes) -> str:
    """A form for messages to people: process prefix and number."""
    if len(any_id) == ID_BYTES:
        return f"{any_id[:3].hex()}:{int.from_bytes(any_id[8:], 'big')}"
    return any_id[:4].hex()
