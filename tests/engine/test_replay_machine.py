"""Actor replay without processes: callers, an actor that dies, and lines that deliver when they do.

The real machines (`Callers`, `Ledger`, `Recovery`, `OrderLog`) under random interleavings. The
actor's state is the calls it has applied by their order number, and what each was told by an event;
both are the answer. Whatever dies when, the state at the end has every call of a living caller
once, each caller's in order, but for those that were cancelled before they ran, and each with the
number and the event that its answer named. Callers die too, together with the actor: then what they
have called since the last checkpoint is gone, and nothing of the others has changed.

The actor calls another one, within its calls and besides: each such call is applied once, in the
order in which it was made, and gets its own answer, also those made after others that were lost.
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

ACTOR, TARGET = b"actor---actor---", b"target--target--"
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
        self.callers = Callers(
            self.name, NODE, lambda to, message: self.out.append((to, message)), self._failed,
            lambda task: None,
        )
        self.callers.identity = ACTOR
        self.callers.next_order = self._next_order
        self.callers.before_effect = self._before_call_to
        if checkpoint is not None:
            state, saved, numbers, logs, calls = checkpoint
            self.state = dict(state)
            self.ledger.restore(saved)
            self.callers.restore(numbers, logs)
            witnesses = {*(one.name for one in world.callers), world.target.name}
            self.recovery = Recovery(self.ledger.log, witnesses, 1e9)
            for witness in sorted(witnesses):
                known = self.ledger.callers.get(witness)
                seq = -1 if known is None else known.next - 1
                covered = Covered(ACTOR, saved["order"], saved["events"], seq)
                self.out.append((witness, ReplayAsk(covered)))
        self.client = self.callers.client(TARGET, "B", False, world.target.ledger.ordered)
        if checkpoint is not None:
            for call in calls:
                again = ActorCall(call.id, TARGET, "m", call.args, call.seq)
                self.callers.restore_call(self.client, Task(again, "B.m", [], 0, None))

    def _next_order(self) -> int:
        following = self.ledger.log.end + 1
        return -following if self.recovery is None else following

    def find_target(self) -> None:
        """The head says where the other actor is."""
        self.callers.on_changed(ActorChanged(TARGET, "alive", self.world.target.name))

    def _failed(self, task: Task, value: Any) -> None:
        raise AssertionError("no call may fail")

    def _before_call_to(self, process: bytes) -> None:
        lacks = self.ledger.before_effect(process)
        if lacks is not None:
            self.out.append((process, Order(ACTOR, *lacks)))

    def call_target(self, name: bytes) -> None:
        """Call the other actor; it is to apply a call of this name."""
        call = ActorCall(self.name + name, TARGET, "m", name, UNNUMBERED)
        task = Task(call, "B.m", [call.id], 0, None)
        task.actor = self.client
        self.callers.submit(self.client, task)

    def hear_target(self, message: Any) -> None:
        """The other actor answers, or tells of its order."""
        if type(message) is Order:
            self.callers.on_order(message)
        elif type(message) is Covered:
            self.callers.on_covered(message)
        elif type(message) is ReplayOffer:
            self.queue.append((self.world.target.name, message))
        else:
            task = self.callers.on_done(TARGET, message[0])
            if task is not None:
                assert message[1] == task.call.args, "answered with the answer of another call"

    def step(self) -> None:
        peer, message = self.queue.popleft()
        if type(message) is ReplayOffer:
            known = message.known
            assert self.recovery is not None
            self.callers.taken.add(message.called, message.made)
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
        for name in calls_within(peer, call.seq):
            self.call_target(name)
        answer = known.answers[call.seq] = order, sum(events)
        lacks = self.ledger.before_answer(peer)
        if lacks is not None:
            self.out.append((peer, Order(ACTOR, *lacks)))
        self.out.append((peer, (call.id, answer)))

    def checkpoint(self) -> None:
        """Take one and have it kept at once."""
        saved, numbers = self.ledger.snapshot(), self.callers.numbering()
        retained = self.client.retained
        calls = [] if retained is None else list(retained.calls)
        logs = {
            actor: (first, list(runs), event, list(events))
            for actor, (first, runs, event, events) in self.callers.known_orders().items()
        }
        self.world.checkpoint = (dict(self.state), saved, numbers, logs, calls)
        self.callers.acked.update((one, number - 1) for one, number in numbers.items())
        self.ledger.covered(saved["order"], saved["events"])
        for process in self.ledger.told():
            seq = self.ledger.callers[process].next - 1 if process in self.ledger.callers else -1
            self.out.append((process, Covered(ACTOR, saved["order"], saved["events"], seq)))


def calls_within(caller: bytes, seq: int) -> list[bytes]:
    """What the actor calls the other one with while it applies a call."""
    return [b"%s %06d %d" % (caller, seq, at) for at in range(seq * 7 // 3 % 3)]


class Target:
    """The actor that the actor calls. It lives on."""

    name = b"targetprocess"

    def __init__(self, ordered: bool) -> None:
        self.ledger = Ledger(ordered)
        self.applied: list[bytes] = []
        self.numbers: list[int] = []  # of these calls
        self.peer = b""  # the process of the actor that called last
        self.queue: deque[tuple[bytes, Any]] = deque()
        self.out: deque[Any] = deque()
        self.callers = Callers(
            self.name, NODE, lambda to, message: self.out.append((to, message)),
            lambda task, value: None, lambda task: None,
        )  # fmt: skip

    def receive(self, peer: bytes, message: Any) -> None:
        """A message has come; calls wait for their turn."""
        kind = type(message)
        if kind is ActorCall:
            self.callers.on_received(message)
            self.queue.append((peer, message))
        elif kind is Order:
            self.callers.on_order(message)
        elif kind is Covered:
            self.callers.on_covered(message)
        else:
            self.callers.on_replay_ask(peer, message)

    def step(self) -> None:
        """Take the next call."""
        peer, call = self.queue.popleft()
        ledger = self.ledger
        if peer != self.peer and ledger.ordered:
            self.peer, seq = peer, ledger.covered_of(ACTOR)
            if seq >= 0:
                log = ledger.log
                self.out.append((peer, Covered(TARGET, log.start, log.event_start, seq)))
        what = ledger.arrive(call.caller, call.seq, call.acked, (peer, call.id))
        assert what != SKIPPED, "a call of an earlier number came later"
        if what == APPLY:
            self.applied.append(call.args)
            self.numbers.append(call.seq)
            ledger.begin(call.caller, call.seq).answers[call.seq] = call.args
        answer = ledger.answer(call.caller, call.seq)
        tell = ledger.before_answer if what == APPLY else ledger.before_effect
        lacks = tell(peer) if ledger.ordered else None
        if lacks is not None:
            self.out.append((peer, Order(TARGET, *lacks)))
        self.out.append((peer, (call.id, call.args if answer is None else answer)))

    def checkpoint(self) -> None:
        """As if it had taken one that was kept at once; it is never needed."""
        if not self.ledger.ordered:
            return
        order = self.ledger.log.end
        self.ledger.covered(order, 0)
        following = self.ledger.callers[ACTOR].next - 1 if ACTOR in self.ledger.callers else -1
        for process in self.ledger.told():
            self.out.append((process, Covered(TARGET, order, 0, following)))


class World:
    """Lines between callers and the actor, and what happens next."""

    def __init__(self, seed: int, callers_die: bool) -> None:
        self.target = Target(ordered=seed % 2 == 0)
        self.to_target: deque[Any] = deque()
        self.from_target: deque[Any] = deque()
        self.besides = 0
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
            if to in self.to_caller:
                self.to_caller[to].append(message)
            elif to == self.target.name:
                self.to_target.append(message)
        while self.target.out:
            to, message = self.target.out.popleft()
            if to == self.actor.name:
                self.from_target.append(message)

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
        for _ in range(self.random.randint(0, len(self.to_target))):
            self.target.receive(self.actor.name, self.to_target.popleft())
        self.to_target.clear()
        self.from_target.clear()
        if self.random.random() < 0.5:
            self.target.queue.clear()  # the calls of a dead process
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

    def _arrive_at_target(self) -> None:
        self.target.receive(self.actor.name, self.to_target.popleft())

    def _call_besides(self) -> None:
        """A call that only reads calls the other actor: it comes in no replay."""
        self.besides += 1
        self.actor.call_target(b"besides %d" % self.besides)

    def _is_settled(self) -> bool:
        """Whether the actor may take a checkpoint."""
        actor = self.actor
        return actor.recovery is None and not actor.client.pending

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
        if self.actor.client.state != "alive":
            choices.append(self.actor.find_target)
        if calls and self.actor.recovery is None and self.random.random() < 0.1:
            choices.append(self._call_besides)
        if self.to_target:
            choices += [self._arrive_at_target] * 3
        if self.from_target:
            choices += [lambda: self.actor.hear_target(self.from_target.popleft())] * 3
        if self.target.queue:
            choices += [self.target.step] * 3
        if not choices:
            return False
        if self.random.random() < crash:
            self.crash()
        elif self.random.random() < checkpoint and self._is_settled():
            self.actor.checkpoint()
        elif self.random.random() < checkpoint / 2:
            self.target.checkpoint()
        else:
            self.random.choice(choices)()
        return True


def check_known_order(world: World, seed: int) -> None:
    """What the actor knows of the other one's order is the order in which that applied calls."""
    first, runs, _event, _events = world.actor.callers.known_orders().get(TARGET, (1, [], 0, []))
    known = [seq + at for caller, seq, count in runs if caller == ACTOR for at in range(count)]
    if world.target.ledger.ordered:
        assert known == world.target.numbers[first - 1 :][: len(known)], f"seed {seed}: not so"


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
        applied = world.target.applied
        assert len(set(applied)) == len(applied), f"seed {seed}: applied twice to the other"
        calls = [name for _, (peer, seq, _e) in sorted(state.items())
                 for name in calls_within(peer, seq)]  # fmt: skip
        wanted = set(calls)
        assert calls == [name for name in applied if name in wanted], f"seed {seed}: not all"
        assert not world.actor.client.pending, f"seed {seed}: unanswered by the other"
        check_known_order(world, seed)
        for one in world.dead:
            mine = [seq for name, seq, _event in state.values() if name == one.name]
            assert mine == sorted(set(mine)), f"seed {seed}: a dead caller's, out of order"
    assert deaths > 20
    assert cancelled > 20
