"""Placement groups: all bundles or none, and what runs inside."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil
import pytest

from engine import exceptions
from engine.util import (
    PlacementGroupSchedulingStrategy,
    placement_group,
    remove_placement_group,
)
from tests.engine.support import eventually

SECONDS = 20


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


def test_removal_ends_the_actors_inside(cluster: Any) -> None:
    group = placement_group([{"CPU": 1}])
    assert group.wait(SECONDS)

    @cluster.remote(num_cpus=1)
    class Tenant:
        def pid(self) -> int:
            return os.getpid()

    tenant = Tenant.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
    pid = cluster.get(tenant.pid.remote(), timeout=SECONDS)
    start = time.monotonic()
    remove_placement_group(group)
    with pytest.raises(exceptions.ActorDiedError, match="placement group was removed"):
        cluster.get(tenant.pid.remote(), timeout=SECONDS)
    eventually(lambda: not psutil.pid_exists(pid), what="the tenant is gone")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("bundles", "strategy", "message"),
    [
        ([], "PACK", "non-empty list"),
        ([{}], "PACK", "amount above 0"),
        ([{"CPU": -1}], "PACK", "amounts >= 0"),
        ([{"CPU": 1}], "TIGHT", "expected one of PACK"),
        ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD", "as many machines"),
    ],
)
def test_mistakes(cluster: Any, bundles: Any, strategy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        placement_group(bundles, strategy)
