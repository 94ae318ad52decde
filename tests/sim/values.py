"""Where the values of one process lie: memory leased from the node, files, and looking at them.

Mirrors `runtime.values`, `runtime.shared_memory` and `runtime.disk`, with the engine's arenas. The
main thread and the spilling thread both run this code, as generators.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from engine.core.control import Attach, Piece, Reply, SegmentsReturned
from engine.core.ids import node_of
from engine.core.pressure import AT_ALL, AT_ONCE, IF_SOON
from engine.core.values import Block
from engine.store.arena import Arena
from tests.sim.member import Failure, Steps, Violation
from tests.sim.memory import Space
from tests.sim.references import Ref

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["Pin", "Unreadable", "Values"]

_FULL, _DISK = "ObjectStoreFullError", "OutOfDiskError"
_PAGE = 4096
_PAUSE_SECONDS = 0.02  # as in `runtime.disk`


class Unreadable(Exception):
    """As `runtime.values.Unreadable`."""

    def __init__(self, why: str, block: Block) -> None:
        super().__init__(why)
        self.block = block


def _unreadable(error: Failure, block: Block) -> BaseException:
    return Unreadable(error.text, block) if error.kind == "ObjectLostError" else error


class Pin:
    """As `runtime.values._Pin`; and what the view showed when it was made."""

    __slots__ = ("block", "data", "home", "ref")

    def __init__(self, home: Process, ref: Ref, block: Block) -> None:
        self.home = home
        self.ref = ref
        self.block = block
        self.data = b""

    def look(self) -> None:
        """Somebody looks at the view: it must show what it always has."""
        if self.home.world.memory.read(self.block) != self.data:
            raise Violation(f"{self.block} was written to while there is a view of it")

    def __del__(self) -> None:
        self.home.unseen.append(self.ref.id)


class _Waiter:
    """As `runtime.shared_memory._Waiter`."""

    __slots__ = ("block", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.block: Block | None = None


class Values:
    """Memory, disk and views of one process."""

    def __init__(self, home: Process) -> None:
        self._home = home
        self._world = home.world
        self.memory = Arena(home.id)
        self.disk = Arena(home.id)
        self.owners: dict[tuple[int, int], bytes] = {}  # of the objects in our blocks
        self.missing = 0
        self.waiters: list[_Waiter] = []
        self._growing = False
        self._freed: deque[Block] = deque()
        self._mapped: dict[int, None] = {}
        self.pieces: dict[int, bytes] = {}  # of values from other nodes, by request

    def free(self, block: Block) -> None:
        """As `Values.free`."""
        self._world.memory.wipe(block)
        if block.segment > 0:
            self._freed.append(block)
            if self.missing or self.waiters:
                self._home.spilling.freed()
        else:
            self.disk.free(block)
            if gone := self.disk.release_free_segments():
                self._home.send(self._home.node, SegmentsReturned(gone))

    def take_back(self) -> None:
        """As `Memory._take_back`."""
        while self._freed:
            self.memory.free(self._freed.popleft())

    def drop_mappings(self, segments: list[int]) -> None:
        """As `Values.drop_mappings`."""
        for segment in segments:
            self._mapped.pop(segment, None)

    def live(self) -> list[tuple[int, int]]:
        """Blocks of ours that nobody has freed."""
        self.take_back()
        return [*self.memory._live, *self.disk._live]

    def fill(self, block: Block, data: bytes, owner: bytes) -> Block:
        """Write a block, for an object of `owner`."""
        self._world.memory.write(block, data)
        self.owners[block.segment, block.offset] = owner
        return block

    # ------------------------------------------------------------------ memory

    def allocate(self, size: int, hurry: int, recovery: bool = False) -> Steps:
        """As `Memory.allocate`."""
        self.take_back()
        block = self.memory.allocate(size)
        if block is not None:
            return block
        if hurry != AT_ONCE:
            self._home.before_memory_wait()
        if self._growing:
            if hurry == AT_ONCE:
                raise Failure(_FULL, "others wait for memory here")
            self._world.mark("threads ask for memory one after the other")
            yield (lambda: not self._growing), None
        self._growing = True
        try:
            return (yield from self._grow(size, hurry, recovery))
        finally:
            self._growing = False

    def _grow(self, size: int, hurry: int, recovery: bool) -> Steps:
        self.take_back()
        block = self.memory.allocate(size)
        if block is not None:
            return block
        waiter = _Waiter(size)
        self.waiters.append(waiter)
        need = (size + _PAGE - 1) & -_PAGE
        wish = need if recovery else max(self._world.segment_bytes & -_PAGE, need)
        try:
            answer = yield from self._home.request_unless(
                "segment", lambda: waiter.block is not None,
                size=need, wish=wish, hurry=hurry, recovery=recovery,
            )  # fmt: skip
            if type(answer) is Attach:
                self.memory.add(Space(answer.segment, answer.size))
                if waiter.block is None:
                    waiter.block = self.memory.allocate(size)
        except BaseException:  # interrupted: nobody takes what it was to get
            self.waiters.remove(waiter)
            if waiter.block is not None:
                self.free(waiter.block)
            raise
        self.waiters.remove(waiter)
        if waiter.block is None:
            raise Failure(_FULL, answer.error)
        return waiter.block

    def relieve(self) -> tuple[bool, list[int], list[tuple[int, int]]]:
        """As `Memory.relieve`."""
        self.take_back()
        served = False
        for waiter in self.waiters:
            if waiter.block is None:
                waiter.block = self.memory.allocate(waiter.size)
                served |= waiter.block is not None
        if not self.missing:
            return served, [], []
        segments = self.memory.release_free_segments()
        shrunk = self.memory.discard_free_pieces(self.missing)
        if shrunk:
            self._world.mark("gave up a part of a segment")
        return served, segments, shrunk

    # ------------------------------------------------------------------ disk

    def write(self, size: int, data: Callable[[], bytes], owner: bytes) -> Steps:
        """As `Disk.write`; `data()` is what is written."""
        block = yield from self._allocate_on_disk(size)
        pause, faults = _PAUSE_SECONDS, self._world.faults
        for left in reversed(range(self._home.config.spill_attempts_max)):
            yield faults.disk_seconds()
            if not faults.disk_fails():
                found = data()
                self.fill(block, found, owner)
                return Block(block.segment, block.offset, size, self._home.id, crc32(found))
            if not left:
                self.free(block)
                raise Failure(_DISK, "cannot be written")
            yield pause
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _allocate_on_disk(self, size: int) -> Steps:
        block = self.disk.allocate(size)
        if block is not None:
            return block
        need = (size + 63) & -64
        wish = max(need, self._world.disk_segment_bytes)
        answer = yield from self._home.request("disk", size=need, wish=wish)
        if isinstance(answer, Reply):
            raise Failure(answer.result["kind"], answer.error)
        self.disk.add(Space(answer.segment, answer.size))
        block = self.disk.allocate(size)
        assert block is not None
        return block

    def reach(self, block: Block) -> Steps:
        """As `Values._segment` and `Disk._segment`."""
        segment = block.segment
        if (
            segment not in self.memory.segments
            and segment not in self.disk.segments
            and segment not in self._mapped
        ):
            answer = yield from self._home.request("map", segment=segment)
            if isinstance(answer, Reply):
                raise Failure("ObjectLostError", answer.error)
            self._mapped[segment] = None

    # ------------------------------------------------------------------ values

    def place(self, size: int, data: bytes, owner: bytes, recovery: bool = False) -> Steps:
        """As `Values.place`: a block with `data`, for an object of `owner`."""
        self._home.settle()
        try:
            block = yield from self.allocate(size, IF_SOON, recovery)
        except Failure as error:
            if error.kind != _FULL:
                raise
        else:
            return self.fill(block, data, owner)
        return (yield from self._place_elsewhere(size, data, owner, recovery))

    def _place_elsewhere(self, size: int, data: bytes, owner: bytes, recovery: bool) -> Steps:
        """As `Values._place_elsewhere`."""
        trouble = None
        if size > self._world.store_bytes:
            self._world.mark("a value larger than the store")
        else:
            try:
                block = yield from self._home.inside(self.write(size, lambda: data, owner))
            except Failure as error:
                if error.kind not in (_FULL, _DISK):
                    raise
                trouble = error.kind, error.text
            else:
                self._world.mark("a new value was written to disk")
                return block
        try:
            block = yield from self.allocate(size, AT_ALL, recovery)
        except Failure as error:
            if error.kind != _FULL or trouble is None:
                raise
            raise Failure(*trouble) from None
        self._world.mark("memory came after all")
        return self.fill(block, data, owner)

    def view(self, block: Block, ref: Ref) -> Steps:
        """As `Values.view`: what lies there, and the pin if it is in memory."""
        home = self._home
        block = home.look(ref.id, block)
        if self._is_away(block):
            return (yield from self._pull(block, ref)), None
        if block.segment < 0:
            self._world.mark("read from disk")
            try:
                return (yield from home.inside(self._read_file(block))), None
            except Failure as error:
                raise _unreadable(error, block) from error
        pin = Pin(home, ref, block)
        try:
            yield from self.reach(block)
        except Failure as error:
            raise _unreadable(error, block) from error
        pin.data = self._world.memory.read(block)
        return pin.data, pin

    def _is_away(self, block: Block) -> bool:
        number = self._world.number_of(self._home.id)
        return number is not None and node_of(block.holder) != number

    def _pull(self, block: Block, ref: Ref) -> Steps:
        """What lies on another node is read into memory of our own; until then it stays there."""
        home = self._home
        self._world.mark("pulled from another node")
        try:
            answer = yield from home.inside(home.request("pull", block=block))
        finally:
            if block.segment > 0:
                home.unseen.append(ref.id)
        if answer.error:
            raise _unreadable(Failure("ObjectLostError", answer.error), block)
        return answer.result

    def on_piece(self, message: Piece) -> Reply | None:
        """A part of a value from another node; the answer once all are there."""
        data = self.pieces[message.number] = self.pieces.get(message.number, b"") + message.data
        if message.left:
            return None
        del self.pieces[message.number]
        return Reply(message.number, data)

    def _read_file(self, block: Block) -> Steps:
        yield from self.reach(block)
        yield self._world.faults.disk_seconds()
        return self._world.memory.read(block)
