"""`Pool`: the interface of `multiprocessing.Pool` on the engine's workers."""

from __future__ import annotations

import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from engine.api import cluster_resources
from engine.exceptions import TaskCancelledError
from engine.util.crew import Crew, Function
from engine.util.helper import HELPER
from engine.util.imap import ImapIterator

__all__ = ["AsyncResult", "Pool"]

_RUN, _CLOSE, _TERMINATE = "running", "closed", "terminated"


class _Callbacks:
    """Runs the callbacks of one pool; after `stop` none runs and none is running."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entered when a callback terminates its pool
        self._stopped = False

    def run(self, callback: Callable[[Any], Any], outcome: Any) -> None:
        with self._lock:
            if not self._stopped:
                callback(outcome)

    def stop(self) -> None:
        self._stopped = True
        with self._lock:
            pass  # the one that was running has ended


class AsyncResult:
    """The result of `apply_async`, `map_async` or `starmap_async`.

    As in multiprocessing a failed map waits for all of its items and then raises the error that
    came first. Callbacks run in a thread of their own, before the result counts as ready.
    """

    def __init__(
        self,
        crew: Crew,
        callbacks: _Callbacks,
        count: int,
        finish: Callable[[list[Any]], Any],
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> None:
        self._crew = crew
        self._callbacks = callbacks
        self._values: list[Any] = [None] * count
        self._left = count
        self._lock = threading.Lock()
        self._finish = finish
        self._callback = callback
        self._error_callback = error_callback
        self._error: BaseException | None = None
        self._value: Any = None
        self._ready = False
        if not count:
            self._complete()

    def admit(self, start: int) -> bool:
        """Always: calls of a pool cannot be cancelled one by one."""
        return start >= 0

    def deliver(self, start: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Take outcomes of the items from `start` on."""
        with self._lock:
            self._values[start : start + len(values)] = values
            if errors and self._error is None:
                self._error = errors[min(errors)]
            self._left -= len(values)
            last = self._left == 0
        if last:
            self._complete()

    def _complete(self) -> None:
        if self._error is None:
            self._value = self._finish(self._values)
        self._values = []
        callback = self._callback if self._error is None else self._error_callback
        if callback is None:
            self._ready = True
            return
        outcome = self._value if self._error is None else self._error

        def call() -> None:
            try:
                self._callbacks.run(callback, outcome)
            finally:
                self._ready = True

        HELPER.call(call)

    def ready(self) -> bool:
        """Whether the call has ended."""
        if not self._ready:
            self._crew.poll()
        return self._ready

    def successful(self) -> bool:
        """Whether the call has ended without an error; ValueError while it runs."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or for `timeout` seconds."""
        if not self._ready:
            self._crew.wait(lambda: self._ready, None if timeout is None else max(0.0, timeout))

    def get(self, timeout: float | None = None) -> Any:
        """The value, or raise the error of the function.

        Raises multiprocessing.TimeoutError when the call has not ended within `timeout` seconds.
        """
        self.wait(timeout)
        if not self._ready:
            raise multiprocessing.TimeoutError(f"no result within {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value


class Pool:
    """Worker processes that run functions; the interface of `multiprocessing.Pool`.

    Differences: lambdas and closures work; arguments and results may be anything the engine can
    send, and large arrays in results are read-only views of shared memory; `imap` consumes its
    iterable lazily; a worker that dies is replaced and its calls raise ActorDiedError instead of
    waiting for ever; results still pending at `terminate()` raise TaskCancelledError; an
    initializer that raises fails every call with its error. Functions run in a thread of their
    worker that is not the main thread (the initializer runs in the main one); functions without a
    closure are shipped once, with the globals they had then. Callbacks run in a helper thread.

    Args:
        processes: how many workers (default: the CPUs of the cluster). They take no logical CPUs
            away from tasks. ValueError when the cluster has fewer CPUs than this.
        initializer, initargs: called once in every worker when it starts.
        maxtasksperchild: calls (chunks, for a chunksize above 1) after which a worker is replaced
            by a fresh process.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        cpus = int(cluster_resources().get("CPU", 0))
        if processes is not None and processes > cpus:
            raise ValueError(
                f"a pool of {processes} processes on a cluster with {cpus} CPUs. Use fewer "
                "processes, or start the engine with more: engine.init(num_cpus=)."
            )
        self._processes = max(1, cpus) if processes is None else processes
        self._crew = Crew(self._processes, initializer, tuple(initargs), maxtasksperchild)
        self._crew.start()
        self._state = _RUN
        self._callbacks = _Callbacks()
        self._iterators: weakref.WeakSet[ImapIterator] = weakref.WeakSet()

    # ------------------------------------------------------------------ one call

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Any = None) -> Any:
        """`func(*args, **kwds)` in a worker; its value."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Any = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start `func(*args, **kwds)` in a worker; `callback(value)` or `error_callback(error)`."""
        self._check_running()
        result = self._result(1, _first, callback, error_callback)
        item = [tuple(args), dict(kwds)] if kwds else tuple(args)
        self._crew.submit(self._crew.function(func), [item], result)
        return result

    # ------------------------------------------------------------------ many calls

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """`[func(x) for x in iterable]`, in parallel."""
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a `map`. An error fails its whole chunk; without `chunksize` a chunk is an item."""
        return self._map(func, False, iterable, chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """`[func(*args) for args in iterable]`, in parallel."""
        result = self.starmap_async(func, iterable, chunksize)
        return result.get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Start a `starmap`; see `map_async`."""
        return self._map(func, True, iterable, chunksize, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        star: bool,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> AsyncResult:
        self._check_running()
        size = 1 if chunksize is None else _checked(chunksize)
        values = list(iterable)
        function = self._function(func, star, size)
        items = _items(values, star, size)
        finish = _all if size == 1 else _flat
        result = self._result(len(items), finish, callback, error_callback)
        if items:
            self._crew.submit(function, items, result)
        return result

    def _result(self, count: int, finish: Callable[[list[Any]], Any], *then: Any) -> AsyncResult:
        return AsyncResult(self._crew, self._callbacks, count, finish, *then)

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> ImapIterator:
        """An iterator of `func(x)` in the order of the iterable, which is consumed lazily.

        At most some tens of chunks a worker are in flight or unread. `next(timeout)` raises
        multiprocessing.TimeoutError; an error of a chunk is raised in its place.
        """
        return self._imap(func, iterable, chunksize, True)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> ImapIterator:
        """Like `imap`, in the order in which results come."""
        return self._imap(func, iterable, chunksize, False)

    def _imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, ordered: bool
    ) -> ImapIterator:
        self._check_running()
        size = _checked(chunksize)
        function = self._function(func, False, size)
        found = ImapIterator(self._crew, function, iter(iterable), size, ordered)
        self._iterators.add(found)
        return found

    def _function(self, func: Callable[..., Any], star: bool, size: int) -> Function:
        call = func if size == 1 else _Chunk(func, star)
        return self._crew.function(call, kept=True)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Take no further calls; what was submitted runs to its end."""
        if self._state == _RUN:
            self._state = _CLOSE

    def terminate(self) -> None:
        """End the workers at once; pending results raise TaskCancelledError.

        Once it returns no callback of this pool runs any more.
        """
        if self._state != _TERMINATE:
            self._state = _TERMINATE
            self._crew.kill(TaskCancelledError("the pool was terminated"))
            self._callbacks.stop()

    def join(self) -> None:
        """Wait until the workers have ended; ValueError before `close` or `terminate`.

        What `imap` has not consumed yet of its iterables is run now.
        """
        if self._state == _RUN:
            raise ValueError("Pool is still running")
        if self._state == _CLOSE:
            for one in list(self._iterators):
                one.drain()
            self._crew.end()

    def _check_running(self) -> None:
        if self._state != _RUN:
            raise ValueError("Pool not running")

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise TypeError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        return f"<Pool state={self._state} pool_size={self._processes}>"


class _Chunk:
    """A function on a chunk of items at once."""

    def __init__(self, func: Callable[..., Any], star: bool) -> None:
        self._func = func
        self._star = star

    def __call__(self, *items: Any) -> list[Any]:
        func = self._func
        return [func(*item) for item in items] if self._star else [func(item) for item in items]


def _items(values: Sequence[Any], star: bool, size: int) -> list[tuple[Any, ...]]:
    """Argument tuples: one an item, or one a chunk (its items are the arguments)."""
    if size > 1:
        return [tuple(values[at : at + size]) for at in range(0, len(values), size)]
    return [tuple(one) for one in values] if star else list(zip(values, strict=True))


def _checked(chunksize: int) -> int:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
    return chunksize


def _first(values: list[Any]) -> Any:
    return values[0]


def _all(values: list[Any]) -> list[Any]:
    return values


def _flat(values: Iterable[list[Any]]) -> list[Any]:
    return [value for chunk in values for value in chunk]


