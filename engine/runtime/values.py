"""Values in this process: where they are stored, and how they become Python objects again.

Large values lie in blocks of shared memory, or of a file when memory is short. A view of shared
memory carries a *pin*, which keeps the `ObjectRef` alive as long as any array made from the view:
the owner neither gives the block out again nor moves the object while somebody can still see it.
What lies in a file is read into private memory, which needs no pin.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from engine import exceptions
from engine.config import Config
from engine.core.control import Reply
from engine.core.pressure import AT_ALL, IF_SOON
from engine.core.values import ERROR_NONE, ERROR_USER, Block, Value, decode_failure
from engine.runtime.disk import Disk
from engine.runtime.shared_memory import SharedMemory
from engine.store import codec
from engine.store.arena import Segment
from engine.store.codec import Encoded

__all__ = ["Unreadable", "Values"]


class Unreadable(exceptions.ObjectLostError):
    """What lies in `block` cannot be read. Whoever reads tells the owner, and asks again."""

    def __init__(self, why: str, block: Block) -> None:
        super().__init__(why)
        self.block = block

    def __reduce__(self) -> tuple[Any, ...]:
        return exceptions.ObjectLostError, self.args  # elsewhere it is for people


class Values:
    """Stores, maps and decodes values.

    `request(what, **args)` asks the node and waits; it must not be called under the runtime's lock,
    so nothing here that allocates, maps or reads may be either. `free` may. `settle()` tells the
    object table of dead references. `look` and `unseen` are the spill machine's, set by the
    runtime; `lock` is the runtime's.
    """

    def __init__(
        self,
        config: Config,
        memory: SharedMemory,
        disk: Disk,
        *,
        request: Callable[..., Any],
        settle: Callable[[], None],
        lock: Any,
    ) -> None:
        self._config = config
        self._request = request
        self._settle = settle
        self.on_stored: Callable[[str, float], None] | None = None  # told of large values
        self._lock = lock
        self.look: Callable[[bytes, Block], Block] = lambda object_id, block: block
        self.unseen: deque[bytes] = deque()
        self.memory = memory
        self.disk = disk
        self._mapped: dict[int, Segment] = {}

    def free(self, block: Block) -> None:
        """A block of this process is free."""
        if block.segment > 0:
            self.memory.free(block)
        else:
            self.disk.free(block)

    def close(self) -> None:
        """Unmap and close everything; what somebody looks at goes with its last view."""
        self.memory.close()
        self.disk.close()
        for segment in self._mapped.values():
            segment.close()
        self._mapped.clear()

    def bytes_live(self) -> int:
        """Bytes of this process's blocks that hold a value in shared memory."""
        return self.memory.bytes_live()

    def drop_mappings(self, segments: list[int]) -> None:
        """Segments that hold nothing any more."""
        for segment in segments:
            mapped = self._mapped.pop(segment, None)
            if mapped is not None:
                mapped.close()
            self.disk.drop(segment)

    # ------------------------------------------------------------------ storing

    def store(self, encoded: Encoded, inline: bool = True, recovery: bool = False) -> Value:
        """An encoded value as it is kept: inline when small (and allowed), else in a block.

        `recovery`: it replaces one that was lost, and may have memory reserved for that.
        Raises ObjectStoreFullError or OutOfDiskError when it can be kept nowhere.
        """
        contains = [ref.binary() for ref in encoded.refs] or None
        if inline and encoded.nbytes <= self._config.inline_bytes_max:
            return Value(encoded.data, encoded.inline_buffers(), contains)
        start = perf_counter()
        block = self.place(encoded.block_bytes(), encoded.write_into, recovery)
        if self.on_stored is not None:
            self.on_stored(f"store {block.size:,} bytes", start)
        return Value(b"", None, contains, block)

    def place(
        self, size: int, fill: Callable[[memoryview], None], recovery: bool = False
    ) -> Block:
        """A new block of `size` bytes, written by `fill`: of memory, or of a file when it is short.

        Raises ObjectStoreFullError or OutOfDiskError when there is room nowhere.
        """
        self._settle()  # blocks of references that have just died are the warmest
        try:
            block = self.memory.allocate(size, IF_SOON, recovery)
        except exceptions.ObjectStoreFullError:
            return self._place_elsewhere(size, fill, recovery)
        fill(self.memory.view(block))
        return block

    def _place_elsewhere(
        self, size: int, fill: Callable[[memoryview], None], recovery: bool
    ) -> Block:
        """There is no memory now: on disk then, or after all in memory."""
        trouble: exceptions.EngineError | None = None
        if size <= self.memory.limit:
            try:
                data = memoryview(bytearray(size))
                fill(data)
                return self.disk.write(data)
            except (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError) as error:
                trouble = error  # told if memory does not become free either
        try:
            block = self.memory.allocate(size, AT_ALL, recovery)
        except exceptions.ObjectStoreFullError as error:
            if trouble is None:
                raise
            known = str(trouble) in str(error)
            raise type(trouble)(str(error) if known else f"{trouble}. {error}") from None
        fill(self.memory.view(block))
        return block

    def allocate(self, size: int) -> Block:
        """A block of shared memory of our own, with whatever lay there before.

        Waits for memory; raises ObjectStoreFullError when there is none in the end.
        """
        self._settle()
        return self.memory.allocate(size, AT_ALL)

    # ------------------------------------------------------------------ looking

    def map(self, block: Block) -> memoryview:
        """A writable view of any block of shared memory on this host. It carries no pin."""
        return self._segment(block.segment).view(block.offset, block.size)

    def _segment(self, number: int) -> Segment:
        ours = self.memory.arena.segments
        segment: Segment | None = ours.get(number) or self._mapped.get(number)
        if segment is None:
            answer = self._request("map", segment=number)
            if isinstance(answer, Reply):
                raise exceptions.ObjectLostError(answer.error)
            segment = Segment(answer[0], answer[1], answer[2])
            self._mapped[number] = segment
        return segment

    def raw(self, block: Block) -> memoryview:
        """The bytes of a block that stays where it is while the caller looks."""
        if block.segment < 0:
            return memoryview(self.disk.read(block))
        return self.map(block)

    def view(self, block: Block, ref: Any) -> memoryview:
        """A view of the object of `ref`, of which a message says that it lies in `block`.

        Writable if it is in shared memory; it stays there as long as anything made from the view.
        Raises Unreadable when it is lost.
        """
        with self._lock:
            block = self.look(ref._id, block)
        try:
            return self._view(block, ref)
        except exceptions.ObjectLostError as error:
            raise Unreadable(str(error), block) from error

    def _view(self, block: Block, ref: Any) -> memoryview:
        number = block.segment
        if number < 0:
            return memoryview(self.disk.read(block))
        pin = _Pin()  # before anything that may fail: the view has been counted
        pin.ref, pin.unseen = ref, self.unseen
        segment = self.memory.arena.segments.get(number) or self._segment(number)
        numpy = _numpy or _import_numpy()
        flat = numpy.frombuffer(segment.map, numpy.uint8, block.size, block.offset)
        pinned = flat.view(_pinned)
        pinned.pin = pin
        return memoryview(pinned)

    def share(self, block: Block, ref: Any) -> tuple[memoryview, int, int]:
        """A view of the object of `ref`, a descriptor of what it lies in, and its offset there.

        It lies there as long as anything made from the view is alive. The caller closes the
        descriptor. Raises Unreadable when it is lost.
        """
        with self._lock:
            block = self.look(ref._id, block)
        try:
            view = self._view(block, ref)  # from disk: it has been read, so it is not damaged
        except exceptions.ObjectLostError as error:
            raise Unreadable(str(error), block) from error
        if block.segment < 0:
            return view, self.disk.duplicate(block), block.offset
        answer = self._request("map", segment=block.segment)
        if isinstance(answer, Reply):
            raise exceptions.ObjectLostError(answer.error)
        return view, answer[1], block.offset

    def materialise(self, value: Value, ref: Any) -> Any:
        """The Python value of a reference's value; raises when it is an error.

        Raises Unreadable when it is lost.
        """
        if value.error != ERROR_NONE:
            raise self.error_of(value)
        block = value.block
        if block is None:
            return codec.decode(value.data, value.buffers)
        data, buffers = codec.read_parts(self.view(block, ref).toreadonly())
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


class _Pin:
    """Keeps a reference, and with it the object where it lies, until the last view is gone."""

    __slots__ = ("ref", "unseen")
    ref: Any
    unseen: deque[bytes]

    def __del__(self) -> None:
        self.unseen.append(self.ref._id)


_numpy: Any = None
_pinned: Any = None


def _import_numpy() -> Any:
    """NumPy, and `_pinned`: an array that can carry what must live as long as any view of it.

    At first use: importing NumPy is not free and small values do not need it.
    """
    global _numpy, _pinned
    import numpy as np

    _pinned = type("Pinned", (np.ndarray,), {"__module__": __name__})
    _numpy = np
    return np
