"""Workers that end: after `max_calls` calls of a function, or because they hold too much memory."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import engine
from engine import state
from engine.config import Config
from engine.core.control import LeaseGrant, LeaseReclaim, LeaseRequest, Retire
from engine.core.node import NodeMachine
from engine.options import max_calls_of
from tests.engine.support import alive, eventually, gone

SECONDS = 10.0
MB = 1 << 20
MEMORY: list[Any] = []  # what tasks leave behind in their workers


# ---------------------------------------------------------------------------------- max_calls


def test_a_worker_ends_after_so_many_calls(cluster: Any) -> None:
    @cluster.remote(max_calls=3)
    def pid(_x: int) -> int:
        return os.getpid()

    pids = Counter(cluster.get([pid.remote(x) for x in range(31)], timeout=SECONDS))
    assert sorted(pids.values(), reverse=True)[:9] == [3] * 9
    assert max(pids.values()) == 3
    full = [one for one, count in pids.items() if count == 3]
    eventually(lambda: gone(full), what="their end")


def test_only_calls_of_that_function_count(leak_check: None) -> None:
    engine.init(num_cpus=1)
    try:

        @engine.remote
        def other() -> int:
            return os.getpid()

        @engine.remote(max_calls=2)
        def counted() -> int:
            return os.getpid()

        calls = [counted, other, other, other, counted, counted, other, other, other]
        pids = [engine.get(call.remote(), timeout=SECONDS) for call in calls]
        assert len(set(pids[:5])) == len(set(pids[5:])) == 1
        assert pids[4] != pids[5]
    finally:
        engine.shutdown()


def test_calls_that_raise_are_answered_and_count(cluster: Any) -> None:
    @cluster.remote(max_calls=1, max_retries=0)
    def fail() -> None:
        raise ValueError(os.getpid())

    pids = set()
    for _ in range(3):
        with pytest.raises(ValueError, match=r"\d+") as caught:
            cluster.get(fail.remote(), timeout=SECONDS)
        pids.add(caught.value.args[0])
    assert len(pids) == 3


def test_no_task_is_lost_or_tried_twice(cluster: Any, tmp_path: Any) -> None:
    path = tmp_path / "runs"

    @cluster.remote(max_calls=2, max_retries=0)
    def once(number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number

    @cluster.remote(max_retries=0)
    def beside(number: int) -> int:
        return number

    refs = [(once if n % 3 else beside).remote(n) for n in range(120)]
    assert cluster.get(refs, timeout=30) == list(range(120))
    assert sorted(map(int, path.read_text().split())) == [n for n in range(120) if n % 3]


def test_generators_are_counted_when_they_have_ended(cluster: Any) -> None:
    @cluster.remote(max_calls=1)
    def items() -> Iterator[int]:
        for _ in range(3):
            yield os.getpid()

    runs = [[cluster.get(ref) for ref in items.remote()] for _ in range(3)]
    assert [len(set(run)) for run in runs] == [1, 1, 1]
    assert len({run[0] for run in runs}) == 3


def test_it_lives_while_what_it_owns_is_needed(cluster: Any) -> None:
    total = cluster.cluster_resources()

    @cluster.remote(max_calls=1)
    def make() -> Any:
        return [engine.put("precious")], os.getpid()

    refs, pid = cluster.get(make.remote(), timeout=SECONDS)
    eventually(lambda: {one["use"] for one in state.list_workers() if one["pid"] == pid}
               == {"retiring"})  # fmt: skip
    eventually(lambda: cluster.available_resources() == total, what="its CPU for others")
    assert cluster.get(refs[0], timeout=SECONDS) == "precious"
    assert alive(pid)
    del refs
    cluster.put(0)  # references that died are told at the next call
    eventually(lambda: not alive(pid))


def test_what_only_its_own_code_refers_to_does_not_keep_it(cluster: Any) -> None:
    captured = cluster.put([1, 2, 3])

    @cluster.remote(max_calls=1)
    def use() -> int:
        MEMORY.append(engine.put("forgotten"))
        assert cluster.get(captured) == [1, 2, 3]
        return os.getpid()

    pid = cluster.get(use.remote(), timeout=SECONDS)
    eventually(lambda: not alive(pid))


def test_work_it_has_begun_elsewhere_is_finished(cluster: Any, tmp_path: Any) -> None:
    path = tmp_path / "done"

    @cluster.remote
    def later() -> None:
        time.sleep(0.2)
        path.touch()

    @cluster.remote(max_calls=1, num_cpus=0)
    def begin() -> int:
        later.remote()  # nobody keeps the reference
        return os.getpid()

    pid = cluster.get(begin.remote(), timeout=SECONDS)
    eventually(path.exists)
    eventually(lambda: not alive(pid))


def test_those_it_has_leased_live_on(cluster: Any) -> None:
    @cluster.remote
    def inner() -> Any:
        return os.getpid(), [engine.put("precious")]

    @cluster.remote(max_calls=1, num_cpus=0)
    def outer() -> Any:
        return os.getpid(), engine.get(inner.remote())

    pid, (other, refs) = cluster.get(outer.remote(), timeout=SECONDS)
    eventually(lambda: not alive(pid))
    eventually(lambda: {"idle"} == {o["use"] for o in state.list_workers() if o["pid"] == other})
    assert cluster.get(refs[0], timeout=SECONDS) == "precious"


def test_max_calls_is_for_the_decorator(cluster: Any) -> None:
    @cluster.remote(max_calls=5)
    def f() -> None:
        return None

    with pytest.raises(ValueError, match="max_calls"):
        f.options(max_calls=1)
    with pytest.raises(ValueError, match="max_calls"):
        cluster.remote(max_calls=-1)(os.getpid)
    with pytest.raises(ValueError, match="max_calls"):

        @cluster.remote(max_calls=1)
        class Actor:
            pass


def test_a_task_with_a_gpu_has_its_process_for_itself() -> None:
    assert max_calls_of({"num_gpus": 1}) == 1
    assert max_calls_of({"num_gpus": 1, "max_calls": 0}) == 0
    assert max_calls_of({"num_gpus": 0}) == max_calls_of({}) == 0


def test_gpus_are_free_again_when_the_process_has_ended(leak_check: None) -> None:
    engine.init(num_cpus=2, num_gpus=1)
    try:

        @engine.remote(num_gpus=1)
        def pid() -> int:
            return os.getpid()

        pids = []
        for _ in range(4):
            pids.append(engine.get(pid.remote(), timeout=SECONDS))
            eventually(lambda: engine.available_resources()["GPU"] == 1.0)
            assert not alive(pids[-1])
        assert len(set(pids)) == 4
    finally:
        engine.shutdown()


# ---------------------------------------------------------------------------------- memory


@pytest.fixture
def lean(leak_check: None) -> Iterator[Any]:
    """An engine that replaces idle workers of more than 40 MB."""
    engine.init(num_cpus=1, config=Config(worker_recycle_bytes=40 * MB))
    yield engine
    engine.shutdown()


def hoard(megabytes: int, also: Any = None) -> int:
    MEMORY.append((b"x" * (megabytes * MB), also))
    return os.getpid()


def test_an_idle_worker_with_much_memory_is_replaced(lean: Any) -> None:
    task = lean.remote(hoard)
    first = lean.get(task.remote(5), timeout=SECONDS)
    assert lean.get(task.remote(10), timeout=SECONDS) == first, "not while it is lean"
    assert lean.get(task.remote(60), timeout=SECONDS) == first
    eventually(lambda: not alive(first))
    eventually(lambda: _uses() == ["idle"], what="another")
    assert lean.get(task.remote(1), timeout=SECONDS) != first


def test_a_large_worker_stays_while_it_owns_something(lean: Any) -> None:
    @lean.remote
    def make() -> Any:
        return hoard(60), [engine.put("precious")]

    pid, refs = lean.get(make.remote(), timeout=SECONDS)
    eventually(lambda: len(_uses()) == 2, what="a replacement")
    assert lean.get(refs[0], timeout=SECONDS) == "precious"
    assert alive(pid)


# ---------------------------------------------------------------------------------- the machine


class _Edge:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.started = 0

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def connect(self, one: bytes, other: bytes) -> None:
        pass

    def start_worker(self, environment: bytes) -> None:
        self.started += 1

    def kinds(self) -> list[type]:
        return [type(message) for _process, message in self.sent]


def _leased() -> tuple[NodeMachine, _Edge]:
    edge = _Edge()
    machine = NodeMachine({"CPU": 1.0}, Config(), edge)  # type: ignore[arg-type]
    machine.on_worker_ready(b"worker", 1, 0.0)
    machine.on_lease_request(b"owner", LeaseRequest(b"s", {"CPU": 1.0}, 1), 0.0)
    assert edge.kinds() == [LeaseGrant]
    return machine, edge


def test_a_leaving_worker_holds_its_resources_until_it_is_gone() -> None:
    machine, edge = _leased()
    machine.on_leaving(b"worker", 1.0)
    assert edge.sent[-1] == (b"owner", LeaseReclaim(b"worker", True))
    machine.on_lease_return(b"worker", 2.0)
    assert edge.kinds()[-1] is Retire
    assert machine.pool.free["CPU"] == 0
    machine.on_died(b"worker", 3.0)
    assert machine.pool.free["CPU"] == 10_000


def test_one_that_has_to_live_on_gives_them_back_and_gets_nothing_more() -> None:
    machine, edge = _leased()
    machine.on_leaving(b"worker", 1.0)
    machine.on_lease_return(b"worker", 2.0)
    machine.on_lease_request(b"owner", LeaseRequest(b"s", {"CPU": 1.0}, 1), 2.0)
    assert edge.started == 0, "nothing is free"
    machine.on_kept(b"worker", 3.0)
    assert edge.started == 1
    machine.on_died(b"worker", 4.0)
    assert machine.pool.free == machine.pool.total


def test_the_lease_may_come_back_before_the_leaving_is_known() -> None:
    machine, edge = _leased()
    machine.on_lease_return(b"worker", 1.0)
    machine.on_leaving(b"worker", 1.0)
    assert edge.kinds()[-1] is Retire
    machine.on_lease_request(b"owner", LeaseRequest(b"s", {"CPU": 1.0}, 1), 1.0)
    assert edge.started == 1


def test_each_idle_worker_is_weighed_once() -> None:
    machine, edge = _leased()
    roster = machine.roster
    assert roster.unweighed() == []
    machine.on_lease_return(b"worker", 1.0)
    (worker,) = roster.unweighed()
    assert roster.unweighed() == []
    roster.replace(worker)
    assert edge.kinds()[-1] is Retire
    assert edge.started == 1
    machine.on_kept(b"worker", 3.0)
    assert roster.unweighed() == [], "it was, and is needed"


def _uses() -> list[str]:
    """What the workers that live do."""
    return [one["use"] for one in state.list_workers(filters=[("is_alive", "=", True)])
            if one["worker_type"] == "WORKER"]  # fmt: skip
