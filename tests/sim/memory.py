"""Shared memory: what lies where, and the arenas of processes.

The content of a block is kept under (segment, offset) from its writing until its holder takes it
back. Reading anything else is what "freed too early" looks like from outside.
"""

from __future__ import annotations

from typing import Any

from engine.core.values import Block
from tests.sim.member import Violation

__all__ = ["Arena", "Memory"]

_ALIGN = 1024


class Memory:
    """The content of all blocks of a world."""

    def __init__(self) -> None:
        self._content: dict[tuple[int, int], bytes] = {}

    def write(self, block: Block, data: bytes) -> None:
        """Fill a block that was just allocated."""
        key = (block.segment, block.offset)
        if key in self._content:
            raise Violation(f"{block} was given out while something lies there")
        self._content[key] = data

    def read(self, block: Block) -> bytes:
        """What lies in a block."""
        data = self._content.get((block.segment, block.offset))
        if data is None:
            raise Violation(f"{block} is read after it was freed")
        return data

    def wipe(self, block: Block) -> None:
        """The holder takes a block back."""
        self._content.pop((block.segment, block.offset), None)


class Arena:
    """Blocks of one process, first fit (as `engine.store.arena`, without the memory)."""

    def __init__(self, process: bytes, memory: Memory) -> None:
        self._process = process
        self._memory = memory
        self.segments: dict[int, int] = {}  # id -> size
        self.live: dict[tuple[int, int], int] = {}  # (segment, offset) -> size
        self.owners: dict[tuple[int, int], bytes] = {}  # of the objects that lie there

    def allocate(self, size: int) -> Block | None:
        """A block, or None when no segment has room."""
        size = (size + _ALIGN - 1) // _ALIGN * _ALIGN
        for segment, whole in self.segments.items():
            offset = 0
            for start, length in sorted(
                (at, length) for (one, at), length in self.live.items() if one == segment
            ):
                if start - offset >= size:
                    break
                offset = start + length
            if whole - offset >= size:
                self.live[segment, offset] = size
                return Block(segment, offset, size, self._process)
        return None

    def free(self, block: Any) -> None:
        """Take a block back."""
        if self.live.pop((block.segment, block.offset), None) is None:
            raise Violation(f"{block} is freed twice")
        self._memory.wipe(block)

    def release_free_segments(self) -> list[int]:
        """Give up the segments that hold no block."""
        used = {segment for segment, _ in self.live}
        gone = [segment for segment in self.segments if segment not in used]
        for segment in gone:
            del self.segments[segment]
        return gone
