"""Actors that run several calls at a time: coroutines in one event loop, or threads."""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.messages import DoneMany, encode_failure
from engine.runtime.arguments import read_arguments

if TYPE_CHECKING:
    from engine.runtime.worker import Worker

__all__ = ["AsyncCalls", "ThreadedCalls"]


class ThreadedCalls:
    """Calls of a threaded actor: up to `limit` at a time, started in order."""

    def __init__(self, worker: Worker, limit: int) -> None:
        self._execution = worker.execution
        self._reactor = worker.runtime.reactor
        self._waiting: queue.SimpleQueue[tuple[bytes, Any]] = queue.SimpleQueue()
        for number in range(limit):
            name = f"engine-call-{number}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def start(self, peer: bytes, call: Any) -> None:
        """Have a call run by the next free thread."""
        self._waiting.put((peer, call))

    def _serve(self) -> None:
        waiting, run, reactor = self._waiting, self._execution.run, self._reactor
        while True:
            peer, call = waiting.get()
            run(peer, call)
            if waiting.empty():
                with reactor.lock:
                    reactor.flush()


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
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Run the event loop until the worker stops."""
        asyncio.set_event_loop(self._loop)
        self._reactor.hold_service()
        self._loop.add_reader(self._reactor.fileno(), self._serve)
        self._loop.call_soon(self._serve)
        self._loop.run_forever()

    def start(self, peer: bytes, call: Any) -> None:
        """Start a call; the caller has checked that there is room."""
        self._running += 1
        task = self._loop.create_task(self._run(peer, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if served or self._running:
            self._until = now + self._window
        if now < self._until:
            self._again()

    def _again(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._serve)

    async def _run(self, peer: bytes, call: Any) -> None:
        execution = self._execution
        start = perf_counter()
        try:
            function = execution.method(call.method)
            args, kwargs = read_arguments(execution.runtime, call)
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError:
            text = f"{execution.title(call)} was cancelled while it ran"
            execution.send(peer, DoneMany(call.id, [encode_failure("TaskCancelledError", text)]))
        except SystemExit as error:
            self._reactor.flush()
            os._exit(error.code if isinstance(error.code, int) else 0)
        except BaseException as error:  # user code may raise anything; it becomes the result
            execution.fail(peer, call, error, start)
        else:
            execution.reply(peer, call, result, start)
        self._running -= 1
        self._until = perf_counter() + self._window
        self._again()
