"""Shared memory and disk: what lies where, and what stands for the segments.

The content of a block is kept under (segment, offset) from its writing until its holder is told
that it is free. Reading anything else is what "freed too early" looks like from outside.
"""

from __future__ import annotations

from random import Random
from zlib import crc32

from engine.core.values import Block
from tests.sim.member import Failure, Violation

__all__ = ["Memory", "Space"]


class Memory:
    """The content of all blocks of a world."""

    def __init__(self) -> None:
        self._content: dict[tuple[bytes, int, int], bytes] = {}
        # Places on disk, and what was there.
        self._damaged: set[tuple[tuple[bytes, int, int], int]] = set()

    @staticmethod
    def _key(block: Block) -> tuple[bytes, int, int]:
        """Each node numbers its segments; a block's holder tells which node's it is."""
        return block.holder[6:], block.segment, block.offset

    def write(self, block: Block, data: bytes) -> None:
        """Fill a block that was just allocated."""
        key = self._key(block)
        if key in self._content:
            raise Violation(f"{block} was given out while something lies there")
        self._content[key] = data
        self._damaged.discard((key, crc32(data)))

    def damage(self, draw: Random) -> bool:
        """Something on disk can be read no more, nor by those who come late. False: all is."""
        whole = [
            (key, crc32(data)) for key, data in self._content.items()
            if key[1] < 0 and (key, crc32(data)) not in self._damaged
        ]  # fmt: skip
        if whole:
            self._damaged.add(draw.choice(whole))
        return bool(whole)

    def read(self, block: Block) -> bytes:
        """What lies in a block."""
        if self.is_damaged(block):
            raise Failure("ObjectLostError", "it is damaged.")
        data = self.peek(block)
        if data is None:
            raise Violation(f"{block} is read after it was freed")
        return data

    def is_damaged(self, block: Block) -> bool:
        """Whether what lies in a block cannot be read."""
        return block.segment < 0 and (self._key(block), block.check) in self._damaged

    def peek(self, block: Block) -> bytes | None:
        """The same; None when nothing lies there, or nothing that can be read."""
        data = self._content.get(self._key(block))
        if data is None or self.is_damaged(block):
            return None
        if block.segment < 0 and crc32(data) != block.check:
            raise Violation(f"something else lies in {block}")
        return data

    def wipe(self, block: Block) -> None:
        """A block is free: nobody may look at it from now on."""
        self._content.pop(self._key(block), None)


class Space:
    """What an arena needs of a segment; there is nothing in it."""

    def __init__(self, segment: int, size: int) -> None:
        self.id = segment
        self.size = size

    def close(self) -> bool:
        """Nothing to unmap."""
        return True

    def discard(self, offset: int, size: int) -> bool:
        """Pages of memory can be given back; parts of files are not."""
        return self.id > 0
