"""The actor that a `Crew` runs its work in."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from engine.store import codec

__all__ = ["CrewWorker"]

# Types that always can be pickled; results of these types need no look.
_PLAIN = frozenset((int, float, str, bytes, bool, type(None), complex))


class CrewWorker:
    """Runs batches of calls, one after another; a second thread may take unstarted calls back.

    Errors of the user's code are outcomes, never errors of the method: one bad item neither loses
    the others of its batch nor the worker.
    """

    def __init__(
        self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]
    ) -> None:
        self._functions: dict[int, Callable[..., Any]] = {}
        self._todo: deque[Any] = deque()
        self._done: list[Any] = []
        self._errors: dict[int, bytes] = {}
        self._running = False
        self._lock = threading.Lock()
        self._failure: bytes | None = None
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException as error:  # reported with the first batch
                self._failure = self._packed(error, initializer)

    def run(
        self,
        key: int,
        function: Callable[..., Any] | None,
        kept: bool,
        forget: list[int],
        items: list[Any],
    ) -> tuple[list[Any] | None, dict[int, bytes] | None, float]:
        """Run a batch: (values, packed errors by position, seconds); values None: not able to.

        `function` is None when this worker has it already; `forget` names those to drop. Fewer
        values than items: the rest was given back.
        """
        for one in forget:
            self._functions.pop(one, None)
        if function is None:
            function = self._functions[key]
        elif kept:
            self._functions[key] = function
        if self._failure is not None:
            return None, {0: self._failure}, 0.0
        done: list[Any] = []
        errors: dict[int, bytes] = {}
        todo = deque(items)
        with self._lock:
            self._todo, self._done, self._errors, self._running = todo, done, errors, True
        del items
        start = perf_counter()
        while True:
            try:
                item = todo.popleft()
            except IndexError:  # all are done, or were taken back
                break
            try:
                plain = type(item) is tuple
                value = function(*item) if plain else function(*item[0], **item[1])
            except BaseException as error:  # whatever user code raises is the item's outcome
                errors[len(done)] = self._packed(error, function)
                value = None
            done.append(value)
        seconds = perf_counter() - start
        with self._lock:  # from here on `give_back` has nothing to tell
            self._done, self._errors, self._running = [], {}, False
        return *self._sendable(done, errors), seconds

    def give_back(self) -> tuple[list[Any], dict[int, bytes] | None, int]:
        """Drop the unstarted items of the running batch: (outcomes so far, errors, items kept).

        Items kept are those finished and the one that runs. Without a running batch nothing is
        told, and the batch's own answer counts.
        """
        with self._lock:
            if not self._running:
                return [], None, sys.maxsize
            # While the lock is held the runner may still finish its item, not start a new one.
            self._todo.clear()
            finished, errors = list(self._done), dict(self._errors)
        values, packed = self._sendable(finished, errors)
        return values, packed, len(finished) + 1

    def _packed(self, error: BaseException, function: Callable[..., Any]) -> bytes:
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        return codec.encode_error(error, name, os.getpid())

    def _sendable(
        self, values: list[Any], errors: dict[int, bytes]
    ) -> tuple[list[Any], dict[int, bytes] | None]:
        """The outcomes with values that cannot be pickled turned into errors."""
        if not _PLAIN.issuperset(map(type, values)):
            try:
                codec.encode(values)
            except Exception:  # which of them it is shows one by one
                for at, value in enumerate(values):
                    try:
                        codec.encode(value)
                    except Exception as error:  # the user's __reduce__ may raise anything
                        errors[at] = codec.encode_error(error, "result", os.getpid())
                        values[at] = None
        return values, errors or None
