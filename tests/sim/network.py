"""Lines between processes: ordered and lossless while both ends live, as socket pairs are.

A sender gathers messages in `out` and flushes them as one frame. A frame takes its time (each
direction has a latency of its own, frames may be split, lines stall) and then lies in the inbox of
the other end until that process looks. What a process had written before it died is still read,
then comes the end of the line; unless the fault "cut" is on: then the receiver was so far behind
that the last frames were still waiting for room in the socket, and died with the sender.

Messages travel encoded, by the same union as on a real wire: nobody shares an object with anybody.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Any

import msgspec

from engine.core.messages import Message

if TYPE_CHECKING:
    from tests.sim.member import Member
    from tests.sim.world import World

__all__ = ["End", "Network"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode
_stamp = Struct("<d").pack
_TRACE_KEPT = 400


_NAMES = {kind: f"message {kind.__name__}" for kind in Message.__args__}


class End:
    """One process's end of a line to `peer`."""

    __slots__ = (
        *("closed", "eof", "flight", "inbox", "last", "latency", "member", "noted", "other"),
        *("out", "peer", "remote", "served"),
    )

    def __init__(self, member: Member, peer: bytes, latency: float) -> None:
        self.member = member
        self.peer = peer
        self.remote = b""  # of a node's end: the process of another node that it stands for
        self.other: End = self  # set by Network.line
        self.latency = latency
        self.out: list[Any] = []
        self.flight: deque[bytes] = deque()  # frames on their way to `other`
        self.inbox: deque[bytes] = deque()  # frames that have come and were not read
        self.last = 0.0  # when the latest frame arrives
        self.eof = False  # the other end is closed and all it sent is in the inbox
        self.served = False  # attached: its process reads it
        self.noted = False  # its process knows that there is something to read
        self.closed = False


class Network:
    """All lines of a world, and the trace of what went over them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ends: dict[tuple[bytes, bytes], End] = {}  # (process, peer)
        self.trace: deque[tuple[float, bytes, bytes, bytes]] = deque(maxlen=_TRACE_KEPT)
        self._hash = blake2b(digest_size=16)
        self.frames = 0

    def digest(self) -> str:
        """What was delivered to whom and when, in one number."""
        return self._hash.hexdigest()

    def line(self, one: Member, other: Member) -> tuple[End, End]:
        """A new line between two processes. Each attaches its end when it hears of it."""
        assert (one.id, other.id) not in self.ends, "a second line between the same two"
        faults = self._world.faults
        first = End(one, other.id, faults.latency())
        second = End(other, one.id, faults.latency())
        first.other, second.other = second, first
        self.ends[one.id, other.id] = first
        self.ends[other.id, one.id] = second
        return self._joined(first, second)

    def proxy(self, member: Member, node: Member, remote: bytes) -> End:
        """A line of a process to one of another node; the end that the node has instead."""
        assert (member.id, remote) not in self.ends, "a second line between the same two"
        faults = self._world.faults
        first = End(member, remote, faults.latency())
        second = End(node, member.id, faults.latency())
        second.remote = remote
        first.other, second.other = second, first
        self.ends[member.id, remote] = first
        self.ends[node.id, member.id + remote] = second
        return self._joined(first, second)[1]

    def _joined(self, first: End, second: End) -> tuple[End, End]:
        for end in (first, second):
            if not end.member.alive:  # the node has not heard yet: the descriptor goes with it
                self.close(end)
        return first, second

    def flush(self, end: End) -> None:
        """Write what is queued on one end."""
        out = end.out
        if not out:
            return
        end.out = []
        if end.closed or end.other.closed:
            for message in out:
                self._world.mark("lost at a closed line: " + type(message).__name__)
            return
        cut = self._world.faults.split(len(out))
        if cut:
            self.send(end, _encode(out[:cut]))
            self.send(end, _encode(out[cut:]))
        else:
            self.send(end, _encode(out))

    def send(self, end: End, frame: bytes) -> None:
        """Write a frame as it is on one end."""
        clock = self._world.clock
        when = clock.now + end.latency + self._world.faults.delay()
        end.last = when = max(when, end.last)
        end.flight.append(frame)
        clock.at(when, self._arrive, end)

    def _arrive(self, end: End) -> None:
        if not end.flight:  # cut, or read early by the node that buried the sender
            return
        frame = end.flight.popleft()
        other = end.other
        if other.closed:
            self._lose(frame, "died with its receiver: ")
            return
        other.inbox.append(frame)
        if other.served:
            other.member.readable(other)

    def _lose(self, frame: bytes, how: str) -> None:
        for message in _decode(frame):
            self._world.mark(how + type(message).__name__)

    def read(self, end: End) -> list[Any]:
        """Everything that lies in the inbox of an end."""
        messages: list[Any] = []
        while end.inbox:
            messages += _decode(self.take(end))
        marks = self._world.marks
        for message in messages:
            marks[_NAMES[type(message)]] += 1
        return messages

    def take(self, end: End) -> bytes:
        """The next frame that lies in the inbox of an end, as it is."""
        frame = end.inbox.popleft()
        self.note(end.peer, end.member.id, frame)
        return frame

    def note(self, sender: bytes, receiver: bytes, frame: bytes) -> None:
        """A frame is delivered: it belongs to the trace."""
        now = self._world.clock.now
        self.frames += 1
        self._hash.update(_stamp(now) + sender + receiver + frame)
        self.trace.append((now, sender, receiver, frame))

    def serve(self, end: End) -> None:
        """The process begins to read this end."""
        end.served = True
        if end.inbox or end.eof:
            end.member.readable(end)

    def hurry(self, end: End) -> None:
        """All that `end`'s process has written arrives now."""
        while end.flight:
            end.other.inbox.append(end.flight.popleft())

    def close_all(self, member: Member) -> None:
        """A process is dead: its ends close; the others see that once they have read the rest."""
        for end in [end for (one, _), end in self.ends.items() if one == member.id]:
            self.close(end)

    def close(self, end: End) -> None:
        """Close one end: the other sees that once it has read the rest."""
        world = self._world
        end.closed = True
        end.out.clear()
        for frame in end.inbox:
            self._lose(frame, "died with its receiver: ")
        end.inbox.clear()
        for _ in range(0 if end.member.wrote_out else world.faults.cut(len(end.flight))):
            self._lose(end.flight.pop(), "died with its sender: ")
        when = max(end.last, world.clock.now + end.latency + world.faults.delay())
        world.clock.at(when, self._end_of_line, end.other)

    def _end_of_line(self, end: End) -> None:
        if end.closed:
            return
        self.hurry(end.other)
        end.eof = True
        if end.served:
            end.member.readable(end)

    def tail(self, count: int) -> list[str]:
        """The last frames, for people."""
        name = self._world.name
        return [
            f"{now * 1e3:10.3f} ms  {name(peer)} -> {name(to)}: "
            + "; ".join(_text(message) for message in _readable(frame))
            for now, peer, to, frame in list(self.trace)[-count:]
        ]


def _readable(frame: bytes) -> list[Any]:
    try:
        return _decode(frame)
    except msgspec.ValidationError:  # a datagram between hosts
        return [msgspec.msgpack.decode(frame)]


def _text(message: Any) -> str:
    text = repr(message)
    return text if len(text) < 260 else text[:257] + "..."
