"""A thread for what must not run in the thread that serves the engine's sockets.

That is: callbacks of the user, reading values that lie in shared memory (mapping them may wait for
the node), and looking after slow batches. One thread a process, started when first needed.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from engine.runtime.client import Runtime, current

__all__ = ["HELPER", "Helper"]

# How often slow batches are looked for, while there are batches at all.
_LOOK_SECONDS = 0.006


class Watched(Protocol):
    """Something that wants a look every few milliseconds."""

    def look(self, now: float) -> bool:
        """Do what is due; whether to look again."""


class Helper:
    """Runs jobs in order on a daemon thread, and looks after those that asked for it."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, job: Callable[[], Any]) -> None:
        """Run `job` soon. What it raises goes to `threading.excepthook`; the thread lives on."""
        self._jobs.put(job)
        self._ensure()

    def call_when_ready(self, home: Runtime, ref: Any, job: Callable[[], Any]) -> None:
        """Run `job` once the object of `ref` is there."""
        home.when_ready(ref.binary(), lambda: self.call(job))

    def tell(self, home: Runtime) -> None:
        """Have threads that wait in `home` look again at what they wait for."""
        if home is current():  # after a shutdown nobody waits
            home.reactor.kick()

    def look_after(self, one: Watched) -> None:
        """Call `one.look` every few milliseconds until it returns False."""
        if one in self._watched:
            return
        with self._lock:
            self._watched.add(one)
        self.call(_nothing)

    def _ensure(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._serve, name="engine-helper", daemon=True
                    )
                    self._thread.start()

    def _serve(self) -> None:
        due = perf_counter() + _LOOK_SECONDS
        while True:
            if not self._watched:
                job: Callable[[], Any] = self._jobs.get()
                due = perf_counter() + _LOOK_SECONDS
            else:
                try:
                    job = self._jobs.get(timeout=max(0.0, due - perf_counter()))
                except queue.Empty:
                    job = self._look
                    due = perf_counter() + _LOOK_SECONDS
            try:
                job()
            except Exception as error:  # a callback of the user's: report it and go on
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, None))
                )
            del job
            home = current()
            if home is not None:
                self.tell(home)  # whoever waits for what the job has changed looks again

    def _look(self) -> None:
        now = perf_counter()
        for one in list(self._watched):
            if not one.look(now):
                with self._lock:
                    self._watched.discard(one)


def _nothing() -> None:
    """Wakes the thread."""


HELPER = Helper()
