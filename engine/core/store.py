"""The node's book of shared memory: who leased which segment, and what is left of it.

*Short of memory*: before a request is refused, every process is asked to give up the segments in
which nothing lies (`ReleaseSegments`).

*Death of a holder*: the objects in its segments may belong to living owners. Every process is asked
which blocks it owns there (`Census`); a block that nobody claims is gone, and the segment goes with
the last block. Order on each connection makes the count exact: a `FreeBlock` sent before the answer
is not counted, one sent after it is.

Pure: effects leave through the `StoreEdge`.
"""

from __future__ import annotations

from typing import Any, Protocol

from engine.core.control import Census, CensusReply, ReleaseSegments
from engine.core.ids import short
from engine.core.values import Block

__all__ = ["StoreEdge", "StoreMachine"]

# A process that does not answer (stopped, or in a long C call) is not waited for any longer.
_PATIENCE_SECONDS = 2.0


class StoreEdge(Protocol):
    """What the store machine has done for it."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process."""

    def members(self) -> list[bytes]:
        """The processes that may own objects or hold segments."""

    def create_segment(self, segment: int, size: int) -> None:
        """Make the memory."""

    def drop_segment(self, segment: int) -> None:
        """Give the memory back, and tell everybody to unmap it."""

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        """Answer a request with a segment's descriptor."""

    def refuse(self, process: bytes, number: int, text: str) -> None:
        """Answer a request with ObjectStoreFullError."""


class _Segment:
    __slots__ = ("asked", "holder", "live", "size")

    def __init__(self, holder: bytes, size: int) -> None:
        self.holder = holder
        self.size = size
        # Blocks claimed in the census, offset -> owner; None while the holder lives.
        self.live: dict[int, bytes] | None = None
        self.asked: set[bytes] = set()


class _Request:
    __slots__ = ("asked", "number", "process", "size", "until")

    def __init__(self, process: bytes, number: int, size: int, until: float) -> None:
        self.process = process
        self.number = number
        self.size = size
        self.until = until
        self.asked: set[bytes] = set()


class StoreMachine:
    """All segments of a node, within `limit` bytes."""

    def __init__(self, limit: int, edge: StoreEdge) -> None:
        self.limit = limit
        self.used = 0
        self._edge = edge
        self._segments: dict[int, _Segment] = {}
        self._requests: list[_Request] = []
        self._next = 1

    # ------------------------------------------------------------------ leasing

    def on_request(self, process: bytes, number: int, size: int, now: float) -> None:
        """A process wants a segment of `size` bytes."""
        request = _Request(process, number, size, now + _PATIENCE_SECONDS)
        if self._grant(request):
            return
        if size <= self.limit:
            others = [one for one in self._edge.members() if one != process]
            request.asked = set(others)
            for one in others:
                self._edge.send(one, ReleaseSegments())
        if request.asked:
            self._requests.append(request)
        else:
            self._refuse(request)

    def _grant(self, request: _Request) -> bool:
        if self.used + request.size > self.limit:
            return False
        segment, self._next = self._next, self._next + 1
        self._segments[segment] = _Segment(request.process, request.size)
        self.used += request.size
        self._edge.create_segment(segment, request.size)
        self._edge.attach(request.process, request.number, segment, request.size)
        return True

    def _refuse(self, request: _Request) -> None:
        holders: dict[bytes, int] = {}
        for record in self._segments.values():
            holders[record.holder] = holders.get(record.holder, 0) + record.size
        top = sorted(holders.items(), key=lambda item: -item[1])[:5]
        named = ", ".join(f"process {short(one)}: {held:,}" for one, held in top)
        text = (
            f"{request.size:,} bytes do not fit into the object store: {self.used:,} of "
            f"{self.limit:,} bytes are in use ({named or 'by nobody'}). Release references to "
            "large objects, or start with a larger engine.init(object_store_memory=...)."
        )
        self._edge.refuse(request.process, request.number, text)

    def on_returned(self, process: bytes, segments: list[int]) -> None:
        """A process gives up segments in which nothing lies (perhaps none)."""
        for segment in segments:
            self._drop(segment)
        self._answered(process)

    def _answered(self, process: bytes) -> None:
        still = []
        for request in self._requests:
            request.asked.discard(process)
            if self._grant(request):
                continue
            if request.asked:
                still.append(request)
            else:
                self._refuse(request)
        self._requests = still

    def tick(self, now: float) -> float | None:
        """Refuse requests that have waited long enough; returns the time of the next look."""
        for request in [one for one in self._requests if one.until <= now]:
            self._requests.remove(request)
            self._refuse(request)
        return min((one.until for one in self._requests), default=None)

    def _drop(self, segment: int) -> None:
        record = self._segments.pop(segment, None)
        if record is not None:
            self.used -= record.size
            self._edge.drop_segment(segment)

    def size(self, segment: int) -> int:
        """Size of a segment; 0 when it is gone."""
        record = self._segments.get(segment)
        return 0 if record is None else record.size

    # ------------------------------------------------------------------ deaths

    def on_died(self, process: bytes) -> None:
        """A process is gone: its segments live on only as long as others own blocks in them."""
        self._requests = [one for one in self._requests if one.process != process]
        members = [one for one in self._edge.members() if one != process]
        orphans = [key for key, one in self._segments.items() if one.holder == process]
        for segment in orphans:
            self._segments[segment].live = {}
            self._segments[segment].asked = set(members)
        if orphans:
            for one in members:
                self._edge.send(one, Census(orphans))
        for segment, record in list(self._segments.items()):
            if record.live is not None:
                record.asked.discard(process)
                for offset in [one for one, owner in record.live.items() if owner == process]:
                    del record.live[offset]
                self._close(segment, record)
        self._answered(process)

    def on_census(self, process: bytes, message: CensusReply) -> None:
        """A process names the blocks it owns in orphaned segments."""
        for segment, offset in message.blocks:
            record = self._segments.get(segment)
            if record is not None and record.live is not None:
                record.live[offset] = process
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

    def _close(self, segment: int, record: _Segment) -> None:
        if not record.live and not record.asked and record.live is not None:
            self._drop(segment)
