"""A node's book of segments: who leased which, and what is left of it.

There are two: of shared memory, and of files for what does not fit there. The holder of a segment
gives blocks out of it; it gives segments back whole, or bytes out of them.

*Death of a holder*: the objects in its segments may belong to living owners. Every process is asked
which blocks it owns there (`Census`); a block that nobody claims is gone, and the segment goes with
the last block. Order on each connection makes the count exact: a `FreeBlock` sent before the answer
is not counted, one sent after it is.

Pure: effects leave through the `StoreEdge`.
"""

from __future__ import annotations

from typing import Any, Protocol

from engine.core.control import Census, CensusReply
from engine.core.values import Block

__all__ = ["SegmentBook", "StoreEdge"]


# The owner of what is kept for the owner that will be.
_NOBODY = b""


class StoreEdge(Protocol):
    """What the books and `core.pressure` have done for them."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process."""

    def members(self) -> list[bytes]:
        """The processes that may own objects or hold segments."""

    def owners(self, process: bytes) -> list[bytes]:
        """The processes that may own objects in segments of this one, on any node."""

    def kept(self, segment: int) -> list[int]:
        """Offsets of the blocks that are to outlive their owner, too (see `core.journal`)."""

    def title(self, process: bytes) -> str:
        """What to call a process in messages to people."""

    def create_segment(self, segment: int, size: int) -> None:
        """Make the memory, or the file (negative numbers); OSError when it cannot be made."""

    def drop_segment(self, segment: int) -> None:
        """Give it back, and tell everybody to forget it."""

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        """Answer a request with a segment's descriptor."""

    def refuse(self, process: bytes, number: int, text: str) -> None:
        """Answer a request with ObjectStoreFullError."""


class _Segment:
    __slots__ = ("asked", "charged", "holder", "live", "size")

    def __init__(self, holder: bytes, size: int) -> None:
        self.holder = holder
        self.size = size
        self.charged = size  # less what was given back out of it
        # Blocks claimed in the census, offset -> owner; None while the holder lives.
        self.live: dict[int, bytes] | None = None
        self.asked: set[bytes] = set()


class SegmentBook:
    """All segments of one sort, within `limit` bytes. `sign` is that of their numbers.

    `reserve` bytes more are there for those who may use them.
    """

    def __init__(self, limit: int, edge: StoreEdge, sign: int = 1, reserve: int = 0) -> None:
        self.limit = limit
        self.reserve = reserve
        self.used = 0
        self.node = -1  # the node's number, where there are several
        self._edge = edge
        self._sign = sign
        self._segments: dict[int, _Segment] = {}
        self._count = 0

    def lease(self, process: bytes, size: int) -> int:
        """A new segment; the caller has seen that it fits."""
        assert self.used + size <= self.limit + self.reserve
        self._count += 1
        segment = self._sign * self._count
        self._edge.create_segment(segment, size)
        self._segments[segment] = _Segment(process, size)
        self.used += size
        return segment

    def give_back(self, segments: list[int], shrunk: list[tuple[int, int]]) -> None:
        """A holder gives up whole segments (of any book), and bytes out of others."""
        for segment in segments:
            self._drop(segment)
        for segment, nbytes in shrunk:
            record = self._segments.get(segment)
            if record is not None:
                record.charged -= nbytes
                self.used -= nbytes

    def size(self, segment: int) -> int:
        """Size of a segment; 0 when it is gone."""
        record = self._segments.get(segment)
        return 0 if record is None else record.size

    def holders(self) -> dict[bytes, int]:
        """Bytes by holder, most first."""
        held: dict[bytes, int] = {}
        for record in self._segments.values():
            held[record.holder] = held.get(record.holder, 0) + record.charged
        return dict(sorted(held.items(), key=lambda item: -item[1]))

    def _drop(self, segment: int) -> None:
        record = self._segments.pop(segment, None)
        if record is not None:
            self.used -= record.charged
            self._edge.drop_segment(segment)

    # ------------------------------------------------------------------ deaths

    def on_died(self, process: bytes) -> None:
        """A process is gone: its segments live on only as long as others own blocks in them."""
        members = [one for one in self._edge.owners(process) if one != process]
        orphans = [key for key, one in self._segments.items() if one.holder == process]
        for segment in orphans:
            self._segments[segment].live = dict.fromkeys(self._edge.kept(segment), _NOBODY)
            self._segments[segment].asked = set(members)
        if orphans:
            for one in members:
                self._edge.send(one, Census(orphans, self.node))
        for segment, record in list(self._segments.items()):
            if record.live is not None:
                record.asked.discard(process)
                mine = [one for one, owner in record.live.items() if owner == process]
                kept = self._edge.kept(segment) if mine else []
                for offset in mine:
                    if offset in kept:
                        record.live[offset] = _NOBODY
                    else:
                        del record.live[offset]
                self._close(segment, record)

    def on_census(self, process: bytes, message: CensusReply) -> None:
        """A process names the blocks it owns in orphaned segments (of any book)."""
        for segment, offset in message.blocks:
            record = self._segments.get(segment)
            if record is not None and record.live is not None:
                record.live.setdefault(offset, process)
        for segment in message.segments:
            record = self._segments.get(segment)
            if record is not None:
                record.asked.discard(process)
                self._close(segment, record)

    def on_free(self, block: Block) -> None:
        """An owner frees a block whose holder is dead."""
        record = self._segments.get(block.segment)
        if record is not None and record.live is not None:
            record.live.pop(block.offset, None)
            self._close(block.segment, record)

    def no_longer_kept(self, block: Block, owner: bytes) -> None:
        """A block is not to outlive its owner any more."""
        record = self._segments.get(block.segment)
        live = record.live if record is not None else None
        if live is not None and live.get(block.offset) == _NOBODY:
            live[block.offset] = owner

    def _close(self, segment: int, record: _Segment) -> None:
        if not record.live and not record.asked and record.live is not None:
            self._drop(segment)
