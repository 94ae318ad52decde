"""Actors with checkpoints, when an argument of their history is lost, or there is no room."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import engine
from engine import exceptions
from engine.core.control import ActorChanged
from engine.core.dispatch import Task
from engine.core.ids import process_id, short
from engine.core.ledger import Ledger
from engine.core.messages import ActorCall, Details, Done, DoneMany
from engine.core.recovery import Recovery
from engine.core.retention import ERROR, UNNUMBERED, UNREAD, VALUE, outcome_of
from engine.core.values import ELSEWHERE, Block, Value, encode_failure
from engine.runtime.replay import Replay
from engine.store.refs import adopt
from tests.engine.losses import lose
from tests.engine.support import home, kill9
from tests.engine.test_late_news import NODE, OTHER, WORKER, Desk

SECONDS = 20.0
LARGE = 1 << 20
LOST = encode_failure("ObjectReconstructionFailedError", "object x is lost")


# -------------------------------------------------------------------------------- machines


@pytest.fixture
def desk() -> Desk:
    return Desk()


def called(desk: Desk, deps: list[bytes] | None = None) -> Task:
    """A call to an actor with checkpoints, which it has."""
    client = desk.owner.callers.client(desk.new(), "A", False, True)
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", WORKER), 0.0)
    task = Task(ActorCall(desk.new(), client.id, "f", b"", UNNUMBERED), "A.f", [], 0, None)
    task.returns, task.deps, task.keep, task.brings = [task.id], deps, deps, deps is not None
    desk.owner.call(client, task)
    assert [call.details for _peer, call in desk.take(ActorCall)] == [None]
    return task


def sent_again(desk: Desk, task: Task) -> list[ActorCall]:
    """What the actor's next process is sent."""
    actor = task.actor.id
    desk.owner.handle(NODE, ActorChanged(actor, "restarting"), 0.0)
    desk.owner.handle(NODE, ActorChanged(actor, "alive", OTHER), 0.0)
    return [call for _peer, call in desk.take(ActorCall)]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (LOST, UNREAD),
        (encode_failure("TaskCancelledError", "f was cancelled"), ERROR),
        (Value(b"a user's", error=1), ERROR),
        (Value(b"fine", contains=[]), VALUE),
    ],
)
def test_a_call_sent_again_tells_how_it_was_answered(
    desk: Desk, answer: Value, outcome: int
) -> None:
    task = called(desk)
    desk.owner.handle(WORKER, DoneMany(task.id, [answer]), 0.0)
    (again,) = sent_again(desk, task)
    assert again.id == task.id
    assert outcome_of(again) == outcome


def test_the_mark_keeps_what_the_call_says_otherwise(desk: Desk) -> None:
    task = called(desk)
    task.call.details = Details(3, "name")
    desk.owner.handle(WORKER, DoneMany(task.id, [LOST]), 0.0)
    assert task.call.details == Details(3, "name", outcome=UNREAD)


def test_a_call_that_was_answered_is_sent_again_without_an_argument_that_is_lost(
    desk: Desk,
) -> None:
    """The actor has to know; a call that was not answered fails here."""
    given = desk.new()
    desk.owner.objects.add(given, Value(b"value"))
    task = called(desk, [given])
    desk.owner.handle(WORKER, Done(task.id, b"answer"), 0.0)
    desk.owner.objects.entries[given].value = LOST
    (again,) = sent_again(desk, task)
    assert again.deps is not None
    assert [dep.value.block for dep in again.deps] == [ELSEWHERE]


def test_recovery_tells_what_would_contradict_what_was_seen() -> None:
    recovery = Recovery(Ledger(ordered=True).log, {b"caller"}, 1e9)
    for seq in range(3):
        recovery.on_call(b"caller", seq, seq)
    recovery.on_offer(b"caller", 1, [(b"caller", 0, 2)], 0, [])
    assert recovery.next() == 0
    assert recovery.contradicts(VALUE, reading=True)
    assert recovery.contradicts(VALUE, reading=False)
    assert recovery.contradicts(ERROR, reading=True)
    assert not recovery.contradicts(ERROR, reading=False)
    assert not recovery.contradicts(UNREAD, reading=True)  # it has changed nothing then either
    assert recovery.next() == 1
    assert recovery.next() == 2
    assert not recovery.contradicts(VALUE, reading=True)  # nobody has seen anything of it


# -------------------------------------------------------------------------------- no room


def test_an_answer_that_cannot_be_placed_again_is_an_error() -> None:
    """What was placed of it is free again, and the next calls go on."""
    freed: list[Block] = []
    failed: list[Any] = []
    blocks = [Block(1, 0, 3, b"holder")]

    def place(size: int, fill: Any) -> Block:
        if not blocks:
            raise exceptions.ObjectStoreFullError("full")
        return blocks.pop()

    class Lock:
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    values = SimpleNamespace(place=place, free=freed.append)
    execution = SimpleNamespace(
        fail=lambda peer, call, error, start: failed.append((peer, call.id, error)), unsettled={}
    )
    runtime = SimpleNamespace(values=values, lock=Lock())
    worker: Any = SimpleNamespace(runtime=runtime, execution=execution)
    replay = Replay(worker, b"actor", None)
    caller = process_id(b"caller", 0)
    replay.ledger.arrive(caller, 0, -1, (caller, b"call"))
    known = replay.ledger.begin(caller, 0)
    known.answers[0] = [Value(), Value()], [b"one", b"two"], ["references"]
    call = ActorCall(b"call", b"actor", "m", b"", 0)
    replay._answer_again(caller, call)
    ((peer, call_id, error),) = failed
    assert (peer, call_id) == (caller, b"call")
    assert isinstance(error, exceptions.ObjectStoreFullError)
    assert freed == [Block(1, 0, 3, b"holder")]
    assert not execution.unsettled


# -------------------------------------------------------------------------------- processes


@engine.remote
class Sum:
    """Keeps no views of what it is given."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, block: Any) -> int:
        self.total += int(block[0])
        return self.total

    def add_inside(self, refs: list[Any]) -> int:
        return self.add(engine.get(refs[0]))

    @engine.method(read_only=True)
    def state(self) -> tuple[int, int]:
        return os.getpid(), self.total


@engine.remote
class Relay:
    """Calls another actor with checkpoints with a large argument, and loses that."""

    def relay(self, target: Any) -> int:
        block = np.full(LARGE, 5, np.uint8)
        return engine.get(target.add.remote(block))  # type: ignore[no-any-return]

    @engine.method(read_only=True)
    def lose(self) -> None:
        clients = home().owner.callers.actors.values()
        (call,) = [one for client in clients if client.retained for one in client.retained.calls]
        lose(adopt(call.large.id))


def adder(every: int) -> Any:
    return Sum.options(max_restarts=-1, checkpoint_every=every).remote()


def kill_actor(handle: Any) -> None:
    kill9(engine.get(handle.state.remote(), timeout=SECONDS)[0])


def put(number: int) -> Any:
    return engine.put(np.full(LARGE, number, np.uint8))


@pytest.mark.parametrize("inside", [False, True])
def test_an_actor_ends_when_an_argument_of_its_history_is_lost(cluster: Any, inside: bool) -> None:
    handle, block = adder(1000), put(5)
    ref = handle.add_inside.remote([block]) if inside else handle.add.remote(block)
    assert engine.get(ref, timeout=SECONDS) == 5
    lose(block)
    kill_actor(handle)
    with pytest.raises(exceptions.ActorDiedError) as caught:
        engine.get(handle.state.remote(), timeout=SECONDS)
    text = str(caught.value)
    for part in ("cannot be replayed: Sum.add", "(number 0 of its", "durable=True"):
        assert part in text
    assert f"object {short(block.binary())} is lost" in text


def test_what_a_checkpoint_covers_may_be_lost(cluster: Any) -> None:
    handle, block = adder(1), put(5)
    assert engine.get(handle.add.remote(block), timeout=SECONDS) == 5
    assert engine.get(handle.add.remote([2]), timeout=SECONDS) == 7
    lose(block)
    kill_actor(handle)
    assert engine.get(handle.state.remote(), timeout=SECONDS)[1] == 7


@pytest.mark.parametrize("inside", [False, True])
def test_what_was_lost_before_its_call_ran_is_lost_again(cluster: Any, inside: bool) -> None:
    """The call was answered with the loss, and has changed nothing: so it is in the replay."""
    handle, block = adder(1000), put(5)
    assert engine.get(handle.add.remote([1]), timeout=SECONDS) == 1
    lose(block)
    ref = handle.add_inside.remote([block]) if inside else handle.add.remote(block)
    with pytest.raises(exceptions.ObjectReconstructionFailedError):
        engine.get(ref, timeout=SECONDS)
    assert engine.get(handle.add.remote([2]), timeout=SECONDS) == 3
    for _ in range(2):
        kill_actor(handle)
        assert engine.get(handle.state.remote(), timeout=SECONDS)[1] == 3
    assert engine.get(handle.add.remote([3]), timeout=SECONDS) == 6


def test_an_actor_ends_when_what_its_checkpoint_needs_is_lost(cluster: Any) -> None:
    """A call of its own would have to be in there, for the replay of whom it has called."""
    target = adder(1000)
    relay = Relay.options(max_restarts=-1, checkpoint_every=2).remote()
    assert engine.get(relay.relay.remote(target), timeout=SECONDS) == 5
    engine.get(relay.lose.remote(), timeout=SECONDS)
    text = r"could not be checkpointed: object \S+ is lost"
    with pytest.raises(exceptions.ActorDiedError, match=text):
        engine.get([relay.relay.remote(target) for _ in range(3)], timeout=SECONDS)
