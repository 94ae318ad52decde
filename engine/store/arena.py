"""Shared memory: segments leased from the node, blocks given out of them by this process.

A segment is a memfd, so nothing has a name on disk and nothing is left after `kill -9`: the memory
goes with the last descriptor. Only the process that leased a segment allocates in it; everybody
else maps it and reads. A freed block is given out again before untouched memory is: first touch of
a page costs 15 to 100 times a copy into a warm one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from sortedcontainers import SortedList

from engine.core.values import Block
from engine.exceptions import ObjectStoreFullError

__all__ = ["Arena", "Segment"]

_ALIGN = 64


class Segment:
    """A mapped segment. `view` exports its bytes; the mapping goes when the last view does."""

    __slots__ = ("id", "map", "size", "used")

    def __init__(self, segment_id: int, fd: int, size: int) -> None:
        self.id = segment_id
        self.size = size
        self.used = 0
        self.map = mmap.mmap(fd, size)
        os.close(fd)

    def view(self, offset: int, size: int) -> memoryview:
        """A writable view of part of the segment."""
        return memoryview(self.map)[offset : offset + size]

    def close(self) -> bool:
        """Unmap unless somebody still looks at it. True when unmapped."""
        try:
            self.map.close()
        except BufferError:  # a view is alive: the last one unmaps
            return False
        return True


class Arena:
    """Allocates blocks out of leased segments, best fit, merging neighbours when freed.

    `lease(size)` asks the node for a segment of at least `size` bytes and returns
    (id, descriptor, size); it raises ObjectStoreFullError.
    """

    def __init__(
        self, process: bytes, segment_bytes: int, lease: Callable[[int], tuple[int, int, int]]
    ) -> None:
        self._process = process
        self._segment_bytes = segment_bytes
        self._lease = lease
        self.segments: dict[int, Segment] = {}
        self._by_size: Any = SortedList()  # (size, segment, offset)
        self._by_start: dict[tuple[int, int], int] = {}  # (segment, offset) -> size
        self._by_end: dict[tuple[int, int], int] = {}  # (segment, end) -> offset
        self._live: dict[tuple[int, int], int] = {}
        self.bytes_live = 0

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes; its content is whatever lay there before."""
        size = max(_ALIGN, (size + _ALIGN - 1) & -_ALIGN)
        at = self._by_size.bisect_left((size, -1, -1))
        if at == len(self._by_size):
            self._grow(size)
            at = self._by_size.bisect_left((size, -1, -1))
        free, segment, offset = self._by_size[at]
        self._take(segment, offset, free)
        if free > size:
            self._give(segment, offset + size, free - size)
        self._live[segment, offset] = size
        self.segments[segment].used += 1
        self.bytes_live += size
        return Block(segment, offset, size, self._process)

    def view(self, block: Block) -> memoryview:
        """A writable view of a block of this arena."""
        return self.segments[block.segment].view(block.offset, block.size)

    def free(self, block: Block) -> None:
        """Take a block back. Freeing twice is an error of ours and asserts."""
        size = self._live.pop((block.segment, block.offset), None)
        assert size is not None, f"block {block} is not allocated here"
        self.bytes_live -= size
        segment = block.segment
        start, end = block.offset, block.offset + size
        before = self._by_end.get((segment, start))
        if before is not None:
            self._take(segment, before, start - before)
            start = before
        after = self._by_start.get((segment, end))
        if after is not None:
            self._take(segment, end, after)
            end += after
        self._give(segment, start, end - start)
        self.segments[segment].used -= 1

    def release_free_segments(self) -> list[int]:
        """Give up the segments that hold no block; returns their ids, for the node."""
        gone = []
        for segment in list(self.segments.values()):
            if segment.used == 0:
                self._take(segment.id, 0, segment.size)
                del self.segments[segment.id]
                segment.close()
                gone.append(segment.id)
        return gone

    def _grow(self, size: int) -> None:
        need = (size + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
        try:
            segment_id, fd, got = self._lease(max(self._segment_bytes, need))
        except ObjectStoreFullError:
            if need >= self._segment_bytes:
                raise
            segment_id, fd, got = self._lease(need)
        segment = Segment(segment_id, fd, got)
        self.segments[segment_id] = segment
        self._give(segment_id, 0, got)

    def _give(self, segment: int, offset: int, size: int) -> None:
        self._by_size.add((size, segment, offset))
        self._by_start[segment, offset] = size
        self._by_end[segment, offset + size] = offset

    def _take(self, segment: int, offset: int, size: int) -> None:
        self._by_size.remove((size, segment, offset))
        del self._by_start[segment, offset]
        del self._by_end[segment, offset + size]
