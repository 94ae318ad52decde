"""The in-flight budget of a process: how many calls, and how many bytes of their arguments.

Whoever submits more than is answered would fill its memory. So `.remote()` waits at the limit,
serving the sockets meanwhile; inside a worker the wait lends the slot out like any other, so tasks
that submit tasks cannot lock each other out. Who must not be held up asks for an error instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.core.dispatch import Task
from engine.exceptions import NodeDiedError, SubmissionLimitExceeded

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Admission"]


class Admission:
    """The door through which every task and call of one process goes."""

    def __init__(self, runtime: Runtime, running: Callable[[], Any]) -> None:
        self._runtime = runtime
        self._running = running  # the call whose code submits
        self._owner = runtime.owner
        self._calls_max = runtime.config.in_flight_calls_max
        self._bytes_max = runtime.config.in_flight_bytes_max

    def admit(self, task: Task, on_full: str | None) -> None:
        """Let a task in: at once, when there is room, or not at all."""
        owner = self._owner
        running = self._running()
        if running is not None:
            task.parent = running
        if owner.unfinished & 127 == 127:
            self._runtime.reactor.poll()  # a long burst must not let replies pile up
        if (
            owner.unfinished >= self._calls_max
            or owner.unfinished_bytes + task.nbytes > self._bytes_max
        ):
            self._make_room(task, on_full or self._runtime.config.on_full)

    def _has_room(self, task: Task) -> bool:
        owner = self._owner
        return not owner.unfinished or (
            owner.unfinished < self._calls_max
            and owner.unfinished_bytes + task.nbytes <= self._bytes_max
        )

    def _make_room(self, task: Task, on_full: str) -> None:
        runtime, owner = self._runtime, self._owner
        if on_full == "raise":
            runtime.reactor.poll()  # answers that have arrived make room
            with runtime.lock:  # whose value is seen already may be on the point of making room
                room = self._has_room(task)
            if not room:
                raise SubmissionLimitExceeded(
                    f"{task.name} was not submitted: this process has {owner.unfinished} calls "
                    f"with {owner.unfinished_bytes} bytes of arguments that are not answered yet, "
                    f"and this one has {task.nbytes} bytes; the limits are {self._calls_max} calls "
                    f"and {self._bytes_max} bytes. Wait for some of them with engine.wait(), leave "
                    "out on_full='raise' to have .remote() wait, or raise in_flight_calls_max and "
                    "in_flight_bytes_max of engine.init(config=Config(...))."
                )
            return
        runtime.wait(lambda: self._has_room(task) or not runtime.node_alive, None)
        if not runtime.node_alive:
            raise NodeDiedError(f"the node died before {task.name} was submitted")
