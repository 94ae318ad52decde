"""Actor replay without processes: callers, an actor that dies, and lines that deliver when they do.

The real machines (`Callers`, `Ledger`, `Recovery`, `OrderLog`) under random interleavings. The
actor's state is the list of calls it has applied, so an answer is the position of its call in that
list. Whatever dies when, the state at the end has every call once, each caller's in order, and
each at the position that its answer named.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from engine.core.callers import ActorClient, Callers
from engine.core.control import ActorChanged
from engine.core.dispatch import Task
from engine.core.ledger import APPLY, KNOWN, Ledger
from engine.core.messages import ActorCall, Covered, Order, ReplayAsk, ReplayOffer
from engine.core.recovery import Recovery
from engine.core.retention import UNNUMBERED

ACTOR = b"actor---actor---"
NODE = b"node----"


class CallerProcess:
    """A process that calls the actor, and what it has been answered."""

    def __init__(self, world: World, name: bytes) -> None:
        self.name = name
        self.out: deque[Any] = deque()
        self.callers = Callers(
            name, NODE, lambda to, message: self.out.append((to, message)), self._failed,
            lambda task: None,
        )
        self.client: ActorClient = self.callers.client(ACTOR, "A", False, True)
        self.answers: dict[int, int] = {}
        self.made = 0
        self.world = world

    def _failed(self, task: Task, value: Any) -> None:
        raise AssertionError("no call may fail")

    def call(self) -> None:
        call = ActorCall(self.name + self.made.to_bytes(8, "big"), ACTOR, "m", b"", UNNUMBERED)
        self.made += 1
        task = Task(call, "A.m", [call.id], 0, None)
        task.actor = self.client
        self.callers.submit(self.client, task)

    def receive(self, message: Any) -> None:
        kind = type(message)
        if kind is tuple:  # an answer: (call id, position)
            task = self.callers.on_done(ACTOR, message[0])
            if task is not None:
                seq = task.call.seq
                assert seq not in self.answers, "answered twice"
                self.answers[seq] = message[1]
        elif kind is Order:
            self.callers.on_order(message)
        elif kind is Covered:
            self.callers.on_covered(message)
        elif kind is ReplayAsk:
            self.callers.on_replay_ask(self.world.actor.name, message)
        else:
            self.callers.on_changed(message)


class ActorProcess:
    """One life of the actor."""

    def __init__(self, world: World, number: int, checkpoint: Any) -> None:
        self.name = b"life%04d" % number
        self.world = world
        self.ledger = Ledger(ordered=True)
        self.state: list[tuple[bytes, int]] = []
        self.queue: deque[Any] = deque()
        self.out: deque[Any] = deque()
        self.recovery: Recovery | None = None
        if checkpoint is not None:
            state, saved = checkpoint
            self.state = list(state)
            self.ledger.restore(saved)
            self.recovery = Recovery(self.ledger.log, {one.name for one in world.callers}, 1e9)
            for one in world.callers:
                known = self.ledger.callers.get(one.name)
                seq = -1 if known is None else known.next - 1
                covered = Covered(ACTOR, saved["order"], saved["events"], seq)
                self.out.append((one.name, ReplayAsk(covered)))

    def step(self) -> None:
        peer, message = self.queue.popleft()
        if type(message) is ReplayOffer:
            known = message.known
            assert self.recovery is not None
            self.recovery.on_offer(peer, known.first, known.runs, known.event, known.events)
        elif self.recovery is not None:
            if self._news(peer, message):
                self.recovery.on_call(peer, message.seq, (peer, message))
        elif self._news(peer, message):
            self._apply(peer, message)
        recovery = self.recovery
        while recovery is not None and (item := recovery.next()) is not None:
            if self._news(*item):
                self._apply(*item)
        if recovery is not None and recovery.finished:
            assert not recovery.lost
            self.recovery = None

    def _news(self, peer: bytes, call: ActorCall) -> bool:
        what = self.ledger.arrive(peer, call.seq, call.acked, (peer, call.id))
        if what == KNOWN:
            answer = self.ledger.answer(peer, call.seq)
            lacks = self.ledger.before_effect(peer)
            if lacks is not None:
                self.out.append((peer, Order(ACTOR, *lacks)))
            self.out.append((peer, (call.id, -1 if answer is None else answer)))
        return what == APPLY

    def _apply(self, peer: bytes, call: ActorCall) -> None:
        known = self.ledger.begin(peer, call.seq)
        self.state.append((peer, call.seq))
        position = len(self.state)
        assert position == self.ledger.log.end
        known.answers[call.seq] = position
        lacks = self.ledger.before_answer(peer)
        if lacks is not None:
            self.out.append((peer, Order(ACTOR, *lacks)))
        self.out.append((peer, (call.id, position)))

    def checkpoint(self) -> None:
        """Take one and have it kept at once."""
        saved = self.ledger.snapshot()
        self.world.checkpoint = (list(self.state), saved)
        self.ledger.covered(saved["order"], saved["events"])
        for process in self.ledger.told():
            seq = self.ledger.callers[process].next - 1 if process in self.ledger.callers else -1
            self.out.append((process, Covered(ACTOR, saved["order"], saved["events"], seq)))


class World:
    """Lines between callers and the actor, and what happens next."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.checkpoint: Any = None
        self.callers = [CallerProcess(self, b"caller%02d" % i) for i in range(4)]
        self.to_actor: dict[bytes, deque[Any]] = {one.name: deque() for one in self.callers}
        self.to_caller: dict[bytes, deque[Any]] = {one.name: deque() for one in self.callers}
        self.lives = 0
        self.actor = ActorProcess(self, 0, None)
        self.actor.checkpoint()
        for one in self.callers:
            one.receive(ActorChanged(ACTOR, "alive", self.actor.name))

    def move(self) -> None:
        """What processes have written goes onto the lines."""
        for one in self.callers:
            while one.out:
                to, message = one.out.popleft()
                if to == self.actor.name:
                    self.to_actor[one.name].append(message)
        while self.actor.out:
            to, message = self.actor.out.popleft()
            self.to_caller[to].append(message)

    def crash(self) -> None:
        """The actor dies; a random part of what it had written still arrives."""
        self.move()
        for one in self.callers:
            line = self.to_caller[one.name]
            for _ in range(self.random.randint(0, len(line))):
                one.receive(line.popleft())
            line.clear()
            self.to_actor[one.name].clear()
            one.out.clear()
        self.lives += 1
        self.actor = ActorProcess(self, self.lives, self.checkpoint)
        for one in self.callers:
            one.receive(ActorChanged(ACTOR, "restarting"))
            one.receive(ActorChanged(ACTOR, "alive", self.actor.name))

    def step(self, calls: bool, crash: float, checkpoint: float) -> bool:
        """Something happens; False when nothing is left to happen."""
        self.move()
        choices: list[Any] = []
        for one in self.callers:
            if calls:
                choices.append(one.call)
            if self.to_actor[one.name]:
                choices += [lambda one=one: self.actor.queue.append(
                    (one.name, self.to_actor[one.name].popleft()))] * 3
            if self.to_caller[one.name]:
                choices += [lambda one=one: one.receive(self.to_caller[one.name].popleft())] * 2
        if self.actor.queue:
            choices += [self.actor.step] * 4
        if not choices:
            return False
        if self.random.random() < crash:
            self.crash()
        elif self.random.random() < checkpoint and self.actor.recovery is None:
            self.actor.checkpoint()
        else:
            self.random.choice(choices)()
        return True


@pytest.mark.parametrize("block", range(8))
def test_every_call_is_applied_once_and_where_its_answer_says(block: int) -> None:
    deaths = 0
    for seed in range(block * 100, block * 100 + 100):
        world = World(seed)
        crash, checkpoint = seed % 5 / 100, (seed // 5 % 4) / 40
        for _ in range(400):
            world.step(True, crash, checkpoint)
        while world.step(False, 0.0, 0.0):
            pass
        deaths += world.lives
        state = world.actor.state
        assert world.actor.recovery is None
        for one in world.callers:
            mine = [seq for name, seq in state if name == one.name]
            assert mine == list(range(one.made)), f"seed {seed}: not once, or out of order"
            assert sorted(one.answers) == mine, f"seed {seed}: unanswered"
            for seq, position in one.answers.items():
                assert state[position - 1] == (one.name, seq), f"seed {seed}: history has changed"
    assert deaths > 20
