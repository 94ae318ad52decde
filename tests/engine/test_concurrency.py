"""Actors that run several calls at a time: coroutines and threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

import engine
from engine import exceptions

SECONDS = 15.0


@engine.remote
class Meeting:
    """Coroutines that can only end when they are in flight together."""

    def __init__(self) -> None:
        self.there = 0
        self.most = 0
        self.all_here = asyncio.Event()

    async def meet(self, wanted: int) -> int:
        self.there += 1
        self.most = max(self.most, self.there)
        if self.there == wanted:
            self.all_here.set()
        await self.all_here.wait()
        self.there -= 1
        return wanted

    async def echo(self, x: Any) -> Any:
        return x

    def plain(self) -> int:
        return self.most

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("in a coroutine")

    async def for_ever(self) -> None:
        await asyncio.Event().wait()

    async def pid(self) -> int:
        return os.getpid()

    async def call(self, other: Any, x: int) -> int:
        return await other.echo.remote(x) + 1


def test_coroutines_run_together(cluster: Any) -> None:
    meeting = Meeting.remote()
    refs = [meeting.meet.remote(50) for _ in range(50)]
    assert cluster.get(refs, timeout=SECONDS) == [50] * 50
    assert cluster.get(meeting.plain.remote(), timeout=SECONDS) == 50


def test_coroutines_are_limited_by_max_concurrency(cluster: Any) -> None:
    @cluster.remote(max_concurrency=3)
    class Limited:
        def __init__(self) -> None:
            self.now = 0
            self.most = 0

        async def work(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            for _ in range(3):
                await asyncio.sleep(0.001)
            self.now -= 1

        async def peak(self) -> int:
            return self.most

    limited = Limited.remote()
    cluster.get([limited.work.remote() for _ in range(20)], timeout=SECONDS)
    assert cluster.get(limited.peak.remote(), timeout=SECONDS) == 3


def test_coroutines_can_await_references(cluster: Any) -> None:
    one, two = Meeting.remote(), Meeting.remote()
    refs = [one.call.remote(two, x) for x in range(50)]
    assert cluster.get(refs, timeout=SECONDS) == [x + 1 for x in range(50)]


def test_a_coroutines_error_is_a_task_error(cluster: Any) -> None:
    meeting = Meeting.remote()
    with pytest.raises(LookupError, match="in a coroutine"):
        cluster.get(meeting.fail.remote(), timeout=SECONDS)
    assert cluster.get(meeting.echo.remote(1), timeout=SECONDS) == 1


def test_cancel_of_a_coroutine(cluster: Any) -> None:
    meeting = Meeting.remote()
    ref = meeting.for_ever.remote()
    assert cluster.get(meeting.echo.remote(1), timeout=SECONDS) == 1
    cluster.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(ref, timeout=SECONDS)
    assert cluster.get(meeting.echo.remote(2), timeout=SECONDS) == 2


def test_an_async_actor_that_dies_fails_all_its_calls(cluster: Any) -> None:
    meeting = Meeting.remote()
    pid = cluster.get(meeting.pid.remote(), timeout=SECONDS)
    refs = [meeting.for_ever.remote() for _ in range(10)]
    os.kill(pid, 9)
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError):
            cluster.get(ref, timeout=SECONDS)


def test_a_blocking_get_in_a_coroutine_does_not_deadlock_its_own_process(cluster: Any) -> None:
    @cluster.remote
    def f() -> int:
        return 3

    @cluster.remote
    class Blocking:
        async def work(self) -> int:
            return cluster.get(f.remote())

    blocking = Blocking.remote()
    assert cluster.get([blocking.work.remote() for _ in range(5)], timeout=SECONDS) == [3] * 5


def test_large_values_in_coroutines(cluster: Any) -> None:
    meeting = Meeting.remote()
    value = bytes(500_000)
    refs = [meeting.echo.remote(value) for _ in range(10)]
    assert all(found == value for found in cluster.get(refs, timeout=SECONDS))


@engine.remote(max_concurrency=4)
class Threaded:
    """Four threads."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(4)
        self.names: set[str] = set()

    def meet(self) -> str:
        self.barrier.wait(SECONDS)
        return threading.current_thread().name

    def nested(self, depth: int) -> int:
        @engine.remote
        def f(x: int) -> int:
            return x

        return engine.get(f.remote(depth)) + 1

    def fail(self) -> None:
        raise LookupError("in a thread")

    def sleep(self) -> None:
        time.sleep(600)

    def pid(self) -> int:
        return os.getpid()


def test_threads_run_together(cluster: Any) -> None:
    threaded = Threaded.remote()
    names = cluster.get([threaded.meet.remote() for _ in range(4)], timeout=SECONDS)
    assert len(set(names)) == 4
    cluster.get([threaded.meet.remote() for _ in range(8)], timeout=SECONDS)


def test_threads_may_wait_for_tasks(cluster: Any) -> None:
    threaded = Threaded.remote()
    refs = [threaded.nested.remote(x) for x in range(12)]
    assert cluster.get(refs, timeout=SECONDS) == [x + 1 for x in range(12)]


def test_an_error_in_a_thread_leaves_the_others(cluster: Any) -> None:
    threaded = Threaded.remote()
    bad = [threaded.fail.remote() for _ in range(6)]
    for ref in bad:
        with pytest.raises(LookupError, match="in a thread"):
            cluster.get(ref, timeout=SECONDS)
    assert cluster.get(threaded.nested.remote(1), timeout=SECONDS) == 2


def test_a_threaded_actor_that_dies_fails_all_its_calls(cluster: Any) -> None:
    threaded = Threaded.remote()
    pid = cluster.get(threaded.pid.remote(), timeout=SECONDS)
    refs = [threaded.sleep.remote() for _ in range(8)]
    os.kill(pid, 9)
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError):
            cluster.get(ref, timeout=SECONDS)


def test_exit_of_a_thread_ends_the_actor(cluster: Any) -> None:
    @cluster.remote(max_concurrency=2)
    class Leaver:
        def leave(self) -> None:
            raise SystemExit(5)

    with pytest.raises(exceptions.ActorDiedError, match="code 5"):
        cluster.get(Leaver.remote().leave.remote(), timeout=SECONDS)


def test_pending_calls_of_a_dropped_threaded_actor_are_answered(cluster: Any) -> None:
    @cluster.remote(max_concurrency=3)
    class Slow:
        def work(self, x: int) -> int:
            time.sleep(0.05)
            return x

    slow = Slow.remote()
    refs = [slow.work.remote(x) for x in range(9)]
    del slow
    assert cluster.get(refs, timeout=SECONDS) == list(range(9))


def test_pending_calls_of_a_dropped_async_actor_are_answered(cluster: Any) -> None:
    @cluster.remote
    class Slow:
        async def work(self, x: int) -> int:
            await asyncio.sleep(0.05)
            return x

    slow = Slow.remote()
    refs = [slow.work.remote(x) for x in range(9)]
    del slow
    assert cluster.get(refs, timeout=SECONDS) == list(range(9))
