"""Queue: order, limits, sharing, and that no item is lost or doubled."""

from __future__ import annotations

import asyncio
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import engine
from engine.exceptions import ActorDiedError
from engine.util import Empty, Full, Queue

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]
SECONDS = 20.0


@pytest.fixture
def shared() -> Iterator[Queue]:
    made = Queue()
    yield made
    made.shutdown(force=True)


def drained(q: Any) -> list[Any]:
    return [q.get(block=False) for _ in range(q.qsize())]


CALLS: dict[str, Callable[[Any], Any]] = {
    "first in, first out": lambda q: ([q.put(n) for n in "abc"][:0], drained(q)),
    "get of nothing": lambda q: q.get_nowait(),
    "get without block": lambda q: q.get(block=False),
    "get in time": lambda q: (q.put(1), q.get(timeout=SECONDS)),
    "get times out": lambda q: q.get(timeout=0.01),
    "get at once": lambda q: q.get(timeout=0),
    "get, negative": lambda q: q.get(timeout=-1),
    "get, negative but not waiting": lambda q: q.get(False, -1),
    "put, negative": lambda q: q.put(1, timeout=-1),
    "put into a full one": lambda q: [q.put_nowait(n) for n in range(3)],
    "put times out": lambda q: [q.put(n, timeout=0.01) for n in range(3)],
    "sizes": lambda q: (q.empty(), q.put(1), q.empty(), q.full(), q.put(2), q.full(), q.qsize()),
    "None is an item": lambda q: (q.put(None), q.put(()), q.get(), q.get()),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_as_the_standard_library(name: str) -> None:
    ours, theirs = Queue(maxsize=2), queue.Queue(maxsize=2)
    limit = 2 if name != "first in, first out" else 0
    if limit == 0:
        ours, theirs = Queue(), queue.Queue()

    def outcome(q: Any) -> Any:
        try:
            return CALLS[name](q)
        except (queue.Empty, queue.Full, ValueError) as error:
            return error

    found, expected = outcome(ours), outcome(theirs)
    if isinstance(expected, Exception):
        assert isinstance(found, type(expected))
    else:
        assert found == expected
    ours.shutdown(force=True)


def test_batches_are_all_or_nothing() -> None:
    q = Queue(maxsize=3)
    q.put_nowait_batch(iter([1, 2]))
    with pytest.raises(Full, match="no room for 2 items in a queue of maxsize 3"):
        q.put_nowait_batch([3, 4])
    with pytest.raises(Empty, match="asked for 3 items of a queue that has 2"):
        q.get_nowait_batch(3)
    assert q.get_nowait_batch(0) == []
    assert q.get_nowait_batch(2) == [1, 2]
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error):
            q.get_nowait_batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        q.put_nowait_batch(3)  # type: ignore[arg-type]
    q.shutdown()


def test_tasks_and_actors_share_it(shared: Queue) -> None:
    @engine.remote
    def produce(q: Queue, start: int) -> None:
        for n in range(start, start + 50):
            q.put(n)

    @engine.remote
    class Consumer:
        def __init__(self, q: Queue) -> None:
            self.q = q

        def take(self, count: int) -> list[int]:
            return [self.q.get(timeout=SECONDS) for _ in range(count)]

    consumer = Consumer.remote(shared)
    taken = consumer.take.remote(100)
    engine.get([produce.remote(shared, 0), produce.remote(shared, 50)], timeout=SECONDS)
    found = engine.get(taken, timeout=SECONDS)
    assert sorted(found) == list(range(100))
    for low in (0, 50):
        part = [n for n in found if low <= n < low + 50]
        assert part == sorted(part)
    assert shared.empty()


def test_a_blocked_put_goes_on_when_there_is_room() -> None:
    q = Queue(maxsize=1)
    q.put(1)
    thread = threading.Thread(target=q.put, args=(2,))
    thread.start()
    assert [q.get(timeout=SECONDS), q.get(timeout=SECONDS)] == [1, 2]
    thread.join(SECONDS)
    assert not thread.is_alive()
    q.shutdown()


def test_gets_that_time_out_lose_nothing(shared: Queue) -> None:
    """Getters with tiny time limits against a putter: every item comes once."""
    found: list[int] = []

    def take(limit: float) -> None:
        while len(found) < 200 and time.monotonic() < end:
            try:
                found.append(shared.get(timeout=limit))
            except Empty:
                continue

    end = time.monotonic() + SECONDS
    threads = [threading.Thread(target=take, args=(limit,)) for limit in (0.0005, 0.001, 0.002)]
    for thread in threads:
        thread.start()
    for n in range(200):
        shared.put(n)
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(found) == list(range(200))


def test_cancelled_gets_lose_nothing(shared: Queue) -> None:
    async def main() -> list[int]:
        found: list[int] = []
        for n in range(60):
            getter = asyncio.create_task(shared.get_async())
            await asyncio.sleep(0)
            if n % 3:
                shared.put_nowait(n)  # the item may be on its way when the getter is cancelled
            else:
                await shared.put_async(n)
            getter.cancel()
            try:
                found.append(await getter)
            except asyncio.CancelledError:
                found.append(await shared.get_async(timeout=SECONDS))
        return found

    assert sorted(asyncio.run(main())) == list(range(60))
    assert shared.empty()


def test_a_cancelled_put_adds_nothing() -> None:
    q = Queue(maxsize=1)

    async def main() -> None:
        await q.put_async(1)
        with pytest.raises(Full):
            await q.put_async(2, timeout=0.01)
        with pytest.raises(Full):
            await q.put_async(2, block=False)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(q.put_async(3), 0.05)
        assert await q.get_async() == 1
        with pytest.raises(Empty):
            await q.get_async(timeout=0.05)
        with pytest.raises(ValueError, match="non-negative"):
            await q.get_async(timeout=-1)

    asyncio.run(main())
    q.shutdown()


def test_options_reach_the_actor() -> None:
    q = Queue(actor_options={"name": "the-queue", "num_cpus": 1})
    assert engine.get(engine.get_actor("the-queue").qsize.remote()) == 0
    assert engine.available_resources()["CPU"] == 1
    q.shutdown()
    with pytest.raises(ValueError, match="unknown option"):
        Queue(actor_options={"colour": "red"})


@pytest.mark.parametrize("force", [True, False])
def test_shutdown_ends_waiting_getters(force: bool) -> None:
    q = Queue()
    actor = q.actor
    assert actor is not None
    waiting = actor.get.remote(None)
    q.put(1)
    assert engine.get(waiting, timeout=SECONDS) == (1,)
    waiting = actor.get.remote(None)
    q.shutdown(force=force)
    q.shutdown()
    with pytest.raises(ActorDiedError):
        engine.get(waiting, timeout=SECONDS)
    with pytest.raises(RuntimeError, match="shut down"):
        q.put(1)


def test_the_handle_leaves_only_inside_the_engine(shared: Queue) -> None:
    copy = engine.get(engine.put([shared]))[0]
    copy.put("x")
    assert shared.get(timeout=SECONDS) == "x"
    with pytest.raises(Exception, match="outside of the engine"):
        pickle.dumps(shared)
