"""`Queue`: a first-in first-out queue that tasks, actors and drivers share."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from engine.actor import ActorHandle
from engine.api import cancel, get, kill, remote, wait
from engine.exceptions import EngineError
from engine.session import runtime
from engine.store.refs import ObjectRef
from engine.util.helper import HELPER

__all__ = ["Empty", "Full", "Queue"]

# Calls that may wait inside the queue at a time, unless actor_options say otherwise.
_WAITERS_MAX = 100_000


class Empty(queue.Empty):
    """Nothing to get, or not within the timeout, or fewer items than asked for."""


class Full(queue.Full):
    """No room to put, or not within the timeout, or not for all items of a batch."""


class _Shelf:
    """The asyncio actor. Items leave and enter the deque in one step of the event loop, so a
    call that is cancelled or times out while it waits has changed nothing."""

    def __init__(self, maxsize: int) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def put(self, item: Any, timeout: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self.queue.put(item)
        except TimeoutError:  # the caller raises Full in its own process
            return False
        return True

    async def get(self, timeout: float | None) -> tuple[Any, ...]:
        try:
            async with asyncio.timeout(timeout):
                return (await self.queue.get(),)
        except TimeoutError:  # the caller raises Empty in its own process
            return ()

    async def put_nowait_batch(self, items: list[Any]) -> bool:
        if self.queue.maxsize > 0 and self.queue.qsize() + len(items) > self.queue.maxsize:
            return False
        for item in items:
            self.queue.put_nowait(item)
        return True

    async def get_nowait_batch(self, count: int) -> list[Any] | int:
        if count > self.queue.qsize():
            return self.queue.qsize()
        return [self.queue.get_nowait() for _ in range(count)]

    async def put_back(self, item: Any) -> None:
        """Return an item whose getter was cancelled, to the front; maxsize does not bind it."""
        waiting = self.queue
        waiting._queue.appendleft(item)  # type: ignore[attr-defined]
        waiting._wakeup_next(waiting._getters)  # type: ignore[attr-defined]

    async def qsize(self) -> int:
        return self.queue.qsize()


class Queue:
    """A queue in an actor of its own. The handle can be passed to tasks and actors.

    Items are delivered once. A `get` that times out, is cancelled or interrupted takes nothing;
    an item on its way to a process that dies is lost with it. The queue ends by `shutdown`, or
    when its last handle is gone.

    Args:
        maxsize: items at most; 0 or less for no limit.
        actor_options: options of the actor (`num_cpus`, `resources`, `name`, `max_concurrency`:
            calls that may wait at a time ...). By default it takes no CPU.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        options = {"num_cpus": 0, "max_concurrency": _WAITERS_MAX, **(actor_options or {})}
        self.maxsize = maxsize
        self.actor: ActorHandle | None = remote(_Shelf).options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.qsize()

    def qsize(self) -> int:
        """How many items are in the queue."""
        return int(get(self._live().qsize.remote()))

    def empty(self) -> bool:
        """Whether there is no item at the moment."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there are `maxsize` items at the moment."""
        return 0 < self.maxsize <= self.qsize()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room, at most `timeout` seconds.

        Raises Full without room (at once if not `block`), ValueError for a negative timeout.
        """
        if not self._wait_for(self._live().put.remote(item, _limit(block, timeout))):
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the oldest item; waits for one, at most `timeout` seconds.

        Raises Empty without an item (at once if not `block`), ValueError for a negative timeout.
        """
        ref = self._live().get.remote(_limit(block, timeout))
        try:
            found = get(ref)
        except (KeyboardInterrupt, SystemExit):
            self._give_up(ref)
            raise
        if not found:
            raise Empty
        return found[0]

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`put` for coroutines. Cancelled while it waits for room, it adds nothing."""
        ref = self._live().put.remote(item, _limit(block, timeout))
        try:
            done = await ref
        except asyncio.CancelledError:
            cancel(ref)
            raise
        if not done:
            raise Full

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """`get` for coroutines. Cancelled, it takes nothing: an item on its way goes back."""
        ref = self._live().get.remote(_limit(block, timeout))
        try:
            found = await ref
        except asyncio.CancelledError:
            self._give_up(ref)
            raise
        if not found:
            raise Empty
        return found[0]

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the oldest item, or raise Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items in one call, or raise Full and add none."""
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        batch = list(items)
        if not get(self._live().put_nowait_batch.remote(batch)):
            raise Full(f"no room for {len(batch)} items in a queue of maxsize {self.maxsize}")

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take `num_items` items in one call, or raise Empty and take none."""
        if isinstance(num_items, bool) or not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        found = get(self._live().get_nowait_batch.remote(num_items))
        if isinstance(found, int):
            raise Empty(f"asked for {num_items} items of a queue that has {found}")
        return list(found)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """End the queue; its items are gone and whoever waits gets ActorDiedError. Idempotent.

        Calls that arrived before are answered within `grace_period_s` seconds; `force` ends it
        at once.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            done = actor.__getattr__("__ray_terminate__").remote()
            if wait([done], timeout=grace_period_s)[0]:
                return
        kill(actor)

    def _live(self) -> ActorHandle:
        if self.actor is None:
            raise RuntimeError("this queue was shut down")
        return self.actor

    def _wait_for(self, ref: ObjectRef[Any]) -> Any:
        try:
            return get(ref)
        except (KeyboardInterrupt, SystemExit):
            cancel(ref)
            raise

    def _give_up(self, ref: ObjectRef[Any]) -> None:
        """Cancel a get; an item that was on its way goes back to the front of the queue."""
        actor = self._live()
        cancel(ref)

        def settle() -> None:
            try:
                found = get(ref)
            except EngineError:  # cancelled in time, or the queue has ended
                return
            if found:
                actor.put_back.remote(found[0])

        HELPER.call_when_ready(runtime(), ref, settle)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.maxsize, self._live())

    def __repr__(self) -> str:
        return f"Queue(maxsize={self.maxsize}, {self.actor!r})"


def _rebuild(maxsize: int, actor: ActorHandle) -> Queue:
    made = Queue.__new__(Queue)
    made.maxsize = maxsize
    made.actor = actor
    return made


def _limit(block: bool, timeout: float | None) -> float | None:
    """Seconds that the actor may wait."""
    if not block:
        return 0.0
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout
