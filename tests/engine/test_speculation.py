"""Second copies of late tasks, against a model: one visible result a task, nothing left behind."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Config
from engine.core.control import (
    KillWorker,
    LeaseGrant,
    LeaseReclaim,
    LeaseRequest,
    LeaseReturn,
    WorkerDied,
)
from engine.core.dispatch import Task
from engine.core.ids import IdSource
from engine.core.messages import Call, Cancel, DoneMany, Recall, Returned, Settled
from engine.core.owner import Owner
from engine.core.placing import Placing
from engine.core.values import ERROR_SYSTEM, ERROR_USER, Block, Value

NODE, ME = b"node----", b"driver--"
KEY = b"k" * 16
CONFIG = Config(speculation_siblings_min=1, speculation_grace_seconds=1.0)
LATE = 10.0  # seconds that are late whatever the siblings took


class Keep:
    """What the arguments of a call keep alive."""


class Worker:
    """Runs calls in order, unless it is stopped; a stubborn one does not hear interrupts."""

    def __init__(self, name: bytes, stubborn: bool) -> None:
        self.name = name
        self.stubborn = stubborn
        self.stopped = False
        self.inbox: deque[Any] = deque()
        self.queue: deque[bytes] = deque()
        self.running = b""
        self.kept: set[bytes] = set()  # results with references, until they are settled

    def holds(self) -> set[bytes]:
        """Calls that are on their way to it, wait in it or run."""
        inbox = {one.id for one in self.inbox if isinstance(one, Call)}
        return inbox | set(self.queue) | ({self.running} if self.running else set())


class World:
    """One owner, its node and the workers; every message arrives at once or when told to."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.now = 0.0
        self.workers: dict[bytes, Worker] = {}
        self.wanted = 0
        self.spare = False
        self.to_node: deque[Any] = deque()
        self.free_blocks: list[Block] = []
        self.made_blocks: set[Block] = set()
        self.results: dict[bytes, list[Value]] = {}
        self.keeps: dict[bytes, weakref.ref[Keep]] = {}
        self.arguments: dict[bytes, bytes] = {}  # by call: an object in shared memory
        self.killed: list[bytes] = []
        self.names = 0
        self.owner = Owner(
            IdSource(ME), NODE, CONFIG, send=self.send, free=self.free_blocks.append,
            make_refs=lambda ids: list(ids), definition=lambda key: b"blob", retry=self.retry,
            refs_of=lambda keep: {},
        )  # fmt: skip
        resolve = self.owner.objects.resolve

        def count(object_id: bytes, value: Value) -> None:
            self.results[object_id].append(value)
            resolve(object_id, value)

        self.owner.objects.resolve = count  # type: ignore[method-assign]
        self.shape = self.owner.dispatch.shape(Placing({"CPU": 1.0}, speculative=2.0))
        assert self.shape.watch is not None
        self.watch = self.shape.watch

    @staticmethod
    def retry(task: Task, value: Value) -> bool:
        return bool(task.retry_exceptions) and task.retries != 0 and value.error == ERROR_USER

    def send(self, process: bytes, message: Any) -> None:
        if process == NODE:
            self.to_node.append(message)
        elif process in self.workers:
            self.workers[process].inbox.append(message)

    def submit(self, retries: int = 3, retry_exceptions: bool = False) -> bytes:
        number = self.owner.streams._ids.new()
        task = Task(Call(number, KEY, b""), "f", [number], retries, self.shape)
        task.retry_exceptions = retry_exceptions
        task.keep = keep = Keep()
        self.keeps[number] = weakref.ref(keep)
        self.results[number] = []
        argument = self.arguments[number] = self.owner.streams._ids.new()
        block = Block(2, 64 * len(self.arguments), 64, ME)
        self.owner.objects.add(argument, Value(block=block))
        task.deps, task.brings = [argument], True
        self.owner.submit(task)
        return number

    # ------------------------------------------------------------------ steps

    def node_turn(self, stubborn: bool = False) -> None:
        """The node hears everything, kills, and grants what there is room for."""
        while self.to_node:
            message = self.to_node.popleft()
            if isinstance(message, LeaseRequest):
                self.wanted, self.spare = message.wanted, message.spare
            elif isinstance(message, KillWorker):
                self.killed.append(message.process)
                self.die(message.process, message.cause)
            else:
                assert isinstance(message, LeaseReturn)
                worker = self.workers.pop(message.worker, None)
                assert worker is None or not worker.holds(), "given back with work on it"
        while self.wanted > 0 and len(self.workers) < self.capacity:
            self.wanted -= 1
            self.names += 1
            name = b"w%07d" % self.names
            self.workers[name] = Worker(name, stubborn)
            self.owner.handle(NODE, LeaseGrant(self.shape.key, name, self.names), self.now)

    def die(self, name: bytes, cause: str = "was killed by SIGKILL") -> None:
        worker = self.workers.pop(name, None)
        if worker is not None:
            self.owner.handle(NODE, WorkerDied(name, 1, cause, worker.running), self.now)

    def receive(self, worker: Worker) -> None:
        """The oldest message arrives."""
        if worker.stopped or not worker.inbox:
            return
        message = worker.inbox.popleft()
        if isinstance(message, Call):
            worker.queue.append(message.id)
        elif isinstance(message, Settled):
            worker.kept.discard(message.id)
        elif isinstance(message, Recall):
            self.give_back(worker, message.count)
        elif isinstance(message, Cancel):
            if message.id in worker.queue:
                worker.queue.remove(message.id)
                self.answer(worker, message.id, Value(error=ERROR_SYSTEM))
            elif message.id == worker.running and not worker.stubborn:
                worker.running = b""
                self.answer(worker, message.id, Value(error=ERROR_SYSTEM))

    def give_back(self, worker: Worker, count: int) -> None:
        back = [worker.queue.pop() for _ in range(min(count, len(worker.queue)))]
        self.owner.handle(worker.name, Returned(back[::-1]), self.now)

    def work(self, worker: Worker, *, fail: bool = False, us: int = 100_000) -> None:
        """Start the next call, or end the one that runs."""
        if worker.stopped:
            return
        if not worker.running:
            worker.running = worker.queue.popleft() if worker.queue else b""
            return
        call, worker.running = worker.running, b""
        if fail:
            self.answer(worker, call, Value(error=ERROR_USER))
            return
        block = Block(1, 64 * len(self.made_blocks), 64, ME)
        self.made_blocks.add(block)
        worker.kept.add(call)
        self.answer(worker, call, Value(block=block, contains=[ME + b"12345678"]), us)

    def answer(self, worker: Worker, call: bytes, value: Value, us: int = 0) -> None:
        self.owner.handle(worker.name, DoneMany(call, [value], us), self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.owner.tick(self.now)

    def check(self) -> None:
        """What holds at every moment."""
        copies: dict[bytes, int] = {}
        for worker in self.workers.values():
            for call in worker.holds():
                copies[call] = copies.get(call, 0) + 1
                assert self.keeps[call]() is not None, "arguments let go while a copy may read them"
                used = self.owner.spill.uses.get(self.arguments[call])
                assert used, "an argument may be moved while a copy may read it"
        assert max(copies.values(), default=0) <= 2, "three copies"
        assert all(len(found) <= 1 for found in self.results.values()), "two results"

    def run_out(self) -> None:
        """Let everything end; workers that are stopped stay so where copies can help."""
        stopped = [one for one in self.workers.values() if one.stopped]
        if self.watch.limit() == float("inf") or len(stopped) >= self.capacity:
            for worker in stopped:
                worker.stopped = False
        for _ in range(2000):
            self.node_turn()
            self.rescue()
            for worker in list(self.workers.values()):
                while worker.inbox and not worker.stopped:
                    self.receive(worker)
                self.work(worker)
            self.check()
            self.pass_time(0.3)
            if not self.workers and not self.wanted and not self.to_node and self.all_done():
                break
        assert self.all_done(), "a task has no result"
        assert not self.owner.dispatch.leases, "a lease is kept"
        assert not self.watch._twice
        assert self.wanted == 0
        assert self.owner.unfinished == 0
        kept = {found[0].block for found in self.results.values() if found[0].block}
        assert sorted(map(repr, [*self.free_blocks, *kept])) == sorted(map(repr, self.made_blocks))
        assert not any(keep() for keep in self.keeps.values())
        assert not self.owner.spill.uses

    def rescue(self) -> None:
        """Where both copies of a task are stopped nothing helps but going on."""
        for twice in self.watch._twice.values():
            holders = [self.workers[one] for one in twice.workers if one in self.workers]
            if not twice.over and all(one.stopped for one in holders):
                for one in holders:
                    one.stopped = False

    def all_done(self) -> bool:
        return all(self.results.values())


_STEPS = ["submit", "submit", "retrying", "begin", "begin", "begin", "late", "late", "receive"]
_STEPS += ["work", "work", "fail", "node", "tick", "stop", "continue", "die", "give back"]
_STEPS += ["reclaim", "drain", "cancel"]


def _step(world: World, what: str, at: int) -> None:
    names = sorted(world.workers)
    worker = world.workers[names[at % len(names)]] if names else None
    if what == "submit":
        world.submit(retries=at % 3)
    elif what == "retrying":
        world.submit(retries=at % 3, retry_exceptions=True)
    elif what == "node":
        world.node_turn(at % 2 == 0)
    elif what == "tick":
        world.pass_time(0.05)
    elif what == "late":
        world.pass_time(0.01)
        world.pass_time(LATE)
        world.node_turn(at % 2 == 0)
    elif what == "cancel" and world.results:
        world.owner.cancel(sorted(world.results)[at % len(world.results)], at % 2 == 0, True)
    elif worker is None:
        return
    elif what == "receive":
        world.receive(worker)
    elif what == "begin":
        while worker.inbox and not worker.stopped:
            world.receive(worker)
        if not worker.running:
            world.work(worker)
    elif what in ("work", "fail"):
        world.work(worker, fail=what == "fail")
    elif what in ("stop", "continue"):
        worker.stopped = what == "stop"
    elif what == "die":
        world.die(worker.name)
    elif what == "give back" and not worker.stopped:
        world.give_back(worker, at)
    elif what in ("reclaim", "drain"):
        world.owner.handle(NODE, LeaseReclaim(worker.name, what == "drain"), world.now)


@given(
    capacity=st.integers(2, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(_STEPS), st.integers(0, 11)), min_size=30, max_size=90
    ),
)
@settings(max_examples=200)
def test_every_task_has_one_result_and_nothing_is_left(
    capacity: int, steps: list[tuple[str, int]]
) -> None:
    world = World(capacity)
    world.submit()
    world.node_turn()
    (first,) = world.workers.values()
    _finish(world, first)
    for what, at in steps:
        _step(world, what, at)
        world.check()
    world.run_out()


# ------------------------------------------------------------------------- one at a time


def _late_task(world: World) -> tuple[bytes, Worker, Worker]:
    """A task that is late on the first worker while the second one is free."""
    sibling = world.submit()
    world.node_turn()
    (slow,) = world.workers.values()
    _finish(world, slow)
    assert len(world.results[sibling]) == 1
    task = world.submit()
    _finish_start(world, slow)
    world.pass_time(0.01)
    world.pass_time(LATE)
    world.node_turn()
    (free,) = [one for one in world.workers.values() if one is not slow]
    assert task in free.holds()
    return task, slow, free


def _finish(world: World, worker: Worker, **how: Any) -> None:
    while worker.inbox:
        world.receive(worker)
    if not worker.running:
        world.work(worker)
    world.work(worker, **how)


def test_the_copy_wins_and_the_late_one_is_interrupted() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    _finish(world, free)
    assert world.results[task][0].block is not None
    assert Cancel(task) in slow.inbox
    assert world.keeps[task]() is not None
    while slow.inbox:
        world.receive(slow)
    assert not slow.running
    assert world.keeps[task]() is None
    world.run_out()
    assert not world.killed


def test_the_late_one_wins_after_all() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    world.work(slow)
    assert len(world.results[task]) == 1
    assert Cancel(task) in free.inbox
    world.run_out()
    assert not world.killed


def test_a_stopped_worker_is_killed_after_the_grace_and_charged_to_nobody() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    slow.stopped = True
    _finish(world, free)
    world.pass_time(CONFIG.speculation_grace_seconds / 2)
    world.node_turn()
    assert not world.killed
    world.pass_time(CONFIG.speculation_grace_seconds)
    world.node_turn()
    assert world.killed == [slow.name]
    assert len(world.results[task]) == 1
    world.run_out()


def test_a_late_result_is_dropped_with_its_block_and_its_references() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    _finish(world, free)
    world.work(slow)  # it had ended before the interrupt came
    assert len(world.results[task]) == 1
    assert len(world.free_blocks) == 1
    while slow.inbox:
        world.receive(slow)
    assert task not in slow.kept, "its worker keeps the references of a result nobody has"
    world.run_out()


@pytest.mark.parametrize("first", ["slow", "free"])
def test_the_death_of_one_copy_costs_nothing(first: str) -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    dies, stays = (slow, free) if first == "slow" else (free, slow)
    world.die(dies.name)
    assert not world.results[task]
    entry = world.owner.objects.entries[task]
    assert (entry.task.attempts, entry.task.worker) == (0, stays.name)
    _finish(world, stays)
    assert world.results[task][0].error == 0
    world.run_out()


def test_the_death_of_both_is_one_attempt() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    entry = world.owner.objects.entries[task]
    slow_call, free.running = slow.running, task
    assert slow_call == task
    world.die(slow.name)
    world.die(free.name)
    assert entry.task.attempts == 1
    world.run_out()
    assert world.results[task][0].error == 0


def test_an_error_that_is_retried_leaves_the_task_to_the_other_copy() -> None:
    world = World(2)
    task, slow, free = _late_task(world)
    world.owner.objects.entries[task].task.retry_exceptions = True
    _finish(world, free, fail=True)
    assert not world.results[task]
    world.work(slow)
    assert world.results[task][0].error == 0
    world.run_out()


def test_an_error_that_is_not_retried_is_the_result() -> None:
    world = World(2)
    task, _slow, free = _late_task(world)
    _finish(world, free, fail=True)
    assert world.results[task][0].error == ERROR_USER
    world.run_out()


def test_no_copy_before_siblings_have_ended_or_while_others_wait() -> None:
    world = World(1)
    world.submit()
    world.node_turn()
    (worker,) = world.workers.values()
    _finish_start(world, worker)
    world.pass_time(LATE)
    world.pass_time(LATE)
    assert not world.to_node, "no sibling has ended: nothing is known to be late"
    world.work(worker)
    world.submit()
    waits = world.submit()
    _finish_start(world, worker)
    world.pass_time(0.01)
    world.pass_time(LATE)
    assert not any(isinstance(one, LeaseRequest) and one.spare for one in world.to_node)
    assert not worker.holds() >= {waits}
    world.run_out()


def _finish_start(world: World, worker: Worker) -> None:
    while worker.inbox:
        world.receive(worker)
    world.work(worker)


def test_only_spare_workers_are_asked_for_and_the_wish_is_withdrawn() -> None:
    world = World(1)
    sibling = world.submit()
    world.node_turn()
    (slow,) = world.workers.values()
    _finish(world, slow)
    assert world.results[sibling]
    world.submit()
    _finish_start(world, slow)
    world.pass_time(0.01)
    world.pass_time(LATE)
    (request,) = [one for one in world.to_node if isinstance(one, LeaseRequest)]
    assert (request.wanted, request.spare) == (1, True)
    world.pass_time(1.0)
    assert len(world.to_node) == 1, "asked once"
    world.work(slow)
    world.pass_time(0.05)
    assert [one.wanted for one in world.to_node if isinstance(one, LeaseRequest)] == [1, 0]
    world.run_out()


def test_a_worker_frees_what_is_queued_behind_a_stopped_one() -> None:
    world = World(2)
    world.shape.depth = 4
    sibling = world.submit()
    world.node_turn()
    (slow,) = world.workers.values()
    _finish(world, slow)
    assert world.results[sibling]
    world.shape.depth = 4
    world.shape.mean_us = 10.0
    tasks = [world.submit() for _ in range(3)]
    slow.stopped = True
    assert slow.holds() == set(tasks)
    world.pass_time(0.01)
    world.run_out()
    assert world.killed == [slow.name]


def test_the_median_is_of_the_last_siblings() -> None:
    world = World(1)
    assert world.watch.limit() == float("inf")
    task = Task(Call(b"t" * 16, KEY, b""), "f", [], 0, world.shape)
    for us in (100_000, 300_000, 9_000_000):
        world.watch.on_done(task, b"w", us, False, 0.0)
    assert world.watch.limit() == pytest.approx(2.0 * 0.3)
    for _ in range(200):
        world.watch.on_done(task, b"w", 10, False, 0.0)
    assert world.watch.limit() == CONFIG.speculation_seconds_min
