"""`ObjectRefGenerator`: the references that a generator task yields, while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from engine.core.streams import ItemStream
from engine.exceptions import GetTimeoutError
from engine.runtime.client import Runtime
from engine.runtime.futures import arrival
from engine.store.refs import ObjectRef

__all__ = ["ObjectRefGenerator"]


class ObjectRefGenerator(Iterator[ObjectRef[Any]], AsyncIterator[ObjectRef[Any]]):
    """An iterator, and an async iterator, of ObjectRefs in the order the task yields them.

    The producer runs at most a window of items ahead of the consumer and then waits. If it fails,
    the last reference carries the error; after that the iteration ends. When the generator is
    dropped, the producer is cancelled. Not picklable, not for several threads at once.
    """

    def __init__(self, home: Runtime, stream: ItemStream) -> None:
        self._home = home
        self._stream = stream
        self._completed: ObjectRef[Any] = ObjectRef(stream.task.id)

    def _check_home(self, home: Runtime) -> None:
        if self._home is not home:
            raise ValueError(
                f"{self!r} comes from before the last engine.shutdown(); its task is gone"
            )

    def __iter__(self) -> ObjectRefGenerator:
        return self

    def __next__(self) -> ObjectRef[Any]:
        return self._next(None)

    def _next(self, timeout: float | None) -> ObjectRef[Any]:
        stream = self._stream
        if not stream.ready and not stream.finished:
            came = self._home.wait(lambda: bool(stream.ready) or stream.finished, timeout)
            if not came:
                raise GetTimeoutError(f"{stream.task.name} yielded nothing within {timeout} s")
        return self._take()

    def _take(self) -> ObjectRef[Any]:
        with self._home.lock:
            if not self._stream.ready:
                raise StopIteration
            return ObjectRef(self._home.owner.streams.take(self._stream))

    def __aiter__(self) -> ObjectRefGenerator:
        return self

    async def __anext__(self) -> ObjectRef[Any]:
        stream = self._stream
        while not stream.ready and not stream.finished:
            await self._arrival()
        try:
            return self._take()
        except StopIteration:
            raise StopAsyncIteration from None

    def _arrival(self) -> asyncio.Future[None]:
        """A future of the running loop that is done when something has happened."""
        stream = self._stream
        arrived, wake = arrival()
        with self._home.lock:
            if stream.ready or stream.finished:
                arrived.set_result(None)
            else:
                stream.waiters.append(lambda: self._home.reactor.after_turn.append(wake))
                self._home.reactor.flush()
        return arrived

    def next_ready(self) -> bool:
        """Whether `next()` would return (or end) without waiting."""
        self._home.reactor.poll()
        return bool(self._stream.ready) or self._stream.finished

    def is_finished(self) -> bool:
        """Whether the task has ended and every item was taken."""
        return self._stream.finished and not self._stream.ready

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the task has ended; asking lifts the producer's window."""
        with self._home.lock:
            if not self._stream.finished:
                self._home.owner.streams.lift(self._stream)
                self._home.reactor.flush()
        return self._completed

    def __del__(self) -> None:
        home = getattr(self, "_home", None)
        if home is not None:
            home.dropped_streams.append(self._stream.task.id)

    def __reduce__(self) -> Any:
        raise TypeError(
            "an ObjectRefGenerator cannot be pickled: only the process that called can iterate. "
            "Pass on the references it yields."
        )

    def __repr__(self) -> str:
        state = "finished" if self._stream.finished else "running"
        return f"ObjectRefGenerator({self._stream.task.name}, {state})"
