"""Blocks given out of leased segments by this process, and segments of shared memory.

A segment of memory is a memfd, so nothing has a name on disk and nothing is left after `kill -9`:
the memory goes with the last descriptor. Only the process that leased a segment allocates in it;
everybody else maps it and reads. A freed block is given out again before untouched memory is: first
touch of a page costs 15 to 100 times a copy into a warm one.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, Protocol

from sortedcontainers import SortedList

from engine.core.values import Block
from engine.wire.descriptors import reserve

__all__ = ["Arena", "ArenaSegment", "Segment"]

_ALIGN = 64
# Free pieces smaller than this are not given up on their own: no value above the inline limit
# would fit into them.
_PIECE_MIN = 64 << 10


class ArenaSegment(Protocol):
    """What an arena needs of a segment."""

    id: int
    size: int

    def close(self) -> bool:
        """Let go of it."""

    def discard(self, offset: int, size: int) -> bool:
        """Give the pages of a part back; False when that cannot be done."""


class Segment:
    """A mapped segment. `view` exports its bytes; the mapping goes when the last view does."""

    __slots__ = ("id", "map", "size")

    def __init__(self, segment_id: int, fd: int, size: int) -> None:
        self.id = segment_id
        self.size = size
        with reserve:  # the map has a descriptor of its own
            self.map = mmap.mmap(fd, size)
        os.close(fd)

    def view(self, offset: int, size: int) -> memoryview:
        """A writable view of part of the segment."""
        return memoryview(self.map)[offset : offset + size]

    def discard(self, offset: int, size: int) -> bool:
        """Give the pages of a part back to the system, for every process that maps them."""
        self.map.madvise(mmap.MADV_REMOVE, offset, size)
        return True

    def close(self) -> bool:
        """Unmap unless somebody still looks at it. True when unmapped."""
        try:
            self.map.close()
        except BufferError:  # a view is alive: the last one unmaps
            return False
        return True


class _Space:
    """A segment of ours, and the free pieces in it."""

    __slots__ = ("by_end", "by_start", "segment", "used")

    def __init__(self, segment: Any) -> None:
        self.segment = segment
        self.used = 0  # blocks
        self.by_start: dict[int, int] = {}  # offset -> size
        self.by_end: dict[int, int] = {}  # end -> offset


class Arena:
    """Allocates blocks out of segments, best fit, merging neighbours when freed.

    It neither leases segments nor locks; `add` brings a segment when `allocate` finds no room.
    """

    def __init__(self, process: bytes) -> None:
        self._process = process
        self.segments: dict[int, Any] = {}
        self._spaces: dict[int, _Space] = {}
        self._by_size: Any = SortedList()  # (size, segment, offset)
        self._live: dict[tuple[int, int], int] = {}
        self.bytes_live = 0

    def add(self, segment: ArenaSegment) -> None:
        """A segment that this process has leased: all of it is free."""
        self.segments[segment.id] = segment
        space = self._spaces[segment.id] = _Space(segment)
        self._give(space, 0, segment.size)

    def allocate(self, size: int) -> Block | None:
        """A block of at least `size` bytes, with whatever lay there before; None: no room."""
        size = max(_ALIGN, (size + _ALIGN - 1) & -_ALIGN)
        by_size = self._by_size
        at = by_size.bisect_left((size, -(1 << 62), -1))
        if at == len(by_size):
            return None
        free, number, offset = by_size[at]
        space = self._spaces[number]
        self._take(space, offset, free)
        if free > size:
            self._give(space, offset + size, free - size)
        self._live[number, offset] = size
        space.used += 1
        self.bytes_live += size
        return Block(number, offset, size, self._process)

    def free(self, block: Block) -> None:
        """Take a block back. Freeing twice is an error of ours and asserts."""
        size = self._live.pop((block.segment, block.offset), None)
        assert size is not None, f"block {block} is not allocated here"
        self.bytes_live -= size
        space = self._spaces[block.segment]
        start, end = block.offset, block.offset + size
        before = space.by_end.get(start)
        if before is not None:
            self._take(space, before, start - before)
            start = before
        after = space.by_start.get(end)
        if after is not None:
            self._take(space, end, after)
            end += after
        self._give(space, start, end - start)
        space.used -= 1

    def release_free_segments(self) -> list[int]:
        """Give up the segments that hold no block; returns their ids, for the node."""
        gone = []
        for number, space in list(self._spaces.items()):
            if space.used == 0:
                for offset, size in list(space.by_start.items()):
                    self._take(space, offset, size)
                del self._spaces[number], self.segments[number]
                space.segment.close()
                gone.append(number)
        return gone

    def discard_free_pieces(self, enough: int) -> list[tuple[int, int]]:
        """Give up free pieces of segments in use, until they come to `enough` bytes.

        Returns (segment, bytes). Their addresses are not used again.
        """
        chosen = []
        for item in reversed(self._by_size):
            if enough <= 0 or item[0] < _PIECE_MIN:
                break
            chosen.append(item)
            enough -= item[0]
        given: dict[int, int] = {}
        for size, number, offset in chosen:
            start = (offset + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
            end = (offset + size) & -mmap.PAGESIZE
            space = self._spaces[number]
            if end <= start or not space.segment.discard(start, end - start):
                continue
            self._take(space, offset, size)
            if start > offset:
                self._give(space, offset, start - offset)
            if offset + size > end:
                self._give(space, end, offset + size - end)
            given[number] = given.get(number, 0) + end - start
        return list(given.items())

    def close(self) -> None:
        """Let go of every segment, whatever lies in it."""
        for segment in self.segments.values():
            segment.close()
        self.segments.clear()
        self._spaces.clear()
        self._by_size.clear()

    def _give(self, space: _Space, offset: int, size: int) -> None:
        self._by_size.add((size, space.segment.id, offset))
        space.by_start[offset] = size
        space.by_end[offset + size] = offset

    def _take(self, space: _Space, offset: int, size: int) -> None:
        self._by_size.remove((size, space.segment.id, offset))
        del space.by_start[offset]
        del space.by_end[offset + size]
