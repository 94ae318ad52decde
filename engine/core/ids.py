"""Identifiers.

A process has a random 8-byte id. Whatever it owns (tasks, objects, actors) is numbered by a counter
behind that id, so an object's id names its owner and no table is needed to find it:

    object id (16 bytes) = process id (8) + counter (8)

On several nodes the last two bytes of a process's id are the number of its node's life
(`core.membership`), so it needs no table either to know where a process is, or that it is dead.

A task has the id of its first return value. The counter's highest bit is set in the id of a *quiet*
call, of which no record is kept: whoever sees the id knows, and nothing has to be sent beside it.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Self

__all__ = [
    "ID_BYTES",
    "PROCESS_BYTES",
    "ActorID",
    "IdSource",
    "JobID",
    "NodeID",
    "PlacementGroupID",
    "TaskID",
    "WorkerID",
    "is_quiet",
    "node_of",
    "owner_of",
    "process_id",
    "short",
]

PROCESS_BYTES = 8
ID_BYTES = 16
_NODE_AT = 6
_pack = Struct(">Q").pack
_QUIET = 1 << 63


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

    def quiet(self) -> bytes:
        """A fresh id of a call of which no record is to be kept."""
        self.count += 1
        return self.process + _pack(self.count | _QUIET)


def process_id(drawn: bytes, number: int) -> bytes:
    """The id of a process of node `number`; `drawn` are six random bytes."""
    assert len(drawn) == _NODE_AT
    return drawn + number.to_bytes(PROCESS_BYTES - _NODE_AT)


def node_of(process: bytes) -> int:
    """The number of the node that a process (or the owner of an object) belongs to."""
    return int.from_bytes(process[_NODE_AT:PROCESS_BYTES])


def is_quiet(call_id: bytes) -> bool:
    """Whether no record of the call is to be kept."""
    return call_id[PROCESS_BYTES] >= 128


def owner_of(object_id: bytes) -> bytes:
    """The id of the process that owns the object, task or actor."""
    return object_id[:PROCESS_BYTES]


def short(any_id: bytes) -> str:
    """A form for messages to people: process prefix and number."""
    if len(any_id) == ID_BYTES:
        return f"{any_id[:3].hex()}:{int.from_bytes(any_id[8:], 'big') & ~_QUIET}"
    return any_id[:4].hex()


class _Identifier:
    """An id as a value for people's programs: compares, hashes, prints; the engine uses bytes."""

    __slots__ = ("_binary",)

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes) or not binary:
            raise ValueError(f"{type(self).__name__}({binary!r}): expected the bytes of an id")
        self._binary = binary

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """The id of this hexadecimal form."""
        return cls(bytes.fromhex(text))

    def binary(self) -> bytes:
        """The id as bytes."""
        return self._binary

    def hex(self) -> str:
        """The id in hexadecimal."""
        return self._binary.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._binary == self._binary

    def __hash__(self) -> int:
        return hash((type(self), self._binary))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._binary,)


class ActorID(_Identifier):
    """The id of an actor."""


class TaskID(_Identifier):
    """The id of a task or of a call of an actor."""


class JobID(_Identifier):
    """The id of a driver."""


class NodeID(_Identifier):
    """The id of a node."""


class WorkerID(_Identifier):
    """The id of a process."""


class PlacementGroupID(_Identifier):
    """The id of a placement group."""
