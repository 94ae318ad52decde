"""The state of one copy as files, and of each state only what is new.

A state is pickled into one file. Large Arrow tables in it are written to files of their own, as
they are never changed: one that was in the last committed state too is named again instead of
written (it is known by being the same object, so that nothing has to be compared). The same holds
for a state that is equal as a whole. Operators that keep large state as a list of tables, old ones
merged now and then, so write little more than what has been added.

Size and checksum of each file stand in the manifest and are compared before it is unpickled.
"""

from __future__ import annotations

import re
import struct
import weakref
from pathlib import Path
from typing import Any

import msgspec

from engine.store import codec
from engine.store.arrow import ArrowPart, read_arrow
from engine.topology.durable import digest_of, read_whole, write_durably
from engine.topology.errors import CheckpointError, DamagedCheckpointError

__all__ = ["PART_BYTES_MIN", "PartFile", "StateFile", "StateWriter", "read_state"]

PART_BYTES_MIN = 256 << 10
"""Smaller tables are written with the rest: a file costs a sync, about as much as so many bytes."""

_MAGIC = b"penstock-state 1"
_U64 = struct.Struct("<Q")
# Each part of a state file begins on such a boundary, as Arrow wants its buffers.
_ALIGN = 64
# A member's name is part of file names: what could be mistaken is replaced, and it is cut.
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")
_NAME_MAX = 60


class PartFile(msgspec.Struct, frozen=True):
    """A large table of a state; `kind` is that of the codec."""

    name: str
    nbytes: int
    digest: str
    kind: str


class StateFile(msgspec.Struct, frozen=True):
    """The state of one copy in one epoch: name, size and checksum of its file, and its parts.

    `ended`: the copy had ended and the state holds its result.
    """

    copy: int
    name: str
    nbytes: int
    digest: str
    ended: bool = False
    parts: list[PartFile] = []


class StateWriter:
    """Writes the states of one copy.

    Args:
        directory: the checkpoint directory.
        copy: the copy's id.
        title: part of the files' names.
        salt: makes them different from those of every other attempt.
    """

    def __init__(self, directory: Path, copy: int, title: str, salt: str) -> None:
        self._states = directory / "states"
        self._copy = copy
        self._title = title
        self._stem = f"{_UNSAFE.sub('_', title)[:_NAME_MAX]}-{salt}"
        self._former: StateFile | None = None
        self._tables: dict[int, tuple[weakref.ref[Any], PartFile]] = {}
        self._count = 0

    def on_committed(self, state: StateFile) -> None:
        """A state written before (or by another attempt) counts: its files stay for the next."""
        self._former = state

    def write(self, epoch: int, value: Any, ended: bool = False) -> tuple[StateFile, int]:
        """Write a state durably; where it is, and how many bytes were new.

        Epoch 0 stands for the end of the copy, whose state belongs to all epochs to come.

        Raises:
            OSError: it could not be written.
            SerializationError: it cannot be pickled.
            CheckpointError: it holds references to objects.
        """
        former = self._former
        usable = frozenset(part.name for part in former.parts) if former is not None else ()
        stem = f"{epoch:08}-{self._stem}" if epoch else f"end-{self._stem}"
        tables: dict[int, tuple[weakref.ref[Any], PartFile]] = {}
        parts: list[PartFile] = []
        written = 0

        def keep(table: Any, content: ArrowPart) -> int | None:
            nonlocal written
            if content.nbytes < PART_BYTES_MIN:
                return None
            known = self._tables.get(id(table))
            if known is not None and known[0]() is table and known[1].name in usable:
                part = known[1]
            else:
                self._count += 1
                part = self._write_part(f"{stem}.{self._count}", content)
                written += part.nbytes
            tables[id(table)] = (weakref.ref(table), part)
            parts.append(part)
            return len(parts) - 1

        encoded = codec.encode_durable(value, keep)
        if encoded.refs:
            raise CheckpointError(
                f"expected a state without references to objects, found {encoded.refs[0]!r} in "
                f"that of {self._title}; objects do not outlive a run: keep their values, or how "
                "to make them"
            )
        self._tables = tables
        pieces = _layout([encoded.data, *encoded.buffers])
        digest, nbytes = digest_of(pieces), sum(memoryview(piece).nbytes for piece in pieces)
        if former is not None and not written and _is_same(former, digest, nbytes, parts):
            return msgspec.structs.replace(former, ended=ended), 0
        write_durably(self._states / stem, pieces)
        return StateFile(self._copy, stem, nbytes, digest, ended, parts), written + nbytes

    def _write_part(self, name: str, content: ArrowPart) -> PartFile:
        data = content.tobytes()
        write_durably(self._states / name, [data])
        return PartFile(name, len(data), digest_of([data]), content.kind)


def _is_same(former: StateFile, digest: str, nbytes: int, parts: list[PartFile]) -> bool:
    return (former.digest, former.nbytes, former.parts) == (digest, nbytes, parts)


def _layout(parts: list[Any]) -> list[Any]:
    """Sizes and then the parts, each on its boundary; as pieces to be written one by one."""
    sizes = [memoryview(part).nbytes for part in parts]
    head = _MAGIC + b"".join(map(_U64.pack, [len(sizes), *sizes]))
    pieces: list[Any] = []
    for piece in (head, *parts):
        pieces += [piece, bytes(-memoryview(piece).nbytes % _ALIGN)]
    return pieces


def read_state(directory: Path, state: StateFile) -> Any:
    """The value of a state, each of its files verified before anything is unpickled.

    Raises:
        DamagedCheckpointError: a file is not what the manifest says.
    """
    states = directory / "states"
    try:
        content = read_whole(states / state.name, state.nbytes, state.digest)
        tables = [
            read_arrow(part.kind, read_whole(states / part.name, part.nbytes, part.digest))
            for part in state.parts
        ]
    except ValueError as error:
        raise DamagedCheckpointError(
            f"expected the state of copy {state.copy}: {error}"
        ) from error
    at = len(_MAGIC)
    (count,) = _U64.unpack_from(content, at)
    sizes = [_U64.unpack_from(content, at + 8 * (1 + i))[0] for i in range(count)]
    at += 8 * (1 + count)
    parts = []
    for size in sizes:
        at += -at % _ALIGN
        parts.append(content[at : at + size])
        at += size
    return codec.decode_durable(parts[0], parts[1:], tables)
