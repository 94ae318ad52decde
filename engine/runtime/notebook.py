"""What a worker is doing, written where it survives the worker.

A page of shared memory that the worker writes and the node reads after its death: which call ran.
Replies travel in bursts, so without it nobody could tell the call that killed the worker from
those that were finished and whose answers were lost with it.
"""

from __future__ import annotations

import mmap
import os

from engine.core.ids import ID_BYTES

__all__ = ["Notebook"]

_SIZE = mmap.PAGESIZE


class Notebook:
    """The page behind a descriptor, which it takes over."""

    __slots__ = ("_fd", "_page")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._page = mmap.mmap(fd, _SIZE)

    @classmethod
    def create(cls) -> Notebook:
        """A new, empty one."""
        fd = os.memfd_create("penstock-notebook", os.MFD_CLOEXEC)
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def duplicate(self) -> int:
        """A descriptor to send to the node."""
        return os.dup(self._fd)

    def start(self, call_id: bytes) -> None:
        """A call begins to run."""
        self._page[: ID_BYTES + 1] = call_id + b"\1"

    def stop(self) -> None:
        """It has ended; its answer is on its way."""
        self._page[ID_BYTES] = 0

    def close(self) -> bytes:
        """The call that was running, or nothing; the page is given up."""
        running = self._page[:ID_BYTES] if self._page[ID_BYTES] else b""
        self._page.close()
        os.close(self._fd)
        return running
