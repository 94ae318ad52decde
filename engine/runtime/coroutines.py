"""Calls of actors with coroutine methods: asyncio event loops that run them.

The loop of the worker's main thread sleeps where every other worker sleeps: in a turn of the
reactor. Its selector *is* that turn, so a call that arrives is started without a pass through the
loop, and its reply leaves when the loop next looks for something to do. What the user's code waits
for (descriptors, other threads) lies in the selector's own epoll, which the reactor watches.

A call is an `asyncio.Task` whose first step is taken at once (Python 3.12 calls it eager). Most
coroutines never suspend; they cost one task object and no turn of the loop.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from engine.core.values import STREAMING
from engine.runtime.arguments import read_arguments
from engine.runtime.cancelling import drop

if TYPE_CHECKING:
    from engine.runtime.worker import Worker

__all__ = ["Coroutines", "LoopGroup", "MainLoop"]

# Replies wait for company at most this long while more calls are queued.
_REPLY_SECONDS = 200e-6
# What a plain method may return to have it awaited. Not any awaitable: an ObjectRef is a value.
_AWAITED = (CoroutineType, asyncio.Future)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop with tasks that take their first step when they are made."""

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(selector)
        self._steps: list[Callable[[], Any]] = []
        self._keep_step = lambda step, **_context: self._steps.append(step)

    def begin(
        self, coroutine: Coroutine[Any, Any, None], context: Context
    ) -> tuple[asyncio.Task[None], Callable[[], Any]]:
        """A task for the coroutine, and its first step, which the caller runs in `context`.

        A task asks its loop's `call_soon` for its first step. Caught there, the step is what the
        loop would have run, so `current_task`, time-outs and cancellation are asyncio's own.
        """
        self.call_soon = self._keep_step  # type: ignore[method-assign,assignment]
        try:
            task = asyncio.Task(coroutine, loop=self, context=context)
        finally:
            del self.call_soon  # the class's own is there again
        return task, self._steps.pop()

    def has_ready(self) -> bool:
        """Whether a callback is due: the loop would not sleep."""
        return bool(self._ready)  # type: ignore[attr-defined]


class Coroutines:
    """Calls that run as tasks of one event loop; the subclasses start them, up to a limit."""

    def __init__(self, worker: Worker, loop: _Loop) -> None:
        self._worker = worker
        self._execution = worker.execution
        self._loop = loop
        self._thread = threading.get_ident()
        self.running = 0
        self._tasks: dict[bytes, tuple[asyncio.Task[None], float]] = {}  # and when they began
        self._more = asyncio.Event()  # a consumer of a generator has taken items

    def begin(self, peer: bytes, call: Any) -> None:
        """Take the first step of a call; in the loop's thread, when there is room."""
        if call.returns == STREAMING:  # its consumer may have something to say meanwhile
            self._execution.consumed.setdefault(call.id, 0)
        self.running += 1
        context, start = copy_context(), perf_counter()
        task, step = self._loop.begin(self._run(peer, call, start), context)
        self._tasks[call.id] = task, start
        context.run(step)

    async def _run(self, peer: bytes, call: Any, start: float) -> None:
        execution = self._execution
        execution.runtime.running = call  # of this task's context
        try:
            method = execution.method(call.method)
            if call.args or call.large is not None:
                args, kwargs = read_arguments(execution.runtime, call, execution.parts)
                result = method(*args, **kwargs)
                del args, kwargs
            else:
                result = method()
            if isinstance(result, _AWAITED):
                result = await result
            if call.returns == STREAMING:
                await self._stream(peer, call, result, start)
                return
        except asyncio.CancelledError:
            execution.cancelled(peer, call)
        except SystemExit as error:
            execution.leave(error)
        except BaseException as error:  # user code may raise anything; it becomes the result
            execution.fail(peer, call, error, start)
        else:
            execution.reply(peer, call, result, start)
        finally:
            self.running -= 1
            del self._tasks[call.id]
            if call.returns == STREAMING:
                execution.consumed.pop(call.id, None)
            if execution.runtime.cancelled:
                execution.runtime.cancelled.discard(call.id)
            self._ended()

    async def _stream(self, peer: bytes, call: Any, items: Any, start: float) -> None:
        """Send the items of a generator, async or plain, never far ahead of its consumer."""
        execution, reaches = self._execution, self._worker.runtime.reaches
        index = 0
        if not hasattr(items, "__aiter__"):
            items = _iterate(items)
        async for item in items:
            execution.send_item(peer, call, index, item)
            index += 1
            while execution.is_ahead(call, index) and reaches(peer):
                self._more.clear()
                await self._more.wait()
            if not reaches(peer):
                return  # nobody listens any more
        execution.end_stream(peer, call, index, start)

    def _ended(self) -> None:
        """A call has ended: another may have room now."""

    def drop(self, call_id: bytes) -> bool:
        """False: calls that wait for room wait in the worker's queue."""
        return False

    def runs(self, call_id: bytes) -> bool:
        """Whether the call is a task of this loop."""
        return call_id in self._tasks

    def calls(self) -> list[tuple[bytes, float]]:
        """Calls that run, with when they began, and those that wait, with 0."""
        return [(call_id, start) for call_id, (_task, start) in list(self._tasks.items())]

    def interrupt(self, call_id: bytes) -> None:
        """Cancel the task of a call; from any thread."""
        self._in_loop(partial(self._cancel, call_id))

    def _cancel(self, call_id: bytes) -> None:
        found = self._tasks.get(call_id)
        if found is not None:
            found[0].cancel()

    def on_consumed(self) -> None:
        """A consumer has taken items; called from any thread."""
        self._in_loop(self._more.set)

    def _in_loop(self, callback: Callable[[], Any]) -> None:
        if threading.get_ident() == self._thread:
            callback()
        else:
            self._loop.call_soon_threadsafe(callback)


class _Selector(selectors.EpollSelector):
    """What the main loop sleeps in: a turn of the reactor, which starts the calls that came."""

    def __init__(self, turn: Callable[[float | None], None]) -> None:
        super().__init__()
        self._turn = turn
        self.noted = False  # a descriptor of the user's may be ready

    def note(self) -> None:
        """The reactor has seen that this selector's own epoll is readable."""
        self.noted = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The user's descriptors that are ready, after one turn of the reactor."""
        self._turn(timeout)
        if not self.noted:
            return []
        # The reactor is told once of a change, so it is looked at until nothing is left.
        self.noted = False
        found = super().select(0)
        self.noted = bool(found)
        return found


class MainLoop(Coroutines):
    """The event loop of the main thread: calls of no group, up to `limit` at a time."""

    def __init__(self, worker: Worker, limit: int) -> None:
        self._selector = _Selector(self._turn)
        super().__init__(worker, _Loop(self._selector))
        self._limit = limit
        self._reactor = worker.runtime.reactor
        with self._reactor.lock:
            self._reactor.watch(self._selector.fileno(), self._selector.note, edge=True)

    def run(self) -> None:
        """Run the event loop until the worker stops."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except SystemExit as error:  # of a task that the user's code had started itself
            self._execution.leave(error)

    def start(self, peer: bytes, call: Any) -> None:
        """Begin a call that the worker has taken from its queue; `_turn` has seen to room."""
        self.begin(peer, call)

    def _has_work(self) -> bool:
        worker = self._worker
        return bool(
            (worker.queue and self.running < self._limit)
            or self._selector.noted
            or self._loop.has_ready()
            or worker.stopping is not None
        )

    def _turn(self, timeout: float | None) -> None:
        """Serve the sockets, for at most `timeout` while there is nothing to do; start calls."""
        reactor, worker = self._reactor, self._worker
        worker.runtime.settle()  # as in the worker's own loop
        if timeout == 0 or self._has_work():
            reactor.poll()
        else:
            deadline = None if timeout is None else perf_counter() + timeout
            reactor.wait_until(self._has_work, deadline)
        queue = worker.queue
        if queue:
            last = perf_counter()
            for _ in range(len(queue)):  # those that come meanwhile: after the loop's own work
                if self.running >= self._limit or worker.stopping is not None:
                    break
                worker._next()
                now = perf_counter()
                if now - last > _REPLY_SECONDS:
                    last = now
                    with reactor.lock:
                        reactor.flush()
        if worker.stopping is not None:
            self._loop.stop()


class LoopGroup(Coroutines):
    """A concurrency group with an event loop and thread of its own.

    So a method that blocks its loop (a computation, a blocking call) leaves the other groups
    alone. Primitives of asyncio must not be shared between methods of different groups.
    """

    def __init__(self, worker: Worker, limit: int, name: str) -> None:
        self._limit = limit
        self._calls: deque[tuple[bytes, Any]] = deque()
        started = threading.Event()
        threading.Thread(
            target=self._serve, args=(worker, started), name=f"engine-group-{name}", daemon=True
        ).start()
        started.wait()

    def _serve(self, worker: Worker, started: threading.Event) -> None:
        loop = _Loop()
        super().__init__(worker, loop)
        asyncio.set_event_loop(loop)
        started.set()
        try:
            loop.run_forever()
        except SystemExit as error:  # of a task that the user's code had started itself
            self._execution.leave(error)

    def start(self, peer: bytes, call: Any) -> None:
        """Queue a call; from any thread, under the lock."""
        if call.returns == STREAMING:  # its consumer may have something to say meanwhile
            self._execution.consumed[call.id] = 0
        self._calls.append((peer, call))
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        while self._calls and self.running < self._limit:
            try:
                peer, call = self._calls.popleft()
            except IndexError:  # cancelled this moment, by another thread
                return
            self.begin(peer, call)

    def _ended(self) -> None:
        with self._worker.runtime.lock:
            self._worker.runtime.reactor.flush()
        if self._calls:
            self._loop.call_soon(self._look)

    def calls(self) -> list[tuple[bytes, float]]:
        """Calls that run, with when they began, and those that wait, with 0."""
        return [*super().calls(), *((call.id, 0.0) for _peer, call in list(self._calls))]

    def drop(self, call_id: bytes) -> bool:
        """Answer a call that waits for room as cancelled. False when it does not wait here."""
        return drop(self._calls, call_id, self._execution)


async def _iterate(items: Any) -> Any:
    for item in items:
        yield item
