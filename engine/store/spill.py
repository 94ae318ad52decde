"""Segments on disk: unlinked files that hold values for which there is no shared memory.

A value is written once, and read into private memory by whoever wants it. Its CRC-32 travels with
its location (`Block.check`), not with the file: so what is found there must be exactly what was
written, and a block that was damaged, cut short, swapped, or left from an earlier value is seen.
Nothing is synced: what lies here need not survive anything.
"""

from __future__ import annotations

import os
import threading
import zlib
from typing import Any

from engine.exceptions import ObjectLostError

__all__ = ["DiskSegment"]

# Written and read in pieces: a large value must not keep a thread in one system call.
_PIECE = 8 << 20
_ALIGN = 64


class DiskSegment:
    """An open file of the node's; `fd` is taken over."""

    __slots__ = ("_fd", "_lock", "id", "size")

    def __init__(self, segment_id: int, fd: int, size: int) -> None:
        self.id = segment_id
        self.size = size
        self._fd = fd
        self._lock = threading.Lock()

    def _open(self) -> int:
        """A descriptor of one's own: the segment may be closed by another thread meanwhile."""
        with self._lock:
            if self._fd < 0:
                raise OSError("the file is closed")
            return os.dup(self._fd)

    def write(self, offset: int, data: memoryview) -> int:
        """Write a block; returns its CRC-32. OSError when the disk does not take it."""
        fd = self._open()
        try:
            check = at = 0
            while at < len(data):
                piece = data[at : at + _PIECE]
                count = os.pwrite(fd, piece, offset + at)
                check = zlib.crc32(piece[:count], check)
                at += count
            return check
        finally:
            os.close(fd)

    def read_into(self, offset: int, into: memoryview, check: int) -> None:
        """Read a block; ObjectLostError says why it cannot be, or that it is not what it was."""
        try:
            fd = self._open()
            try:
                found = at = 0
                while at < len(into):
                    piece = into[at : at + _PIECE]
                    count = os.preadv(fd, [piece], offset + at)
                    if not count:
                        raise OSError(f"the file ends {len(into) - at:,} bytes too early")
                    found = zlib.crc32(piece[:count], found)
                    at += count
            finally:
                os.close(fd)
        except OSError as error:
            raise ObjectLostError(
                f"a value of {len(into):,} bytes was spilled to disk and cannot be read back: "
                f"{error}."
            ) from error
        if found != check:
            raise ObjectLostError(
                f"a value of {len(into):,} bytes was spilled to disk and is damaged there: its "
                f"checksum is {found:#010x} and was {check:#010x} when it was written."
            )

    def read(self, offset: int, size: int, check: int) -> Any:
        """`read_into` new memory: a NumPy array of bytes, aligned like blocks of shared memory."""
        import numpy as np

        raw = np.empty(size + _ALIGN, np.uint8)
        start = -raw.ctypes.data % _ALIGN
        memory = raw[start : start + size]
        self.read_into(offset, memory.data, check)
        return memory

    def discard(self, offset: int, size: int) -> bool:
        """Parts of a file are kept for later values, not given back."""
        return False

    def duplicate(self) -> int:
        """A descriptor for somebody else to keep."""
        return self._open()

    def close(self) -> bool:
        """Let go of the file; its space comes back when everybody has."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        return True
