"""Moving objects between memory and disk: the thread that does it, and what the node is told.

`core.spill` decides which objects of this process move; here they are copied, one after the other,
on a thread of its own that is started when it is first needed. Besides, a thread that cannot get
memory for a new value writes the value to disk itself (`store`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from queue import SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING

from engine import exceptions
from engine.core.control import ReleaseSegments, SegmentsReturned
from engine.core.pressure import AT_ONCE, spill_batch
from engine.core.spill import COPY, WRITE
from engine.core.values import Block

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Spilling"]

_log = logging.getLogger("engine")
_STOP_SECONDS = 2.0


class Spilling:
    """Spilling of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._machine = runtime.owner.spill
        self._machine.work = self._work
        self._jobs: SimpleQueue[tuple[str, bytes, Block] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._batch = spill_batch(runtime.config, runtime.info["store_bytes"])
        self._relief_due = False
        self._closed = False
        runtime.records["spilled"] = lambda: [self._machine.statistics()]

    # ------------------------------------------------------------------ the node (locked)

    def on_release(self, message: ReleaseSegments) -> None:
        """Memory is short; under the lock."""
        if self._machine.trouble:
            self._runtime.owner.objects.lineage.give_up(message.missing)
        self._runtime.drain()
        self._runtime.values.memory.missing = message.missing
        self._machine.short = True
        if message.spill:
            self._machine.spill(message.spill, perf_counter())
        self._relieve(message.number)

    def on_eased(self) -> None:
        """Memory is no longer short; under the lock."""
        self._runtime.values.memory.missing = 0
        self._machine.short = False

    def freed(self) -> None:
        """Memory that somebody waits for has become free; from any thread, under the lock."""
        if not self._relief_due:
            self._relief_due = True
            self._runtime.reactor.after_turn.append(self.relieve)
            self._runtime.reactor.kick()

    def relieve(self) -> None:
        """Hand freed memory to those who wait for it."""
        with self._runtime.lock:
            self._relieve()
            self._runtime.reactor.flush()

    def _relieve(self, answer: int = 0) -> None:
        self._relief_due = False
        runtime, machine, now = self._runtime, self._machine, perf_counter()
        memory = runtime.values.memory
        served, segments, shrunk = memory.relieve()
        if served:
            runtime.reactor.kick()
        if memory.missing:
            spillable = machine.spillable(max(memory.missing, self._batch), now)
            report = SegmentsReturned(
                segments, shrunk, answer, spillable, machine.spilling(now),
                machine.resident - spillable, machine.trouble,
            )  # fmt: skip
            runtime.send(runtime.node, report)

    # ------------------------------------------------------------------ the thread

    def _work(self, kind: str, object_id: bytes, block: Block) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="engine-spill", daemon=True)
            self._thread.start()
        self._jobs.put((kind, object_id, block))

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            kind, object_id, block = job
            if kind == WRITE:
                self._write(object_id, block)
            elif kind == COPY:
                self._copy(object_id, block)
            else:
                self._read(object_id, block)

    def _write(self, object_id: bytes, block: Block) -> None:
        runtime, machine = self._runtime, self._machine
        copy = None
        again, why = machine.wait_until, machine.trouble
        if object_id in machine.held and perf_counter() >= again:
            try:
                copy = runtime.values.disk.write(runtime.values.map(block))
            except exceptions.EngineError as error:  # it stays in memory, and the node is told why
                again, why = perf_counter() + runtime.config.spill_retry_seconds, str(error)
        with runtime.lock:
            if copy is not None:
                machine.on_written(object_id, block, copy, perf_counter())
            else:
                machine.on_write_failed(object_id, block, why, again)
        self.relieve()

    def _copy(self, object_id: bytes, block: Block) -> None:
        """Make a second copy of an object that has lost one."""
        values, copy = self._runtime.values, None
        if object_id in self._machine.held:
            try:
                copy = values.disk.write(values.raw(block), spare=True)
            except exceptions.EngineError as error:  # the one copy is still good
                _log.warning(
                    "one of the two copies of an object put with durable=True is lost, and no "
                    "other could be made: %s", error,
                )  # fmt: skip
        with self._runtime.lock:
            self._machine.on_copied(object_id, block, copy)

    def _read(self, object_id: bytes, block: Block) -> None:
        """Bring an object back if there is memory to spare."""
        values = self._runtime.values
        copy = None
        with contextlib.suppress(exceptions.EngineError):  # no room; or whoever reads it will see
            copy = values.memory.allocate(block.size, AT_ONCE)
            try:
                values.disk.read_into(block, values.map(copy)[: block.size])
            except exceptions.EngineError:
                with self._runtime.lock:
                    values.free(copy)
                copy = None
        with self._runtime.lock:
            self._machine.on_read(object_id, block, copy)
            self._runtime.reactor.flush()

    def close(self) -> None:
        """End the thread; a copy that is being made is finished first."""
        self._closed = True
        self._jobs.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

