"""The node's part of the object store: two books of segments, and what is behind them.

The pure machines decide (`core.store`, `core.pressure`); here their effects meet memfds, files
without names, and the lines of the processes.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.control import Attach, CensusReply, SegmentDropped, SegmentsReturned
from engine.core.messages import FreeBlock
from engine.core.pressure import Pressure
from engine.core.store import SegmentBook
from engine.core.values import Block
from engine.runtime.segments import SegmentFiles
from engine.wire.descriptors import reserve

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["NodeStore"]


class NodeStore:
    """Shared memory of a node, and files for what does not fit. Implements the machines' edge."""

    def __init__(self, node: Node, limit: int, directory: str) -> None:
        self._node = node
        self._directory = directory
        self._files = SegmentFiles(directory)
        for_recovery = int(limit * node.config.recovery_store_share)
        self.memory = SegmentBook(limit, self, reserve=for_recovery)
        self.disk = SegmentBook(self._files.disk_limit(node.config), self, sign=-1)
        self.pressure = Pressure(self.memory, self, node.config)

    def facts(self) -> dict[str, Any]:
        """What a process is told about it when it joins."""
        unit = self._node.config.segment_bytes
        return {
            # A small store is leased in small pieces, so that every process can have some.
            "segment_bytes": min(unit, self.memory.limit // 16),
            "disk_segment_bytes": min(unit, self.disk.limit // 16),
            "store_bytes": self.memory.limit,
            "spill_directory": self._directory,
        }

    def statistics(self) -> dict[str, Any]:
        """How full it is."""
        return {
            "object_store_used": self.memory.used,
            "object_store_limit": self.memory.limit,
            "disk_used": self.disk.used,
            "disk_limit": self.disk.limit,
            "spill_directory": self._directory,
        }

    def touched(self) -> int:
        """Bytes of memory that the segments really take."""
        return self._files.touched()

    # ------------------------------------------------------------------ events

    def on_free(self, _peer: bytes, message: FreeBlock) -> None:
        """An owner frees a block whose holder is dead."""
        self._book(message.block.segment).on_free(message.block)

    def on_returned(self, peer: bytes, message: SegmentsReturned) -> None:
        """A process gives something up, or says how it stands."""
        self.disk.give_back(message.segments, [])
        self.pressure.on_report(peer, message, perf_counter())

    def on_census(self, peer: bytes, message: CensusReply) -> None:
        """A process names the blocks it owns in the segments of a dead one."""
        self.memory.on_census(peer, message)
        self.disk.on_census(peer, message)

    def on_died(self, process: bytes, now: float) -> None:
        """A process is gone."""
        self.memory.on_died(process)
        self.disk.on_died(process)
        self.pressure.on_died(process, now)

    def tick(self, now: float) -> float | None:
        """Time has passed; returns when to look again."""
        return self.pressure.tick(now)

    def _book(self, segment: int) -> SegmentBook:
        return self.memory if segment > 0 else self.disk

    # ------------------------------------------------------------------ requests

    def segment(
        self, peer: bytes, number: int, size: int, wish: int, hurry: int, recovery: bool
    ) -> None:
        """A process wants memory."""
        now = perf_counter()
        self.pressure.on_request(peer, number, size, wish, hurry, now, recovery)
        following = self.pressure.tick(now)
        if following is not None:
            self._node.reactor.look_at(following)

    def withdraw(self, peer: bytes, number: int, which: int) -> None:
        """`which` is a request for a segment; that one is answered, this one is not."""
        self.pressure.on_withdrawn(peer, which, perf_counter())

    def disk_segment(self, peer: bytes, number: int, size: int, wish: int) -> None:
        """A process wants space on disk."""
        disk = self.disk
        room = disk.limit - disk.used
        if size > room:
            text = (
                f"{size:,} bytes do not fit on disk either: {disk.used:,} of the {disk.limit:,} "
                "bytes that may be spilled are in use (spilled_bytes_max and spilled_disk_share "
                "of engine.config.Config)"
            )
            self._fail(peer, number, "ObjectStoreFullError", text)
            return
        granted = max(size, min(wish, room))
        try:
            segment = disk.lease(peer, granted)
        except OSError as error:  # told to the asker: it knows what needed the space
            self._fail(peer, number, "OutOfDiskError", str(error))
            return
        self.attach(peer, number, segment, granted)

    def map(self, peer: bytes, number: int, segment: int) -> None:
        """A process wants to see a segment."""
        size = self._book(segment).size(segment)
        if size:
            self.attach(peer, number, segment, size)
        else:
            text = f"segment {segment} is gone, and the object in it with it"
            self._fail(peer, number, "ObjectLostError", text)

    def _fail(self, peer: bytes, number: int, kind: str, text: str) -> None:
        self._node.reply(peer, number, {"kind": kind}, text)

    # ------------------------------------------------------------------ the machines' edge

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process."""
        self._node.send(process, message)

    def members(self) -> list[bytes]:
        """The processes that may own objects or hold segments."""
        return self._node.members()

    def owners(self, process: bytes) -> list[bytes]:
        """The processes that may own objects in segments of this one."""
        return self._node.members()

    def kept(self, segment: int) -> list[int]:
        """Offsets of the blocks that the journal names."""
        blocks = self._node.journal.state.blocks()
        return [one.offset for one in blocks if one.segment == segment]

    def no_longer_kept(self, block: Block, owner: bytes) -> None:
        """The journal does not name a block any more; its owner may still have it."""
        self._book(block.segment).no_longer_kept(block, owner)

    def title(self, process: bytes) -> str:
        """What to call a process in messages to people."""
        return self._node.title(process)

    def create_segment(self, segment: int, size: int) -> None:
        """Make the memory or the file of a segment."""
        with reserve:
            self._files.create(segment, size)

    def drop_segment(self, segment: int) -> None:
        """Give a segment back, and have everybody forget it."""
        self._files.drop(segment)
        for process in self.members():
            self.send(process, SegmentDropped([segment]))

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        """Answer a request with a segment's descriptor."""
        with reserve:
            fd = self._files.duplicate(segment)
        self._node.send_fd(process, Attach(number, segment, size), fd)

    def refuse(self, process: bytes, number: int, text: str) -> None:
        """Answer a request for memory with an error."""
        self._fail(process, number, "ObjectStoreFullError", text)
