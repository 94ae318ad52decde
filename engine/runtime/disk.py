"""The files that this process writes values to when memory is short, and those that it reads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import sleep
from typing import Any
from weakref import WeakValueDictionary

from engine import exceptions
from engine.config import Config
from engine.core.control import Reply
from engine.core.values import Block
from engine.store.arena import Arena
from engine.store.spill import DiskSegment

__all__ = ["Disk"]

_PAUSE_SECONDS = 0.02  # before the second try to write; twice as long before each further one


class Disk:
    """Blocks in files that the node made and that have no names.

    `request(what, **args)` asks the node and waits; `given_up(segments)` tells it of files in which
    nothing lies. `write` and `read` may wait and must not be called under the runtime's lock.
    """

    def __init__(
        self,
        process: bytes,
        config: Config,
        segment_bytes: int,
        directory: str,
        request: Callable[..., Any],
        given_up: Callable[[list[int]], None],
    ) -> None:
        self.process = process
        self._config = config
        self._segment_bytes = segment_bytes
        self._directory = directory
        self._request = request
        self._given_up = given_up
        self._lock = threading.Lock()
        self._arena = Arena(process)
        self._spares = Arena(process)  # second copies, in files where no first ones lie
        self._others: dict[int, DiskSegment] = {}
        # Values read lately that somebody still looks at: those who come later share them.
        self._seen: WeakValueDictionary[Block, Any] = WeakValueDictionary()

    # ------------------------------------------------------------------ writing

    def write(self, data: memoryview, spare: bool = False) -> Block:
        """Keep a value on disk, in another file than most if it is a `spare` copy.

        Raises OutOfDiskError, or ObjectStoreFullError at the limit.
        """
        block = self._allocate(len(data), self._spares if spare else self._arena)
        pause = _PAUSE_SECONDS
        for left in reversed(range(self._config.spill_attempts_max)):
            try:
                check = self._segment(block.segment).write(block.offset, data)
            except OSError as error:
                if not left:
                    self.free(block)
                    raise exceptions.OutOfDiskError(self._explain(len(data), error)) from error
                sleep(pause)  # space that others free comes in moments, or not soon
                pause *= 2
            else:
                return Block(block.segment, block.offset, len(data), self.process, check)
        raise AssertionError("the last try returns or raises")

    def _allocate(self, size: int, arena: Arena) -> Block:
        with self._lock:
            block = arena.allocate(size)
        if block is not None:
            return block
        need = (size + 63) & -64
        answer = self._request("disk", size=need, wish=max(need, self._segment_bytes))
        if isinstance(answer, Reply):
            kind = answer.result["kind"]
            text = answer.error
            if kind == "OutOfDiskError":
                text = self._explain(size, text)
            raise getattr(exceptions, kind)(text)
        with self._lock:
            arena.add(DiskSegment(*answer))
            block = arena.allocate(size)
        assert block is not None
        return block

    def _explain(self, size: int, error: object) -> str:
        try:
            found = os.statvfs(self._directory)
            free = f"{found.f_bavail * found.f_frsize:,} bytes are free there"
        except OSError as trouble:  # the directory itself may be what is wrong
            free = f"what is free there cannot be seen: {trouble}"
        return (
            f"memory is short, and {size:,} bytes cannot be written to {self._directory}: {error}; "
            f"{free}. Free some space, or start with another "
            "engine.init(object_spilling_directory=...)"
        )

    def free(self, block: Block) -> None:
        """A block of this process is free."""
        with self._lock:
            arena = self._spares if block.segment in self._spares.segments else self._arena
            arena.free(block)
            gone = arena.release_free_segments()
        if gone:
            self._given_up(gone)

    # ------------------------------------------------------------------ reading

    def read(self, block: Block) -> Any:
        """The bytes of a block, in memory of this process: a NumPy array. Shared while it lives.

        Raises ObjectLostError when they cannot be read or are not what was written.
        """
        found = self._seen.get(block)
        if found is None:
            found = self._segment(block.segment).read(block.offset, block.size, block.check)
            self._seen[block] = found
        return found

    def read_into(self, block: Block, memory: memoryview) -> None:
        """`read` into memory of the caller's."""
        self._segment(block.segment).read_into(block.offset, memory, block.check)

    def duplicate(self, block: Block) -> int:
        """A descriptor of the file that a block lies in."""
        return self._segment(block.segment).duplicate()

    def _segment(self, number: int) -> DiskSegment:
        segment = (
            self._arena.segments.get(number)
            or self._spares.segments.get(number)
            or self._others.get(number)
        )
        if segment is None:
            answer = self._request("map", segment=number)
            if isinstance(answer, Reply):
                raise exceptions.ObjectLostError(answer.error)
            segment = DiskSegment(*answer)
            with self._lock:
                first = self._others.setdefault(number, segment)
            if first is not segment:  # another thread was faster
                segment.close()
            segment = first
        return segment

    def drop(self, segment: int) -> None:
        """Nothing lies in a file of somebody else's any more."""
        found = self._others.pop(segment, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Close every file."""
        self._arena.close()
        self._spares.close()
        for segment in self._others.values():
            segment.close()
        self._others.clear()
