"""The shared memory that this process gives blocks out of: leasing it, and giving it back."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from engine import exceptions
from engine.core.control import Reply
from engine.core.pressure import AT_ONCE
from engine.core.values import Block
from engine.store.arena import Arena, Segment

__all__ = ["SharedMemory"]


class _Waiter:
    """A thread that waits for memory; whoever frees enough hands it its block."""

    __slots__ = ("block", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.block: Block | None = None


class SharedMemory:
    """Blocks of this process, in segments leased from the node.

    `request(what, unless, **args)` asks the node and waits for the answer, or until `unless()`;
    `before_wait()` is called before an allocation that may take long; `freed()` when a block is
    freed that others wait for. `allocate` may wait and must not be called under the runtime's lock;
    everything else may.
    """

    def __init__(
        self,
        process: bytes,
        segment_bytes: int,
        limit: int,
        request: Callable[..., Any],
        before_wait: Callable[[], None],
        freed: Callable[[], None],
    ) -> None:
        self.limit = limit  # of the node's store
        self._segment_bytes = max(mmap.PAGESIZE, segment_bytes & -mmap.PAGESIZE)
        self._request = request
        self._before_wait = before_wait
        self._on_freed = freed
        self._lock = threading.Lock()
        self._growing = threading.Lock()  # threads ask the node one after the other
        self._freed: deque[Block] = deque()
        self._waiters: list[_Waiter] = []
        self.missing = 0  # bytes that others are short of; what becomes free is given up then
        self.arena = Arena(process)

    def free(self, block: Block) -> None:
        """A block of this process is free; it is taken back at the next allocation."""
        self._freed.append(block)
        if self.missing or self._waiters:
            self._on_freed()

    def allocate(self, size: int, hurry: int, recovery: bool = False) -> Block:
        """A block of at least `size` bytes; `hurry` and `recovery` as in `core.pressure`.

        Raises ObjectStoreFullError when there is none in that time.
        """
        with self._lock:
            self._take_back()
            block = self.arena.allocate(size)
        if block is not None:
            return block
        if hurry != AT_ONCE:
            self._before_wait()
        if not self._growing.acquire(blocking=hurry != AT_ONCE):
            raise exceptions.ObjectStoreFullError("others wait for memory here")
        try:
            return self._grow(size, hurry, recovery)
        finally:
            self._growing.release()

    def _grow(self, size: int, hurry: int, recovery: bool) -> Block:
        waiter = _Waiter(size)
        with self._lock:
            self._take_back()
            block = self.arena.allocate(size)  # what another thread has leased meanwhile
            if block is not None:
                return block
            self._waiters.append(waiter)
        try:
            need = (size + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
            answer = self._request(
                "segment",
                lambda: waiter.block is not None,
                size=need,
                wish=need if recovery else max(self._segment_bytes, need),
                hurry=hurry,
                recovery=recovery,
            )
            if type(answer) is tuple:
                segment = Segment(*answer)
                with self._lock:
                    self.arena.add(segment)
                    if waiter.block is None:
                        waiter.block = self.arena.allocate(size)
        except BaseException:  # the thread is interrupted: nobody takes what it was to get
            with self._lock:
                self._waiters.remove(waiter)
            if waiter.block is not None:
                self.free(waiter.block)
            raise
        with self._lock:
            self._waiters.remove(waiter)
        if waiter.block is None:
            assert isinstance(answer, Reply)
            raise exceptions.ObjectStoreFullError(answer.error)
        return waiter.block

    def view(self, block: Block) -> memoryview:
        """A writable view of a block of this process."""
        return self.arena.segments[block.segment].view(  # type: ignore[no-any-return]
            block.offset, block.size
        )

    def _take_back(self) -> None:
        """Return freed blocks to the arena; the caller has the lock."""
        while self._freed:
            self.arena.free(self._freed.popleft())

    def relieve(self) -> tuple[bool, list[int], list[tuple[int, int]]]:
        """Hand freed memory to the threads that wait for it, and the rest to others in need.

        Returns whether a thread has got its block, and what is given up, for the node: segments,
        and bytes out of others.
        """
        with self._lock:
            self._take_back()
            served = False
            for waiter in self._waiters:
                if waiter.block is None:
                    waiter.block = self.arena.allocate(waiter.size)
                    served |= waiter.block is not None
            if not self.missing:
                return served, [], []
            return (
                served,
                self.arena.release_free_segments(),
                self.arena.discard_free_pieces(self.missing),
            )

    def bytes_live(self) -> int:
        """Bytes of this process's blocks that hold a value."""
        with self._lock:
            self._take_back()
            return self.arena.bytes_live

    def close(self) -> None:
        """Unmap everything that nobody looks at; the rest goes with its last view."""
        # Remote functions may keep this runtime for long; the mappings must not stay with it.
        self.arena.close()
