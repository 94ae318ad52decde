"""What a worker is doing, written where it survives the worker.

A page of shared memory that the worker writes and the node reads: which call runs, whether it is
its last try, and a title for people. The call is read after the worker's death: replies travel in
bursts, so without it nobody could tell the call that killed the worker from those that were
finished and whose answers were lost with it. The title names whoever prints, and changes seldom.
"""

from __future__ import annotations

import mmap
import os

from engine.core.ids import ID_BYTES

__all__ = ["Notebook"]

_SIZE = mmap.PAGESIZE
_FINAL = ID_BYTES + 1  # after the call's id and whether it runs
_TITLE = _FINAL + 1  # its length in two bytes, then the text
_TITLE_BYTES_MAX = 200


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

    def describe(self, title: str, final: bool) -> None:
        """What runs from now on, for people, and whether it cannot be tried again."""
        text = title.encode("utf-8", "replace")[:_TITLE_BYTES_MAX]
        head = bytes((final,)) + len(text).to_bytes(2, "little")
        self._page[_FINAL : _TITLE + 2 + len(text)] = head + text

    @property
    def running(self) -> bytes:
        """The call that runs, or nothing."""
        return self._page[:ID_BYTES] if self._page[ID_BYTES] else b""

    @property
    def final(self) -> bool:
        """Whether what runs cannot be tried again."""
        return bool(self._page[_FINAL])

    @property
    def title(self) -> str:
        """What runs, or ran last; it may be a mixture when read while it is being written."""
        size = int.from_bytes(self._page[_TITLE : _TITLE + 2], "little")
        return self._page[_TITLE + 2 : _TITLE + 2 + size].decode("utf-8", "replace")

    def close(self) -> bytes:
        """The call that was running, or nothing; the page is given up."""
        running = self.running
        self._page.close()
        os.close(self._fd)
        return running
