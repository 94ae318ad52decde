"""The iterator that `Pool.imap` and `imap_unordered` return."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from engine.util.crew import Crew, Function

__all__ = ["ImapIterator"]

# Chunks a worker that may be submitted and not yet read by the consumer: enough for batches.
_WINDOW_PER_WORKER = 64


class ImapIterator(Iterator[Any]):
    """Results of a function on an iterable that is consumed while results are read.

    Ordered or as they come. An error is raised where its chunk's results would be; the iteration
    can go on after it. An error of the iterable itself ends it. For one consuming thread.
    """

    def __init__(
        self, crew: Crew, function: Function, source: Iterator[Any], size: int, ordered: bool
    ) -> None:
        self._crew = crew
        self._function = function
        self._source: Iterator[Any] | None = source
        self._size = size
        self._ordered = ordered
        self._window = _WINDOW_PER_WORKER * crew.size
        self._lock = threading.RLock()
        self._outcomes: dict[int, tuple[Any, BaseException | None]] = {}
        self._arrived: deque[int] = deque()  # unordered: chunks in the order of their outcomes
        self._submitted = self._read = 0
        self._values: Iterator[Any] = iter(())  # of the chunk being read
        self._refill()

    def admit(self, start: int) -> bool:
        """Always."""
        return start >= 0

    def deliver(self, start: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Take outcomes of the chunks from `start` on."""
        with self._lock:
            for at, value in enumerate(values, start):
                self._outcomes[at] = (value, errors.get(at - start))
                self._arrived.append(at)

    def _refill(self) -> None:
        """Submit chunks while there is room in the window; by halves, so that batches can form."""
        room = self._window - (self._submitted - self._read)
        if self._source is None or room < self._window / 2:
            return
        source, size, start = self._source, self._size, self._submitted
        items: list[tuple[Any, ...]] = []
        failure: BaseException | None = None
        try:
            while len(items) < room:
                chunk = tuple(itertools.islice(source, size))
                if not chunk:
                    self._source = None
                    break
                items.append(chunk)
        except Exception as error:  # the iterable's own: raised in its place
            self._source, failure = None, error
        self._submitted += len(items)
        if failure is not None:
            self.deliver(self._submitted, [None], {0: failure})
            self._submitted += 1
        if items:
            self._crew.submit(self._function, items, self, start)

    def drain(self) -> None:
        """Submit all that is left of the iterable, however much that is."""
        while self._source is not None:
            self._window = 2 * (self._submitted - self._read) + _WINDOW_PER_WORKER
            self._refill()

    def __iter__(self) -> ImapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises StopIteration at the end, multiprocessing.TimeoutError when it did not come within
        `timeout` seconds, and the error of the function.
        """
        for value in self._values:
            return value
        self._refill()
        if self._read == self._submitted:
            raise StopIteration
        limit = None if timeout is None else max(0.0, timeout)
        if not self._is_there() and not self._crew.wait(self._is_there, limit):
            raise multiprocessing.TimeoutError(f"no result within {timeout} s")
        with self._lock:
            at = self._read if self._ordered else self._arrived.popleft()
            value, error = self._outcomes.pop(at)
            self._read += 1
        if error is not None:
            raise error
        if self._size == 1:
            return value
        self._values = iter(value)
        return next(self._values)

    def _is_there(self) -> bool:
        return self._read in self._outcomes if self._ordered else bool(self._arrived)
