"""Coroutine methods: what asyncio promises holds in a call whose first step is taken at once."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from engine.runtime.coroutines import _Loop
from tests.engine.support import alive, eventually

SECONDS = 15.0


@engine.remote
class Probe:
    """Looks at the event loop it runs in."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.gate = asyncio.Event()
        self.colour = contextvars.ContextVar("colour", default="none")

    async def tasks(self) -> tuple[bool, bool, bool]:
        task = asyncio.current_task()
        before = task is not None and task in asyncio.all_tasks()
        await asyncio.sleep(0)
        return before, asyncio.current_task() is task, asyncio.get_running_loop().is_running()

    async def colours(self, mine: str) -> tuple[str, str, str]:
        before = self.colour.get()
        self.colour.set(mine)
        first = self.colour.get()
        await asyncio.sleep(0)
        return before, first, self.colour.get()

    async def times_out(self) -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timed out"
        return "did not"

    async def group(self, n: int) -> list[int]:
        async def square(x: int) -> int:
            await asyncio.sleep(0)
            return x * x

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(square(x)) for x in range(n)]
        return [task.result() for task in tasks]

    async def shielded(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return "opened"

    async def swallows(self) -> str:
        self.log.append("waits")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            return "swallowed"
        return "opened"

    async def write(self, what: Any) -> None:
        self.log.append(what)

    def read(self) -> list[Any]:
        return self.log

    def plain_task(self) -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        self.started = loop.create_task(self.write("from a plain method"))
        return asyncio.current_task() is not None, loop.is_running()

    def plain_reference(self, box: list[Any]) -> Any:
        return box[0]

    async def echo_over_a_socket(self, data: bytes) -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(len(data)))
            await writer.drain()
            writer.close()

        one, two = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        other = asyncio.create_task(serve(*await asyncio.open_connection(sock=two)))
        writer.write(data)
        await writer.drain()
        found = await reader.readexactly(len(data))
        await other
        writer.close()
        return found

    async def in_a_thread(self) -> bool:
        main = threading.get_ident()
        return await asyncio.to_thread(threading.get_ident) != main

    async def in_an_executor(self, ref: list[Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, engine.get, ref[0])

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def leave_from_a_task(self) -> None:
        async def leave() -> None:
            raise SystemExit(9)

        await asyncio.create_task(leave())

    async def block(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    async def submit_and_forget(self) -> None:
        @engine.remote
        def work() -> int:
            return 1

        assert await work.remote() == 1


@pytest.fixture(scope="module")
def probe(cluster: Any) -> Any:
    return Probe.options(num_cpus=0).remote()


def test_a_call_is_a_task_from_its_first_step_on(cluster: Any, probe: Any) -> None:
    assert cluster.get(probe.tasks.remote(), timeout=SECONDS) == (True, True, True)


def test_each_call_has_a_context_of_its_own(cluster: Any, probe: Any) -> None:
    refs = [probe.colours.remote(name) for name in ("red", "blue", "green")]
    assert cluster.get(refs, timeout=SECONDS) == [
        ("none", name, name) for name in ("red", "blue", "green")
    ]


def test_timeouts_and_task_groups(cluster: Any, probe: Any) -> None:
    assert cluster.get(probe.times_out.remote(), timeout=SECONDS) == "timed out"
    assert cluster.get(probe.group.remote(5), timeout=SECONDS) == [0, 1, 4, 9, 16]


def test_calls_start_in_order(cluster: Any) -> None:
    probe = Probe.options(num_cpus=0).remote()
    for number in range(300):
        probe.write.remote(number)
    assert cluster.get(probe.read.remote(), timeout=SECONDS) == list(range(300))


def test_cancellation_reaches_a_coroutine_and_may_be_swallowed(cluster: Any) -> None:
    probe = Probe.options(num_cpus=0).remote()
    shielded, swallows = probe.shielded.remote(), probe.swallows.remote()
    eventually(lambda: cluster.get(probe.read.remote()) == ["waits"])
    cluster.cancel(shielded)
    cluster.cancel(swallows)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(shielded, timeout=SECONDS)
    assert cluster.get(swallows, timeout=SECONDS) == "swallowed"
    assert cluster.get(probe.read.remote(), timeout=SECONDS) == ["waits", "cancelled"]


def test_plain_methods_run_in_the_loop_too(cluster: Any) -> None:
    probe = Probe.options(num_cpus=0).remote()
    assert cluster.get(probe.plain_task.remote(), timeout=SECONDS) == (True, True)
    eventually(lambda: cluster.get(probe.read.remote()) == ["from a plain method"])


def test_a_plain_method_may_return_a_reference(cluster: Any, probe: Any) -> None:
    ref = cluster.put("value")
    found = cluster.get(probe.plain_reference.remote([ref]), timeout=SECONDS)
    assert cluster.get(found, timeout=SECONDS) == "value"


def test_the_users_sockets_and_threads(cluster: Any, probe: Any) -> None:
    data = os.urandom(300_000)
    assert cluster.get(probe.echo_over_a_socket.remote(data), timeout=SECONDS) == data
    assert cluster.get(probe.in_a_thread.remote(), timeout=SECONDS)


def test_a_thread_of_the_actor_waits_while_the_loop_goes_on(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote
    def slow(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.001)
        return "there"

    probe = Probe.options(num_cpus=0).remote()
    ref = probe.in_an_executor.remote([slow.remote(str(gate))])
    cluster.get([probe.sleep.remote(0.001) for _ in range(20)], timeout=SECONDS)
    assert cluster.get(probe.group.remote(3), timeout=SECONDS) == [0, 1, 4]
    gate.touch()
    assert cluster.get(ref, timeout=SECONDS) == "there"


def test_timers_run_without_calls(cluster: Any, probe: Any) -> None:
    start = time.perf_counter()
    cluster.get([probe.sleep.remote(0.05) for _ in range(20)], timeout=SECONDS)
    assert 0.05 <= time.perf_counter() - start < 1.0


def test_system_exit_of_a_task_of_the_users_ends_the_actor(cluster: Any) -> None:
    probe = Probe.options(num_cpus=0).remote()
    with pytest.raises(exceptions.ActorDiedError, match="code 9"):
        cluster.get(probe.leave_from_a_task.remote(), timeout=SECONDS)


def test_kill_and_drop_while_the_loop_is_blocked(cluster: Any) -> None:
    probe = Probe.options(num_cpus=0).remote()
    pid = cluster.get(probe.block.remote(0.0), timeout=SECONDS)
    blocked = probe.block.remote(600.0)
    cluster.kill(probe)
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(blocked, timeout=SECONDS)
    eventually(lambda: not alive(pid))


def test_an_idle_async_actor_gives_its_leases_back(cluster: Any) -> None:
    """Its loop sleeps, and must wake up for the engine's own clocks."""
    total = cluster.cluster_resources()
    probe = Probe.options(num_cpus=0).remote()
    cluster.get(probe.submit_and_forget.remote(), timeout=SECONDS)
    eventually(lambda: cluster.available_resources() == total)


def test_a_first_step_that_raises_leaves_the_loop_whole() -> None:
    loop = _Loop()

    async def fail() -> None:
        raise LookupError("first step")

    async def main() -> list[Any]:
        context = contextvars.copy_context()
        task, step = loop.begin(fail(), context)
        outer = asyncio.current_task()
        assert outer is not None
        asyncio.tasks._leave_task(loop, outer)  # as in a callback of the loop
        context.run(step)
        asyncio.tasks._enter_task(loop, outer)
        assert task.done()
        return await asyncio.gather(task, return_exceptions=True)

    try:
        (found,) = loop.run_until_complete(main())
    finally:
        loop.close()
    assert isinstance(found, LookupError)
