"""Numbers of an actor's calls to others, when calls of its own are lost."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

import engine
from engine.core.numbering import Received, Taken
from tests.engine.support import kill9
from tests.engine.test_replay_callers import Caller, Ledger

SECONDS = 20.0


def test_what_a_checkpoint_of_the_caller_covers_is_forgotten() -> None:
    received = Received()
    for order, seq in ((1, 0), (1, 1), (3, 2), (3, 1), (4, 3)):  # one of them comes again
        received.note(b"called", b"caller", order, seq, -1)
    assert received.of(b"caller") == [(1, 0, 1), (3, 2, 2), (4, 3, 3)]
    received.note(b"called", b"caller", 4, 4, 2)
    assert received.of(b"caller") == [(4, 3, 4)]
    assert Received(*received.snapshot()).of(b"caller") == [(4, 3, 4)]
    assert received.of(b"nobody") == []


def test_a_call_has_the_number_that_it_had() -> None:
    """Whatever came before it and is lost, and whether or not it is known itself."""
    taken = Taken()
    taken.add(b"called", [(2, 5, 7), (4, 9, 9)])
    assert taken.first(b"called", 1) == 0
    assert taken.first(b"called", 2) == 5
    assert taken.first(b"called", 2) == 5
    assert taken.first(b"called", 3) == 8
    assert taken.first(b"called", 4) == 9
    assert taken.first(b"called", 5) == 10
    assert not taken


def test_after_the_replay_nothing_that_is_known_is_called_again() -> None:
    taken = Taken()
    taken.add(b"called", [(2, 5, 7), (4, 9, 9)])
    taken.add(b"other", [])
    assert taken.pass_all() == {b"called": 10}
    assert not taken


@engine.remote
class Relay:
    """Adds to another one what it is given."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def add(self, item: Any) -> Any:
        return engine.get(self.target.add.remote(item))

    @engine.method(read_only=True)
    def look(self) -> Any:
        return os.getpid(), engine.get(self.target.add.remote("besides"))


@pytest.mark.parametrize("replayed", [False, True])
def test_a_call_after_one_that_is_lost_is_applied(cluster: Any, replayed: bool) -> None:
    """The caller of the one before died with the actor: nobody can have it applied again."""
    options = {"max_restarts": -1, "checkpoint_every": 1000}
    target = Ledger.options(**options if replayed else {}).remote()
    relay, caller = Relay.options(**options).remote(target), Caller.remote()
    assert engine.get(relay.add.remote("mine"), timeout=SECONDS) == 1
    pid, position = engine.get(relay.look.remote(), timeout=SECONDS)
    assert position == 2
    assert engine.get(caller.call.remote(relay), timeout=SECONDS) == 3
    os.kill(pid, signal.SIGSTOP)  # else it takes a checkpoint when it hears of its caller's death
    try:
        engine.kill(caller)
        with pytest.raises(engine.exceptions.ActorDiedError):
            engine.get(caller.call.remote(relay), timeout=SECONDS)
    finally:
        kill9(pid)
    assert engine.get(relay.add.remote("after"), timeout=SECONDS) == 4
    items = ["mine", "besides", "actor", "after"]
    assert engine.get(target.all.remote(), timeout=SECONDS)[1] == items
    pid, position = engine.get(relay.look.remote(), timeout=SECONDS)
    assert position == 5
    kill9(pid)
    assert engine.get(relay.add.remote("last"), timeout=SECONDS) == 6
    assert engine.get(target.all.remote(), timeout=SECONDS)[1] == [*items, "besides", "last"]
