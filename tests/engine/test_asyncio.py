"""References in an event loop of the driver."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from engine import exceptions

SECONDS = 20


@pytest.fixture
def tasks(cluster: Any) -> Any:
    @cluster.remote
    def square(x: int) -> int:
        return x * x

    return square


def test_await_a_reference(cluster: Any, tasks: Any) -> None:
    async def main() -> list[Any]:
        array = cluster.put(np.arange(10**5))
        return [await tasks.remote(3), await cluster.put("here"), await array]

    one, two, three = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert (one, two, three[-1]) == (9, "here", 10**5 - 1)


def test_gather_a_hundred(tasks: Any) -> None:
    async def main() -> list[int]:
        async def one(x: int) -> int:
            return await tasks.remote(x)

        return await asyncio.gather(*(one(x) for x in range(100)))

    assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == [x * x for x in range(100)]


def test_the_loop_goes_on_while_a_reference_is_pending(cluster: Any) -> None:
    @cluster.remote
    def slow() -> str:
        time.sleep(0.2)
        return "slow"

    async def main() -> tuple[str, int]:
        turns = 0
        future = asyncio.ensure_future(_wait(slow.remote()))
        while not future.done():
            await asyncio.sleep(0.001)
            turns += 1
        return await future, turns

    async def _wait(ref: Any) -> str:
        return await ref

    value, turns = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert value == "slow"
    assert turns > 10


def test_an_error_is_raised_by_await(cluster: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise LookupError("async")

    async def main() -> None:
        await fail.remote()

    with pytest.raises(LookupError, match="async"):
        asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_a_cancelled_await_harms_nobody(cluster: Any, tasks: Any) -> None:
    @cluster.remote
    def slow() -> int:
        time.sleep(0.1)
        return 1

    async def main() -> int:
        ref = slow.remote()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_wait(ref), 0.01)
        return await ref + await tasks.remote(2)

    async def _wait(ref: Any) -> int:
        return await ref

    assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == 5


def test_a_reference_that_comes_after_the_loop_has_ended(cluster: Any) -> None:
    @cluster.remote
    def slow() -> int:
        time.sleep(0.1)
        return 1

    ref = slow.remote()

    async def main() -> None:
        await asyncio.wait({asyncio.ensure_future(_wait())}, timeout=0.01)

    async def _wait() -> int:
        return await ref

    asyncio.run(main())
    assert cluster.get(ref, timeout=SECONDS) == 1
    assert cluster.get(cluster.put(1)) == 1


def test_the_death_of_an_actor_reaches_await(cluster: Any) -> None:
    @cluster.remote
    class Sleeper:
        def sleep(self) -> None:
            time.sleep(600)

    async def main() -> None:
        sleeper = Sleeper.remote()
        ref = sleeper.sleep.remote()
        asyncio.get_running_loop().call_later(0.1, cluster.kill, sleeper)
        await ref

    with pytest.raises(exceptions.ActorDiedError):
        asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_wrapped_futures(tasks: Any) -> None:
    async def main() -> int:
        return await asyncio.wrap_future(tasks.remote(4).future())

    assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == 16
