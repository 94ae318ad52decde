"""The memory of an actor's checkpoints.

Mirrors `runtime.checkpoint_memory` and `runtime.checkpoints`. The memory is an object that worker
and node share, as they share a memfd; its descriptor travels beside the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from engine.core.actor_checkpoints import ActorCheckpoints
from engine.core.control import Checkpoint
from tests.sim.references import encode

if TYPE_CHECKING:
    from tests.sim.worker import Worker

__all__ = ["Checkpoints", "Memory"]


class Memory:
    """As `CheckpointMemory`: what a descriptor leads to, whoever has it."""

    def __init__(self, data: bytes = b"", header: Checkpoint | None = None) -> None:
        self.data = data
        self.header = header


class Checkpoints:
    """As `runtime.checkpoints.Checkpoints`: the edge around `ActorCheckpoints`."""

    def __init__(self, worker: Worker, actor_id: bytes) -> None:
        self._worker = worker
        self._memories = (Memory(), Memory())
        self.protocol = ActorCheckpoints(actor_id)

    @property
    def under_way(self) -> bool:
        return self.protocol.under_way

    def write(self, content: Any) -> None:
        """As `Checkpoints.write`."""
        worker, protocol = self._worker, self.protocol
        encoded = encode(content)
        memory = self._memories[protocol.begin()]
        memory.header = None
        memory.data = data = encoded.data
        worker.world.faults.at_point(worker, "a checkpoint written", 10)
        ids = [ref.id for ref in encoded.refs]
        dead = worker.owner.is_dead(protocol.creator)
        keep = protocol.on_written(len(data), crc32(data), ids, encoded.refs, dead)
        if keep is not None:
            worker.send(protocol.creator, keep)
            worker.flush()
        else:
            self.on_holding(protocol.number)

    def on_holding(self, number: int) -> None:
        """As `Checkpoints.on_holding`."""
        self._count(self.protocol.on_holding(number))

    def _count(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        worker, memory = self._worker, self._memories[checkpoint.number % 2]
        worker.world.faults.at_point(worker, "references of a checkpoint held", 10)
        memory.header = checkpoint
        worker.world.faults.at_point(worker, "a checkpoint counts", 10)
        told = self.protocol.on_counted()
        if not told:
            worker.world.mark("a checkpoint was not told")
        end = worker.connections.get(worker.node)
        if told and end is not None:
            worker.world.descriptors[worker.id, checkpoint.number] = memory
            for message in told:
                worker.post(end, message)
            worker.flush()

    def send_behind(self, message: Any) -> None:
        """As `Checkpoints.send_behind`."""
        if self.protocol.put_behind(message):
            self._worker.send(self._worker.node, message)
        else:
            self._worker.world.mark("an actor waits for its first checkpoint")

    def on_death(self, process: bytes) -> bool:
        """As `Checkpoints.on_death`."""
        checkpoint = self.protocol.on_death(process)
        self._count(checkpoint)
        return checkpoint is not None and not self.under_way

    def on_kept(self, number: int, looks: bool = True) -> None:
        """As `Checkpoints.on_kept`."""
        self.protocol.on_kept(number, looks)
