"""Between hosts: datagrams that may be lost, repeated, late and overtaken, and links that are cut.

The edges of real hosts speak over connections; what a connection loses when it breaks, a wire here
loses one by one. Datagrams travel encoded. Addresses are texts; the head's is "".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.core.between import Datagram, decode_body
from engine.core.session import Packet

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Host", "Wires"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Datagram).decode


class Host(Protocol):
    """What lives at an address."""

    alive: bool

    def on_wire(self, sender: str, message: Any) -> None:
        """A datagram has come."""


class Wires:
    """All links of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        draw = world.draw
        self.hosts: dict[str, Host] = {}
        self._latency = draw.choice([50e-6, 500e-6, 3e-3])
        self._loss = draw.choice([0.01, 0.1, 0.3])
        self._repeats = draw.choice([0.02, 0.5])
        self._late_seconds = draw.choice([1e-3, 30e-3])
        self._cut: dict[tuple[str, str], float] = {}  # until when
        slow = world.apart("slow hosts")
        self._slow = {name for name in ("", *"abcde") if slow.random() < 0.2}

    def send(self, sender: str, receiver: str, message: Datagram) -> None:
        """One datagram; it may never come."""
        faults, draw = self._world.faults, self._world.draw
        frame = _encode(message)
        if faults.active():
            if self._cut.get((sender, receiver), 0.0) > self._world.clock.now:
                self._world.mark("lost on a cut link")
                return
            if faults.on["loss"] and draw.random() < self._loss:
                self._world.mark("fault: loss")
                return
            if faults.on["repeats"] and draw.random() < self._repeats:
                self._world.mark("fault: repeats")
                self._go(sender, receiver, frame)
        self._go(sender, receiver, frame)

    def _go(self, sender: str, receiver: str, frame: bytes) -> None:
        faults, draw = self._world.faults, self._world.draw
        seconds = self._latency * (1 + draw.random())
        if faults.active() and faults.on["slow lines"] and {sender, receiver} & self._slow:
            self._world.mark("to or from a slow host")
            seconds *= 30
        if faults.active() and faults.on["reordering"] and draw.random() < 0.2:
            self._world.mark("fault: reordering")
            seconds += draw.random() * self._late_seconds
        self._world.clock.after(seconds, self._arrive, sender, receiver, frame)

    def _arrive(self, sender: str, receiver: str, frame: bytes) -> None:
        host = self.hosts.get(receiver)
        if host is None or not host.alive:
            self._world.mark("came to a host that is down")
            return
        self._world.network.note(sender.encode(), b"to " + receiver.encode(), frame)
        message = _decode(frame)
        kind = type(message).__name__
        if type(message) is Packet and message.seq:
            kind = "in a packet " + type(decode_body(message.body)).__name__
        self._world.mark("datagram " + kind)
        host.on_wire(sender, message)

    def cut(self) -> None:
        """Cut one direction, or both, between two hosts; or one host from all others."""
        draw, now = self._world.draw, self._world.clock.now
        names = list(self.hosts)
        one, other = draw.sample(names, 2)
        dead = self._world.config.node_dead_seconds
        until = now + draw.choice([0.02, 0.1, 2 * dead]) * draw.random()
        others = [other] if draw.random() < 0.6 else [name for name in names if name != one]
        for name in others:
            self._cut[one, name] = until
            if draw.random() < 0.5:
                self._cut[name, one] = until
