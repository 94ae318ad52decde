"""A node's dealings with the other nodes and the head: everything beyond its own machine.

It composes the door (`membership`), a session to each node, the lines of processes (`relay`), work
that is sent on (`spillback`) and values that are fetched (`pulls`). A node on its own has none of
this; its machines are the same and know nothing of it.

The life of a node is one `Outside`: when the head has declared it dead, or was not found for very
long, `edge.end` ends every process of that life, and the node begins anew under another number.

Pure: datagrams and effects leave through the `OutsideEdge`; time is an argument.
"""

from __future__ import annotations

from typing import Any, Protocol

from engine.config import Config
from engine.core.between import (
    HEAD,
    Answer,
    Bring,
    Carry,
    Datagram,
    Fenced,
    Gone,
    Heartbeat,
    Join,
    Joined,
    Kill,
    NodeDown,
    NodeUp,
    Open,
    Part,
    Place,
    Pull,
    ToNode,
    ToProcess,
    Unplace,
    View,
    decode_body,
    encode_body,
)
from engine.core.control import ActorChanged, LeaseGrant, LeaseRequest, Restore, WorkerDied
from engine.core.ids import node_of
from engine.core.membership import Door
from engine.core.node import NodeMachine
from engine.core.pulls import PullEdge, Pulls
from engine.core.relay import Relay, RelayEdge
from engine.core.session import Packet, Session
from engine.core.spillback import Spillback
from engine.core.values import Block

__all__ = ["Outside", "OutsideEdge"]


class OutsideEdge(RelayEdge, PullEdge, Protocol):
    """What a node has done for it. The head's address is ""."""

    def transmit(self, where: str, datagram: Datagram) -> None:
        """Send a datagram, which may be lost."""

    def joined(self, number: int) -> None:
        """This node has its number; its processes can be started."""

    def end(self, cause: str) -> None:
        """This life is over: end every process of it at once."""

    def deliver(self, process: bytes, message: Any) -> None:
        """A message for a process of this node."""

    def hear(self, process: bytes, message: Any) -> None:
        """A message of a process of another node, as if it were of this one."""

    def link(self, local: bytes, other: bytes) -> None:
        """See to it that a process of this node has a line to another process."""

    def bury(self, died: WorkerDied) -> None:
        """A process of another node is dead: it wants, leases and owns nothing here any more."""

    def node_lost(self, number: int, cause: str) -> None:
        """Another node is dead: bury all its processes, and tell all of ours."""

    def place(self, message: Place) -> None:
        """Find a worker for an actor."""

    def unplace(self, actor: bytes) -> None:
        """The actor is dead and needs no worker."""

    def bring(self, process: bytes, message: Restore, data: bytes) -> None:
        """Give a worker, before it makes its actor, the actor's checkpoint."""

    def kill(self, process: bytes, cause: str) -> None:
        """Kill a worker of this node."""


class Outside:
    """The outside of one life of a node. `nonce` is drawn for it, `where` is its address."""

    def __init__(
        self, nonce: bytes, where: str, machine: NodeMachine, config: Config, edge: OutsideEdge
    ) -> None:
        self._nonce = nonce
        self._where = where
        self._machine = machine
        self._config = config
        self._edge = edge
        self.door = Door(config)
        self.sessions: dict[int, Session] = {}
        self._addresses: dict[int, str] = {HEAD: ""}
        self._down: dict[int, str] = {}  # numbers declared dead, and why
        self.relay = Relay(edge, self.send)
        self.pulls = Pulls(edge, self.send, config.pull_bytes)
        self.spillback = Spillback(machine, config, self._send_on)
        self.refused = 0  # packets while the door was shut, or of the dead

    @property
    def number(self) -> int:
        """The number of this life; 0 before it has joined."""
        return self.door.number

    # ------------------------------------------------------------------ what comes in

    def on_datagram(self, message: Datagram, now: float) -> None:
        """A datagram has come."""
        if isinstance(message, Packet):
            self._on_packet(message, now)
        elif isinstance(message, Answer):
            self.door.on_answer(message.number, message.sent)
            self.spillback.on_views(message.views)
        elif isinstance(message, Joined):
            self._on_joined(message)
        elif isinstance(message, Fenced) and message.number == self.number and self.number:
            self.door.fenced()
            self._edge.end("was declared dead by the head")

    def _on_joined(self, message: Joined) -> None:
        if message.nonce != self._nonce or self.number:
            return  # an answer that comes again
        self.door.joined(message.number, message.sent)
        self._session(HEAD)
        for number, where in message.nodes:
            self._addresses.setdefault(number, where)
        self._edge.joined(message.number)

    def _on_packet(self, message: Packet, now: float) -> None:
        session = None
        mine = message.target == self.number and not self.is_down(message.source)
        if mine and self.door.open(now):
            session = self._session(message.source)
        if session is None:
            self.refused += 1
            return
        for body in session.on_packet(message, now):
            self._on_body(message.source, decode_body(body), now)
        self._serve(message.source)

    def _on_body(self, number: int, body: Any, now: float) -> None:
        kind = type(body)
        if kind is Carry:
            self.relay.on_carry(body)
        elif kind is ToProcess:
            self._on_message(body.process, body.message, now)
        elif kind is ToNode:
            self._edge.hear(body.process, body.message)
        elif kind is Open:
            self.relay.on_open(number, body)
        elif kind is Gone:
            self.relay.on_gone(body.died)
            self._edge.bury(body.died)
        elif kind is Pull:
            self.pulls.on_pull(number, body)
        elif kind is Part:
            self.pulls.on_part(number, body)
        elif kind is NodeUp:
            self._addresses[body.number] = body.where
        elif kind is NodeDown:
            self._on_node_down(body, now)
        elif kind is Place:
            self._edge.place(body)
        elif kind is Unplace:
            self._edge.unplace(body.actor)
        elif kind is Bring:
            self._edge.bring(body.process, body.restore, body.data)
        elif kind is Kill:
            self._edge.kill(body.process, body.cause)

    def _on_message(self, process: bytes, message: Any, now: float) -> None:
        if type(message) is LeaseGrant:
            self.spillback.on_grant(process, message, now)
        elif type(message) is ActorChanged and message.state == "alive":
            self._edge.link(process, message.process)
        self._edge.deliver(process, message)

    def _on_node_down(self, message: NodeDown, now: float) -> None:
        number = message.number
        if number in self._down:
            return
        self._down[number] = message.cause
        self.sessions.pop(number, None)
        self._addresses.pop(number, None)
        self.relay.on_node_down(number)
        self.pulls.on_node_down(number)
        self.spillback.on_node_down(number, now)
        self._edge.node_lost(number, message.cause)

    # ------------------------------------------------------------------ what goes out

    def is_down(self, number: int) -> bool:
        """Whether a node is dead. Those before us that we were not told of had died by then."""
        if number in self._addresses:
            return False
        return number in self._down or number < self.number

    def why_down(self, number: int) -> str:
        """Why a node is dead, for people."""
        return f"was lost with its node {number}, which {self._down.get(number, 'died long ago')}"

    def _session(self, number: int) -> Session:
        session = self.sessions.get(number)
        if session is None:

            def transmit(packet: Packet) -> None:
                where = self._addresses.get(number)
                if where is not None:  # else the head's word of it is still on its way
                    self._edge.transmit(where, packet)

            session = Session(self.number, number, self._config, transmit)
            self.sessions[number] = session
        return session

    def send(self, number: int, body: Any) -> None:
        """Send a body to a node, or to the head; dropped if that node is dead."""
        if not self.is_down(number):
            self._session(number).send(encode_body(body))

    def to_head(self, process: bytes, message: Any) -> None:
        """A process of ours has something to say to the head."""
        self.send(HEAD, ToNode(process, message))

    def to_process(self, process: bytes, message: Any) -> None:
        """A message for a process of another node."""
        self.send(node_of(process), ToProcess(process, message))

    def to_node(self, number: int, process: bytes, message: Any) -> None:
        """A message of a process of ours for another node."""
        self.relay.touched(process, number)
        self.send(number, ToNode(process, message))

    def _send_on(self, number: int, owner: bytes, message: LeaseRequest) -> None:
        self.to_node(number, owner, message)

    def pull(self, process: bytes, request: int, block: Block) -> None:
        """A process of ours wants what lies in a block of another node."""
        if self.is_down(node_of(block.holder)):
            self._edge.piece(process, request, b"", -1)
        else:
            self.pulls.ask(process, request, block)

    def on_died(self, died: WorkerDied, peers: list[bytes]) -> None:
        """A process of ours is dead; what it wrote has been read."""
        self.relay.on_died(died)
        self.spillback.on_owner_died(died.process)
        self.send(HEAD, Gone(died, peers))

    def has_room(self, process: bytes) -> bool:
        """Whether more can be read that goes to this process's node."""
        session = self.sessions.get(node_of(process))
        return session is None or session.room

    def _serve(self, number: int) -> None:
        session = self.sessions.get(number)
        if session is not None:
            self.pulls.serve(number, lambda: session.room)

    # ------------------------------------------------------------------ time

    def flush(self, now: float) -> None:
        """Send what was queued, at the end of a turn."""
        if self.door.open(now):
            for number, session in self.sessions.items():
                if number in self.pulls.serving:
                    self._serve(number)
                session.flush(now)

    def tick(self, now: float) -> float:
        """Time has passed; returns when to look again."""
        door = self.door
        if door.orphaned(now):
            door.fenced()
            self._edge.end(f"has not found its head for {self._config.node_orphan_seconds:g} s")
            return now + self._config.heartbeat_seconds
        if door.beat(now):
            self._beat(now)
        looks = [door.next_look()]
        if door.open(now):
            looks += [look for one in self.sessions.values() if (look := one.tick(now)) is not None]
            look = self.spillback.look(self._addresses, self.number, now)
            if look is not None:
                looks.append(look)
            self.flush(now)
        return min(looks)

    def _beat(self, now: float) -> None:
        machine = self._machine
        pool = machine.pool
        if self.number:
            waiting = sum(demand.wanted for demand in machine.demands.values())
            view = View(self.number, pool.total, pool.free, waiting)
            self._edge.transmit("", Heartbeat(self.number, now, view))
        else:
            self._edge.transmit("", Join(self._nonce, self._where, pool.total, now))
