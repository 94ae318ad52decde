"""Placement groups: all bundles or none, and what runs inside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import engine
from engine import exceptions
from engine.util import (
    PlacementGroupSchedulingStrategy,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from tests.engine.support import eventually

SECONDS = 20


@engine.remote
def hold(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


@engine.remote
def family(generations: int, strategy: Any = None) -> list[Any]:
    """Placement group of this task and of its descendants."""
    mine = [engine.get_runtime_context().get_placement_group_id()]
    if not generations:
        return mine
    child = family.options(scheduling_strategy=strategy)
    return mine + list(engine.get(child.remote(generations - 1)))


@engine.remote
def outer(cpus: int) -> Any:
    return engine.get(hold.options(num_cpus=cpus).remote("x"))


@engine.remote(num_cpus=1)
class Tenant:
    def pid(self) -> int:
        return os.getpid()

    def sleep(self) -> None:
        time.sleep(600)

    def current(self) -> Any:
        return get_current_placement_group()

    def family(self) -> Any:
        mine = engine.get_runtime_context().get_placement_group_id()
        return [mine, *engine.get(family.options(num_cpus=0).remote(0))]


def all_back(cluster: Any) -> bool:
    return bool(cluster.available_resources()["CPU"] == cluster.cluster_resources()["CPU"])


def test_a_group_takes_what_it_reserves_and_gives_it_back(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert group.wait(SECONDS)
    assert cluster.available_resources()["CPU"] == 0

    @cluster.remote
    def where() -> int:
        return os.getpid()

    outside = where.remote()
    inside = where.options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, 1)
    ).remote()
    assert cluster.get(inside, timeout=SECONDS) > 0
    assert cluster.wait([outside], timeout=0.05) == ([], [outside])
    remove_placement_group(group)
    remove_placement_group(group)  # twice is no error
    assert cluster.get(outside, timeout=SECONDS) > 0
    eventually(lambda: cluster.available_resources()["CPU"] == 2, what="all CPUs free")


def test_a_group_waits_until_all_of_it_is_free(cluster: Any) -> None:
    first = placement_group([{"CPU": 2}])
    assert first.wait(SECONDS)
    second = placement_group([{"CPU": 1}])
    assert not second.wait(0.05)
    remove_placement_group(first)
    assert second.wait(SECONDS)
    remove_placement_group(second)


def test_a_group_that_can_never_be(cluster: Any) -> None:
    group = placement_group([{"CPU": 64}])
    with pytest.raises(exceptions.TaskUnschedulableError, match="can never hold"):
        cluster.get(group.ready(), timeout=SECONDS)


def test_a_group_removed_before_it_was_ready(cluster: Any) -> None:
    first = placement_group([{"CPU": 2}])
    assert first.wait(SECONDS)
    second = placement_group([{"CPU": 2}])
    remove_placement_group(second)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        cluster.get(second.ready(), timeout=SECONDS)
    remove_placement_group(first)


def test_ready_gives_the_group_anywhere_and_often(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])
    assert cluster.get(group.ready(), timeout=SECONDS) == group
    assert group.bundle_specs == [{"CPU": 1}]
    assert group.bundle_count == 1

    @cluster.remote(num_cpus=0)
    def wait(other: Any) -> Any:
        return other.wait(SECONDS), cluster.get(other.ready()).id

    assert cluster.get(wait.remote(group), timeout=SECONDS) == (True, group.id)
    remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        group.wait(SECONDS)


def test_removal_ends_actors_inside_with_an_error_of_its_own(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group)
    tenant = Tenant.options(scheduling_strategy=strategy, max_restarts=-1).remote()
    second = Tenant.options(scheduling_strategy=strategy).remote()  # waits for the first one's CPU
    pid = cluster.get(tenant.pid.remote(), timeout=SECONDS)
    pending = [tenant.sleep.remote(), second.pid.remote()]
    start = time.monotonic()
    remove_placement_group(group)
    for ref in [*pending, tenant.pid.remote(), second.pid.remote()]:
        with pytest.raises(exceptions.ActorPlacementGroupRemoved, match="group was removed"):
            cluster.get(ref, timeout=SECONDS)
    eventually(lambda: not psutil.pid_exists(pid), what="the tenant is gone")
    late = Tenant.options(scheduling_strategy=strategy).remote()
    with pytest.raises(exceptions.ActorDiedError, match="group was removed"):
        cluster.get(late.pid.remote(), timeout=SECONDS)
    assert time.monotonic() - start < 5
    eventually(lambda: all_back(cluster), what="all resources free")


def test_removal_ends_tasks_inside_and_those_that_wait_for_them(
    cluster: Any, tmp_path: Path
) -> None:
    group = placement_group([{"CPU": 1}])
    inside = hold.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    running = inside.remote(str(tmp_path))
    eventually(lambda: any(tmp_path.iterdir()), SECONDS)
    waiting = [inside.remote(str(tmp_path)) for _ in range(3)]
    remove_placement_group(group)
    for ref in [running, *waiting, inside.remote(str(tmp_path))]:
        with pytest.raises(exceptions.TaskPlacementGroupRemoved, match=r"hold: its placement"):
            cluster.get(ref, timeout=SECONDS)
    assert len(list(tmp_path.iterdir())) == 1, "not tried again"
    eventually(lambda: all_back(cluster), what="all resources free")


def test_children_go_into_the_group_if_it_captures_them(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])

    def inside(capture: bool) -> Any:
        strategy = PlacementGroupSchedulingStrategy(group, 0, capture)
        return family.options(scheduling_strategy=strategy).remote(1)

    mine = group.id.hex()
    assert cluster.get(inside(True), timeout=SECONDS) == [mine, mine]
    assert cluster.get(inside(False), timeout=SECONDS) == [mine, None]
    assert cluster.get(family.remote(1), timeout=SECONDS) == [None, None]
    free = PlacementGroupSchedulingStrategy(None)
    for strategy in ("DEFAULT", free):
        outer = family.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0, True))
        assert cluster.get(outer.remote(1, strategy), timeout=SECONDS) == [mine, None]
    actor = Tenant.options(
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0, True)
    ).remote()
    assert cluster.get(actor.family.remote(), timeout=SECONDS) == [mine, mine]
    assert cluster.get(actor.current.remote(), timeout=SECONDS) == group
    remove_placement_group(group)
    eventually(lambda: all_back(cluster), what="all resources free")


def test_names_and_tables(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}], "STRICT_PACK", name="named")
    assert get_placement_group("named") == group
    assert get_placement_group("named").bundle_specs == [{"CPU": 1}]
    assert group.wait(SECONDS)
    table = placement_group_table(group)
    known = {name: table[name] for name in ("name", "bundles", "strategy", "state")}
    assert known == {
        "name": "named", "bundles": {0: {"CPU": 1}}, "strategy": "STRICT_PACK", "state": "CREATED",
    }  # fmt: skip
    assert placement_group_table()[group.id.hex()] == table
    with pytest.raises(ValueError, match=r"named 'named' exists.*finds it"):
        placement_group([{"CPU": 1}], name="named")
    waiting = placement_group([{"CPU": 2}], name="next")
    assert placement_group_table(waiting)["state"] == "PENDING"
    with pytest.raises(ValueError, match=r"no placement group named 'nobody'.*named, next"):
        get_placement_group("nobody")
    for one in (group, waiting):
        remove_placement_group(one)
        assert placement_group_table(one)["state"] == "REMOVED"
    assert placement_group([{"CPU": 1}], name="named").wait(SECONDS)
    remove_placement_group(get_placement_group("named"))
    assert cluster.get_runtime_context().get_placement_group_id() is None
    assert get_current_placement_group() is None
    eventually(lambda: all_back(cluster), what="all resources free")


def test_a_group_ends_with_its_creator_unless_it_is_detached(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    class Maker:
        def make(self, **options: Any) -> Any:
            made = placement_group([{"CPU": 1}], **options)
            return made if made.wait(SECONDS) else None

    maker = Maker.remote()
    short = cluster.get(maker.make.remote(), timeout=SECONDS)
    stays = cluster.get(maker.make.remote(lifetime="detached", name="stays"), timeout=SECONDS)
    assert cluster.available_resources()["CPU"] == 0
    cluster.kill(maker)
    eventually(lambda: cluster.available_resources()["CPU"] == 1, what="one is gone")
    assert placement_group_table(short)["state"] == "REMOVED"
    assert placement_group_table(stays)["is_detached"]
    remove_placement_group(get_placement_group("stays"))
    eventually(lambda: all_back(cluster), what="all resources free")


def test_a_group_made_in_a_task_outlives_the_worker(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    def make() -> Any:
        return placement_group([{"CPU": 1}]), os.getpid()

    group, pid = cluster.get(make.remote(), timeout=SECONDS)
    assert group.wait(SECONDS)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(pid), SECONDS)
    assert placement_group_table(group)["state"] == "CREATED"
    remove_placement_group(group)


def test_a_group_comes_to_its_turn_in_a_stream_of_tasks(cluster: Any) -> None:
    @cluster.remote
    def short() -> None:
        time.sleep(0.002)

    refs = [short.remote() for _ in range(1500)]
    cluster.get(refs[:20], timeout=SECONDS)
    group = placement_group([{"CPU": 2}])
    assert group.wait(SECONDS)
    done, _ = cluster.wait(refs, num_returns=len(refs), timeout=0)
    assert len(done) < len(refs), "it did not wait for all of them"
    remove_placement_group(group)
    cluster.get(refs, timeout=SECONDS)


def test_what_fits_into_no_bundle_is_refused(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])
    too_much = hold.options(
        num_cpus=2, scheduling_strategy=PlacementGroupSchedulingStrategy(group)
    )
    with pytest.raises(exceptions.TaskUnschedulableError, match="fits into no bundle"):
        too_much.remote("x")
    with pytest.raises(exceptions.ActorUnschedulableError, match="fits into no bundle"):
        Tenant.options(
            num_cpus=2, scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0)
        ).remote()
    strategy = PlacementGroupSchedulingStrategy(group, 0, True)
    captured = outer.options(scheduling_strategy=strategy, num_cpus=0).remote(2)
    with pytest.raises(exceptions.TaskUnschedulableError, match="fits nowhere in its placement"):
        cluster.get(captured, timeout=SECONDS)
    remove_placement_group(group)


def test_the_older_spelling(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])
    inside = family.options(
        placement_group=group,
        placement_group_bundle_index=0,
        placement_group_capture_child_tasks=True,
    )
    assert cluster.get(inside.remote(1), timeout=SECONDS) == [group.id.hex()] * 2
    with pytest.raises(ValueError, match="the same thing twice"):
        family.options(placement_group=group, scheduling_strategy="SPREAD")
    remove_placement_group(group)
    eventually(lambda: all_back(cluster), what="all resources free")


@pytest.mark.parametrize(
    ("bundles", "strategy", "message"),
    [
        ([], "PACK", "non-empty list"),
        ([{}], "PACK", "amount above 0"),
        ([{"CPU": -1}], "PACK", "amounts >= 0"),
        ([{"CPU": 1}], "TIGHT", "expected one of PACK"),
        ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD", "as many machines"),
        ([{"CPU": "1"}], "PACK", "expected a number for 'CPU'"),
        ([{"CPU": 0.00001}], "PACK", "no finer steps"),
        ([{"GPU": 1.5}], "PACK", "a share of one GPU"),
        ([5], "PACK", "expected a dictionary"),
    ],
)
def test_mistakes(cluster: Any, bundles: Any, strategy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placement_group(bundles, strategy)


def test_more_mistakes(cluster: Any) -> None:
    with pytest.raises(ValueError, match="expected None or 'detached'"):
        placement_group([{"CPU": 1}], lifetime="long")
    with pytest.raises(ValueError, match="expected a string"):
        placement_group([{"CPU": 1}], name=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a non-empty name"):
        get_placement_group("")
    with pytest.raises(TypeError, match="expected a PlacementGroup, not a str"):
        remove_placement_group("g")  # type: ignore[arg-type]
    group = placement_group([{"CPU": 1}])
    with pytest.raises(ValueError, match="expected -1 or an index below 1"):
        PlacementGroupSchedulingStrategy(group, 1)
    remove_placement_group(group)
