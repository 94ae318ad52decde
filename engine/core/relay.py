"""Lines between processes of different nodes, carried by the nodes' sessions.

A process sees no difference: it asks its node for a line to another process and gets one end of a
socket pair. Where the other process is on another node, the node keeps the second end, and carries
what it reads there to the other node, which has made a line to the other process likewise. Frames
are opaque bytes here. Only nodes speak to nodes, so there is one door to guard.

*Deaths.* A node that buries one of its processes first carries what that process had written, then
tells every node that the process was ever in touch with (`Gone`). There the line closes behind the
last frame, and the local ends hear of the death as they would of that of a neighbour.

*Backpressure.* While the session has no room, the edge leaves the local end unread; the socket
fills, and whoever writes waits.

Pure: effects leave through the `RelayEdge` and `send(number, body)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine.core.between import Carry, Gone, Open
from engine.core.control import WorkerDied
from engine.core.ids import node_of

__all__ = ["Relay", "RelayEdge"]

# Processes of other nodes known to be dead, and why: whoever asks later is told.
_DEAD_KEPT = 10_000


class RelayEdge(Protocol):
    """What the relay has done for it."""

    def open_line(self, local: bytes, remote: bytes, pid: int) -> None:
        """Give a process of this node a line whose other end is ours."""

    def write(self, local: bytes, remote: bytes, frame: bytes) -> None:
        """Write a frame on our end of that line."""

    def close_line(self, local: bytes, remote: bytes) -> None:
        """Close our end: everything that came from the other process has been written."""

    def tell_death(self, local: bytes, died: WorkerDied) -> None:
        """Tell a process of this node that another one, to which it has no line, is dead."""

    def death_of(self, local: bytes) -> WorkerDied | None:
        """Why a process of this node is dead; None while it lives."""

    def pid_of(self, local: bytes) -> int:
        """The process id of a living process of this node."""


class Relay:
    """All lines of a node to other nodes."""

    def __init__(self, edge: RelayEdge, send: Callable[[int, Any], None]) -> None:
        self._edge = edge
        self._send = send
        self.lines: dict[bytes, dict[bytes, None]] = {}  # remote process -> local ones
        self._touch: dict[bytes, dict[int, None]] = {}  # local process -> nodes that know it
        self._dead: dict[bytes, WorkerDied] = {}
        self._bereft: dict[bytes, None] = {}  # remote ones with a line to the last of ours to die

    def touched(self, local: bytes, number: int) -> None:
        """Something of a process of ours is about to be told to another node."""
        self._touch.setdefault(local, {})[number] = None

    def connect(self, local: bytes, remote: bytes) -> None:
        """A process of ours wants a line to one of another node that lives, as far as is known."""
        died = self._dead.get(remote)
        if died is not None:
            self._edge.tell_death(local, died)
            return
        if local in self.lines.get(remote, ()):
            return
        number = node_of(remote)
        self.touched(local, number)
        self._send(number, Open(local, remote, self._edge.pid_of(local)))
        self._add(local, remote, 0)

    def _add(self, local: bytes, remote: bytes, pid: int) -> None:
        self.lines.setdefault(remote, {})[local] = None
        self._edge.open_line(local, remote, pid)

    def on_open(self, number: int, message: Open) -> None:
        """A process of another node wants a line to one of ours."""
        local, remote = message.other, message.one
        died = self._edge.death_of(local)
        if died is not None:
            self._send(number, Gone(died))
        elif local not in self.lines.get(remote, ()) and remote not in self._dead:
            self.touched(local, number)
            self._add(local, remote, message.pid)

    def on_frame(self, local: bytes, remote: bytes, frame: bytes) -> None:
        """A process of ours has written to one of another node."""
        if local in self.lines.get(remote, ()):
            self._send(node_of(remote), Carry(local, remote, frame))

    def on_carry(self, message: Carry) -> None:
        """A frame for a process of ours."""
        local, remote = message.other, message.one
        if local in self.lines.get(remote, ()):
            self._edge.write(local, remote, message.frame)

    def on_died(self, died: WorkerDied) -> None:
        """A process of ours is dead, and what it had written has been given to `on_frame`."""
        for number in self._touch.pop(died.process, ()):
            self._send(number, Gone(died))
        self._bereft = {}
        for remote, locals_ in list(self.lines.items()):
            if died.process in locals_:
                del locals_[died.process]
                self._bereft[remote] = None
            if not locals_:
                del self.lines[remote]

    def on_gone(self, died: WorkerDied) -> None:
        """A process of another node is dead, and everything that it wrote has come."""
        self._dead[died.process] = died
        if len(self._dead) > _DEAD_KEPT:
            del self._dead[next(iter(self._dead))]
        self._bereft.pop(died.process, None)
        for local in self.lines.pop(died.process, ()):
            self._edge.close_line(local, died.process)
            self._edge.tell_death(local, died)

    def on_node_down(self, number: int) -> None:
        """Another node is dead; its lines close. Local processes are told otherwise (NodeLost)."""
        for remote in [one for one in self.remotes() if node_of(one) == number]:
            self._bereft.pop(remote, None)
            for local in self.lines.pop(remote, ()):
                self._edge.close_line(local, remote)
        for nodes in self._touch.values():
            nodes.pop(number, None)

    def remotes(self) -> list[bytes]:
        """Processes of other nodes that have a line to one of ours, or had one to the last to die.

        They may own what lies in its segments, and are asked when its lines are gone already.
        """
        return list(self.lines | self._bereft)
