"""Calls of threaded actors: a pool of threads that take them in order."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.values import STREAMING
from engine.runtime.cancelling import drop

if TYPE_CHECKING:
    from engine.runtime.worker import Worker

__all__ = ["ThreadedCalls"]

# Calls of a threaded actor that nobody has taken for so long need another thread.
_STUCK_SECONDS = 500e-6


class ThreadedCalls:
    """Calls of a threaded actor: up to `limit` at a time, started in order.

    A thread that has finished a call takes the next one itself, so short calls pass without any
    hand-off between threads. Further threads join when nothing has moved for a moment, twice as
    many each time: calls that block get their concurrency within a few milliseconds.
    """

    def __init__(self, worker: Worker, limit: int, name: str = "call") -> None:
        self._execution = worker.execution
        self._reactor = worker.runtime.reactor
        self._calls: deque[tuple[bytes, Any]] = deque()
        self._limit = limit
        self._name = name
        self._active = 0
        self._waiting = threading.Semaphore(0)
        self._asleep = 0
        self._taken = self._seen = 0
        self._step = 1
        self._threads = 0
        self._running: dict[bytes, float] = {}  # calls, and when each began

    def on_consumed(self) -> None:
        """Nothing: a waiting thread looks for itself."""

    def drop(self, call_id: bytes) -> bool:
        """Answer a call that has not started as cancelled. False when none waits."""
        return drop(self._calls, call_id, self._execution)

    def runs(self, call_id: bytes) -> bool:
        """Whether a thread runs the call."""
        return call_id in self._running

    def calls(self) -> list[tuple[bytes, float]]:
        """Calls that run, with when they began, and those that wait, with 0."""
        return [*self._running.items(), *((call.id, 0.0) for _peer, call in list(self._calls))]

    def interrupt(self, call_id: bytes) -> None:
        """Nothing: a thread cannot be interrupted, only asked (`is_canceled`)."""

    def start(self, peer: bytes, call: Any) -> None:
        """Have a call run by a thread of the actor."""
        if call.returns == STREAMING:  # its consumer may have something to say before it begins
            self._execution.consumed[call.id] = 0
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
                name = f"engine-{self._name}-{self._threads}"
                self._threads += 1
                threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        calls, run, reactor = self._calls, self._execution.run, self._reactor
        running, cancelled = self._running, self._execution.runtime.cancelled
        settle = self._execution.runtime.settle
        while True:
            while True:
                try:
                    peer, call = calls.popleft()
                except IndexError:  # somebody else was faster
                    break
                self._taken += 1
                running[call.id] = perf_counter()
                run(peer, call)
                del running[call.id]
                if cancelled:
                    cancelled.discard(call.id)
            settle()  # as in the worker's own loop
            with reactor.lock:
                reactor.flush()
                if calls:
                    continue
                self._active -= 1
                self._asleep += 1
            self._waiting.acquire()
