"""Actors that run several calls at a time: coroutines in one event loop, or threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.values import STREAMING
from engine.runtime.arguments import read_arguments

if TYPE_CHECKING:
    from engine.runtime.worker import Worker

__all__ = ["AsyncCalls", "ThreadedCalls"]

# Calls of a threaded actor that nobody has taken for so long need another thread.
_STUCK_SECONDS = 500e-6


class ThreadedCalls:
    """Calls of a threaded actor: up to `limit` at a time, started in order.

    A thread that has finished a call takes the next one itself, so short calls pass without any
    hand-off between threads. Further threads join when nothing has moved for a moment, twice as
    many each time: calls that block get their concurrency within a few milliseconds.
    """

    def __init__(self, worker: Worker, limit: int) -> None:
        self._execution = worker.execution
        self._reactor = worker.runtime.reactor
        self._calls: deque[tuple[bytes, Any]] = deque()
        self._limit = limit
        self._active = 0
        self._waiting = threading.Semaphore(0)
        self._asleep = 0
        self._taken = self._seen = 0
        self._step = 1
        self._threads = 0

    def on_consumed(self) -> None:
        """Nothing: a waiting thread looks for itself."""

    def cancel(self, call_id: bytes) -> None:
        """Drop a call that has not started; a thread cannot be interrupted."""
        for item in list(self._calls):
            if item[1].id == call_id:
                with contextlib.suppress(ValueError):  # a thread has just taken it
                    self._calls.remove(item)
                    self._execution.cancelled(*item)
                return

    def start(self, peer: bytes, call: Any) -> None:
        """Have a call run by a thread of the actor."""
        self._calls.append((peer, call))
        with self._reactor.lock:
            if not self._active:
                self._wake(1)

    def next_wake(self) -> float | None:
        """When `look` is due: soon, while calls wait."""
        return perf_counter() + _STUCK_SECONDS if self._calls else None

    def look(self) -> None:
        """Let more threads join if no call was taken since the last look."""
        if not self._calls:
            return
        if self._taken == self._seen:
            with self._reactor.lock:
                self._wake(self._step)
            self._step *= 2
        else:
            self._step = 1
        self._seen = self._taken

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._calls), self._limit - self._active)):
            self._active += 1
            if self._asleep:
                self._asleep -= 1
                self._waiting.release()
            else:
                name = f"engine-call-{self._threads}"
                self._threads += 1
                threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        calls, run, reactor = self._calls, self._execution.run, self._reactor
        while True:
            while True:
                try:
                    peer, call = calls.popleft()
                except IndexError:  # somebody else was faster
                    break
                self._taken += 1
                run(peer, call)
            with reactor.lock:
                reactor.flush()
                if calls:
                    continue
                self._active -= 1
                self._asleep += 1
            self._waiting.acquire()


class AsyncCalls:
    """Calls of an actor with coroutine methods: all in one event loop, up to `limit` at a time.

    The loop of the worker becomes an asyncio loop that serves the reactor's sockets whenever they
    are readable, and polls them for a moment after each piece of work (see `Reactor`).
    """

    def __init__(self, worker: Worker, limit: int) -> None:
        self._worker = worker
        self._execution = worker.execution
        self._reactor = worker.runtime.reactor
        self._limit = limit
        self._running = 0
        self._window = worker.runtime.config.spin_seconds
        self._until = 0.0
        self._scheduled = False
        self._loop = asyncio.new_event_loop()
        self._by_call: dict[bytes, asyncio.Task[None]] = {}
        self._more = asyncio.Event()  # a consumer of a generator has taken items

    def run(self) -> None:
        """Run the event loop until the worker stops."""
        asyncio.set_event_loop(self._loop)
        self._reactor.hold_service()
        self._loop.add_reader(self._reactor.fileno(), self._serve)
        self._loop.call_soon(self._serve)
        self._loop.run_forever()

    def next_wake(self) -> float | None:
        """Never: the event loop looks after itself."""
        return None

    def look(self) -> None:
        """Nothing: the event loop looks after itself."""

    def start(self, peer: bytes, call: Any) -> None:
        """Start a call; the caller has checked that there is room."""
        self._running += 1
        task = self._loop.create_task(self._run(peer, call))
        self._by_call[call.id] = task
        task.add_done_callback(lambda _task: self._by_call.pop(call.id, None))

    def _serve(self) -> None:
        self._scheduled = False
        worker = self._worker
        self._reactor.poll()
        served = False
        while worker.queue and worker.stopping is None and self._running < self._limit:
            worker._next()
            served = True
        if worker.stopping is not None:
            self._loop.stop()
            return
        now = perf_counter()
        if served:
            self._until = now + self._window
        if now < self._until:
            self._again()

    def _again(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    async def _run(self, peer: bytes, call: Any) -> None:
        execution = self._execution
        execution.runtime.running = call  # of this coroutine's context
        start = perf_counter()
        try:
            function = execution.method(call.method)
            args, kwargs = read_arguments(execution.runtime, call, execution.parts)
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
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
            self._running -= 1
            self._until = perf_counter() + self._window
            self._again()

    async def _stream(self, peer: bytes, call: Any, items: Any, start: float) -> None:
        """Send the items of a generator, async or plain, never far ahead of its consumer."""
        execution, connections = self._execution, self._worker.runtime.connections
        index = 0
        if not hasattr(items, "__aiter__"):
            items = _iterate(items)
        async for item in items:
            execution.send_item(peer, call, index, item)
            index += 1
            while execution.is_ahead(call, index) and peer in connections:
                self._more.clear()
                await self._more.wait()
            if peer not in connections:
                return  # nobody listens any more
        execution.end_stream(peer, call, index, start)

    def cancel(self, call_id: bytes) -> None:
        """Cancel the coroutine of a call."""
        task = self._by_call.get(call_id)
        if task is not None:
            task.cancel()

    def on_consumed(self) -> None:
        """A consumer has taken items; runs where the reactor is served: in the event loop."""
        self._more.set()


async def _iterate(items: Any) -> Any:
    for item in items:
        yield item
