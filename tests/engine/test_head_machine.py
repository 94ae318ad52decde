"""The head machine: names, lives and deaths of actors, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core.control import ActorChanged, Checkpoint, CreateActor, KillActor
from engine.core.head import HeadMachine
from engine.core.values import decode_failure, encode_failure

CREATOR, WORKER, OTHER = b"creator-", b"worker--", b"other---"
ACTOR = CREATOR + bytes(7) + b"\x01"


class _Edge:
    """Notes the effects."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.killed: list[bytes] = []
        self.placing: list[bytes] = []
        self.restored: list[tuple[bytes, Any]] = []

    def restore(self, process: bytes, message: Any) -> None:
        self.restored.append((process, message))

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def connect(self, one: bytes, other: bytes) -> None:
        pass

    def place(self, record: Any) -> None:
        self.placing.append(record.create.id)

    def unplace(self, record: Any) -> None:
        self.placing.remove(record.create.id)

    def kill(self, process: bytes, cause: str) -> None:
        self.killed.append(process)

    def told(self, process: bytes) -> list[str]:
        return [m.state for p, m in self.sent if p == process and isinstance(m, ActorChanged)]


@pytest.fixture
def edge() -> _Edge:
    return _Edge()


@pytest.fixture
def head(edge: _Edge) -> HeadMachine:
    return HeadMachine(edge)


def create(head: HeadMachine, **options: Any) -> None:
    head.on_create(CREATOR, CreateActor(ACTOR, b"k", b"", b"", {"class": "A", **options}))


def alive(head: HeadMachine, process: bytes = WORKER, **options: Any) -> None:
    create(head, **options)
    assert head.on_placed(ACTOR, process, 7)
    head.on_reported(process, ActorChanged(ACTOR, "alive", process))


def test_the_creator_and_every_watcher_are_told(head: HeadMachine, edge: _Edge) -> None:
    alive(head)
    head.on_lookup(OTHER, ACTOR)
    head.on_process_died(WORKER, 7, "was killed by SIGKILL")
    assert edge.told(CREATOR) == edge.told(OTHER) == ["alive", "dead"]
    last = edge.sent[-1][1]
    text = decode_failure(last.failure).text
    assert "A (" in text
    assert "SIGKILL" in text
    assert "pid 7" in text


def test_a_lookup_may_overtake_the_creation(head: HeadMachine, edge: _Edge) -> None:
    head.on_lookup(OTHER, ACTOR)
    alive(head)
    assert edge.told(OTHER) == ["alive"]


def test_a_lookup_of_the_dead_is_answered(head: HeadMachine, edge: _Edge) -> None:
    alive(head)
    head.kill(ACTOR, True, "was killed")
    head.on_process_died(WORKER, 7, "SIGKILL")
    head.on_lookup(OTHER, ACTOR)
    assert edge.told(OTHER) == ["dead"]


def test_a_lookup_of_an_actor_whose_creator_died_before_creating_it_is_answered(
    head: HeadMachine, edge: _Edge
) -> None:
    """A handle travelled, its creator died with the creation unsent: nobody may wait for ever."""
    head.on_lookup(OTHER, ACTOR)
    head.on_process_died(CREATOR, 5, "was killed by SIGKILL")
    assert edge.told(OTHER) == ["dead"]


@pytest.mark.parametrize("how", ["end", "kill"])
def test_an_actor_that_ends_before_its_creation_has_come_never_lives(
    head: HeadMachine, edge: _Edge, how: str
) -> None:
    """Its last handle went while the constructor's arguments were pending, or a third process was
    faster: whoever has asked hears of it, and whoever creates it after all."""
    head.on_lookup(OTHER, ACTOR)
    head.reserve("n", "x", ACTOR, {})
    if how == "end":
        head.end(ACTOR, "its last handle is gone")
    else:
        head.kill(ACTOR, True, "was killed")
    assert edge.told(OTHER) == ["dead"]
    head.on_lookup(WORKER, ACTOR)
    create(head, name="x", namespace="n")
    assert edge.told(WORKER) == edge.told(CREATOR) == ["dead"]
    assert not edge.placing
    assert head.reserve("n", "x", OTHER + bytes(8), {}) == OTHER + bytes(8)


def test_watchers_are_told_in_the_order_in_which_they_asked(
    head: HeadMachine, edge: _Edge
) -> None:
    """The same messages make the same effects in any process, whatever its hash seed."""
    others = [b"other%03d" % number for number in range(20)]
    for one in others[:10]:
        head.on_lookup(one, ACTOR)
    create(head)
    for one in others[10:]:
        head.on_lookup(one, ACTOR)
    head.on_placed(ACTOR, WORKER, 7)
    head.on_reported(WORKER, ActorChanged(ACTOR, "alive", WORKER))
    told = [process for process, message in edge.sent if isinstance(message, ActorChanged)]
    assert told == [CREATOR, *others]


def test_restarts_are_counted(head: HeadMachine, edge: _Edge) -> None:
    alive(head, max_restarts=1)
    head.on_process_died(WORKER, 7, "SIGKILL")
    assert edge.told(CREATOR) == ["alive", "restarting"]
    assert edge.placing == [ACTOR, ACTOR]
    head.on_placed(ACTOR, OTHER, 8)
    head.on_reported(OTHER, ActorChanged(ACTOR, "alive", OTHER))
    head.on_process_died(OTHER, 8, "SIGKILL")
    assert edge.told(CREATOR) == ["alive", "restarting", "alive", "dead"]


def test_endless_restarts(head: HeadMachine, edge: _Edge) -> None:
    create(head, max_restarts=-1)
    for number in range(5):
        name = b"worker%02d" % number
        head.on_placed(ACTOR, name, number)
        head.on_reported(name, ActorChanged(ACTOR, "alive", name))
        head.on_process_died(name, number, "SIGKILL", now=number * 60.0)
    assert head.actors[ACTOR].state == "restarting"


def test_too_many_deaths_at_once_end_endless_restarts(head: HeadMachine, edge: _Edge) -> None:
    create(head, max_restarts=-1)
    for number in range(5):
        name = b"worker%02d" % number
        head.on_placed(ACTOR, name, number)
        head.on_process_died(name, number, "exited with code 3", now=number * 0.1)
    assert edge.told(CREATOR)[-1] == "dead"
    text = decode_failure(edge.sent[-1][1].failure).text
    assert "died 5 times within 0.40 s" in text
    assert text.count("exited with code 3") == 6, "the last one and the story"


def test_an_actor_stopped_for_its_memory_waits_before_it_is_placed_again(
    head: HeadMachine, edge: _Edge
) -> None:
    alive(head, max_restarts=2)
    for number, wait in enumerate((0.5, 1.0)):
        head.on_process_died(WORKER, 7, "held too much", now=10.0 * number, memory=True)
        assert len(edge.placing) == number + 1
        assert head.tick(10.0 * number + wait - 0.1) == 10.0 * number + wait
        assert head.tick(10.0 * number + wait) is None
        assert len(edge.placing) == number + 2
        head.on_placed(ACTOR, WORKER, 7)
    head.on_process_died(WORKER, 7, "held too much", now=30.0, memory=True, words=["last"])
    failure = decode_failure(edge.sent[-1][1].failure)
    assert failure.kind == "ActorOutOfMemoryError"
    assert failure.detail.endswith("last")


def test_an_actor_that_ends_while_it_waits_is_not_placed(head: HeadMachine, edge: _Edge) -> None:
    alive(head, max_restarts=-1)
    edge.placing.clear()
    head.on_process_died(WORKER, 7, "held too much", now=0.0, memory=True)
    edge.placing.append(ACTOR)  # what `unplace` removes
    head.kill(ACTOR, True, "was killed")
    head.tick(99.0)
    assert edge.placing == []


def test_kill_without_restart_ends_a_restarting_actor(head: HeadMachine, edge: _Edge) -> None:
    alive(head, max_restarts=5)
    head.on_process_died(WORKER, 7, "SIGKILL")
    head.kill(ACTOR, True, "was killed by engine.kill()")
    assert edge.told(CREATOR)[-1] == "dead"
    assert not head.on_placed(ACTOR, OTHER, 8)


def test_kill_with_restart_of_a_pending_actor_changes_nothing(head: HeadMachine) -> None:
    create(head, max_restarts=1)
    head.kill(ACTOR, False, "was killed")
    assert head.on_placed(ACTOR, WORKER, 7)
    assert head.actors[ACTOR].restarts_left == 1


def test_a_constructor_that_raised_kills_the_worker(head: HeadMachine, edge: _Edge) -> None:
    create(head)
    head.on_placed(ACTOR, WORKER, 7)
    failure = encode_failure("X", "y")
    head.on_reported(WORKER, ActorChanged(ACTOR, "dead", failure=failure))
    assert edge.killed == [WORKER]
    assert edge.sent[-1][1].failure == failure


def test_a_report_of_a_former_process_is_ignored(head: HeadMachine, edge: _Edge) -> None:
    alive(head, max_restarts=1)
    head.on_process_died(WORKER, 7, "SIGKILL")
    head.on_placed(ACTOR, OTHER, 8)
    head.on_reported(WORKER, ActorChanged(ACTOR, "alive", WORKER))
    assert head.actors[ACTOR].state == "starting"


def test_actors_of_a_dead_creator_die_unless_detached(head: HeadMachine, edge: _Edge) -> None:
    alive(head)
    head.on_process_died(CREATOR, 5, "SIGKILL")
    assert edge.killed == [WORKER]


def test_detached_actors_stay(head: HeadMachine, edge: _Edge) -> None:
    alive(head, lifetime="detached")
    head.on_process_died(CREATOR, 5, "SIGKILL")
    assert edge.killed == []
    assert head.actors[ACTOR].state == "alive"


def test_names(head: HeadMachine) -> None:
    assert head.reserve("n", "x", ACTOR, {}) == ACTOR
    assert head.reserve("n", "x", OTHER + bytes(8), {}) == ACTOR
    assert head.reserve("m", "x", OTHER + bytes(8), {}) != ACTOR
    alive(head, name="x", namespace="n")
    found = head.find("n", "x")
    assert found is not None
    assert found[0] == ACTOR
    head.on_process_died(WORKER, 7, "SIGKILL")
    assert head.find("n", "x") is None
    assert head.reserve("n", "x", OTHER + bytes(8), {}) == OTHER + bytes(8)


def test_a_reserved_name_is_found_before_its_actor_is_created(
    head: HeadMachine, edge: _Edge
) -> None:
    facts = {"class": "A"}
    head.reserve("n", "x", ACTOR, facts)
    assert head.find("n", "x") == (ACTOR, facts)
    head.on_lookup(OTHER, ACTOR)
    head.kill(ACTOR, True, "an argument of its constructor is an error")
    assert head.find("n", "x") is None
    assert [to for to, one in edge.sent if isinstance(one, ActorChanged)] == [OTHER]


def test_a_name_whose_creator_died_before_creating_is_free(head: HeadMachine) -> None:
    head.reserve("n", "x", ACTOR, {})
    head.on_process_died(CREATOR, 5, "SIGKILL")
    assert head.reserve("n", "x", OTHER + bytes(8), {}) == OTHER + bytes(8)


def test_a_graceful_end_goes_through_the_actor_and_is_no_restart(
    head: HeadMachine, edge: _Edge
) -> None:
    alive(head, max_restarts=3)
    head.end(ACTOR, "its last handle is gone")
    assert isinstance(edge.sent[-1][1], KillActor)
    head.on_process_died(WORKER, 7, "exited with code 0")
    assert head.actors[ACTOR].state == "dead"


def test_the_end_of_an_actor_in_its_constructor_lets_pending_calls_run(
    head: HeadMachine, edge: _Edge
) -> None:
    """`A.remote().f.remote()` drops the handle while the constructor runs: f has to be answered."""
    create(head)
    head.on_placed(ACTOR, WORKER, 7)
    head.on_reported(WORKER, ActorChanged(ACTOR, "alive", WORKER))
    head.end(ACTOR, "its last handle is gone")
    assert edge.killed == []


def test_a_replayed_actor_that_was_called_is_asked_also_when_its_process_died_first(
    head: HeadMachine, edge: _Edge
) -> None:
    """What its former process was told it knows from its checkpoint."""
    options = {"checkpoint_every": 1, "max_restarts": -1}
    called = CREATOR + bytes(7) + b"\x02"
    alive(head, **options)
    head.on_create(CREATOR, CreateActor(called, b"k", b"", b"", {"class": "B", **options}))
    assert head.on_placed(called, OTHER, 8)
    for actor, process in ((ACTOR, WORKER), (called, OTHER)):
        head.on_checkpoint(process, Checkpoint(actor, 1, 0, 0))
    head.on_process_died(OTHER, 8, "SIGKILL", [WORKER])
    head.on_process_died(WORKER, 7, "SIGKILL", [])
    assert head.on_placed(ACTOR, b"next----", 9)
    assert edge.restored[-1][0] == b"next----"
    assert edge.restored[-1][1].actors == [called]
