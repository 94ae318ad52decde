"""The node machine: leases within resources, for everyone, and all of it comes back."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import LeaseGrant, LeaseReclaim, LeaseRequest, Unplaceable
from engine.core.groups import Group
from engine.core.node import NodeMachine


class _Edge:
    """Notes the effects."""

    def __init__(self) -> None:
        self.unplaced: list[tuple[bytes, str]] = []
        self.sent: list[tuple[bytes, Any]] = []
        self.started = 0
        self.killed: list[bytes] = []
        self.placements: list[tuple[bytes, bytes]] = []

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def connect(self, one: bytes, other: bytes) -> None:
        assert one != other

    def start_worker(self, environment: bytes) -> None:
        self.started += 1

    def group_placed(self, group: bytes) -> None:
        pass

    def group_removed(self, group: bytes) -> None:
        pass

    def kill(self, process: bytes, cause: str) -> None:
        self.killed.append(process)

    def placed(self, actor: bytes, worker: bytes) -> None:
        self.placements.append((actor, worker))

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        self.unplaced.append((actor, kind))

    def take(self, kind: type) -> list[tuple[bytes, Any]]:
        found = [item for item in self.sent if isinstance(item[1], kind)]
        self.sent = [item for item in self.sent if not isinstance(item[1], kind)]
        return found


def _machine(cpus: float = 2.0, workers: int = 0) -> tuple[NodeMachine, _Edge]:
    edge = _Edge()
    machine = NodeMachine({"CPU": cpus}, Config(), edge)
    for number in range(workers):
        machine.on_worker_ready(b"worker%02d" % number, 100 + number, 0.0)
    return machine, edge


def _ask(
    machine: NodeMachine, owner: bytes, wanted: int, cpus: float = 1.0, now: float = 0.0
) -> None:
    machine.on_lease_request(owner, LeaseRequest(b"s%f" % cpus, {"CPU": cpus}, wanted), now)


def test_it_grants_within_resources() -> None:
    machine, edge = _machine(2, 5)
    _ask(machine, b"owner", 4)
    assert len(edge.take(LeaseGrant)) == 2
    assert machine.pool.free["CPU"] == 0


def test_fractions_add_up_exactly() -> None:
    machine, edge = _machine(1, 12)
    _ask(machine, b"owner", 12, 0.1)
    assert len(edge.take(LeaseGrant)) == 10
    assert machine.pool.free["CPU"] == 0


def test_it_starts_workers_when_none_is_idle_and_no_more_than_needed() -> None:
    machine, edge = _machine(2, 0)
    _ask(machine, b"owner", 50)
    assert edge.started == 2
    _ask(machine, b"owner", 50)
    assert edge.started == 2
    machine.on_worker_ready(b"worker-1", 1, 0.0)
    assert len(edge.take(LeaseGrant)) == 1
    machine.on_start_failed(0.0)
    assert edge.started == 3


def test_owners_take_turns() -> None:
    machine, edge = _machine(4, 4)
    machine.pool.take({"CPU": 40_000})
    for owner in (b"one", b"two"):
        _ask(machine, owner, 10)
    machine.pool.give({"CPU": 40_000})
    machine.schedule(0.0)
    grants = [owner for owner, _ in edge.take(LeaseGrant)]
    assert sorted(grants) == [b"one", b"one", b"two", b"two"]


def test_a_withdrawn_wish_is_forgotten() -> None:
    machine, edge = _machine(1, 0)
    _ask(machine, b"owner", 5)
    _ask(machine, b"owner", 0)
    machine.on_worker_ready(b"worker-1", 1, 0.0)
    assert not edge.take(LeaseGrant)
    assert not machine.waiting()


def test_a_worker_is_never_leased_to_itself() -> None:
    """It has no line to itself: it would send itself tasks and wait for their answers."""
    machine, edge = _machine(2, 1)
    _ask(machine, b"worker00", 1)
    assert not edge.take(LeaseGrant)
    assert edge.started == 1
    _ask(machine, b"other", 1)
    assert [(owner, one.worker) for owner, one in edge.take(LeaseGrant)] == [
        (b"other", b"worker00")
    ], "it is there for others meanwhile"


def test_a_worker_killed_with_its_placement_group_is_not_leased_again() -> None:
    """Its owner may give it back before its death is known."""
    machine, edge = _machine(2, 1)
    assert machine.want_group(Group(b"group", b"one", [{"CPU": 1.0}]), 0.0) is None
    machine.on_lease_request(b"one", LeaseRequest(b"s", {"CPU": 1.0}, 1, b"group"), 0.0)
    ((_, grant),) = edge.take(LeaseGrant)
    machine.remove_group(b"group", 0.0)
    assert edge.killed == [grant.worker]
    machine.on_lease_return(grant.worker, 0.0)
    _ask(machine, b"two", 1)
    assert not edge.take(LeaseGrant)
    machine.on_died(grant.worker, 0.0)
    assert machine.pool.free == machine.pool.total


def test_a_blocked_worker_lends_its_resources_out() -> None:
    machine, edge = _machine(1, 2)
    _ask(machine, b"one", 1)
    ((_, grant),) = edge.take(LeaseGrant)
    _ask(machine, b"two", 1)
    assert not edge.take(LeaseGrant)
    machine.on_blocked(grant.worker, True, 0.0)
    assert [owner for owner, _ in edge.take(LeaseGrant)] == [b"two"]
    machine.on_blocked(grant.worker, False, 0.0)
    assert machine.pool.free["CPU"] == -10_000, "over-subscribed for a while"
    _ask(machine, b"three", 1)
    assert not edge.take(LeaseGrant)


def test_idle_leases_are_asked_for_at_once_and_busy_ones_after_a_quantum() -> None:
    machine, edge = _machine(2, 3)
    _ask(machine, b"greedy", 2)
    _ask(machine, b"late", 1, now=1.0)
    asked = edge.take(LeaseReclaim)
    assert asked
    assert all(owner == b"greedy" and not one.drain for owner, one in asked)
    machine.tick(1.0 + 2 * Config().lease_quantum_seconds)
    assert [one.drain for _, one in edge.take(LeaseReclaim)] == [True]


def test_an_actor_is_placed_and_its_death_gives_back() -> None:
    machine, edge = _machine(1, 1)
    machine.want_actor(b"actor", {"CPU": 1.0}, b"", -1, 0.0)
    assert edge.placements == [(b"actor", b"worker00")]
    assert machine.pool.free["CPU"] == 0
    machine.on_died(b"worker00", 0.0)
    assert machine.pool.free["CPU"] == 10_000


def test_what_never_fits_starts_nothing() -> None:
    machine, edge = _machine(1, 1)
    _ask(machine, b"owner", 1, 5.0)
    assert not edge.sent
    assert not edge.started


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_keep_the_books(seed: int) -> None:
    draw = random.Random(seed)
    machine, edge = _machine(3, 0)
    now, started, leases, actors = 0.0, 0, {}, set()
    for _ in range(400):
        now += draw.random() * 0.02
        choice = draw.random()
        if choice < 0.25:
            owner = b"owner%d" % draw.randrange(3)
            _ask(machine, owner, draw.randrange(4), draw.choice([0.0, 0.5, 1.0, 2.0]), now)
        elif choice < 0.45 and started < edge.started:
            started += 1
            if draw.random() < 0.9:
                machine.on_worker_ready(b"worker%d" % started, started, now)
            else:
                machine.on_start_failed(now)
        elif choice < 0.65 and leases:
            machine.on_lease_return(leases.popitem()[0], now)
        elif choice < 0.72 and leases:
            machine.on_blocked(draw.choice(sorted(leases)), draw.random() < 0.5, now)
        elif choice < 0.78:
            machine.want_actor(b"actor%d" % draw.randrange(10**9), {"CPU": 1.0}, b"", -1, now)
        elif choice < 0.86 and machine.workers:
            dead = draw.choice(sorted(machine.workers))
            machine.on_died(dead, now)
            leases.pop(dead, None)
            actors.discard(dead)
        else:
            machine.tick(now)
        leases |= {grant.worker: owner for owner, grant in edge.take(LeaseGrant)}
        actors |= {worker for _, worker in edge.placements}
        edge.placements.clear()
        used = sum(w.units.get("CPU", 0) for w in machine.workers.values() if not w.blocked)
        assert machine.pool.free["CPU"] == machine.pool.total["CPU"] - used
        assert set(leases) == {w.process for w in machine.workers.values() if w.use == "lease"}
    for process in sorted(machine.workers):
        machine.on_died(process, now)
    assert machine.pool.free == machine.pool.total


def test_actors_without_a_process_fail_but_those_for_which_one_comes() -> None:
    machine, edge = _machine(2)
    for number in range(3):
        machine.want_actor(b"actor%d" % number, {}, b"", -1, 0.0)
    machine.want_actor(b"large", {"CPU": 3}, b"", -1, 0.0)
    assert edge.started == 3
    machine.on_no_room(b"", "no room")
    assert edge.unplaced == [(b"actor2", "ActorUnschedulableError")]
    machine.on_worker_ready(b"worker00", 100, 0.0)
    machine.on_worker_ready(b"worker01", 101, 0.0)
    assert [actor for actor, _ in edge.placements] == [b"actor0", b"actor1"]
    assert list(machine.demands) == [(b"", b"large")], "it waits for resources"


def test_tasks_wait_for_workers_that_there_are_and_fail_without_any() -> None:
    machine, edge = _machine(2, 1)
    _ask(machine, b"owner", 2)
    machine.on_no_room(b"", "no room")
    assert len(machine.demands) == 1
    assert not edge.take(Unplaceable)
    machine.on_died(b"worker00", 0.0)
    machine.on_no_room(b"", "no room")
    assert not machine.demands
    assert [message.kind for _, message in edge.take(Unplaceable)] == ["TaskUnschedulableError"]
