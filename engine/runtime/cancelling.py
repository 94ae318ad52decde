"""Cancelling what a worker has been given: dropped before it runs, interrupted while it does.

A plain task on the main thread gets KeyboardInterrupt, wherever it computes or waits. A method of
a synchronous or threaded actor is only told (`get_runtime_context().is_canceled()`): its actor's
state must not be left half-way. Either is answered with TaskCancelledError, whatever it returns
afterwards. A coroutine is cancelled as asyncio does it, so one that catches CancelledError and
returns a value has its value delivered.

A `Cancel` may be read by the service thread just when another thread takes the call out of its
queue: it is then in neither place, and looked for again a few milliseconds later. One that has
ended is not found the second time either, and nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from time import perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from engine.core.messages import Cancel
from engine.runtime.reactor import Reactor

if TYPE_CHECKING:
    from engine.runtime.execution import Execution
    from engine.runtime.worker import Worker

__all__ = ["Cancelling", "drop"]

# A call that is being taken out of its queue is among the running ones long before this is over.
_LOOK_AGAIN_SECONDS = 0.1


class Cancelling:
    """Cancellation in one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._interrupt = b""  # the task that is to be interrupted
        self._missed: list[tuple[float, Cancel]] = []  # until when to look for it again

    def on_cancel(self, message: Cancel) -> None:
        """Somebody no longer wants a call. Under the lock, on whichever thread serves."""
        if not self._cancel(message):
            self._missed.append((perf_counter() + _LOOK_AGAIN_SECONDS, message))

    def _cancel(self, message: Cancel) -> bool:
        """Drop or interrupt a call; False when it is not here."""
        worker, call_id = self._worker, message.id
        runtime, pools = worker.runtime, worker.concurrent
        if worker.replay is not None and worker.replay.cancel(call_id):
            return True
        if drop(worker.queue, call_id, worker.execution):
            return True
        if pools is not None and pools.drop(call_id):
            return True
        # Noted before the look whether it runs; whoever ends a call looks in the other order.
        runtime.cancelled.add(call_id)
        running = worker.running
        if running is not None and running[1].id == call_id and worker.running is running:
            pools = None
        elif pools is None or not pools.runs(call_id):
            runtime.cancelled.discard(call_id)
            return False
        if message.recursive:
            runtime.owner.cancel_children(call_id, message.force)
        if pools is not None:
            pools.interrupt(call_id)
        elif not worker.execution.actor_id:
            self._interrupt_main(call_id, message.force)
        return True

    def _interrupt_main(self, call_id: bytes, force: bool) -> None:
        reactor = self._worker.runtime.reactor
        if force:
            reactor.flush()
            os._exit(1)
        self._interrupt = call_id
        if threading.current_thread() is threading.main_thread():
            # The task waits inside the engine: it is interrupted where it waits.
            reactor.after_turn.append(self._raise_interrupt)
        else:
            self._signal()

    # ------------------------------------------------------------------ KeyboardInterrupt

    def on_tick(self) -> None:
        """On the service thread: what could not be done at once is tried again."""
        if self._interrupt:
            self._signal()
            reactor = self._worker.runtime.reactor
            if self._interrupt and reactor.sleeping:
                # It has come to wait inside the engine, where no signal interrupts it.
                reactor.after_turn.append(self._raise_where_it_waits)
                reactor.kick()
        if self._missed:
            with self._worker.runtime.lock:
                missed, self._missed = self._missed, []
                now = perf_counter()
                for until, message in missed:
                    if now < until and not self._cancel(message):
                        self._missed.append((until, message))

    def _signal(self) -> None:
        """Interrupt the main thread, out of blocking system calls too; from the service thread."""
        if self._interrupt:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def on_signal(self, _number: int, frame: FrameType | None) -> None:
        """SIGINT, on the main thread."""
        # Not inside the engine's own code, which must not be left half-way: the service thread
        # tries again in a moment. Where the main thread waits for another thread of the user's
        # that serves the sockets, there is nothing to be left.
        module = frame.f_globals.get("__name__", "") if frame is not None else ""
        waits = frame is not None and frame.f_code is Reactor.wait_for_holder.__code__
        if waits or not module.startswith("engine."):
            self._raise_interrupt()

    def _raise_where_it_waits(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._raise_interrupt()

    def _raise_interrupt(self) -> None:
        running, wanted = self._worker.running, self._interrupt
        self._interrupt = b""
        if running is not None and wanted and getattr(running[1], "id", None) == wanted:
            raise KeyboardInterrupt


def drop(queue: deque[tuple[bytes, Any]], call_id: bytes, execution: Execution) -> bool:
    """Take a call out of a queue and answer it as cancelled. False when it is not there."""
    for item in list(queue):
        if getattr(item[1], "id", None) == call_id:
            try:
                queue.remove(item)
            except ValueError:  # another thread has just taken it
                return False
            execution.cancelled(*item, us=-1)
            return True
    return False
