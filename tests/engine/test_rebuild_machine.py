"""The owner with losses: blocks vanish at any moment, workers die, and every value is right.

Around one real owner there are workers with real object tables and a node that only counts CPUs.
All lines keep their order, and nothing else does. The content of a block is what a deterministic
program writes there; reading a block that is neither whole nor known to be lost is an error at
once (freed too early).
"""

from __future__ import annotations

import random
from collections import deque
from itertools import count
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import LeaseGrant, LeaseRequest, LeaseReturn, WorkerDied
from engine.core.dispatch import Task
from engine.core.ids import IdSource
from engine.core.messages import (
    AddBorrower,
    BorrowAck,
    Call,
    Cancel,
    Done,
    DoneMany,
    DropBorrower,
    Fetch,
    FreeBlock,
    Lost,
    Recall,
    Returned,
)
from engine.core.objects import ObjectTable
from engine.core.owner import Owner
from engine.core.pending import pending_reason
from engine.core.placing import Placing
from engine.core.values import ELSEWHERE, Block, ObjectValue, Value, decode_failure, encode_failure

NODE, OWNER = b"node----", b"owner---"
WALKS = 150
STEPS = 150


class _Ref:
    """A reference of the owner's process."""

    def __init__(self, world: _World, object_id: bytes) -> None:
        self.world, self.id = world, object_id

    def __del__(self) -> None:
        self.world.released.append(self.id)


class _Worker:
    """Runs one call at a time; waits inside of it for arguments that are not to be had."""

    def __init__(self, world: _World, name: bytes) -> None:
        self.world, self.name = world, name
        self.inbox: deque[Any] = deque()
        self.queue: deque[Call] = deque()
        self.running: Call | None = None
        self.todo: list[ObjectValue] = []
        self.found: list[int] = []
        self.blocked = False
        self.cancelled = b""
        self.table = ObjectTable(name, self.send, world.wipe, list)

    def send(self, peer: bytes, message: Any) -> None:
        assert peer == OWNER
        self.world.to_owner.setdefault(self.name, deque()).append(message)

    def take(self) -> None:
        message = self.inbox.popleft()
        kind = type(message)
        if kind is Call:
            self.queue.append(message)
        elif kind is ObjectValue:
            self.table.on_value(message)
        elif kind is BorrowAck:
            assert message.known, "registered too late: the object was freed"
            self.table.on_borrow_ack(message)
        elif kind is FreeBlock:
            self.world.wipe(message.block)
        elif kind is Recall:
            self.give_back(message.count)
        elif kind is Cancel:
            kept = [one for one in self.queue if one.id != message.id]
            if len(kept) < len(self.queue):
                self.queue = deque(kept)
                self.send(OWNER, Returned([message.id]))
            elif self.running is not None and self.running.id == message.id:
                self.cancelled = message.id

    def give_back(self, count: int) -> None:
        ids = [self.queue.pop().id for _ in range(min(count, len(self.queue)))]
        self.send(OWNER, Returned(ids[::-1]))

    def work(self) -> None:
        """Begin a call, read one of its arguments, or answer."""
        if self.running is None:
            if self.queue:
                self.running = self.queue.popleft()
                self.todo, self.found = list(self.running.deps or ()), []
                for dep in self.todo:
                    self.table.hold(dep.id)
            return
        if self.todo and self.cancelled != self.running.id:
            self.blocked = not self.read(self.todo[0])
            if not self.blocked:
                del self.todo[0]
            elif self.world.draw.random() < 0.5:  # waiting in its own code it could not do that
                call, self.running, self.blocked = self.running, None, False
                self.send(OWNER, Returned([call.id]))
                self.leave(call)
            elif self.queue:
                self.give_back(len(self.queue))
            return
        call, self.running, self.blocked = self.running, None, False
        self.world.answer(self, call, self.found)
        self.leave(call)

    def leave(self, call: Call) -> None:
        for dep in call.deps or ():
            self.table.release(dep.id)

    def read(self, dep: ObjectValue) -> bool:
        entry = self.table.entries[dep.id]
        value = entry.value
        if value is None:
            value = dep.value
            if value.block == ELSEWHERE or entry.fetching:
                self.table.want(dep.id, entry)
                return False
        if value.error:
            self.found.append(-1)
            return True
        if value.block is None:
            self.found.append(int(value.data))
            return True
        content = self.world.read(value.block)
        if content is None:
            self.world.owner_is_told += 1
            self.table.ask_again(dep.id, value.block, "it is damaged.")
            return False
        self.found.append(content)
        return True


class _World:
    """The owner, its workers, and what lies in blocks."""

    def __init__(self, seed: int, faithful: bool) -> None:
        self.draw = draw = random.Random(seed)
        self.faithful = faithful  # nothing may fail: all that is lost can be made again
        self.now = 0.0
        self.cpus = draw.choice([1, 2, 3])
        self.wanted = 0
        self.workers: dict[bytes, _Worker] = {}
        self.to_owner: dict[bytes, deque[Any]] = {}
        self.offsets = count(0, 64)
        self.content: dict[Block, int | None] = {}
        self.lost: set[Block] = set()
        self.released: list[bytes] = []
        self.owner_is_told = self.losses = 0
        self.ids = IdSource(OWNER)
        limit = 1 << 30 if faithful else draw.choice([3_000, 12_000])
        self.owner = Owner(
            self.ids, NODE,
            Config(restart_deaths_max=10_000, lineage_bytes_max=limit,
                   leases_per_shape_max=draw.choice([1, 64])),
            send=self.send, free=self.wipe,
            make_refs=lambda ids: [self.hold(one) for one in ids],
            definition=lambda key: b"",
            retry=lambda task, value: False,
        )  # fmt: skip
        self.shape = self.owner.dispatch.shape(Placing({"CPU": 1.0}))
        self.held: list[_Ref] = []
        self.programs: dict[bytes, tuple[int, int]] = {}  # by call: its number, its results
        self.expected: dict[bytes, int] = {}

    def hold(self, object_id: bytes) -> _Ref:
        self.owner.objects.hold(object_id)
        return _Ref(self, object_id)

    def drain(self) -> None:
        while self.released:
            self.owner.objects.release(self.released.pop())

    # ------------------------------------------------------------------ blocks

    def new_block(self, holder: bytes, content: int) -> Block:
        block = Block(-1 if self.draw.random() < 0.5 else 1, next(self.offsets), 64, holder, 1)
        self.content[block] = content
        return block

    def wipe(self, block: Block) -> None:
        assert block in self.content, "freed twice"
        del self.content[block]

    def read(self, block: Block) -> int | None:
        if block not in self.content:
            assert block in self.lost, "freed while somebody may read it"
            return None
        return self.content[block]

    def damage(self) -> None:
        whole = [one for one, content in self.content.items() if content is not None]
        if whole:
            block = self.draw.choice(whole)
            self.losses += 1
            self.content[block] = None
            self.lost.add(block)

    # ------------------------------------------------------------------ the user

    def submit(self) -> None:
        results = self.draw.choice([1, 1, 1, 2, 3])
        ids = [self.ids.new() for _ in range(results)]
        retries = -1 if self.faithful else self.draw.choice([-1, 0, 1, 3])
        task = Task(Call(ids[0], b"k", b"", results), f"t{len(self.programs)}", ids, retries,
                    self.shape)  # fmt: skip
        chosen = self.draw.sample(self.held, min(len(self.held), self.draw.choice([0, 1, 1, 2])))
        if chosen:
            task.deps = [ref.id for ref in chosen]
            task.keep, task.brings = chosen, True
        number = len(self.programs)
        self.programs[ids[0]] = number, results
        inputs = [self.expected[ref.id] for ref in chosen]
        for at, one in enumerate(ids):
            self.expected[one] = self.result(number, at, inputs)
        self.owner.submit(task)
        self.held += [_Ref(self, one) for one in ids]

    @staticmethod
    def result(number: int, at: int, inputs: list[int]) -> int:
        return hash((number, at, *inputs)) & 0xFFFFFFFF

    def put(self) -> None:
        object_id = self.ids.new()
        value = self.draw.randrange(1000)
        self.expected[object_id] = value
        small = self.faithful or self.draw.random() < 0.5
        stored = Value(str(value).encode()) if small else (
            Value(block=self.new_block(OWNER, value))
        )
        self.owner.objects.add(object_id, stored)
        self.held.append(_Ref(self, object_id))

    def drop(self) -> None:
        if self.held:
            self.held.pop(self.draw.randrange(len(self.held)))
            self.drain()

    def look(self, ref: _Ref) -> bool:
        """Read an object in the owner's process. False while it is not there."""
        value = self.owner.objects.entries[ref.id].value
        if value is None:
            return False
        if value.error:
            failure = decode_failure(value)
            possible = {
                *("ObjectReconstructionFailedError", "WorkerCrashedError", "TaskCancelledError"),
            }
            assert not self.faithful, failure.text
            assert failure.kind in possible, failure.text
            return True
        if value.block is None:
            assert int(value.data) == self.expected[ref.id]
            return True
        content = self.read(value.block)
        if content is None:
            self.owner.rebuild.noticed(ref.id, value.block, "it is damaged.")
            return False
        assert content == self.expected[ref.id]
        return True

    # ------------------------------------------------------------------ the others

    def send(self, process: bytes, message: Any) -> None:
        if process != NODE:
            if process in self.workers:
                self.workers[process].inbox.append(message)
            elif isinstance(message, FreeBlock):  # it is dead: the node knows by its census
                self.wipe(message.block)
        elif isinstance(message, LeaseRequest):
            self.wanted = message.wanted
        elif isinstance(message, LeaseReturn):
            worker = self.workers.pop(message.worker, None)
            if worker is not None:  # else its death is not known yet
                assert not worker.queue
                self.end(worker)
        elif isinstance(message, FreeBlock):
            self.wipe(message.block)

    def end(self, worker: _Worker) -> None:
        """A worker ends. The node keeps its blocks, and knows which it is to free."""
        self.to_owner.pop(worker.name, None)
        running = worker.running.id if worker.running else b""
        died = WorkerDied(worker.name, 7, "was killed", running)
        self.to_owner.setdefault(NODE, deque()).append(died)
        for message in worker.inbox:
            if type(message) is FreeBlock:
                self.wipe(message.block)

    def grant(self) -> None:
        busy = sum(not worker.blocked for worker in self.workers.values())
        if self.wanted and busy < self.cpus:
            self.wanted -= 1
            name = self.draw.randbytes(8)
            self.workers[name] = _Worker(self, name)
            granted = LeaseGrant(self.shape.key, name, 1)
            self.to_owner.setdefault(NODE, deque()).append(granted)

    def answer(self, worker: _Worker, call: Call, inputs: list[int]) -> None:
        number, results = self.programs[call.id]
        if worker.cancelled == call.id:
            failure = encode_failure("TaskCancelledError", "was cancelled")
            worker.send(OWNER, DoneMany(call.id, [failure], 5))
            return
        if -1 in inputs:  # an argument could not be rebuilt: that is the call's error
            failure = encode_failure("ObjectReconstructionFailedError", "an argument")
            worker.send(OWNER, DoneMany(call.id, [failure], 5))
            return
        values = []
        for at in range(results):
            content = self.result(number, at, inputs)
            if self.draw.random() < 0.8:
                values.append(Value(block=self.new_block(worker.name, content)))
            else:
                values.append(Value(str(content).encode()))
        if results == 1 and values[0].block is None:
            worker.send(OWNER, Done(call.id, values[0].data, 5))
        else:
            worker.send(OWNER, DoneMany(call.id, values, 5))

    def kill(self) -> None:
        if self.workers:
            name = self.draw.choice(list(self.workers))
            worker = self.workers.pop(name)
            said = self.to_owner.get(name)
            for _ in range(self.draw.randrange(len(said) + 1) if said else 0):
                self.owner.handle(name, said.popleft(), self.now)  # its last words are heard
            for message in said or ():  # what was never written: nobody owns those blocks
                for value in getattr(message, "values", ()):
                    if value.block is not None:
                        self.wipe(value.block)
            self.end(worker)

    def deliver(self) -> bool:
        lines = [name for name, line in self.to_owner.items() if line]
        inboxes = [worker for worker in self.workers.values() if worker.inbox]
        if not lines and not inboxes:
            return False
        if lines and (not inboxes or self.draw.random() < 0.5):
            name = self.draw.choice(lines)
            message = self.to_owner[name].popleft()
            if type(message) in _TO_OWNER:
                self.owner.handle(name, message, self.now)
        else:
            self.draw.choice(inboxes).take()
        self.drain()
        return True

    def step(self) -> None:
        choice = self.draw.random()
        if choice < 0.10:
            self.submit()
        elif choice < 0.13:
            self.put()
        elif choice < 0.18:
            self.drop()
        elif choice < 0.24 and self.held:
            self.look(self.draw.choice(self.held))
        elif choice < 0.29:
            self.damage()
        elif choice < 0.30:
            self.kill()
        elif choice < 0.305 and self.held and not self.faithful:
            self.owner.cancel(self.draw.choice(self.held).id, False, True)
        elif choice < 0.40:
            self.grant()
        elif choice < 0.65 and self.workers:
            self.draw.choice(list(self.workers.values())).work()
        else:
            self.deliver()
        self.drain()

    def settle(self, done: Any) -> None:
        """No more losses: everything comes to its end."""
        for _ in range(20_000):
            if done():
                return
            self.now += 0.1
            self.owner.tick(self.now)  # leases that fell idle are given back
            self.grant()
            for worker in list(self.workers.values()):
                worker.work()
            while self.deliver():
                pass
        reasons = [pending_reason(self.owner, ref.id) for ref in self.held]
        raise AssertionError(f"not there for ever: {reasons}")

    def finish(self) -> None:
        self.settle(lambda: not sum(not self.look(ref) for ref in self.held))
        self.held.clear()
        self.drain()
        self.settle(lambda: not self.owner.unfinished)
        self.now += 1.0
        self.owner.tick(self.now)
        while self.deliver():
            pass
        assert not self.owner.objects.entries
        lineage = self.owner.objects.lineage
        assert not lineage.known
        assert not lineage._records
        assert lineage.nbytes == 0
        assert not self.content, "blocks that nobody frees"
        assert not self.owner.spill.held
        assert self.owner.unfinished_bytes == 0


_TO_OWNER = {
    *(AddBorrower, Done, DoneMany, DropBorrower, Fetch, LeaseGrant, Lost, Returned, WorkerDied)
}


@pytest.mark.parametrize("faithful", [True, False])
def test_random_walks_with_losses(faithful: bool) -> None:
    told = reruns = failures = 0
    for seed in range(WALKS):
        world = _World(seed, faithful)
        try:
            for _ in range(STEPS):
                world.step()
            world.finish()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, faithful {faithful}: {error}") from error
        told += world.owner_is_told
        reruns += world.owner.rebuild.reruns
        failures += world.owner.rebuild.failures
    assert told > WALKS / 10, "workers have noticed losses"
    assert reruns > WALKS / 2
    assert faithful or failures > WALKS / 10
