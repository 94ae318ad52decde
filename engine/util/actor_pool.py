"""`ActorPool`: work on values through a fixed set of actors, one call an actor at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from engine.api import get, wait
from engine.store.refs import ObjectRef

__all__ = ["ActorPool"]

Submit = Callable[[Any, Any], Any]


class ActorPool:
    """Gives values to whichever of its actors is free.

    `fn(actor, value)` makes the call and returns its reference (or the list of references of a
    method with several returns)::

        pool = ActorPool([Worker.remote(), Worker.remote()])
        print(list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3])))

    A call that fails raises from the `get_next` that takes it; its actor goes on with the next
    value. Not for several threads at once.

    Args:
        actors: handles; more can be added by `push`.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle: list[Any] = list(actors)
        self._running: dict[int, tuple[Any, Any]] = {}  # number -> (references, actor)
        self._waiting: deque[tuple[int, Submit, Any]] = deque()
        self._submitted = 0
        self._unordered = False

    def submit(self, fn: Submit, value: Any) -> None:
        """Call `fn(actor, value)` with a free actor: now, or as soon as one is free."""
        number = self._submitted
        self._submitted += 1
        self._waiting.append((number, fn, value))
        try:
            self._start()
        except BaseException:  # `fn` is the user's: what it has not begun is not kept
            if self._waiting and self._waiting[-1][0] == number:
                self._waiting.pop()
            raise

    def _start(self) -> None:
        while self._idle and self._waiting:
            number, fn, value = self._waiting[0]
            actor = self._idle[-1]
            refs = fn(actor, value)
            self._waiting.popleft()
            self._idle.pop()
            self._running[number] = (refs, actor)

    def map(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Results for all values, in their order.

        Values are submitted at once, as far as there are free actors; results that nobody has
        taken yet from earlier submissions are dropped.
        """
        self._submit_all(fn, values)
        return self._each(self.get_next)

    def map_unordered(self, fn: Submit, values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`, in the order in which the results come."""
        self._submit_all(fn, values)
        return self._each(self.get_next_unordered)

    def _submit_all(self, fn: Submit, values: Iterable[Any]) -> None:
        self._waiting.clear()
        while self._running:
            number = next(iter(self._running))
            self._release(number)
        self._settle()
        for value in values:
            self.submit(fn, value)

    def _each(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def has_next(self) -> bool:
        """Whether there are results to take, ready or not."""
        return bool(self._running or self._waiting)

    def has_free(self) -> bool:
        """Whether an actor is idle and no value waits for one."""
        return bool(self._idle) and not self._waiting

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Raises StopIteration when nothing was submitted, TimeoutError when it is not there within
        `timeout` seconds (with `ignore_if_timedout` that result is given up), ValueError after
        `get_next_unordered` as long as results of those submissions are left: there is no order
        any more.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._unordered:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        number = min(self._running)  # values start in order, so what waits is later
        refs = self._running[number][0]
        return self._take(number, _ready(refs, timeout), ignore_if_timedout)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """The next result that comes.

        Raises like `get_next`; with `ignore_if_timedout` the result that was submitted first is
        given up.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        first = {_first(refs): number for number, (refs, _actor) in self._running.items()}
        done, _rest = wait(list(first), timeout=timeout)
        number = first[done[0]] if done else min(self._running)
        self._unordered = True
        return self._take(number, bool(done), ignore_if_timedout)

    def _take(self, number: int, ready: bool, ignore: bool) -> Any:
        if not ready and not ignore:
            raise TimeoutError("Timed out waiting for result")
        refs = self._release(number)
        self._start()
        self._settle()
        if not ready:
            raise TimeoutError(
                f"Timed out waiting for result. The task {refs!r} has been ignored."
            )
        return get(refs)

    def _release(self, number: int) -> Any:
        refs, actor = self._running.pop(number)
        self._idle.append(actor)
        return refs

    def _settle(self) -> None:
        if not self.has_next():
            self._unordered = False

    def pop_idle(self) -> Any:
        """Remove an idle actor and return it; None when there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor; ValueError when it belongs to the pool already."""
        busy = [one for _refs, one in self._running.values()]
        if actor in self._idle or actor in busy:
            raise ValueError("Actor already belongs to current ActorPool")
        self._idle.append(actor)
        self._start()


def _first(refs: Any) -> ObjectRef[Any]:
    found: ObjectRef[Any] = refs[0] if isinstance(refs, list | tuple) else refs
    return found


def _ready(refs: Any, timeout: float | None) -> bool:
    """Whether all references of one call are there within `timeout` seconds."""
    each = list(refs) if isinstance(refs, list | tuple) else [refs]
    return len(wait(each, num_returns=len(each), timeout=timeout)[0]) == len(each)
