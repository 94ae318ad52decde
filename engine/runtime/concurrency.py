"""How an actor runs several calls at a time: by threads or coroutines, and in which groups.

A class with coroutine methods runs all its calls as coroutines, any other class all of them in
threads; `max_concurrency` is the limit. Each concurrency group is a pool of its own with a limit
of its own, and order per caller is order within a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from engine.runtime.coroutines import LoopGroup, MainLoop
from engine.runtime.threads import ThreadedCalls

if TYPE_CHECKING:
    from engine.runtime.worker import Worker

__all__ = ["Groups", "Pool", "concurrency_of"]

# Coroutines at a time unless the actor says otherwise, as in Ray.
_COROUTINES = 1000


class Pool(Protocol):
    """What runs the calls of an actor, or of one of its groups."""

    def start(self, peer: bytes, call: Any) -> None:
        """Run a call, now or when there is room."""

    def drop(self, call_id: bytes) -> bool:
        """Answer a call that waits as cancelled. False when it does not wait here."""

    def runs(self, call_id: bytes) -> bool:
        """Whether the call runs here."""

    def calls(self) -> list[tuple[bytes, float]]:
        """Calls that run, with when they began, and those that wait, with 0."""

    def interrupt(self, call_id: bytes) -> None:
        """Cancel a call that runs, if it can be."""

    def on_consumed(self) -> None:
        """A consumer of a generator has taken items."""


class Groups:
    """The pools of an actor: one for each named group, and one for the methods of none."""

    def __init__(self, default: Pool, named: Mapping[str, Pool]) -> None:
        self.loop = default if isinstance(default, MainLoop) else None
        self._default = default
        self._named = named
        self._pools = [default, *named.values()]
        self._threads = [pool for pool in self._pools if isinstance(pool, ThreadedCalls)]

    def start(self, peer: bytes, call: Any) -> None:
        """Run a call in its group."""
        group = "" if call.details is None else call.details.group
        (self._named[group] if group else self._default).start(peer, call)

    def drop(self, call_id: bytes) -> bool:
        """Answer a call that waits in a group as cancelled. False when it waits in none."""
        return any(pool.drop(call_id) for pool in self._pools)

    def runs(self, call_id: bytes) -> bool:
        """Whether the call runs in any of the groups."""
        return any(pool.runs(call_id) for pool in self._pools)

    def calls(self) -> list[tuple[bytes, float]]:
        """Calls that run, with when they began, and those that wait, with 0."""
        return [one for pool in self._pools for one in pool.calls()]

    def interrupt(self, call_id: bytes) -> None:
        """Cancel a call that runs, if it can be."""
        for pool in self._pools:
            pool.interrupt(call_id)

    def on_consumed(self) -> None:
        """A consumer of a generator has taken items."""
        for pool in self._pools:
            pool.on_consumed()

    def next_wake(self) -> float | None:
        """When the worker's loop must call `look`."""
        wakes = [pool.next_wake() for pool in self._threads]
        return min((wake for wake in wakes if wake is not None), default=None)

    def look(self) -> None:
        """Let more threads join where calls wait."""
        for pool in self._threads:
            pool.look()


def concurrency_of(worker: Worker, options: Mapping[str, Any]) -> Groups | None:
    """What runs the calls of the worker's actor; None: its main thread, one after the other."""
    limit = options.get("max_concurrency")
    groups: dict[str, int] = options.get("concurrency_groups") or {}
    if worker.execution.is_async():
        loops = {name: LoopGroup(worker, most, name) for name, most in groups.items()}
        return Groups(MainLoop(worker, limit or _COROUTINES), loops)
    if groups or (limit or 1) > 1:
        pools = {name: ThreadedCalls(worker, most, name) for name, most in groups.items()}
        return Groups(ThreadedCalls(worker, limit or 1), pools)
    return None
