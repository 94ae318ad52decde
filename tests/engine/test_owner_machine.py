"""The owner against simulated workers and an actor: every call ends once, cancelled or not."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import (
    ActorChanged,
    CreateActor,
    LeaseGrant,
    LeaseRequest,
    LeaseReturn,
    WorkerDied,
)
from engine.core.dispatch import Task
from engine.core.ids import IdSource
from engine.core.messages import (
    ActorCall,
    Call,
    Cancel,
    Done,
    DoneMany,
    Recall,
    Returned,
)
from engine.core.owner import Owner
from engine.core.placing import Placing
from engine.core.values import ERROR_USER, Value, decode_failure, encode_failure

NODE = b"node----"
ACTOR = b"a" * 16
STEPS = 250


class _Executor:
    """A worker process, or the actor's: takes messages in order, runs calls in any way it likes."""

    def __init__(self) -> None:
        self.inbox: deque[Any] = deque()
        self.queue: list[Any] = []
        self.running: Any = None


class _World:
    """Everything around one owner, with every delay there can be."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.executors: dict[bytes, _Executor] = {}
        self.wanted = 0
        self.ids = IdSource(b"owner---")
        self.owner = Owner(
            self.ids,
            NODE,
            Config(),
            send=self.send,
            free=lambda block: None,
            make_refs=lambda ids: ids,
            definition=lambda key: b"",
            retry=lambda task, value: task.retries != 0,
        )
        self.shape = self.owner.dispatch.shape(Placing({"CPU": 1.0}))
        self.client = self.owner.callers.client(
            ACTOR, "A", False, False, self.draw.random() < 0.5
        )
        self.tasks: list[Task] = []
        self.inputs: list[bytes] = []
        self.forbidden: set[bytes] = set()  # cancelled before they were sent, or given back

    def send(self, process: bytes, message: Any) -> None:
        if process == NODE:
            if isinstance(message, LeaseRequest):
                self.wanted = message.wanted
            elif isinstance(message, LeaseReturn):
                self.executors.pop(message.worker, None)
        elif process in self.executors:
            if type(message) in (Call, ActorCall):
                assert message.id not in self.forbidden, "sent after it was cancelled"
            self.executors[process].inbox.append(message)

    # ------------------------------------------------------------------ what the user does

    def submit(self, actor: bool, parent: Any = None) -> None:
        number = self.ids.new()
        call: Any = ActorCall(number, ACTOR, "m", b"") if actor else Call(number, b"k", b"")
        returns = [number] if self.draw.random() < 0.9 else []
        task = Task(call, f"t{len(self.tasks)}", returns, self.draw.choice([0, 0, 1, 3]),
                    self.shape)  # fmt: skip
        task.nbytes, task.parent = 7, parent
        known = [*self.inputs, *(one.id for one in self.tasks if one.returns)]
        if known and self.draw.random() < 0.4:
            task.deps = [self.draw.choice(known) for _ in range(self.draw.randint(1, 2))]
        self.tasks.append(task)
        if actor:
            self.owner.call(self.client, task)
        else:
            self.owner.submit(task)

    def cancel(self) -> None:
        task = self.draw.choice(self.tasks)
        if self.is_open(task) and not task.worker:
            self.forbidden.add(task.id)
        self.owner.cancel(task.id, self.draw.random() < 0.2, True)

    def resolve_input(self) -> None:
        pending = [one for one in self.inputs if self.owner.objects.entries[one].value is None]
        if pending:
            failed = self.draw.random() < 0.2
            value = encode_failure("ObjectLostError", "gone") if failed else Value(b"v")
            self.owner.objects.resolve(self.draw.choice(pending), value)

    def is_open(self, task: Task) -> bool:
        return bool(task.returns) and self.owner.objects.entries[task.id].value is None

    # ------------------------------------------------------------------ what the others do

    def grant(self) -> None:
        if self.wanted and len(self.executors) < 4:
            self.wanted -= 1
            name = self.draw.randbytes(8)
            self.executors[name] = _Executor()
            self.owner.handle(NODE, LeaseGrant(self.shape.key, name, 1), self.now)

    def change_actor(self, state: str) -> None:
        name = self.client.process
        if state == "alive":
            name = self.draw.randbytes(8)
            self.executors[name] = _Executor()
        else:
            self.executors.pop(name, None)
            self.owner.callers.on_process_died(name)
        self.owner.handle(NODE, ActorChanged(ACTOR, state, name, "died"), self.now)

    def kill(self, name: bytes) -> None:
        if name == self.client.process:
            self.change_actor("restarting")
            return
        running = self.executors.pop(name).running
        died = WorkerDied(name, 1, "was killed", running.id if running is not None else b"")
        self.owner.handle(NODE, died, self.now)

    def turn(self, name: bytes, one: _Executor) -> None:
        """The executor reads a message, or starts or ends a call."""
        if one.inbox and self.draw.random() < 0.6:
            self.read(name, one, one.inbox.popleft())
        elif one.running is None and one.queue:
            one.running = one.queue.pop(0)
        elif one.running is not None:
            call, one.running = one.running, None
            if self.draw.random() < 0.7:
                self.owner.handle(name, Done(call.id, b"x", 5), self.now)
            else:
                error = Value(b"e", error=ERROR_USER)
                self.owner.handle(name, DoneMany(call.id, [error], 5), self.now)
        elif self.draw.random() < 0.2:
            self.give_back(name, one, len(one.queue))

    def read(self, name: bytes, one: _Executor, message: Any) -> None:
        if type(message) in (Call, ActorCall):
            one.queue.append(message)
        elif isinstance(message, Recall):
            self.give_back(name, one, message.count)
        elif isinstance(message, Cancel):
            for call in one.queue:
                if call.id == message.id:
                    one.queue.remove(call)
                    self.answer_cancelled(name, call)
                    return
            if one.running is not None and one.running.id == message.id:
                if message.force:
                    self.kill(name)
                    return
                call, one.running = one.running, None
                self.owner.cancel_children(call.id, False)
                self.answer_cancelled(name, call)

    def answer_cancelled(self, name: bytes, call: Any) -> None:
        value = encode_failure("TaskCancelledError", "cancelled")
        self.owner.handle(name, DoneMany(call.id, [value]), self.now)

    def give_back(self, name: bytes, one: _Executor, count: int) -> None:
        if name == self.client.process or not count:
            return
        kept, back = one.queue[:-count], one.queue[-count:]
        one.queue = kept
        self.owner.handle(name, Returned([call.id for call in back]), self.now)

    # ------------------------------------------------------------------ the whole

    def step(self) -> None:
        self.now += 0.001
        choice = self.draw.random()
        if choice < 0.25:
            running = [one.running for one in self.executors.values() if one.running is not None]
            parent = self.draw.choice(running) if running and self.draw.random() < 0.5 else None
            self.submit(self.draw.random() < 0.4, parent)
        elif choice < 0.3:
            self.inputs.append(self.ids.new())
            self.owner.objects.add(self.inputs[-1])
        elif choice < 0.4 and self.tasks:
            self.cancel()
        elif choice < 0.45:
            self.resolve_input()
        elif choice < 0.55:
            self.grant()
        elif choice < 0.57 and self.executors:
            self.kill(self.draw.choice(sorted(self.executors)))
        elif choice < 0.6 and self.client.state in ("pending", "restarting"):
            self.change_actor("alive")
        elif self.executors:
            name = self.draw.choice(sorted(self.executors))
            self.turn(name, self.executors[name])
        self.check()

    def check(self) -> None:
        visible = sum(self.is_open(task) for task in self.tasks)
        hidden = sum(not task.returns for task in self.tasks)
        assert visible <= self.owner.unfinished <= visible + hidden
        assert self.owner.unfinished_bytes == 7 * self.owner.unfinished

    def finish(self) -> None:
        """No more submissions, cancellations or deaths: everything that is pending ends."""
        for _ in range(20_000):
            self.now += 0.001
            self.resolve_input()
            self.grant()
            if self.client.state in ("pending", "restarting"):
                self.change_actor("alive")
            for name, one in list(self.executors.items()):
                if name in self.executors:
                    self.turn(name, one)
            if not self.owner.unfinished:
                break
        assert self.owner.unfinished == 0
        assert not [task.name for task in self.tasks if self.is_open(task)]
        assert not self.owner._waiting
        for task in self.tasks:
            if task.returns and task.id in self.forbidden:
                value = self.owner.objects.entries[task.id].value
                assert value is not None
                assert decode_failure(value).kind == "TaskCancelledError"


@pytest.mark.parametrize("block", range(6))
def test_every_call_ends_exactly_once(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        world = _World(seed)
        for _ in range(STEPS):
            world.step()
        world.finish()


def _actor_world(*, overtaking: bool) -> tuple[_World, bytes]:
    world = _World(0)
    world.client.overtaking = overtaking
    world.change_actor("alive")
    return world, world.client.process


def _call(world: _World, deps: list[bytes] | None) -> Task:
    task = Task(ActorCall(world.ids.new(), ACTOR, "m", b""), "m", [], 0, None)
    task.returns = [task.id]
    task.deps = deps
    world.owner.call(world.client, task)
    return task


@pytest.mark.parametrize("overtaking", [False, True])
def test_a_call_with_a_pending_argument_and_those_behind(overtaking: bool) -> None:
    world, process = _actor_world(overtaking=overtaking)
    missing = world.ids.new()
    world.owner.objects.add(missing)
    first, second, third = _call(world, None), _call(world, [missing]), _call(world, None)
    sent = [call.id for call in world.executors[process].inbox]
    assert sent == ([first.id, third.id] if overtaking else [first.id])
    assert world.client.pending == 3
    world.owner.objects.resolve(missing, Value(b"v"))
    sent = [call.id for call in world.executors[process].inbox]
    expected = [first, third, second] if overtaking else [first, second, third]
    assert sent == [task.id for task in expected]


def test_calls_that_stand_aside_fail_with_their_actor() -> None:
    world, _process = _actor_world(overtaking=True)
    missing = world.ids.new()
    world.owner.objects.add(missing)
    waiting = _call(world, [missing])
    world.change_actor("dead")
    value = world.owner.objects.entries[waiting.id].value
    assert value is not None
    assert decode_failure(value).kind == "ActorDiedError"
    world.owner.objects.resolve(missing, Value(b"v"))
    assert world.owner.unfinished == 0


def test_a_task_given_back_after_its_cancellation_does_not_run() -> None:
    world = _World(1)
    world.submit(False)
    world.grant()
    (name,) = world.executors
    (task,) = world.tasks
    assert task.worker == name
    task.returns = [task.id]
    world.owner.cancel(task.id, False, True)
    assert [type(one) for one in world.executors[name].inbox][-1] is Cancel
    world.forbidden.add(task.id)
    world.owner.handle(name, Returned([task.id]), 0.0)
    assert world.owner.unfinished == 0


def test_only_unfinished_children_are_cancelled() -> None:
    world = _World(2)
    parent = Call(world.ids.new(), b"k", b"")
    for _ in range(3):
        world.submit(False, parent)
    world.submit(False, Call(world.ids.new(), b"k", b""))
    for task in world.tasks:
        task.deps = None
    world.owner.cancel_children(parent.id, False)
    assert [task.cancelled for task in world.tasks] == [True, True, True, False]
    assert world.owner.unfinished == 1


@pytest.mark.parametrize("failed", [False, True])
def test_creating_an_actor_leaves_the_budget_as_it_was(failed: bool) -> None:
    world = _World(3)
    missing, actor = world.ids.new(), world.ids.new()
    world.owner.objects.add(missing)
    world.owner.objects.add(actor, Value())
    create = CreateActor(actor, b"k", b"", b"", {})
    task = Task(create, "A.__init__", [], 0, None)
    task.deps, task.nbytes = [missing], 9
    world.owner.create(world.owner.callers.client(actor, "A", False), task)
    assert (world.owner.unfinished, world.owner.unfinished_bytes) == (1, 9)
    value = encode_failure("ObjectLostError", "gone") if failed else Value(b"v")
    world.owner.objects.resolve(missing, value)
    assert (world.owner.unfinished, world.owner.unfinished_bytes) == (0, 0)


def test_what_is_begun_after_the_node_has_died_fails_too() -> None:
    world = _World(4)
    owner, ids = world.owner, world.ids
    owner.node_died("is gone")  # heard while the arguments of these were being stored
    task = Task(Call(ids.new(), b"f", b"", 1), "f", [], 0, world.shape)
    task.returns = [task.id]
    owner.submit(task)
    call = Task(ActorCall(ids.new(), ACTOR, "m", b"", -2, 1), "A.m", [], 0, None)
    call.returns = [call.id]
    owner.call(world.client, call)
    items = Task(Call(ids.new(), b"g", b"", -1), "g", [], 0, world.shape)
    items.returns = [items.id]
    stream = owner.submit_stream(items, 4, None)
    borrowed = b"another-" + bytes(8)
    owner.objects.hold(borrowed)
    assert stream.finished
    for one in [task.id, call.id, items.id, stream.ready[0], borrowed]:
        value = owner.objects.entries[one].value
        assert value is not None
        assert decode_failure(value).kind == "NodeDiedError"
