"""The network of `tests.engine.network` with spilling: blocks that move while others look at them.

Each process has a queue of calls that it has not begun, as a worker has, and a list of copies to be
made, as the spilling thread has. What a location says is checked against the truth: the block is
there, and holds that object. A block of memory that is freed while somebody looks at it, or is
about to, fails at once.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from engine.core.ids import owner_of
from engine.core.messages import Evict, Evicted
from engine.core.spill import WRITE
from engine.core.values import ELSEWHERE, Block, ObjectValue, Value
from tests.engine.network import Network, Process, Ref


class Bring:
    """A call with a reference as its argument: it brings the place of the value along."""

    def __init__(self, number: int, dep: ObjectValue, keep: bool) -> None:
        self.number, self.dep, self.keep = number, dep, keep


class Brought:
    """The answer."""

    def __init__(self, number: int) -> None:
        self.number = number


class View:
    """A live view of an object: where it is, and the reference that it keeps."""

    def __init__(self, process: SpillProcess, ref: Ref, block: Block) -> None:
        self.process, self.ref, self.block = process, ref, block


class SpillProcess(Process):
    """As `Process`, with what `Runtime` and `Spilling` do around the machine."""

    def __init__(self, network: Network, name: bytes) -> None:
        super().__init__(network, name)
        self.jobs: deque[tuple[str, bytes, Block]] = deque()
        self.machine = self.table.spill
        self.machine.work = lambda *job: self.jobs.append(job)
        self.views: list[View] = []
        self.inbox: deque[tuple[bytes, Bring]] = deque()
        self.asking: dict[int, Ref] = {}  # kept by calls that wait for their arguments
        self.carried: dict[int, tuple[bytes, list[bytes]]] = {}

    # What an owner does with a call: `Owner._load` and `_unload`.

    def bring(self, peer: Process, ref: Ref, keep: bool) -> None:
        """Call `peer` with a reference whose value is known here."""
        value = self.table.entries[ref.id].value
        assert value is not None
        number = self.network.number()
        used = False
        if owner_of(ref.id) != self.id:
            value = Value(block=ELSEWHERE)
        elif value.block is not None:
            used = self.machine.carry(ref.id, value.block)
        self.calls[number] = [ref]
        self.carried[number] = (peer.id, [ref.id] if used else [])
        self.network.post(self.id, peer.id, Bring(number, ObjectValue(ref.id, value), keep))

    def on_brought(self, number: int) -> None:
        for object_id in self.carried.pop(number)[1]:
            self.machine.unuse(object_id)
        self.calls.pop(number)

    # What an executor does: `Worker._next`, `Values.view`, `Execution.send`.

    def run(self) -> None:
        """Begin the oldest call, and answer it; or ask for its argument and come back later."""
        peer, call = self.inbox.popleft()
        value = call.dep.value
        ref = self.adopt(call.dep.id)
        if value.block == ELSEWHERE:
            entry = self.table.entries[ref.id]
            if entry.value is None:
                self.table.want(ref.id, entry)
                self.asking[call.number] = ref
                self.inbox.append((peer, call))
                return
            value = entry.value
        if value.block is not None:
            view = self.look(ref, value.block)
            if not call.keep:
                self.unlook(view)
            del view
        self.asking.pop(call.number, None)
        del ref
        self.drain()
        waiting = self.table.unsettled_except(peer) if self.table.unsettled else []
        answer = Brought(call.number)
        if not (waiting and self.table.after_settled(waiting, peer, answer)):
            self.network.post(self.id, peer, answer)

    def look(self, ref: Ref, block: Block) -> View:
        """A view of an object that a message says to lie in `block`."""
        block = self.machine.look(ref.id, block)
        view = View(self, ref, block)
        self.views.append(view)
        self.network.check(view)
        return view

    def unlook(self, view: View) -> None:
        self.views.remove(view)
        if view.block.segment > 0:
            self.machine.unuse(view.ref.id)

    # What the spilling thread does.

    def copy(self, works: bool, now: float) -> None:
        """Finish the oldest copy."""
        kind, object_id, block = self.jobs.popleft()
        if kind == WRITE:
            if not works:
                self.machine.on_write_failed(object_id, block, "full", now + 1.0)
            else:
                copy = self.network.disk_block(self.id, object_id)
                self.machine.on_written(object_id, block, copy, now)
        else:
            place = self.network.new_block(self.id, object_id) if works else None
            self.machine.on_read(object_id, block, place)

    def handle(self, peer: bytes, message: Any) -> None:
        kind = type(message)
        if kind is Bring:
            self.inbox.append((peer, message))
        elif kind is Brought:
            self.on_brought(message.number)
        elif kind is Evict:
            self.table.on_evict(peer, message)
        elif kind is Evicted:
            self.machine.on_evicted(peer, message)
        else:
            super().handle(peer, message)
        self.drain()

    def on_gone(self, name: bytes) -> None:
        for number in [one for one, (peer, _) in self.carried.items() if peer == name]:
            self.on_brought(number)
        for item in [one for one in self.inbox if one[0] == name]:
            self.inbox.remove(item)
            self.asking.pop(item[1].number, None)
        super().on_gone(name)


class SpillNetwork(Network):
    """Blocks of memory and of disk, and what they hold."""

    kind = SpillProcess
    processes: dict[bytes, SpillProcess]  # type: ignore[assignment]

    def disk_block(self, holder: bytes, object_id: bytes) -> Block:
        block = Block(-1, 64 * self.number(), 64, holder)
        self.blocks[block] = object_id
        return block

    def check(self, view: View) -> None:
        if owner_of(view.ref.id) in self.processes:
            found = self.blocks.get(view.block)
            assert found == view.ref.id, "a view of something else"

    def on_freed(self, owner: Process, block: Block) -> None:
        object_id = self.blocks.get(block)
        assert object_id is not None, "freed twice"
        for process in self.processes.values():
            seen = [view for view in process.views if view.block == block]
            assert not seen, "freed while somebody looks at it"
            if block.segment > 0:  # a location that somebody may still use
                for _peer, call in process.inbox:
                    entry = process.table.entries.get(object_id)
                    known = entry is not None and entry.value is not None
                    safe = known or call.dep.value.block != block
                    assert safe, "freed while a call that carries it waits"
        elsewhere = [one for one, what in self.blocks.items() if what == object_id and one != block]
        if elsewhere and block.segment > 0 and object_id in owner.table.entries:
            del self.blocks[block]  # it has moved, and lives on
        else:
            super().on_freed(owner, block)

    def settle(self) -> None:
        for _ in range(1000):
            super().settle()
            quiet = True
            for process in self.processes.values():
                for _ in range(len(process.inbox)):
                    process.run()
                    quiet = False
                while process.jobs:
                    process.copy(True, 0.0)
                    quiet = False
            if quiet and not self.busy():
                return
        raise AssertionError("calls beget calls for ever")

    def end(self) -> None:
        self.settle()
        for process in self.processes.values():
            assert not process.machine._moving, "a round that never ends"
            while process.views:
                self.check(process.views[-1])
                process.unlook(process.views[-1])
            process.drain()
        super().end()
        for process in self.processes.values():
            machine = process.machine
            assert not process.carried
            assert not machine.held
            assert not machine.uses
            assert not machine._refused
            assert not machine._moving
            assert machine.resident == 0
