"""`Executor`: the interface of `concurrent.futures.ProcessPoolExecutor` on the engine's workers."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from time import monotonic
from typing import Any

from engine.api import cluster_resources
from engine.exceptions import ActorError
from engine.util.crew import Crew
from engine.util.helper import HELPER

__all__ = ["Executor"]


class _Future(concurrent.futures.Future[Any]):
    """A future whose waiter serves the engine itself, instead of waiting for another thread."""

    _crew: Crew

    def result(self, timeout: float | None = None) -> Any:
        """The value, or raise the error; TimeoutError after `timeout` seconds."""
        self._serve(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None; TimeoutError after `timeout` seconds."""
        self._serve(timeout)
        return super().exception(0)

    def _serve(self, timeout: float | None) -> None:
        if not self.done():
            self._crew.wait(self.done, None if timeout is None else max(0.0, timeout))

    def cancel(self) -> bool:
        """Cancel the call if it has not been given to a worker; whether it is cancelled."""
        cancelled = super().cancel()
        if cancelled:
            self._crew.tell()
        return cancelled


class _Call:
    """The sink of one submitted call: its future."""

    __slots__ = ("future",)

    def __init__(self, future: _Future) -> None:
        self.future = future

    def admit(self, start: int) -> bool:
        """Whether the future still stands; from here on it cannot be cancelled."""
        return start == 0 and self.future.set_running_or_notify_cancel()

    def deliver(self, start: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Set the future; where its callbacks may wait."""
        value, error = values[start], errors.get(start)
        if self.future._done_callbacks:  # type: ignore[attr-defined]
            HELPER.call(lambda: self._set(value, error))  # they are the user's, and may wait
        else:
            self._set(value, error)

    def cancel(self) -> None:
        """The executor was shut down with cancel_futures=True."""
        self.future.cancel()

    def _set(self, value: Any, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(_translated(error, self.future._crew))


class _Results:
    """The sink of one `map`: outcomes by position, until the consumer loses interest."""

    def __init__(self, crew: Crew, deadline: float | None) -> None:
        self.crew = crew
        self.deadline = deadline
        self.outcomes: dict[int, tuple[Any, BaseException | None]] = {}
        self.abandoned = False

    def admit(self, start: int) -> bool:
        """Whether anybody still wants the results."""
        return start >= 0 and not self.abandoned

    def deliver(self, start: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Keep the outcomes of the calls from `start` on."""
        for at, value in enumerate(values):
            self.outcomes[start + at] = (value, errors.get(at))

    def cancel(self) -> None:
        """The executor was shut down: what has not begun never will."""
        self.abandoned = True

    def each(self, count: int, chunked: bool) -> Iterator[Any]:
        """The values in order; raises the first error where it stands."""
        try:
            for at in range(count):
                value = self._outcome(at)
                if chunked:
                    yield from value
                else:
                    yield value
        finally:
            self.abandoned = True

    def _outcome(self, at: int) -> Any:
        outcomes = self.outcomes
        if at not in outcomes:
            left = None if self.deadline is None else max(0.0, self.deadline - monotonic())
            ended = self.crew.wait(
                lambda: at in outcomes or (self.abandoned and self.crew.idle), left
            )
            if not ended:
                raise TimeoutError(f"no result of map number {at} in time")
            if at not in outcomes:
                raise concurrent.futures.CancelledError
        value, error = outcomes.pop(at)
        if error is not None:
            raise _translated(error, self.crew)
        return value


def _translated(error: BaseException, crew: Crew) -> BaseException:
    if crew.broken is None or not (error is crew.broken or isinstance(error, ActorError)):
        return error
    broken = BrokenProcessPool(f"the executor is not usable any more: {error}")
    broken.__cause__ = error
    return broken


class Executor(concurrent.futures.Executor):
    """Runs calls in worker processes; the interface of `ProcessPoolExecutor`.

    Differences: lambdas and closures work; functions run in a thread of their worker that is not
    the main thread (the initializer runs in the main one); functions without a closure are shipped
    once, with the globals they had then. A worker that dies, or an initializer that raises, breaks
    the executor: pending and later calls raise BrokenProcessPool. Done-callbacks added before the
    call has ended run in a helper thread.

    Args:
        max_workers: how many processes (default: the CPUs of the cluster). They start when needed
            and take no logical CPUs away from tasks.
        initializer, initargs: called once in every worker when it starts.
        max_tasks_per_child: calls after which a worker is replaced by a fresh process.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        size = max_workers or max(1, int(cluster_resources().get("CPU", 0)))
        self._crew: Crew | None = Crew(
            size, initializer, initargs, max_tasks_per_child, replaces=False
        )
        self._closed = False

    def _usable(self) -> Crew:
        if self._closed or self._crew is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._crew.broken is not None:
            raise BrokenProcessPool("the executor is broken") from self._crew.broken
        return self._crew

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Start `fn(*args, **kwargs)` in a worker; its future.

        Raises RuntimeError after `shutdown`, BrokenProcessPool when the executor is broken.
        """
        crew = self._usable()
        future = _Future()
        future._crew = crew
        item = [args, kwargs] if kwargs else args
        crew.submit(crew.function(fn), [item], _Call(future))
        return future

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[Any]:
        """An iterator of `fn(*args)` for the zipped iterables, in order.

        All calls are submitted at once; results are yielded when they come. `timeout` counts in
        seconds from this call; then the iterator raises TimeoutError. Calls of one chunk run in
        one worker and fail together. Closing the iterator drops the calls that have not begun.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        crew = self._usable()
        calls = list(zip(*iterables, strict=False))
        chunks = [(calls[at : at + chunksize],) for at in range(0, len(calls), chunksize)]
        results = _Results(crew, deadline)
        if chunksize == 1:
            crew.submit(crew.function(fn, kept=True), calls, results)
        elif calls:
            crew.submit(crew.function(_Chunk(fn), kept=True), chunks, results)
        return results.each(len(chunks), chunksize > 1)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no further calls; with `wait`, return when all have ended and the workers are gone.

        `cancel_futures` cancels the calls that have not been given to a worker yet.
        """
        self._closed = True
        crew = self._crew
        if crew is None:
            return
        if cancel_futures:
            for sink in crew.withdraw():
                sink.cancel()
        if wait:
            crew.end()
        self._crew = None  # without waiting, the workers end with their last call


class _Chunk:
    """A function on a chunk of argument tuples at once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        function = self._function
        return [function(*args) for args in calls]
