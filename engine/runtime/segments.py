"""The descriptors behind the node's books of segments (`core.store`): memfds and unlinked files.

The node keeps the descriptor of every segment, so an object outlives the process that made it.
Nothing has a name: a file for spilled objects is made without one (or loses it at once, where the
file system cannot do that), so its space comes back with the last descriptor, whatever dies.
"""

from __future__ import annotations

import os
import tempfile

from engine.config import Config

__all__ = ["SegmentFiles"]


class SegmentFiles:
    """Descriptors by segment number; those of files are negative and lie in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fds: dict[int, int] = {}

    def create(self, segment: int, size: int) -> None:
        """Make a segment of `size` bytes; its pages are touched by whoever writes them."""
        if segment > 0:
            fd = os.memfd_create("penstock", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                fd = os.dup(file.fileno())
        try:
            os.ftruncate(fd, size)
        except OSError:  # told to whoever asked for the segment
            os.close(fd)
            raise
        self._fds[segment] = fd

    def duplicate(self, segment: int) -> int:
        """A descriptor to send away."""
        return os.dup(self._fds[segment])

    def touched(self) -> int:
        """Bytes of memory that the segments really take."""
        memory = [fd for segment, fd in self._fds.items() if segment > 0]
        return sum(os.fstat(fd).st_blocks * 512 for fd in memory)

    def drop(self, segment: int) -> None:
        """Close the node's descriptor; the memory goes when nobody has it open any more."""
        os.close(self._fds.pop(segment))

    def disk_limit(self, config: Config) -> int:
        """Bytes that may be spilled: a share of what is free now."""
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        return min(config.spilled_bytes_max, int(free * config.spilled_disk_share))
