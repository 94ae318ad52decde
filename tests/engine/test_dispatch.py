"""The dispatcher against simulated workers: every task done once, whatever order things come in."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import LeaseGrant, LeaseReclaim, LeaseRequest, LeaseReturn
from engine.core.dispatch import Dispatcher, Task
from engine.core.messages import Call, Define, Recall
from engine.core.placing import Placing

NODE = b"node----"
KEY = b"k" * 16


class _Worker:
    """Runs calls in order; gives back what has not started."""

    def __init__(self) -> None:
        self.inbox: deque[Any] = deque()
        self.queue: list[bytes] = []
        self.outbox: deque[tuple[str, Any]] = deque()
        self.defined: set[bytes] = set()


class _World:
    """Node and workers around one dispatcher, with every delay there can be."""

    def __init__(self, draw: random.Random, capacity: int) -> None:
        self.draw = draw
        self.capacity = capacity
        self.now = 0.0
        self.workers: dict[bytes, _Worker] = {}
        self.wanted: dict[bytes, int] = {}
        self.to_node: deque[Any] = deque()
        self.dispatch = Dispatcher(NODE, Config(), self.send, lambda key: b"blob")
        self.done: list[bytes] = []
        self.executed: dict[bytes, int] = {}
        self.count = 0

    def send(self, process: bytes, message: Any) -> None:
        if process == NODE:
            self.to_node.append(message)
        elif process in self.workers:
            self.workers[process].inbox.append(message)

    def submit(self, shape: Any) -> None:
        self.count += 1
        number = self.count.to_bytes(16)
        self.dispatch.enqueue(Task(Call(number, KEY, b""), "f", [number], 3, shape))

    def step(self, *, death: float = 0.0, reclaim: float = 0.0) -> None:
        """One random thing happens."""
        self.now += 0.001
        draw = self.draw
        name = draw.choice(sorted(self.workers)) if self.workers else b""
        choice = draw.random()
        if choice < 0.3:
            self.node_turn()
        elif name and choice < death + 0.3:
            del self.workers[name]
            for task in self.dispatch.on_process_died(name):
                self.dispatch.enqueue(task)
        elif name and choice < death + reclaim + 0.3:
            self.dispatch.on_reclaim(LeaseReclaim(name, draw.random() < 0.5))
        elif name:
            self.worker_turn(name, self.workers[name])
        self.dispatch.tick(self.now)

    def node_turn(self) -> None:
        if self.to_node:
            message = self.to_node.popleft()
            if isinstance(message, LeaseRequest):
                self.wanted[message.shape] = message.wanted
            else:
                assert isinstance(message, LeaseReturn)
                worker = self.workers.pop(message.worker, None)
                if worker is not None:
                    assert not worker.queue, "a lease was given back with work on it"
                    assert not [one for one in worker.inbox if isinstance(one, Call)]
        for shape in sorted(self.wanted):
            if self.wanted[shape] > 0 and len(self.workers) < self.capacity:
                self.wanted[shape] -= 1
                name = b"w%07d" % self.draw.randrange(10**7)
                self.workers[name] = _Worker()
                self.dispatch.on_grant(LeaseGrant(shape, name, 1), self.now)

    def worker_turn(self, name: bytes, worker: _Worker) -> None:
        choice = self.draw.random()
        if choice < 0.4 and worker.inbox:
            message = worker.inbox.popleft()
            if isinstance(message, Define):
                worker.defined.add(message.key)
            elif isinstance(message, Call):
                assert message.key in worker.defined, "the definition must come before the call"
                worker.queue.append(message.id)
            elif isinstance(message, Recall):
                back = [worker.queue.pop() for _ in range(min(message.count, len(worker.queue)))]
                worker.outbox.append(("returned", back[::-1]))
        elif choice < 0.7 and worker.queue:
            task = worker.queue.pop(0)
            self.executed[task] = self.executed.get(task, 0) + 1
            worker.outbox.append(("done", task))
            if self.draw.random() < 0.1 and worker.queue:  # it blocks: gives all back
                worker.outbox.append(("returned", worker.queue))
                worker.queue = []
        elif worker.outbox:
            what, content = worker.outbox.popleft()
            if what == "returned":
                self.dispatch.on_returned(name, content)
            else:
                us = self.draw.choice([1, 50, 2000, 10**6])
                task = self.dispatch.on_done(name, content, us, self.now)
                if task is not None:
                    self.done.append(task.id)

    def finished(self) -> bool:
        return len(self.done) == self.count


@pytest.mark.parametrize("capacity", [1, 2, 5])
@pytest.mark.parametrize("deaths", [False, True])
def test_every_task_is_done_exactly_once(capacity: int, deaths: bool) -> None:
    for seed in range(60):
        draw = random.Random(seed)
        world = _World(draw, capacity)
        shapes = [world.dispatch.shape(Placing({"CPU": 1.0 + n})) for n in range(2)]
        for _ in range(400):
            if world.count < 60 and draw.random() < 0.4:
                world.submit(draw.choice(shapes))
            world.step(death=0.01 if deaths else 0.0, reclaim=0.02)
        for _ in range(60_000):
            if world.finished():
                break
            world.step()
        assert world.finished(), f"seed {seed}: {world.count - len(world.done)} tasks are stuck"
        assert len(set(world.done)) == world.count
        if not deaths:
            assert set(world.executed.values()) == {1}
        _all_given_back(world, seed)


def _all_given_back(world: _World, seed: int) -> None:
    """With nothing to do every lease goes back, and no demand stays at the node."""
    for _ in range(5000):
        world.now += 1.0
        world.step()
        if not world.workers and not world.to_node and not any(world.wanted.values()):
            break
    assert not world.dispatch.leases, f"seed {seed}"
    assert not any(world.wanted.values()), f"seed {seed}: the node still tries to serve us"


def _requests(world: _World) -> list[int]:
    return [one.wanted for one in world.to_node if isinstance(one, LeaseRequest)]


def test_a_burst_asks_for_leases_in_few_messages() -> None:
    world = _World(random.Random(1), 0)
    shape = world.dispatch.shape(Placing({"CPU": 1.0}))
    for _ in range(10_000):
        world.submit(shape)
    assert len(_requests(world)) <= 16
    assert max(_requests(world)) <= Config().leases_per_shape_max


def test_a_cancelled_task_leaves_the_queue() -> None:
    world = _World(random.Random(1), 0)
    shape = world.dispatch.shape(Placing({"CPU": 1.0}))
    task = Task(Call(b"i" * 16, KEY, b""), "f", [], 0, shape)
    world.dispatch.enqueue(task)
    assert world.dispatch.remove(task)
    assert not world.dispatch.remove(task)


def test_pipelining_follows_the_run_time() -> None:
    world = _World(random.Random(1), 1)
    shape = world.dispatch.shape(Placing({"CPU": 1.0}))
    world.dispatch.on_grant(LeaseGrant(shape.key, b"worker--", 1), 0.0)
    for _ in range(600):
        world.submit(shape)
    lease = shape.leases[b"worker--"]
    first = len(lease.in_flight)
    for _ in range(30):
        world.dispatch.on_done(b"worker--", next(iter(lease.in_flight)), 10, 0.0)
    assert first <= 2 < len(lease.in_flight), "short tasks are sent ahead"
    while len(lease.in_flight) > 1:
        world.dispatch.on_done(b"worker--", next(iter(lease.in_flight)), 10**6, 0.0)
    assert shape.depth == 1, "long tasks are not"


def test_death_returns_the_running_task_first() -> None:
    world = _World(random.Random(1), 1)
    shape = world.dispatch.shape(Placing({"CPU": 1.0}))
    shape.depth = 10
    world.dispatch.on_grant(LeaseGrant(shape.key, b"worker--", 1), 0.0)
    for _ in range(5):
        world.submit(shape)
    tasks = world.dispatch.on_process_died(b"worker--")
    assert [int.from_bytes(task.id) for task in tasks] == sorted(
        int.from_bytes(task.id) for task in tasks
    )
    assert world.dispatch.on_process_died(b"worker--") == []
    assert world.dispatch.on_done(b"worker--", tasks[0].id, 1, 0.0) is None


def test_a_task_that_came_after_the_request_gets_a_worker_too() -> None:
    """Three long tasks: two workers are asked for at first, the third when both are granted."""
    sent: list[tuple[bytes, Any]] = []
    dispatcher = Dispatcher(
        b"node", Config(), lambda peer, message: sent.append((peer, message)), lambda key: b""
    )
    shape = dispatcher.shape(Placing({}))
    for number in range(3):
        call = Call(number.to_bytes(16, "big"), b"key", b"")
        dispatcher.enqueue(Task(call, "long", [call.id], 0, shape))
    granted = 0
    while granted < 3:
        wanted = [one.wanted for peer, one in sent if isinstance(one, LeaseRequest)][-1]
        assert wanted > 0, f"{len(shape.pending)} tasks wait and nobody was asked for a worker"
        dispatcher.on_grant(LeaseGrant(shape.key, b"worker-%d" % granted, 1), 0.0)
        granted += 1
    assert not shape.pending
    assert [len(lease.in_flight) for lease in shape.leases.values()] == [1, 1, 1]
