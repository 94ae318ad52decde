"""The node machine and places: environments, devices, placement groups, and reasons to wait."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import (
    LeaseGrant,
    LeaseReclaim,
    LeaseRequest,
    Retire,
    Unplaceable,
    Waiting,
)
from engine.core.groups import Group
from engine.core.node import NodeMachine
from engine.core.resources import GPU

CONFIG = Config(idle_workers_max=8)
A, B = b"environment a", b"environment b"
OWNER, OTHER = b"owner---", b"other---"


class _World:
    """A node machine, and what it has had done."""

    def __init__(self, resources: dict[str, float], *, workers: int = 0) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.started: list[bytes] = []
        self.actors: dict[bytes, bytes] = {}
        self.failed: dict[bytes, tuple[str, str]] = {}
        self.groups: list[bytes] = []
        self.removed: list[bytes] = []
        self.killed: list[bytes] = []
        self.count = 0
        self.machine = NodeMachine(resources, CONFIG, self)
        for _ in range(workers):
            self.come(b"")

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def connect(self, one: bytes, other: bytes) -> None:
        assert one != other

    def start_worker(self, environment: bytes) -> None:
        self.started.append(environment)

    def placed(self, actor: bytes, worker: bytes) -> None:
        self.actors[actor] = worker

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        self.failed[actor] = kind, text

    def group_placed(self, group: bytes) -> None:
        self.groups.append(group)

    def group_removed(self, group: bytes) -> None:
        self.removed.append(group)

    def kill(self, process: bytes, cause: str) -> None:
        self.killed.append(process)

    def come(self, environment: bytes, now: float = 0.0) -> bytes:
        """A worker says hello."""
        self.count += 1
        name = b"worker%02d" % self.count
        self.machine.on_worker_ready(name, 100 + self.count, now, environment)
        return name

    def ask(
        self,
        environment: bytes = b"",
        wanted: int = 1,
        resources: dict[str, float] | None = None,
        *,
        owner: bytes = OWNER,
        group: bytes = b"",
        bundle: int = -1,
        now: float = 0.0,
    ) -> None:
        """An owner asks for workers."""
        needs = {"CPU": 1.0} if resources is None else resources
        shape = repr((environment, sorted(needs.items()), group, bundle)).encode()
        message = LeaseRequest(shape, needs, wanted, group, bundle, environment, "work")
        self.machine.on_lease_request(owner, message, now)

    def group(self, name: bytes, bundles: list[dict[str, float]], creator: bytes = OWNER) -> None:
        """A process makes a placement group."""
        self.machine.want_group(Group(name, creator, bundles), 0.0)

    def take(self, kind: type) -> list[Any]:
        """Messages of a kind sent since the last look."""
        found = [message for _, message in self.sent if isinstance(message, kind)]
        self.sent = [one for one in self.sent if not isinstance(one[1], kind)]
        return found

    def grants(self) -> list[bytes]:
        return [grant.worker for grant in self.take(LeaseGrant)]


# ------------------------------------------------------------------------------ environments


def test_a_worker_of_one_environment_runs_no_task_of_another() -> None:
    world = _World({"CPU": 4}, workers=2)
    world.ask(A, 2)
    assert world.grants() == []
    assert world.started == [A, A]
    mine = world.come(A)
    world.ask(B)
    assert world.grants() == [mine]
    assert world.started == [A, A, B]
    assert sorted([world.come(B), world.come(A)]) == sorted(world.grants())
    world.machine.on_lease_return(mine, 1.0)
    world.ask(b"")
    assert world.grants() == [b"worker02"], "the one used last of its own kind"


def test_idle_workers_of_other_environments_end_and_the_drivers_own_stay() -> None:
    world = _World({"CPU": 2}, workers=3)
    world.ask(A, 2)
    leased = [world.come(A), world.come(A)]
    for worker in leased:
        world.machine.on_lease_return(worker, 1.0)
    look = world.machine.tick(1.0)
    assert look == CONFIG.worker_idle_seconds
    world.take(Retire)
    world.machine.tick(1.0 + CONFIG.worker_idle_seconds)
    ended = [process for process, one in world.sent if isinstance(one, Retire)]
    assert sorted(ended) == sorted([b"worker01", *leased]), "two CPUs, two workers stay"


def test_too_many_idle_workers_end_the_oldest_and_never_keep_one_from_starting() -> None:
    world = _World({"CPU": 1000})
    for number in range(CONFIG.idle_workers_max):
        world.come(A, float(number))
    assert world.take(Retire) == []
    world.ask(B)
    assert world.started == [B]
    new = world.come(B, 20.0)
    assert [process for process, one in world.sent if isinstance(one, Retire)] == [b"worker01"]
    assert world.grants() == [new]


def test_an_environment_that_cannot_be_set_up_fails_who_waits_and_is_not_tried_for_ever() -> None:
    world = _World({"CPU": 2}, workers=1)
    world.ask(A, 2)
    world.machine.want_actor(b"actor", {}, b"", -1, 0.0, environment=A)
    world.ask(b"", owner=OTHER)
    world.started.clear()
    world.machine.on_setup_failed(A, "no such directory")
    (told,) = world.take(Unplaceable)
    assert (told.kind, told.text, told.running) == (
        "RuntimeEnvSetupError", "no such directory", False
    )
    assert world.failed == {b"actor": ("RuntimeEnvSetupError", "no such directory")}
    for _ in range(3):
        world.machine.on_start_failed(0.0, A, "exited with code 1")
    assert world.started == []
    assert len(world.grants()) == 1, "others are not concerned"
    world.ask(A)
    assert world.started == [A], "later work tries again"


def test_workers_that_die_before_they_are_ready_are_not_started_for_ever() -> None:
    world = _World({"CPU": 1})
    world.ask(A)
    for _ in range(CONFIG.worker_starts_max):
        assert world.take(Unplaceable) == []
        world.machine.on_start_failed(0.0, A, "was killed by SIGSEGV")
    (told,) = world.take(Unplaceable)
    assert told.kind == "RuntimeEnvSetupError"
    assert "died before they were ready; the last was killed by SIGSEGV" in told.text
    assert len(world.started) == CONFIG.worker_starts_max
    world.ask(b"")  # the plain environment has no such limit: a fork of ours is what failed
    for _ in range(10):
        world.machine.on_start_failed(0.0, b"", "was killed by SIGKILL")
    assert world.take(Unplaceable) == []


# ----------------------------------------------------------------------------------- devices


def test_a_worker_that_was_given_devices_is_not_used_again() -> None:
    world = _World({"CPU": 2, GPU: 2}, workers=2)
    world.ask(resources={GPU: 1.0}, wanted=3)
    grants = world.take(LeaseGrant)
    assert [grant.devices for grant in grants] == [["0"], ["1"]]
    world.machine.on_lease_return(grants[0].worker, 0.0)
    assert world.take(Retire)
    assert world.started == [], "its devices are free when it is gone"
    world.machine.on_kept(grants[0].worker, 0.0)  # or when it lives on, for what it owns
    assert world.started == [b""]
    assert world.grants() == []
    world.ask()
    assert grants[0].worker not in world.grants()
    new = world.come(b"")
    (grant,) = [one for one in world.take(LeaseGrant) if one.worker == new]
    assert grant.devices == ["0"]
    for worker in [one.worker for one in grants]:
        world.machine.on_lease_return(worker, 0.0)
        world.machine.on_died(worker, 0.0)
    world.machine.on_lease_return(new, 0.0)
    assert world.machine.pool.free[GPU] == 10_000
    world.machine.on_died(new, 0.0)
    assert world.machine.pool.free[GPU] == 20_000


def test_who_waits_lends_its_cpus_out_and_keeps_its_devices() -> None:
    world = _World({"CPU": 1, GPU: 1, "licence": 1}, workers=2)
    world.ask(resources={"CPU": 1.0, GPU: 1.0, "licence": 1.0})
    (worker,) = world.grants()
    world.machine.on_blocked(worker, True, 0.0)
    assert world.machine.pool.free == {"CPU": 10_000, GPU: 0, "licence": 0}
    assert world.machine.pool.devices.free == {"0": 0}
    world.machine.on_died(worker, 0.0)
    assert world.machine.pool.free == world.machine.pool.total
    assert world.machine.pool.devices.free == {"0": 10_000}


# -------------------------------------------------------------------------- placement groups


def test_removal_fails_what_runs_what_waits_and_what_comes_later() -> None:
    world = _World({"CPU": 3}, workers=2)
    world.group(b"g", [{"CPU": 2}])
    world.ask(wanted=3, group=b"g")
    running = world.grants()
    assert len(running) == 2
    world.machine.want_actor(b"waiting", {"CPU": 1.0}, b"g", -1, 0.0)
    world.machine.remove_group(b"g", 0.0)
    told = world.take(Unplaceable)
    assert {one.kind for one in told} == {"TaskPlacementGroupRemoved"}
    assert any(one.running for one in told)
    assert sorted(world.killed) == sorted(running)
    assert world.failed[b"waiting"][0] == "ActorPlacementGroupRemoved"
    assert world.removed == [b"g"]
    assert world.machine.pool.free["CPU"] == 30_000
    world.machine.remove_group(b"g", 0.0)
    assert world.removed == [b"g"], "removing twice is a no-op"
    world.ask(group=b"g")
    world.machine.want_actor(b"late", {"CPU": 1.0}, b"g", -1, 0.0)
    assert [one.kind for one in world.take(Unplaceable)] == ["TaskPlacementGroupRemoved"]
    assert world.failed[b"late"][0] == "ActorPlacementGroupRemoved"
    for worker in running:
        world.machine.on_died(worker, 0.0)
    assert world.machine.pool.free == world.machine.pool.total


def test_an_actor_in_a_removed_group_is_told_to_the_head() -> None:
    world = _World({"CPU": 1}, workers=1)
    world.group(b"g", [{"CPU": 1}])
    world.machine.want_actor(b"actor", {"CPU": 1.0}, b"g", 0, 0.0)
    assert world.actors == {b"actor": b"worker01"}
    world.machine.remove_group(b"g", 0.0)
    assert world.failed[b"actor"][0] == "ActorPlacementGroupRemoved"
    assert world.killed == [], "that is for the head to decide"


def test_what_fits_into_no_bundle_is_refused() -> None:
    world = _World({"CPU": 4}, workers=1)
    world.group(b"g", [{"CPU": 1}, {"CPU": 2}])
    world.ask(resources={"CPU": 3.0}, group=b"g")
    world.ask(resources={"CPU": 2.0}, group=b"g", bundle=0)
    world.machine.want_actor(b"actor", {"disk": 1.0}, b"g", -1, 0.0)
    kinds = [one.kind for one in world.take(Unplaceable)]
    assert kinds == ["TaskUnschedulableError"] * 2
    assert world.failed[b"actor"][0] == "ActorUnschedulableError"
    world.ask(resources={"CPU": 2.0}, group=b"g")
    assert len(world.grants()) == 1


def test_a_group_ends_with_its_creator_unless_it_is_detached() -> None:
    world = _World({"CPU": 2})
    world.group(b"mine", [{"CPU": 1}])
    detached = Group(b"free", OWNER, [{"CPU": 1}], detached=True)
    world.machine.want_group(detached, 0.0)
    assert world.groups == [b"mine", b"free"]
    world.machine.on_died(OWNER, 0.0)
    assert world.removed == [b"mine"]
    assert world.machine.pool.free["CPU"] == 10_000


def test_a_group_has_its_turn_although_tasks_never_cease() -> None:
    world = _World({"CPU": 2}, workers=2)
    world.ask(wanted=50)
    busy = world.grants()
    world.group(b"g", [{"CPU": 2}])
    asked = world.take(LeaseReclaim)
    assert {one.worker for one in asked} == set(busy)
    world.machine.on_lease_return(busy[0], 1.0)
    assert world.grants() == [], "what comes back is kept for the group"
    world.machine.tick(1.0)
    assert [one.worker for one in world.take(LeaseReclaim) if one.drain] == [busy[1]]
    world.machine.on_lease_return(busy[1], 2.0)
    assert world.groups == [b"g"]
    world.machine.remove_group(b"g", 3.0)
    assert len(world.grants()) == 2


def test_a_group_that_waits_for_an_actor_does_not_hold_tasks_up() -> None:
    world = _World({"CPU": 2}, workers=3)
    world.machine.want_actor(b"actor", {"CPU": 1.0}, b"", -1, 0.0)
    world.group(b"g", [{"CPU": 2}])
    world.ask(wanted=1)
    assert len(world.grants()) == 1
    assert world.groups == []


# ----------------------------------------------------------------------------------- reasons


def _only(world: _World) -> str:
    ((owner, shape),) = world.machine.demands
    return world.machine.reasons.of(owner, shape)


def test_a_reason_says_what_is_needed_what_is_free_and_who_holds_it() -> None:
    world = _World({"CPU": 2}, workers=3)
    world.machine.want_actor(b"a" * 16, {"CPU": 1.0}, b"", -1, 0.0, title="actor Counter")
    world.ask(resources={"CPU": 0.5}, owner=OTHER)
    world.ask(resources={"CPU": 2.0})
    assert _only(world) == (
        "needs CPU 2; free is CPU 0.5 of 2; held by actor Counter (pid 103): CPU 1; "
        "task work (pid 102): CPU 0.5"
    )
    world.ask(resources={"CPU": 1.5}, wanted=3, owner=OTHER)
    last = list(world.machine.demands)[-1]
    assert world.machine.reasons.of(*last).endswith("; 1 more asked before it")
    assert world.machine.reasons.of(b"nobody", b"asked") == ""


def test_reasons_of_groups_starts_and_shared_devices() -> None:
    world = _World({"CPU": 4, GPU: 1})
    world.ask()
    assert _only(world).endswith("a worker process is being started for it")
    world.ask(wanted=0)
    world.group(b"big", [{"CPU": 4}])
    world.group(b"next", [{"CPU": 1}])
    world.ask(group=b"next")
    assert _only(world) == (
        "waits for placement group 6e657874, which needs CPU 1; free is CPU 0 of 4; "
        "held by placement group 626967: CPU 4"
    )
    world.machine.remove_group(b"big", 0.0)
    world.come(b"")
    world.grants()
    for worker in [world.come(b""), world.come(b"")]:
        world.ask(resources={GPU: 0.4})
        assert world.grants() == [worker] or world.grants() == []
    world.ask(resources={GPU: 0.5})
    assert "free is GPU 0.2 of 1" in _only(world)


def test_a_long_wait_is_told_once_a_kind_of_work() -> None:
    world = _World({"CPU": 1}, workers=2)
    world.machine.want_actor(b"x" * 16, {"CPU": 1.0}, b"", -1, 0.0, title="actor Holder")
    world.ask(now=1.0)
    for number in range(3):
        name = b"creator-%08d" % number
        world.machine.want_actor(name, {"CPU": 1.0}, b"", -1, 1.0, title="actor Late")
    world.group(b"g", [{"CPU": 1}])
    patience = CONFIG.waiting_warning_seconds
    world.machine.tick(patience)
    told = [(whom, one.text) for whom, one in world.sent if isinstance(one, Waiting)]
    assert [whom for whom, _ in told] == [OWNER]
    assert told[0][1].startswith("placement group 67 has waited for 10 s")
    world.take(Waiting)
    world.machine.tick(1.0 + patience)
    told = [(whom, one.text) for whom, one in world.sent if isinstance(one, Waiting)]
    assert [whom for whom, _ in told] == [OWNER, b"creator-"]
    assert told[0][1] == (
        "task work has waited for 10 s: it needs CPU 1; free is CPU 0 of 1; held by "
        "actor Holder (pid 102): CPU 1. It starts when that comes back. End what holds it, ask for "
        "less, or give more to engine.init()."
    )
    assert told[1][1].startswith("actor Late has waited")
    world.take(Waiting)
    world.machine.tick(10 * patience)
    assert world.take(Waiting) == []


def test_tasks_of_which_others_run_wait_for_their_turn_without_a_word() -> None:
    world = _World({"CPU": 1}, workers=1)
    world.ask(wanted=5)
    assert world.machine.tick(100.0) is not None
    assert world.take(Waiting) == []


# ------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_keep_the_books(seed: int) -> None:
    """Environments, devices, groups, deaths in any order: nothing is given twice or kept."""
    draw = random.Random(seed)
    world = _World({"CPU": 3, GPU: 2})
    machine, now, starts = world.machine, 0.0, 0
    needs = [{"CPU": 1.0}, {"CPU": 0.5}, {GPU: 1.0}, {GPU: 0.3}, {"CPU": 1.0, GPU: 0.5}, {}]
    for step in range(300):
        now += draw.random() * 0.05
        choice = draw.random()
        group = draw.choice([b"", b"", *machine.groups.all, b"gone"])
        environment = draw.choice([b"", A, B])
        if choice < 0.3:
            owner = draw.choice([OWNER, OTHER])
            wanted = draw.randrange(4)
            world.ask(environment, wanted, draw.choice(needs), owner=owner, group=group, now=now)
        elif choice < 0.5 and starts < len(world.started):
            kind, starts = world.started[starts], starts + 1
            if draw.random() < 0.8:
                world.come(kind, now)
            else:
                machine.on_start_failed(now, kind, "died")
        elif choice < 0.6:
            leased = [one.process for one in machine.workers.values() if one.use == "lease"]
            if leased:
                machine.on_lease_return(draw.choice(leased), now)
        elif choice < 0.66:
            if machine.workers:
                machine.on_blocked(draw.choice(list(machine.workers)), draw.random() < 0.5, now)
        elif choice < 0.72:
            actor = b"actor%03d%08d" % (step, 0)
            machine.want_actor(actor, draw.choice(needs), group, -1, now, environment=environment)
        elif choice < 0.78:
            bundles = [draw.choice(needs[:5]) for _ in range(draw.randrange(1, 4))]
            machine.want_group(Group(b"group%03d" % step, OTHER, bundles, since=now), now)
        elif choice < 0.82 and machine.groups.all:
            machine.remove_group(draw.choice(list(machine.groups.all)), now)
        elif choice < 0.9 and machine.workers:
            machine.on_died(draw.choice(list(machine.workers)), now)
        else:
            machine.tick(now)
        _check_books(world)
    for process in list(machine.workers):
        machine.on_died(process, now)
    for group in list(machine.groups.all):
        machine.remove_group(group, now)
    assert machine.pool.free == machine.pool.total
    assert machine.pool.devices.free == machine.pool.devices.total


def _check_books(world: _World) -> None:
    machine = world.machine
    for _, grant in [one for one in world.sent if isinstance(one[1], LeaseGrant)]:
        worker = machine.workers.get(grant.worker)
        if worker is not None and worker.use == "lease" and worker.shape == grant.shape:
            assert grant.shape.startswith(repr((worker.environment,))[:-2].encode())
    placed = [one for one in machine.groups.all.values() if one.pools]
    pools = [machine.pool, *(pool for one in placed for pool in one.pools)]
    for pool in pools:
        used: Counter[str] = Counter()
        shares: Counter[str] = Counter()
        for worker in machine.workers.values():
            if worker.pool is pool:
                used.update(worker.kept_units())
                shares.update(worker.devices)
        if pool is machine.pool:
            for group in placed:
                for bundle in group.pools:
                    used.update(bundle.total)
                    shares.update(bundle.devices.total)
        for name, total in pool.total.items():
            assert pool.free[name] == total - used[name]
        for name, total in pool.devices.total.items():
            assert pool.devices.free[name] == total - shares[name] >= 0
            assert name not in pool.total or shares[name] <= total
