"""The node's side of shared memory: which segments exist, who leased them, what is left of them.

The node holds the memfd of every segment, so an object outlives the process that made it. When that
process dies, the node reads from the segment how many blocks are alive and drops the segment when
their owners have freed them all.
"""

from __future__ import annotations

import os

from engine.store.arena import live_blocks

__all__ = ["SegmentTable"]


class _Record:
    __slots__ = ("fd", "holder", "live", "size")

    def __init__(self, holder: bytes, fd: int, size: int) -> None:
        self.holder = holder
        self.fd = fd
        self.size = size
        self.live = -1  # unknown while its holder lives


class SegmentTable:
    """All segments of a node, within `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._next = 1
        self._records: dict[int, _Record] = {}

    def create(self, holder: bytes, size: int) -> int:
        """A new segment for `holder`; 0 when it does not fit."""
        if self.used + size > self.limit:
            return 0
        fd = os.memfd_create("penstock", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        segment, self._next = self._next, self._next + 1
        self._records[segment] = _Record(holder, fd, size)
        self.used += size
        return segment

    def descriptor(self, segment: int) -> tuple[int, int] | None:
        """A duplicate of the segment's memfd, and its size."""
        record = self._records.get(segment)
        return None if record is None else (os.dup(record.fd), record.size)

    def drop(self, segment: int) -> None:
        """The segment holds nothing any more."""
        record = self._records.pop(segment)
        self.used -= record.size
        os.close(record.fd)

    def on_process_died(self, holder: bytes) -> list[int]:
        """Take over the segments of a dead process; those without live blocks are dropped."""
        dropped = []
        for segment, record in list(self._records.items()):
            if record.holder == holder:
                record.live = live_blocks(record.fd)
                if record.live == 0:
                    self.drop(segment)
                    dropped.append(segment)
        return dropped

    def on_free(self, segment: int) -> bool:
        """An owner frees a block of a dead holder. True when that was the last of its segment."""
        record = self._records.get(segment)
        if record is None or record.live < 0:
            return False
        record.live -= 1
        if record.live == 0:
            self.drop(segment)
            return True
        return False

    def holders(self) -> dict[bytes, int]:
        """Bytes leased, by process."""
        held: dict[bytes, int] = {}
        for record in self._records.values():
            held[record.holder] = held.get(record.holder, 0) + record.size
        return held
