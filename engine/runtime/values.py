"""Values in this process: where they are stored, and how they become Python objects again.

Large values live in blocks of shared memory. A view of a block carries a *pin*, normally the
`ObjectRef`, which therefore lives as long as any array made from the view: the owner does not give
the block out again while somebody can still see it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from engine import exceptions
from engine.config import Config
from engine.core.control import Reply
from engine.core.values import ERROR_NONE, ERROR_USER, Block, Value, decode_failure
from engine.store import codec
from engine.store.arena import Arena, Segment
from engine.store.codec import Encoded

__all__ = ["Values"]


class Values:
    """Stores, maps and decodes values.

    `settle()` tells the object table of dead references. `request(what, **args)` asks the node and
    waits; it must not be called under the runtime's
    lock, so nothing here that allocates or maps may be either. `free` may.
    """

    def __init__(
        self,
        process: bytes,
        config: Config,
        segment_bytes: int,
        request: Callable[..., Any],
        settle: Callable[[], None],
    ) -> None:
        self._config = config
        self._request = request
        self._settle = settle
        self._lock = threading.Lock()
        self._freed: deque[Block] = deque()
        self.arena = Arena(process, segment_bytes, self._lease_segment)
        self._mapped: dict[int, Segment] = {}

    def free(self, block: Block) -> None:
        """A block of this process is free; it is taken back at the next allocation."""
        self._freed.append(block)

    def give_up_segments(self) -> list[int]:
        """Segments in which nothing lies, given up; none while an allocation is under way."""
        if not self._lock.acquire(blocking=False):
            return []  # the allocation may be what asks; it gives up its own before it asks
        try:
            self._take_back()
            return self.arena.release_free_segments()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Unmap everything that nobody looks at; the rest goes with its last view."""
        for segment in [*self.arena.segments.values(), *self._mapped.values()]:
            segment.close()
        # Remote functions may keep this runtime for long; the mappings must not stay with it.
        self.arena.segments.clear()
        self._mapped.clear()

    def bytes_live(self) -> int:
        """Bytes of this process's blocks that hold a value."""
        with self._lock:
            self._take_back()
            return self.arena.bytes_live

    def _take_back(self) -> None:
        """Return freed blocks to the arena; the caller has the lock."""
        while self._freed:
            self.arena.free(self._freed.popleft())

    def drop_mappings(self, segments: list[int]) -> None:
        """Segments that hold nothing any more."""
        for segment in segments:
            mapped = self._mapped.pop(segment, None)
            if mapped is not None:
                mapped.close()

    def store(self, encoded: Encoded, inline: bool = True) -> Value:
        """An encoded value as it is kept: inline when small (and allowed), else in a block."""
        contains = [ref.binary() for ref in encoded.refs] or None
        if inline and encoded.nbytes <= self._config.inline_bytes_max:
            return Value(encoded.data, encoded.inline_buffers(), contains)
        block = self.allocate(encoded.block_bytes())
        encoded.write_into(self.arena.view(block))
        return Value(b"", None, contains, block)

    def allocate(self, size: int) -> Block:
        """A block of shared memory of our own; its content is whatever lay there before."""
        self._settle()  # blocks of references that have just died are the warmest
        with self._lock:
            self._take_back()
            return self.arena.allocate(size)

    def _lease_segment(self, size: int) -> tuple[int, int, int]:
        answer = self._request("segment", size=size)
        if isinstance(answer, Reply) and (mine := self.arena.release_free_segments()):
            self._request("give_up", segments=mine)
            answer = self._request("segment", size=size)
        if isinstance(answer, Reply):
            raise exceptions.ObjectStoreFullError(answer.error)
        segment, fd, got = answer
        return segment, fd, got

    def view_block(self, block: Block, pin: Any) -> memoryview:
        """A writable view of any block on this host; `pin` lives as long as the view does."""
        import numpy as np

        segment = self.arena.segments.get(block.segment) or self._mapped.get(block.segment)
        if segment is None:
            answer = self._request("map", segment=block.segment)
            if isinstance(answer, Reply):
                raise exceptions.ObjectLostError(answer.error)
            segment = Segment(answer[0], answer[1], answer[2])
            self._mapped[block.segment] = segment
        flat = np.frombuffer(segment.map, np.uint8, block.size, block.offset)
        pinned = flat.view(_pinned_type())
        pinned.pin = pin
        return memoryview(pinned)

    def materialise(self, value: Value, pin: Any) -> Any:
        """The Python value; raises when it is an error."""
        if value.error != ERROR_NONE:
            raise self.error_of(value)
        block = value.block
        if block is None:
            return codec.decode(value.data, value.buffers)
        data, buffers = codec.read_parts(self.view_block(block, pin).toreadonly())
        return codec.decode(data, buffers)

    def error_of(self, value: Value) -> BaseException:
        """The exception that an error value stands for."""
        if value.error == ERROR_USER:
            error = codec.decode(value.data, value.buffers)
            assert isinstance(error, exceptions.TaskError)
            return error.as_instanceof_cause()
        failure = decode_failure(value)
        kind: type[BaseException] = getattr(exceptions, failure.kind, exceptions.EngineError)
        return kind(failure.text + failure.detail)


_pinned: Any = None


def _pinned_type() -> Any:
    """A NumPy array that can carry what must live as long as any view of it.

    Made at first use: importing NumPy is not free and small values do not need it.
    """
    global _pinned
    if _pinned is None:
        import numpy as np

        _pinned = type("Pinned", (np.ndarray,), {"__module__": __name__})
    return _pinned
