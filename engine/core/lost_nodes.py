"""What an owner has to do with nodes that are dead: all their processes are.

On one node a dead process leaves its memory behind, and the node has looked which call it ran. With
a node all of that is gone: whatever was sent to its workers and is not answered may have run, and
large values that lay there are lost, wherever their owner is. Nobody looks for those: whoever wants
to read one finds that out, and `core.rebuild` does the rest.

Pure.
"""

from __future__ import annotations

from engine.core.callers import Callers
from engine.core.control import NodeLost, WorkerDied
from engine.core.dispatch import Dispatcher
from engine.core.ids import node_of
from engine.core.objects import ObjectTable

__all__ = ["LostNodes"]


class LostNodes:
    """The nodes that one process knows to be dead."""

    def __init__(self, objects: ObjectTable, dispatch: Dispatcher, callers: Callers) -> None:
        self._objects = objects
        self._dispatch = dispatch
        self._callers = callers
        self.causes: dict[int, str] = {}

    def has(self, process: bytes) -> bool:
        """Whether a process was on one of them."""
        return bool(self.causes) and node_of(process) in self.causes

    def add(self, message: NodeLost) -> list[WorkerDied]:
        """One more is dead; the deaths of those of its processes that matter here."""
        cause = f"was lost with its node, which {message.cause}"
        self.causes[message.number] = cause
        known = {*self._dispatch.leases, *self._objects.processes()}
        known.update(client.process for client in self._callers.actors.values() if client.process)
        known.update(self._callers.waits_for())
        if self._callers.concerned is not None:
            known.update(self._callers.concerned())
        there = sorted(one for one in known if node_of(one) == message.number)
        for process in there:  # what one had must not be sent to the next, which is dead as well
            lease = self._dispatch.leases.get(process)
            if lease is not None:
                lease.drain = True
        return [WorkerDied(process, 0, cause) for process in there]
