"""References as futures: of `concurrent.futures`, and of whatever event loop awaits them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["arrival", "awaitable", "future_of"]


def future_of(runtime: Runtime, ref: ObjectRef[Any]) -> Future[Any]:
    """A future that gets the value or the error of a reference."""
    runtime.check_known((ref,))
    future: Future[Any] = Future()
    runtime.when_ready(ref._id, partial(_deliver, runtime, ref, future))
    return future


def _deliver(runtime: Runtime, ref: ObjectRef[Any], future: Future[Any]) -> None:
    if not (future.running() or future.set_running_or_notify_cancel()):
        return
    try:
        there, value = runtime.value_of(ref)
    except BaseException as error:  # handed to whoever waits on the future
        future.set_exception(error)
        return
    if there:
        future.set_result(value)
    else:  # it is lost, and may be there again later
        runtime.when_ready(ref._id, partial(_deliver, runtime, ref, future))


def awaitable(runtime: Runtime, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
    """What `await ref` runs."""
    runtime.check_known((ref,))
    while True:
        there, value = runtime.value_of(ref)
        if there:
            return value
        arrived, wake = arrival()
        runtime.when_ready(ref._id, wake)
        yield from arrived


def arrival() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """A future of the running loop, and what makes it done from any thread."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()
    home = threading.get_ident()

    def arrive() -> None:
        if not arrived.done():  # the waiter may have been cancelled
            arrived.set_result(None)

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            if threading.get_ident() == home:  # then the loop does not sleep
                loop.call_soon(arrive)
            else:
                loop.call_soon_threadsafe(arrive)

    return arrived, wake
