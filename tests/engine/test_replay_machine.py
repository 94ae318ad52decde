"""Actor replay without processes: callers, an actor that dies, and lines that deliver when they do.

The real machines (`Callers`, `Ledger`, `Recovery`, `OrderLog`) under random interleavings. The
actor's state is the calls it has applied by their order number, and what each was told by an event;
both are the answer. Whatever dies when, the state at the end has every call of a living caller
once, each caller's in order, but for those that were cancelled before they ran, and each with the
number and the event that its answer named. Callers die too, together with the actor: then what they
have called since the last checkpoint is gone, and nothing of the others has changed.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from engine.core.callers import ActorClient, Callers
from engine.core.control import ActorChanged
from engine.core.dispatch import Task
from engine.core.ledger import APPLY, KNOWN, SKIPPED, Ledger
from engine.core.messages import ActorCall, Cancel, Covered, Order, ReplayAsk, ReplayOffer
from engine.core.recovery import Recovery
from engine.core.retention import UNNUMBERED

ACTOR = b"actor---actor---"
NODE = b"node----"
CANCELLED = (0, 0)


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
        self.answers: dict[int, tuple[int, int]] = {}  # order number and event
        self.cancelled: set[int] = set()  # calls that were not applied
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

    def cancel(self) -> None:
        task = self.world.random.choice([*self.client.in_flight.values()])
        if not task.answered:
            task.cancelled = True
            self.out.append((self.client.process, Cancel(task.id)))

    def receive(self, message: Any) -> None:
        kind = type(message)
        if kind is tuple:  # an answer: (call id, (order number, event))
            task = self.callers.on_done(ACTOR, message[0], message[1] != CANCELLED)
            if task is not None:
                seq = task.call.seq
                assert seq not in self.answers, "answered twice"
                assert seq not in self.cancelled, "answered twice"
                assert message[1] is not None, "answered without an answer"
                assert message[1] != CANCELLED or task.cancelled, "dropped for no reason"
                if message[1] == CANCELLED:
                    self.cancelled.add(seq)
                else:
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
        self.state: dict[int, tuple[bytes, int, int]] = {}
        self.unwanted: set[bytes] = set()
        self.queue: deque[Any] = deque()
        self.out: deque[Any] = deque()
        self.recovery: Recovery | None = None
        if checkpoint is not None:
            state, saved = checkpoint
            self.state = dict(state)
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
        elif type(message) is Cancel:
            pass  # there is no such call any more
        elif self.recovery is not None:
            if self._news(peer, message):
                self.recovery.on_call(peer, message.seq, (peer, message))
        elif self._news(peer, message):
            self._apply(peer, message)
        recovery = self.recovery
        while recovery is not None and (item := recovery.next()) is not None:
            unwanted = item[1].id in self.unwanted and not recovery.in_order
            if self._news(*item):
                if recovery.behind or unwanted:
                    self._answer(item[0], item[1].id, CANCELLED)
                else:
                    self._apply(*item)
        if recovery is not None and recovery.finished:
            self.recovery = None

    def cancel(self, call_id: bytes) -> None:
        """As `Replay.cancel` and `Cancelling`, without waiting for the queue."""
        waiting = [item for item in self.queue if getattr(item[1], "id", None) == call_id]
        if self.recovery is not None:
            held = [call.id for call in self.recovery.held()]
            if waiting or call_id in held:
                self.unwanted.add(call_id)
        elif waiting:
            self.queue.remove(waiting[0])
            self._answer(waiting[0][0], call_id, CANCELLED)

    def _answer(self, peer: bytes, call_id: bytes, answer: Any) -> None:
        lacks = self.ledger.before_effect(peer)
        if lacks is not None:
            self.out.append((peer, Order(ACTOR, *lacks)))
        self.out.append((peer, (call_id, answer)))

    def _news(self, peer: bytes, call: ActorCall) -> bool:
        what = self.ledger.arrive(peer, call.seq, call.acked, (peer, call.id))
        if what == KNOWN:
            self._answer(peer, call.id, self.ledger.answer(peer, call.seq))
        elif what == SKIPPED:
            self._answer(peer, call.id, CANCELLED)
        return what == APPLY

    def _event(self) -> int:
        told = None if self.recovery is None else self.recovery.event()
        if told is None:
            told = self.world.random.getrandbits(30)
        self.ledger.log.note(told)
        return told

    def _apply(self, peer: bytes, call: ActorCall) -> None:
        known = self.ledger.begin(peer, call.seq)
        order = self.ledger.log.end
        assert order not in self.state
        events = [self._event() for _ in range(call.id[-1] % 3)]
        self.state[order] = peer, call.seq, sum(events)
        answer = known.answers[call.seq] = order, sum(events)
        lacks = self.ledger.before_answer(peer)
        if lacks is not None:
            self.out.append((peer, Order(ACTOR, *lacks)))
        self.out.append((peer, (call.id, answer)))

    def checkpoint(self) -> None:
        """Take one and have it kept at once."""
        saved = self.ledger.snapshot()
        self.world.checkpoint = (dict(self.state), saved)
        self.ledger.covered(saved["order"], saved["events"])
        for process in self.ledger.told():
            seq = self.ledger.callers[process].next - 1 if process in self.ledger.callers else -1
            self.out.append((process, Covered(ACTOR, saved["order"], saved["events"], seq)))


class World:
    """Lines between callers and the actor, and what happens next."""

    def __init__(self, seed: int, callers_die: bool) -> None:
        self.random = random.Random(seed)
        self.callers_die = callers_die
        self.checkpoint: Any = None
        self.callers = [CallerProcess(self, b"caller%02d" % i) for i in range(4)]
        self.dead: list[CallerProcess] = []
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
        if self.callers_die and len(self.callers) > 1 and self.random.random() < 0.5:
            self.dead.append(self.callers.pop(self.random.randrange(len(self.callers))))
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

    def _arrive(self, name: bytes) -> None:
        message = self.to_actor[name].popleft()
        if type(message) is Cancel:  # it is looked at when it comes, not in its turn
            self.actor.cancel(message.id)
        else:
            self.actor.queue.append((name, message))

    def step(self, calls: bool, crash: float, checkpoint: float) -> bool:
        """Something happens; False when nothing is left to happen."""
        self.move()
        choices: list[Any] = []
        for one in self.callers:
            if calls:
                choices.append(one.call)
                if one.client.in_flight and self.random.random() < 0.2:
                    choices.append(one.cancel)
            if self.to_actor[one.name]:
                choices += [lambda one=one: self._arrive(one.name)] * 3
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


@pytest.mark.parametrize("callers_die", [False, True])
@pytest.mark.parametrize("block", range(8))
def test_every_call_is_applied_once_and_as_its_answer_says(block: int, callers_die: bool) -> None:
    deaths = cancelled = 0
    for seed in range(block * 100, block * 100 + 100):
        world = World(seed, callers_die)
        crash, checkpoint = seed % 5 / 100, (seed // 5 % 4) / 40
        for _ in range(400):
            world.step(True, crash, checkpoint)
        while world.step(False, 0.0, 0.0):
            pass
        deaths += world.lives
        state = world.actor.state
        assert world.actor.recovery is None
        for one in world.callers:
            mine = [seq for name, seq, _event in state.values() if name == one.name]
            wanted = [seq for seq in range(one.made) if seq not in one.cancelled]
            assert mine == wanted, f"seed {seed}: not once, or out of order"
            assert sorted(one.answers) == mine, f"seed {seed}: unanswered"
            cancelled += len(one.cancelled)
            for seq, (order, event) in one.answers.items():
                assert state[order] == (one.name, seq, event), f"seed {seed}: history has changed"
            retained = one.client.retained
            assert retained is not None
            assert not retained.skipped
            assert retained.answered == one.made - 1
        for one in world.dead:
            mine = [seq for name, seq, _event in state.values() if name == one.name]
            assert mine == sorted(set(mine)), f"seed {seed}: a dead caller's, out of order"
    assert deaths > 20
    assert cancelled > 20
