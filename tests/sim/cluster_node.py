"""One node of several: the edge of `Outside`, around the edge that every node has.

There is no `engine.runtime` module for it yet; this is what it has to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.core.between import HEAD, Datagram, NotPlaced, Place, Placed, Saved
from engine.core.control import (
    ActorChanged,
    Assigned,
    CensusReply,
    Checkpoint,
    CreateActor,
    KillActor,
    LeaseRequest,
    LeaseReturn,
    LookupActor,
    NodeLost,
    Peer,
    Piece,
    Reply,
    Restore,
    WorkerDied,
)
from engine.core.head import ActorRecord
from engine.core.ids import node_of, process_id
from engine.core.messages import FreeBlock
from engine.core.outside import Outside
from engine.core.values import Block
from tests.sim.checkpoints import Memory
from tests.sim.network import End
from tests.sim.node import Node

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["ClusterNode"]


class ClusterNode(Node):
    """One life of a node at an address."""

    def __init__(self, world: World, where: str, resources: dict[str, float]) -> None:
        super().__init__(world, b"", resources)  # its id comes with its number
        self.where = where
        self.wrote_out = True  # what it has given to a line of its own host is there
        self.outside = Outside(world.draw.randbytes(8), where, self.machine, world.config, self)
        self.proxies: dict[tuple[bytes, bytes], End] = {}  # (local process, remote one)
        self._stalled: dict[End, None] = {}  # left unread: there is no room on the other side
        self._placing: dict[bytes, dict[str, float]] = {}
        away, now, outside = self._handlers, world.clock, self.outside
        # Messages of processes of other nodes.
        self._from_away: dict[type, Any] = {
            LeaseRequest: away[LeaseRequest],
            LeaseReturn: away[LeaseReturn],
            FreeBlock: away[FreeBlock],
            CensusReply: away[CensusReply],
        }
        self._handlers |= dict.fromkeys(
            (CreateActor, ActorChanged, LookupActor, KillActor), outside.to_head
        )
        self._handlers |= {
            LeaseRequest: lambda peer, m: outside.spillback.on_request(peer, m, now.now),
            LeaseReturn: lambda peer, m: self._route(node_of(m.worker), peer, m),
            FreeBlock: lambda peer, m: self._route(node_of(m.block.holder), peer, m),
            CensusReply: lambda peer, m: self._route(m.node, peer, m),
        }

    def _route(self, number: int, peer: bytes, message: Any) -> None:
        if number == self.number:
            self._from_away[type(message)](peer, message)
        else:
            self.outside.to_node(number, peer, message)

    # ------------------------------------------------------------------ wires

    def on_wire(self, sender: str, message: Datagram) -> None:
        """A datagram has come."""
        if self.frozen():
            self.world.clock.at(self.frozen_until, self.on_wire, sender, message)
            return
        if not self.alive:
            return
        self.outside.on_datagram(message, self.world.clock.now)
        if self.alive and self.number:
            for end in list(self._stalled):
                self._carry(end)
            self._after_turn()

    def transmit(self, where: str, datagram: Datagram) -> None:
        """As the edge."""
        self.world.hosts.wires.send(self.where, where, datagram)  # type: ignore[union-attr]

    def joined(self, number: int) -> None:
        """As the edge."""
        self.number = self.store.node = self.disk.node = number
        self.id = process_id(self.world.draw.randbytes(6), number)
        self.world.add_node(self)

    def end(self, cause: str) -> None:
        """As the edge."""
        self.world.mark("a node's life is over: " + cause.partition(" for ")[0])
        self.world.hosts.node_ends(self)  # type: ignore[union-attr]

    def tick(self, now: float) -> float | None:
        return self.outside.tick(now)

    def begin(self) -> None:
        """A new life: it wants to join."""
        self._look_at(self.world.clock.now)

    def flush(self) -> None:
        super().flush()
        if self.alive:
            self.outside.flush(self.world.clock.now)

    # ------------------------------------------------------------------ processes

    def new_process(self) -> bytes:
        return process_id(self.world.draw.randbytes(6), self.number)

    def _is_mine(self, process: bytes) -> bool:
        return node_of(process) == self.number

    def send(self, process: bytes, message: Any) -> None:
        if self._is_mine(process):
            super().send(process, message)
        else:
            self.outside.to_process(process, message)

    def connect(self, one: bytes, other: bytes) -> None:
        if self._is_mine(one) and self._is_mine(other):
            super().connect(one, other)
            return
        local, remote = (one, other) if self._is_mine(one) else (other, one)
        number = node_of(remote)
        if local not in self.records:
            return
        if self.outside.is_down(number):
            self.tell_death(local, WorkerDied(remote, 0, self.outside.why_down(number)))
        else:
            self.outside.relay.connect(local, remote)

    link = connect

    def gone(self, process: bytes, cause: str) -> None:
        for (local, _remote), end in list(self.proxies.items()):
            if local == process and self.alive:
                self.world.network.hurry(end.other)
                self._carry(end, all_of_it=True)
                self._drop(end)
        super().gone(process, cause)

    def tell_head(self, died: WorkerDied, peers: list[bytes]) -> None:
        relay = self.outside.relay
        peers += [one for one, locals_ in relay.lines.items() if died.process in locals_]
        self.outside.on_died(died, peers)

    def owners(self, process: bytes) -> list[bytes]:
        """Those here, and those elsewhere with whom any process here has to do."""
        return self.members() + self.outside.relay.remotes()

    # ------------------------------------------------------------------ lines to other nodes

    def serve(self) -> None:
        noted, self.noted = self.noted, []
        for end in noted:
            end.noted = False
            if end.remote:
                self._carry(end)
        self.noted = [end for end in noted if not end.remote] + self.noted
        for end in self.noted:
            end.noted = True
        super().serve()

    def _carry(self, end: End, *, all_of_it: bool = False) -> None:
        outside = self.outside
        while end.inbox and (all_of_it or outside.has_room(end.remote)):
            frame = self.world.network.take(end)
            outside.relay.on_frame(end.peer, end.remote, frame)
        if end.inbox:
            self.world.mark("a line waits for room in a session")
            self._stalled[end] = None
        else:
            self._stalled.pop(end, None)

    def _drop(self, end: End) -> None:
        self._stalled.pop(end, None)
        del self.proxies[end.peer, end.remote]

    def open_line(self, local: bytes, remote: bytes, pid: int) -> None:
        """As the edge."""
        end = self.world.network.proxy(self.records[local].member, self, remote)
        self.proxies[local, remote] = end
        self.world.network.serve(end)
        self.send(local, Peer(remote, pid))

    def write(self, local: bytes, remote: bytes, frame: bytes) -> None:
        """As the edge."""
        end = self.proxies.get((local, remote))
        if end is not None:  # else its process has died a moment ago
            self.world.network.send(end, frame)

    def close_line(self, local: bytes, remote: bytes) -> None:
        """As the edge."""
        end = self.proxies.get((local, remote))
        if end is not None:
            self._drop(end)
            self.world.network.close(end)

    def tell_death(self, local: bytes, died: WorkerDied) -> None:
        """As the edge."""
        self.send(local, died)
        self.send(local, Peer(died.process, died.pid, False))

    def death_of(self, local: bytes) -> WorkerDied | None:
        """As the edge."""
        if local in self.records:
            return None
        return WorkerDied(local, *self.dead.get(local, (0, "is gone")))

    def pid_of(self, local: bytes) -> int:
        """As the edge."""
        return self.records[local].pid

    # ------------------------------------------------------------------ other nodes

    def deliver(self, process: bytes, message: Any) -> None:
        """As the edge."""
        super().send(process, message)

    def hear(self, process: bytes, message: Any) -> None:
        """As the edge."""
        self._from_away[type(message)](process, message)

    def bury(self, died: WorkerDied) -> None:
        """As the edge."""
        self.store.on_died(died.process)
        self.disk.on_died(died.process)
        self.machine.on_died(died.process, self.world.clock.now)
        self.kill_orphans(died.process, f"its owner (pid {died.pid}) {died.cause}")

    def node_lost(self, number: int, cause: str) -> None:
        """As the edge."""
        self.world.mark("a node is told that another is dead")
        self.world.deaths += 1  # it may only be stopped or cut off: that is the same to all others
        strangers = {owner for owner, _shape in self.machine.demands}
        strangers |= {worker.owner for worker in self.machine.workers.values()}
        for book in (self.store, self.disk):
            for segment in book._segments.values():
                strangers |= segment.asked | set((segment.live or {}).values())
        for one in sorted(one for one in strangers if len(one) == 8 and node_of(one) == number):
            self.bury(WorkerDied(one, 0, f"was lost with its node, which {cause}"))
        for process in self.members():
            self.send(process, NodeLost(number, cause))

    def read(self, block: Block, offset: int, size: int) -> bytes | None:
        """As the edge."""
        data = self.world.memory.peek(block)
        if data is None:
            return None
        first, last = (len(data) * at // block.size for at in (offset, offset + size))
        return data[first:last]

    def piece(self, process: bytes, number: int, data: bytes, left: int) -> None:
        """As the edge."""
        if left >= 0:
            self.send(process, Piece(number, data, left))
        else:
            text = "it lay on a node that is gone, or cannot be read there."
            self.send(process, Reply(number, {"kind": "ObjectLostError"}, text))

    def _serve_pull(self, peer: bytes, number: int, block: Any) -> None:
        self.outside.pull(peer, number, msgspec.convert(block, Block))

    # ------------------------------------------------------------------ actors

    def place(self, record: ActorRecord | Place) -> None:
        """As the edge: the head has chosen this node."""
        assert isinstance(record, Place)
        self._placing[record.actor] = record.resources
        now = self.world.clock.now
        self.machine.want_actor(
            record.actor, record.resources, b"", -1, now, title=record.title, unused=record.unused
        )

    def unplace(self, actor: ActorRecord | bytes) -> None:
        """As the edge."""
        assert isinstance(actor, bytes)
        self._placing.pop(actor, None)
        self.machine.drop_actor_demand(actor)

    def placed(self, actor: bytes, worker: bytes) -> None:
        self.send(worker, Assigned(self._placing.pop(actor), []))
        self.outside.send(HEAD, Placed(actor, worker, self.records[worker].pid))

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        self._placing.pop(actor, None)
        self.outside.send(HEAD, NotPlaced(actor, kind, text))

    def _on_checkpoint(self, peer: bytes, message: Checkpoint) -> None:
        memory = self.world.descriptors.pop((peer, message.number))
        self.outside.send(HEAD, Saved(peer, message, memory.data))

    def bring(self, process: bytes, message: Restore, data: bytes) -> None:
        """As the edge."""
        if process in self.records:  # else it has died a moment ago
            self.world.descriptors[process, -1] = Memory(data)
            self.send(process, message)

    def left(self) -> dict[str, Any]:
        """What must not be there at the end."""
        outside = self.outside
        return {
            "values asked for": outside.pulls.asked,
            "values to send": outside.pulls.serving,
            "demands sent on": outside.spillback._wishes,
            "actors to place": self._placing,
            "lines that wait": self._stalled,
            "unsaid": [n for n, one in outside.sessions.items() if not one.idle],
        }
