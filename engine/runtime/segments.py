"""The memfds behind the node's book of shared memory (`core.store`).

The node keeps the descriptor of every segment, so an object outlives the process that made it.
"""

from __future__ import annotations

import os

__all__ = ["CheckpointFiles", "SegmentFiles"]


class SegmentFiles:
    """Descriptors by segment number."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def create(self, segment: int, size: int) -> None:
        """Make a segment of `size` bytes; its pages are touched by whoever writes them."""
        fd = os.memfd_create("penstock", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        self._fds[segment] = fd

    def duplicate(self, segment: int) -> int:
        """A descriptor to send away."""
        return os.dup(self._fds[segment])

    def touched(self) -> int:
        """Bytes of memory that the segments really take."""
        return sum(os.fstat(fd).st_blocks * 512 for fd in self._fds.values())

    def drop(self, segment: int) -> None:
        """Close the node's descriptor; the memory goes when nobody maps it any more."""
        os.close(self._fds.pop(segment))


class CheckpointFiles:
    """Descriptors of the actors' last checkpoints, by actor."""

    def __init__(self) -> None:
        self._fds: dict[bytes, int] = {}

    def keep(self, actor: bytes, fd: int) -> None:
        """Hold this one from now on, instead of the one before."""
        self.drop(actor)
        self._fds[actor] = fd

    def duplicate(self, actor: bytes) -> int:
        """A descriptor to send away."""
        return os.dup(self._fds[actor])

    def drop(self, actor: bytes) -> None:
        """Let go of an actor's checkpoint, if there is one."""
        fd = self._fds.pop(actor, None)
        if fd is not None:
            os.close(fd)
