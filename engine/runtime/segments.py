"""The memfds behind the node's book of shared memory (`core.store`).

The node keeps the descriptor of every segment, so an object outlives the process that made it.
"""

from __future__ import annotations

import os

__all__ = ["SegmentFiles"]


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

    def drop(self, segment: int) -> None:
        """Close the node's descriptor; the memory goes when nobody maps it any more."""
        os.close(self._fds.pop(segment))
