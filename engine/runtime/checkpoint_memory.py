"""The memory of an actor's checkpoints: written by the actor, found by the node when it is dead.

Two memfds take turns: one holds the last checkpoint, the other takes the next one. So a kill at any
moment leaves a whole checkpoint behind, the pages stay warm, and nothing has a name on disk. The
node has descriptors of both. A checkpoint is safe once its header is written, with one store into
shared memory and no word to anybody; the node reads the headers when the process is gone.
"""

from __future__ import annotations

import mmap
import os
import zlib
from struct import Struct

from engine.core.control import Checkpoint
from engine.store import codec

__all__ = ["CheckpointFiles", "CheckpointMemory", "memory_of", "read_memory"]

# Number of the checkpoint, bytes, CRC-32 of them; the second CRC-32 is of this itself.
_HEADER = Struct("<QQI")
_CHECK = Struct("<I")
_NOTHING = bytes(_HEADER.size + _CHECK.size)
_DATA_AT = 64


def _header(number: int, size: int, check: int) -> bytes:
    fields = _HEADER.pack(number, size, check)
    return fields + _CHECK.pack(zlib.crc32(fields))


class CheckpointMemory:
    """A memfd that grows to what is written into it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("penstock-checkpoint", os.MFD_CLOEXEC)
        self._size = 0
        self._map: mmap.mmap | None = None

    def write(self, encoded: codec.Encoded) -> tuple[int, int]:
        """Lay the value out; returns size and checksum. What was here before is no more."""
        size = encoded.block_bytes()
        if self._map is not None:
            self._map[: len(_NOTHING)] = _NOTHING
        if _DATA_AT + size > self._size or self._map is None:
            self._size = (_DATA_AT + size * 5 // 4 + mmap.PAGESIZE) & -mmap.PAGESIZE
            os.ftruncate(self.fd, self._size)
            self._map = mmap.mmap(self.fd, self._size)
        with memoryview(self._map)[_DATA_AT : _DATA_AT + size] as view:
            encoded.write_into(view)
            return size, zlib.crc32(view)

    def commit(self, found: Checkpoint) -> None:
        """What was written is the checkpoint from now on, whatever becomes of this process."""
        assert self._map is not None
        header = _header(found.number, found.size, found.check)
        self._map[: len(header)] = header


def memory_of(found: Checkpoint, data: bytes) -> int:
    """A descriptor of new memory with a checkpoint."""
    fd = os.memfd_create("penstock-checkpoint", os.MFD_CLOEXEC)
    header = _header(found.number, found.size, found.check)
    with open(fd, "wb", closefd=False) as file:
        file.write(header.ljust(_DATA_AT, b"\0"))
        file.write(data)
    return fd


def read_memory(fd: int, found: Checkpoint) -> bytes:
    """The bytes of a checkpoint, which may be damaged; the descriptor is closed."""
    try:
        return os.pread(fd, found.size, _DATA_AT)
    finally:
        os.close(fd)


class CheckpointFiles:
    """The node's descriptors of the memory of the actors' checkpoints."""

    def __init__(self) -> None:
        self._fds: dict[bytes, list[int]] = {}  # even numbers' memory, odd numbers'

    def keep(self, found: Checkpoint, fd: int) -> None:
        """Hold the memory that this checkpoint is in, and that those will be in which take turns
        with the next.
        """
        fds = self._fds.setdefault(found.actor, [-1, -1])
        slot = found.number % 2
        if fds[slot] >= 0:
            os.close(fds[slot])
        fds[slot] = fd

    def newest(self, actor: bytes) -> tuple[Checkpoint, int]:
        """The last checkpoint of an actor whose process is dead, and a descriptor to send away."""
        found: list[tuple[int, int, int, int]] = []
        for fd in self._fds[actor]:
            data = os.pread(fd, len(_NOTHING), 0) if fd >= 0 else b""
            if len(data) == len(_NOTHING):
                number, size, check = _HEADER.unpack_from(data)
                if number and _header(number, size, check) == data:
                    found.append((number, size, check, fd))
        number, size, check, fd = max(found)
        return Checkpoint(actor, number, size, check), os.dup(fd)

    def drop(self, actor: bytes) -> None:
        """Let go of an actor's checkpoints, if there are any."""
        for fd in self._fds.pop(actor, ()):
            if fd >= 0:
                os.close(fd)
