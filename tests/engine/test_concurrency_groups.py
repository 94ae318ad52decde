"""Concurrency groups: a limit and an order of its own for each, in threads and event loops."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from tests.engine.support import eventually

SECONDS = 15.0


class Counting:
    """Counts, per group, how many calls run at a time and how many did at most."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def enter(self, group: str) -> None:
        with self.lock:
            self.now[group] = self.now.get(group, 0) + 1
            self.most[group] = max(self.most.get(group, 0), self.now[group])

    def leave(self, group: str) -> None:
        with self.lock:
            self.now[group] -= 1


@engine.remote(num_cpus=0, concurrency_groups={"io": 2, "compute": 4})
class Threaded(Counting):
    """Plain methods: threads."""

    def work(self, group: str, path: str) -> str:
        self.enter(group)
        while not os.path.exists(path):
            time.sleep(0.001)
        self.leave(group)
        return threading.current_thread().name

    @engine.method(concurrency_group="io")
    def io(self, path: str) -> str:
        return self.work("io", path)

    @engine.method(concurrency_group="compute")
    def compute(self, path: str) -> str:
        return self.work("compute", path)

    def default(self, path: str) -> str:
        return self.work("default", path)

    @engine.method(concurrency_group="compute")
    def peaks(self) -> tuple[dict[str, int], dict[str, int]]:
        return dict(self.now), dict(self.most)


@engine.remote(num_cpus=0, max_concurrency=3, concurrency_groups={"io": 2, "single": 1})
class Looped(Counting):
    """Coroutines: event loops."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []

    async def work(self, group: str, path: str) -> str:
        self.enter(group)
        while not os.path.exists(path):
            await asyncio.sleep(0.001)
        self.leave(group)
        return threading.current_thread().name

    @engine.method(concurrency_group="io")
    async def io(self, path: str) -> str:
        return await self.work("io", path)

    async def default(self, path: str) -> str:
        return await self.work("default", path)

    @engine.method(concurrency_group="single")
    async def peaks(self) -> tuple[dict[str, int], dict[str, int]]:
        return dict(self.now), dict(self.most)

    @engine.method(concurrency_group="single")
    def ping(self) -> str:
        return threading.current_thread().name

    def block(self, path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.001)
        return threading.current_thread().name

    @engine.method(concurrency_group="single")
    async def append(self, number: int) -> None:
        self.order.append(number)

    @engine.method(concurrency_group="single")
    async def appended(self) -> list[int]:
        return self.order

    @engine.method(concurrency_group="io")
    async def items(self, n: int) -> Any:
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    @engine.method(concurrency_group="io")
    async def current(self) -> bool:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        return task is not None and asyncio.current_task() is task

    @engine.method(concurrency_group="io")
    async def leave_group(self) -> None:
        raise SystemExit(4)

    @engine.method(concurrency_group="io")
    async def leave_from_a_task(self) -> None:
        await asyncio.create_task(self.leave_group())


def settle(actor: Any, expected: dict[str, int]) -> dict[str, int]:
    """Wait until so many calls run in each group; the most there ever were."""
    eventually(lambda: engine.get(actor.peaks.remote(), timeout=SECONDS)[0] == expected)
    most: dict[str, int] = engine.get(actor.peaks.remote(), timeout=SECONDS)[1]
    return most


def test_each_group_of_threads_has_its_limit(cluster: Any, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    actor = Threaded.remote()
    refs = [actor.io.remote(gate) for _ in range(5)]
    refs += [actor.compute.remote(gate) for _ in range(3)]
    refs += [actor.default.remote(gate) for _ in range(3)]
    assert settle(actor, {"io": 2, "compute": 3, "default": 1})["io"] == 2
    Path(gate).touch()
    names = cluster.get(refs, timeout=SECONDS)
    assert {name.rpartition("-")[0] for name in names[:5]} == {"engine-io"}
    most = cluster.get(actor.peaks.remote(), timeout=SECONDS)[1]
    assert most == {"io": 2, "compute": 3, "default": 1}


def test_each_group_of_coroutines_has_its_limit(cluster: Any, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    actor = Looped.remote()
    refs = [actor.io.remote(gate) for _ in range(5)]
    refs += [actor.default.remote(gate) for _ in range(5)]
    assert settle(actor, {"io": 2, "default": 3}) == {"io": 2, "default": 3}
    Path(gate).touch()
    names = cluster.get(refs, timeout=SECONDS)
    assert set(names) == {"engine-group-io", "MainThread"}
    assert settle(actor, {"io": 0, "default": 0}) == {"io": 2, "default": 3}


def test_a_blocked_loop_leaves_the_other_groups_alone(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    actor = Looped.remote()
    blocked = actor.block.remote(str(gate))
    for _ in range(3):
        assert cluster.get(actor.ping.remote(), timeout=SECONDS) == "engine-group-single"
    gate.touch()
    assert cluster.get(blocked, timeout=SECONDS) == "MainThread"


def test_a_group_given_with_the_call(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    actor = Threaded.remote()
    refs = [actor.default.options(concurrency_group="compute").remote(str(gate)) for _ in range(4)]
    eventually(
        lambda: engine.get(
            actor.peaks.options(concurrency_group="io").remote(), timeout=SECONDS
        )[0] == {"default": 4}
    )  # fmt: skip
    gate.touch()
    assert {name.rpartition("-")[0] for name in cluster.get(refs)} == {"engine-compute"}


def test_order_within_a_group(cluster: Any) -> None:
    actor = Looped.remote()
    for number in range(200):
        actor.append.remote(number)
    assert cluster.get(actor.appended.remote(), timeout=SECONDS) == list(range(200))


def test_generators_and_tasks_in_a_loop_of_its_own(cluster: Any) -> None:
    actor = Looped.remote()
    assert [cluster.get(ref) for ref in actor.items.remote(250)] == list(range(250))
    assert cluster.get(actor.current.remote(), timeout=SECONDS)


def test_cancel_in_a_group(cluster: Any, tmp_path: Path) -> None:
    actor = Looped.remote()
    gate = str(tmp_path / "never")
    refs = [actor.io.remote(gate) for _ in range(4)]  # two run, two wait
    settle(actor, {"io": 2})
    for ref in (refs[3], refs[0]):
        cluster.cancel(ref)
        with pytest.raises(exceptions.TaskCancelledError):
            cluster.get(ref, timeout=SECONDS)
    Path(gate).touch()
    assert cluster.get([refs[1], refs[2]], timeout=SECONDS) == ["engine-group-io"] * 2


@pytest.mark.parametrize("how", ["leave_group", "leave_from_a_task"])
def test_exit_from_a_group_ends_the_actor(cluster: Any, how: str) -> None:
    with pytest.raises(exceptions.ActorDiedError, match="code 4"):
        cluster.get(getattr(Looped.remote(), how).remote(), timeout=SECONDS)


def test_groups_are_known_to_handles_that_travel(cluster: Any) -> None:
    actor = Looped.options(name="grouped").remote()

    @cluster.remote
    def use(handle: Any, name: str) -> list[str]:
        found = [
            cluster.get(handle.ping.remote()),
            cluster.get(cluster.get_actor(name).ping.remote()),
        ]
        for one in (handle, cluster.get_actor(name)):
            try:
                one.ping.options(concurrency_group="nowhere")
            except ValueError as error:
                found.append(str(error))
        return found

    found = cluster.get(use.remote(actor, "grouped"), timeout=SECONDS)
    assert found[:2] == ["engine-group-single"] * 2
    assert all("'nowhere'" in text and "'io', 'single'" in text for text in found[2:])
    assert len(found) == 4
    cluster.kill(actor)


def _slow_then_fast(cluster: Any, actor: Any, gate: Path) -> tuple[Any, Any]:
    @cluster.remote(num_cpus=0)
    def late(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.001)
        return 1

    return actor.take.remote(late.remote(str(gate))), actor.take.remote(2)


@pytest.mark.parametrize(
    ("options", "overtakes"),
    [
        ({}, False),
        ({"allow_out_of_order_execution": True}, True),
        ({"max_concurrency": 2}, True),
        ({"max_concurrency": 2, "allow_out_of_order_execution": False}, False),
    ],
)
def test_overtaking_a_call_whose_argument_is_pending(
    cluster: Any, tmp_path: Path, options: dict[str, Any], overtakes: bool
) -> None:
    @cluster.remote(num_cpus=0)
    class Taker:
        def take(self, x: int) -> int:
            return x

    gate = tmp_path / "gate"
    slow, fast = _slow_then_fast(cluster, Taker.options(**options).remote(), gate)
    assert cluster.wait([fast], timeout=SECONDS if overtakes else 0.1)[0] == [fast] * overtakes
    gate.touch()
    assert cluster.get([slow, fast], timeout=SECONDS) == [1, 2]


def test_coroutines_overtake_by_default(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(num_cpus=0)
    class Taker:
        async def take(self, x: int) -> int:
            return x

    gate = tmp_path / "gate"
    slow, fast = _slow_then_fast(cluster, Taker.remote(), gate)
    assert cluster.get(fast, timeout=SECONDS) == 2
    gate.touch()
    assert cluster.get(slow, timeout=SECONDS) == 1
