"""A few processes in one: object tables and queues delivered in any order the test likes.

Only the order on one connection is kept, as on a socket. Everything that the runtime does around
the pure table (references as Python objects, what a call keeps, when a reply may leave) is done
here in the same way, so that a hole in the protocol shows as a freed object that somebody holds.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from engine.core.ids import IdSource, owner_of
from engine.core.messages import AddBorrower, BorrowAck, DropBorrower, Fetch, FreeBlock, Settled
from engine.core.objects import ObjectTable
from engine.core.values import Block, ObjectValue, Value


class Ref:
    """What `ObjectRef` is to a process: its death is noted, and told to the table later."""

    __slots__ = ("__weakref__", "id", "process")

    def __init__(self, process: Process, object_id: bytes) -> None:
        self.process = process
        self.id = object_id
        process.escaped[object_id] = self

    def __del__(self) -> None:
        self.process.released.append(self.id)


class Invoke:
    """A call that brings references (nested, so that they arrive as references)."""

    def __init__(self, number: int, ids: list[bytes], keep: bool, back: list[int]) -> None:
        self.number, self.ids, self.keep, self.back = number, ids, keep, back


class Answer:
    """The reply to a call, with references inside its value."""

    def __init__(self, number: int, value: Value) -> None:
        self.number, self.value = number, value


class Gone:
    """From the node: a process that somebody wants to talk to is dead."""

    def __init__(self, process: bytes) -> None:
        self.process = process


class Process:
    """One process: table, references, calls under way."""

    def __init__(self, network: Network, name: bytes) -> None:
        self.network = network
        self.id = name
        self.ids = IdSource(name)
        self.released: deque[bytes] = deque()
        self.escaped: weakref.WeakValueDictionary[bytes, Ref] = weakref.WeakValueDictionary()
        self.table = ObjectTable(
            name,
            lambda peer, message: network.post(name, peer, message),
            lambda block: network.on_freed(self, block),
            lambda ids: [self.adopt(one) for one in ids],
        )
        self.held: list[Ref] = []  # variables of the user's code
        self.calls: dict[int, list[Ref]] = {}  # what calls under way keep
        self.unsettled: dict[int, tuple[bytes, list[Ref]]] = {}  # results the caller is to take

    def adopt(self, object_id: bytes) -> Ref:
        """As `engine.store.refs.adopt`."""
        ref = self.escaped.get(object_id)
        if ref is None:
            self.table.hold(object_id)
            ref = Ref(self, object_id)
        return ref

    def drain(self) -> None:
        """As `Runtime.drain`."""
        while self.released:
            self.table.release(self.released.popleft())

    def put(self, contains: list[Ref]) -> Ref:
        """As `Runtime.put`, with a block of its own for each object."""
        object_id = self.ids.new()
        block = self.network.new_block(self.id, object_id)
        inner = [ref.id for ref in contains] or None
        self.table.add(object_id, Value(b"", None, inner, block), list(contains))
        return Ref(self, object_id)

    def invoke(self, peer: Process, refs: list[Ref], keep: bool, back: list[int]) -> None:
        """Call `peer`; the references are kept here until it has answered."""
        number = self.network.number()
        self.calls[number] = refs
        ids = [ref.id for ref in refs]
        self.network.post(self.id, peer.id, Invoke(number, ids, keep, back))

    def on_invoke(self, peer: bytes, call: Invoke) -> None:
        """As `Execution.run`, `reply` and `send`."""
        arguments = [self.adopt(one) for one in call.ids]
        results = [arguments[at % len(arguments)] for at in call.back] if arguments else []
        if call.keep:
            self.held += arguments
        del arguments
        answer = Answer(call.number, Value(b"", None, [ref.id for ref in results] or None))
        if results:
            self.unsettled[call.number] = (peer, results)
        self.drain()
        if self.table.unsettled:
            waiting = self.table.unsettled_except(peer)
            if waiting and self.table.after_settled(waiting, peer, answer):
                return
        self.network.post(self.id, peer, answer)

    def on_answer(self, peer: bytes, answer: Answer) -> None:
        """As `Owner._on_done_many`: the result is an object of ours that holds what it contains."""
        self.calls.pop(answer.number, None)
        object_id = self.ids.new()
        self.table.add(object_id)
        self.held.append(Ref(self, object_id))
        self.table.resolve(object_id, answer.value)
        inner = answer.value.contains
        if inner and not self.table.after_settled(inner, peer, Settled(answer.number.to_bytes(8))):
            self.network.post(self.id, peer, Settled(answer.number.to_bytes(8)))

    def handle(self, peer: bytes, message: Any) -> None:
        """One message has arrived."""
        table, kind = self.table, type(message)
        if kind is Invoke:
            self.on_invoke(peer, message)
        elif kind is Answer:
            self.on_answer(peer, message)
        elif kind is Gone:
            self.on_gone(message.process)
        elif kind is Settled:
            self.unsettled.pop(int.from_bytes(message.id), None)
        elif kind is AddBorrower:
            table.on_add_borrower(peer, message)
        elif kind is BorrowAck:
            late = not message.known and message.id in self.escaped
            assert self.network.deaths or not late, "registered too late: the object was freed"
            table.on_borrow_ack(message)
        elif kind is DropBorrower:
            table.on_drop_borrower(peer, message)
        elif kind is Fetch:
            table.on_fetch(peer, message)
        else:
            assert kind is ObjectValue
            table.on_value(message)
        self.drain()

    def on_gone(self, name: bytes) -> None:
        """Another process is dead."""
        self.table.on_process_died(name, "was killed")
        for number in [one for one, (peer, _) in self.unsettled.items() if peer == name]:
            del self.unsettled[number]
        self.drain()

    def forget(self) -> None:
        """The user's code drops every variable."""
        self.held.clear()
        self.drain()


class Network:
    """All processes, the queues between them, and what must hold at every moment."""

    kind = Process

    def __init__(self, size: int, *, deaths: bool = False) -> None:
        self.deaths = deaths
        self.queues: dict[tuple[bytes, bytes], deque[Any]] = {}
        self.processes = {
            name: self.kind(self, name) for name in (b"process%d" % n for n in range(size))
        }
        self.blocks: dict[Block, bytes] = {}
        self._numbers = 0

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def new_block(self, holder: bytes, object_id: bytes) -> Block:
        block = Block(1, 64 * self.number(), 64, holder)
        self.blocks[block] = object_id
        return block

    def post(self, sender: bytes, receiver: bytes, message: Any) -> None:
        assert sender != receiver, f"{message!r} to itself"
        if receiver not in self.processes:  # as the node does when asked for a connection
            self.queues.setdefault((b"node", sender), deque()).append(Gone(receiver))
            return
        if not self.deaths:
            failed = type(message) is ObjectValue and message.value.error
            assert not failed, "a fetch found the object freed"
        self.queues.setdefault((sender, receiver), deque()).append(message)

    def on_freed(self, owner: Process, block: Block) -> None:
        assert type(block) is not FreeBlock
        object_id = self.blocks.pop(block, None)
        assert object_id is not None, "freed twice"
        if not self.deaths:
            holders = [one.id for one in self.processes.values() if object_id in one.escaped]
            assert not holders, f"{object_id.hex()} freed while {holders} hold it"

    def busy(self) -> list[tuple[bytes, bytes]]:
        """Connections with something on the way, in a stable order."""
        return sorted(line for line, queue in self.queues.items() if queue)

    def deliver(self, line: tuple[bytes, bytes]) -> None:
        """The oldest message of one connection arrives."""
        message = self.queues[line].popleft()
        receiver = self.processes.get(line[1])
        if receiver is not None:
            receiver.handle(line[0], message)

    def kill(self, name: bytes) -> None:
        """A process dies. What it had sent arrives; what was on the way to it does not."""
        self.processes.pop(name)
        for line in list(self.queues):
            if line[1] == name:
                del self.queues[line]
            elif line[0] == name:
                while self.queues[line]:
                    self.deliver(line)
        for process in self.processes.values():
            process.on_gone(name)
        for block in [block for block, one in self.blocks.items() if owner_of(one) == name]:
            del self.blocks[block]  # the node's business

    def settle(self) -> None:
        """Deliver everything until nothing is on the way."""
        for _ in range(100_000):
            busy = self.busy()
            if not busy:
                return
            self.deliver(busy[0])
        raise AssertionError("messages beget messages for ever")

    def end(self) -> None:
        """Everybody drops everything: nothing may be left."""
        self.settle()
        for _ in range(3):
            for process in self.processes.values():
                process.forget()
            self.settle()
        for process in self.processes.values():
            if self.deaths:
                process.calls.clear()  # calls to the dead: their owner fails them
                process.drain()
        self.settle()
        for process in self.processes.values():
            assert not process.calls
            assert not process.unsettled
            assert not process.table.entries, process.table.counts()
            assert not process.table.unsettled
            assert not process.table._after
        assert not self.blocks, "not freed"
