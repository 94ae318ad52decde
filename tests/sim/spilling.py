"""The spilling thread of one process, and what it tells the node. Mirrors `runtime.spilling`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.core.control import ReleaseSegments, SegmentsReturned
from engine.core.pressure import AT_ONCE
from engine.core.spill import WRITE
from engine.core.values import Block
from tests.sim.member import Failure, Killed, Steps

if TYPE_CHECKING:
    from tests.sim.process import Process

__all__ = ["Spilling"]


class Spilling:
    """Spilling of one process. Its thread is a generator that yields as the main thread does."""

    def __init__(self, home: Process) -> None:
        self._home = home
        self._world = home.world
        self._machine = home.owner.spill
        self._machine.work = self._work
        self.jobs: deque[tuple[str, bytes, Block]] = deque()
        self._thread: Steps | None = None
        self._serves = False  # there is a thread, at work or waiting
        self._ready: Callable[[], bool] | None = None  # what it waits for
        self._relief_due = False

    # ------------------------------------------------------------------ the node

    def on_release(self, message: ReleaseSegments) -> None:
        """As `Spilling.on_release`."""
        if self._machine.trouble:
            self._home.owner.objects.lineage.give_up(message.missing)
        self._home.drain()
        self._home.values.missing = message.missing
        self._machine.short = True
        if message.spill:
            self._world.mark("asked to spill")
            self._machine.spill(message.spill, self._world.clock.now)
        self._relieve(message.number)

    def on_eased(self) -> None:
        """As `Spilling.on_eased`."""
        self._home.values.missing = 0
        self._machine.short = False

    def freed(self) -> None:
        """As `Spilling.freed`."""
        if not self._relief_due and self._home.alive:
            self._relief_due = True
            self._home.after_turn.append(self.relieve)
            self._home.kick()

    def relieve(self) -> None:
        """As `Spilling.relieve`."""
        self._relieve()
        self._home.flush()

    def _relieve(self, answer: int = 0) -> None:
        self._relief_due = False
        home, machine, now = self._home, self._machine, self._world.clock.now
        values = home.values
        served, segments, shrunk = values.relieve()
        if served:
            self._world.mark("freed memory went to a thread that waits")
            home.wake()
        if values.missing:
            spillable = machine.spillable(values.missing, now)
            report = SegmentsReturned(
                segments, shrunk, answer, spillable, machine.spilling(now),
                machine.resident - spillable, machine.trouble,
            )  # fmt: skip
            home.send(home.node, report)

    # ------------------------------------------------------------------ the thread

    def waits(self) -> bool:
        """Whether the thread waits for an answer, and so serves the sockets."""
        return self._ready is not None

    def look(self) -> None:
        """The sockets were served: what the thread waits for may be there."""
        if self._ready is not None and self._ready():
            self._go()

    def stop(self) -> None:
        """The process is dead."""
        self.jobs.clear()
        self._ready = None
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _work(self, kind: str, object_id: bytes, block: Block) -> None:
        self.jobs.append((kind, object_id, block))
        if not self._serves:
            self._serves = True
            self._thread = self._serve()
            self._world.clock.after(0.0, self._woken)

    def _woken(self) -> None:
        home = self._home
        if not home.alive:
            return
        if home.frozen():
            self._world.clock.at(home.frozen_until, self._woken)
            return
        try:
            self._go()
        except Killed:  # by a fault at a point
            return

    def _go(self) -> None:
        """Run the thread until it works on something or waits."""
        home, clock = self._home, self._world.clock
        thread, self._thread, self._ready = self._thread, None, None
        assert thread is not None
        for wish in thread:
            if type(wish) is float:
                self._thread = thread
                clock.after(wish, self._woken)
                break
            if not wish[0]():
                self._thread, self._ready = thread, wish[0]
                break
        home.flush()
        home.wake()  # the main thread may wait for what was done; or this one serves now

    def _serve(self) -> Steps:
        while self.jobs:
            kind, object_id, block = self.jobs.popleft()
            yield self._world.faults.disk_seconds()
            self._world.faults.at_point(self._home, "a copy made", 20)
            if kind == WRITE:
                yield from self._write(object_id, block)
            else:
                yield from self._read(object_id, block)
        self._serves = False

    def _write(self, object_id: bytes, block: Block) -> Steps:
        """As `Spilling._write`."""
        home, machine, clock = self._home, self._machine, self._world.clock
        memory = self._world.memory

        def data() -> bytes:
            # What is released meanwhile may be torn: nobody will see that copy.
            held = machine.held.get(object_id)
            return memory.read(block) if held and held.memory is block else b"torn"

        copy = None
        again, why = machine.wait_until, machine.trouble
        if object_id in machine.held and clock.now >= again:
            try:
                yield from home.values.reach(block)
                copy = yield from home.values.write(block.size, data, home.id)
            except Failure as error:
                again, why = clock.now + home.config.spill_retry_seconds, error.text
        self._world.faults.at_point(home, "a copy made", 20)
        if copy is not None:
            self._world.mark("spilled" if object_id in machine.held else "spilled in vain")
            machine.on_written(object_id, block, copy, clock.now)
        else:
            self._world.mark("a copy could not be made")
            machine.on_write_failed(object_id, block, why, again)
        self.relieve()

    def _read(self, object_id: bytes, block: Block) -> Steps:
        """As `Spilling._read`."""
        home, values, faults = self._home, self._home.values, self._world.faults
        copy: Any = None
        try:
            copy = yield from values.allocate(block.size, AT_ONCE)
            try:
                yield from values.reach(block)
                yield faults.disk_seconds()
                held = self._machine.held.get(object_id)
                if held is not None and held.disk is block:
                    if faults.disk_fails():
                        raise Failure("ObjectLostError", "cannot be read")
                    values.fill(copy, self._world.memory.read(block), home.id)
            except Failure:
                values.free(copy)
                copy = None
        except Failure:  # no room; or whoever reads it will see
            self._world.mark("no room to read a value back")
        faults.at_point(home, "a copy made", 20)
        self._world.mark("read back" if copy is not None else "not read back")
        self._machine.on_read(object_id, block, copy)
        home.flush()
