"""The memory of an actor's checkpoints, and who holds what they refer to.

Mirrors `runtime.checkpoint_memory` and `runtime.checkpoints`. The memory is an object that worker
and node share, as they share a memfd; its descriptor travels beside the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from engine.core.control import Checkpoint
from engine.core.ids import owner_of
from engine.core.messages import Keep
from tests.sim.references import Ref, encode

if TYPE_CHECKING:
    from tests.sim.worker import Worker

__all__ = ["Checkpoints", "Memory"]


class Memory:
    """As `CheckpointMemory`: what a descriptor leads to, whoever has it."""

    def __init__(self, data: bytes = b"", header: Checkpoint | None = None) -> None:
        self.data = data
        self.header = header


class Checkpoints:
    """As `runtime.checkpoints.Checkpoints`."""

    def __init__(self, worker: Worker, actor_id: bytes) -> None:
        self._worker = worker
        self._actor = actor_id
        self._creator = owner_of(actor_id)
        self._memories = (Memory(), Memory())
        self._looks = [False, False]
        self.number = 0
        self._open: tuple[Checkpoint, list[Ref]] | None = None
        self._waits = False
        self._behind: Any = None
        self._held = False

    @property
    def under_way(self) -> bool:
        return self._open is not None

    def write(self, content: Any) -> None:
        """As `Checkpoints.write`."""
        worker = self._worker
        encoded = encode(content)
        self.number += 1
        memory = self._memories[self.number % 2]
        memory.header = None
        memory.data = data = encoded.data
        worker.world.faults.at_point(worker, "a checkpoint written", 10)
        self._open = Checkpoint(self._actor, self.number, len(data), crc32(data)), encoded.refs
        self._waits = True
        if (encoded.refs or self._held) and not worker.owner.is_dead(self._creator):
            ids = [ref.id for ref in encoded.refs]
            worker.send(self._creator, Keep(self._actor, self.number, ids))
            worker.flush()
        else:
            self.on_holding(self.number)
        self._held = bool(encoded.refs)

    def on_holding(self, number: int) -> None:
        """As `Checkpoints.on_holding`."""
        if not self._waits or self._open is None or self._open[0].number != number:
            return
        self._waits = False
        worker = self._worker
        worker.world.faults.at_point(worker, "references of a checkpoint held", 10)
        self._memories[number % 2].header = self._open[0]
        worker.world.faults.at_point(worker, "a checkpoint counts", 10)
        if self._looks[number % 2]:
            worker.world.mark("a checkpoint was not told")
            self.on_kept(number)
            return
        end = worker.connections.get(worker.node)
        if end is not None:
            worker.world.descriptors[worker.id, number] = self._memories[number % 2]
            worker.post(end, self._open[0])
            if self._behind is not None:
                worker.post(end, self._behind)
            worker.flush()
        self._behind = None

    def send_behind(self, message: Any) -> None:
        """As `Checkpoints.send_behind`."""
        if self._waits:
            self._worker.world.mark("an actor waits for its first checkpoint")
            self._behind = message
        else:
            self._worker.send(self._worker.node, message)

    def on_death(self, process: bytes) -> bool:
        """As `Checkpoints.on_death`."""
        if process != self._creator or self._open is None:
            return False
        self.on_holding(self._open[0].number)
        return not self.under_way

    def on_kept(self, number: int, looks: bool = True) -> None:
        """As `Checkpoints.on_kept`."""
        if self._open is not None and self._open[0].number == number:
            self._open = None
            self._looks[number % 2] = looks
