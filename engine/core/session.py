"""A reliable session between two nodes, over a connection that may lose, repeat and reorder.

Bodies are numbered from 1 and arrive once and in order, however often the connection breaks. The
receiver acknowledges the highest number up to which it has everything; what is not acknowledged in
time is sent again, and all of it after a reconnect. At most a window of bytes is on its way, and
whoever has more to say sees that there is no `room` and stops reading its own sources: so
backpressure goes on to whoever writes, and no queue grows.

*Fencing.* Every life of a node has a number of its own (see `core.membership`), and a session is
between two numbers. A packet from or to another one is refused: what a node said in an earlier
life, or says after it was declared dead, is never heard again.

Pure: packets leave through `transmit`; time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from engine.config import Config

__all__ = ["Packet", "Session"]

# Packets on their way at most, however small: what the receiver has to keep that came early.
_PACKETS_MAX = 1024


class Packet(msgspec.Struct, array_like=True, gc=False, tag=1):
    """`source` and `target` are numbers of nodes. `seq` 0: there is no body, only the `ack`."""

    source: int
    target: int
    seq: int
    ack: int
    body: bytes = b""


class _Sent:
    __slots__ = ("body", "due", "seq")

    def __init__(self, seq: int, body: bytes) -> None:
        self.seq = seq
        self.body = body
        self.due = 0.0  # when it is sent again


class Session:
    """One end: node `me` speaks with node `peer`."""

    def __init__(
        self, me: int, peer: int, config: Config, transmit: Callable[[Packet], None]
    ) -> None:
        self.me = me
        self.peer = peer
        self.sent = 0  # the number of the last body given to `send`
        self.received = 0  # all bodies up to this one were delivered
        self.refused = 0  # packets of other numbers
        self._window = config.session_window_bytes
        self._first = config.session_resend_seconds
        self._longest = config.session_resend_seconds_max
        self._transmit = transmit
        self._queue: deque[_Sent] = deque()  # not sent yet
        self._queued_bytes = 0
        self._flight: deque[_Sent] = deque()  # sent and not acknowledged
        self._flight_bytes = 0
        self._early: dict[int, bytes] = {}  # came before one that is missing
        self._owes = False  # an acknowledgement
        self._patience = self._first  # until something is sent again; doubles without progress

    @property
    def room(self) -> bool:
        """Whether the sender may go on reading what is to be sent."""
        return self._queued_bytes < self._window

    @property
    def idle(self) -> bool:
        """Whether everything was acknowledged."""
        return not (self._queue or self._flight)

    def send(self, body: bytes) -> None:
        """Queue a body; it leaves with `flush`."""
        self.sent += 1
        self._queue.append(_Sent(self.sent, body))
        self._queued_bytes += len(body)

    def flush(self, now: float) -> None:
        """Send what the window allows, or at least the acknowledgement that is owed."""
        while self._queue and self._fits(self._queue[0]):
            one = self._queue.popleft()
            self._queued_bytes -= len(one.body)
            self._flight.append(one)
            self._flight_bytes += len(one.body)
            self._put(one, now)
        if self._owes:
            self._owes = False
            self._transmit(Packet(self.me, self.peer, 0, self.received))

    def _fits(self, one: _Sent) -> bool:
        if not self._flight:
            return True  # larger than the window: alone
        few = len(self._flight) < _PACKETS_MAX
        return few and self._flight_bytes + len(one.body) <= self._window

    def _put(self, one: _Sent, now: float) -> None:
        one.due = now + self._patience
        self._owes = False  # it rides along
        self._transmit(Packet(self.me, self.peer, one.seq, self.received, one.body))

    def on_packet(self, packet: Packet, now: float) -> list[bytes]:
        """A packet has come; the bodies that are next in turn."""
        if packet.source != self.peer or packet.target != self.me:
            self.refused += 1
            return []
        self._on_ack(packet.ack)
        if not packet.seq:
            return []
        self._owes = True  # also for one that came before: its acknowledgement may be lost
        if self.received < packet.seq <= self.received + _PACKETS_MAX:
            self._early[packet.seq] = packet.body
        bodies = []
        while self.received + 1 in self._early:
            self.received += 1
            bodies.append(self._early.pop(self.received))
        return bodies

    def _on_ack(self, ack: int) -> None:
        while self._flight and self._flight[0].seq <= ack:
            self._flight_bytes -= len(self._flight.popleft().body)
            self._patience = self._first
        while self._queue and self._queue[0].seq <= ack:  # by a life of ours that we have replayed
            self._queued_bytes -= len(self._queue.popleft().body)

    def tick(self, now: float) -> float | None:
        """Send again what was not acknowledged in time; returns the time of the next look."""
        late = [one for one in self._flight if one.due <= now]
        if late:
            self._patience = min(2 * self._patience, self._longest)
            for one in late:
                self._put(one, now)
        self.flush(now)
        return min((one.due for one in self._flight), default=None)

    def reconnected(self, now: float) -> None:
        """There is a new connection: what was on its way over the old one may be lost."""
        self._patience = self._first
        for one in self._flight:
            one.due = now
        self._owes = True
        self.tick(now)

    # ------------------------------------------------------------------ lives that are replayed

    def repeat(self) -> None:
        """One more body counts as delivered: a replay, or whoever counts by itself, says so."""
        self.received += 1

    def unacknowledged(self) -> tuple[int, list[bytes]]:
        """How much was acknowledged, and the bodies since."""
        bodies = [one.body for one in (*self._flight, *self._queue)]
        return self.sent - len(bodies), bodies

    def resume(self, received: int, acknowledged: int, bodies: list[bytes]) -> None:
        """Go on where an earlier life was."""
        self.received, self.sent = received, acknowledged
        for body in bodies:
            self.send(body)
