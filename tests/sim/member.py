"""What driver, worker and node have in common: an id, ends of lines, and being alive."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from tests.sim.network import End

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Failure", "Killed", "Member", "Steps", "Violation"]

Steps = Generator[Any, Any, Any]  # code of a thread; see `process`


class Violation(AssertionError):
    """Something that must never happen has happened: a bug of a machine, or of the simulator."""


class Failure(Exception):
    """Any error that user code sees; `kind` is the class the engine would raise."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text


class Killed(BaseException):
    """The process whose code runs has just died; unwinds to the scheduler."""


class Member:
    """One process of the world."""

    def __init__(self, world: World, process: bytes, pid: int) -> None:
        self.world = world
        self.id = process
        self.pid = pid
        self.alive = True
        self.wrote_out = False  # the kernel has everything that it had to say
        self.frozen_until = 0.0  # stopped, as by SIGSTOP
        self.connections: dict[bytes, End] = {}
        self.dirty: dict[End, None] = {}
        self.noted: list[End] = []  # ends with something to read, in order of arrival

    def open(self, end: End) -> None:
        """Serve an end of a line (as `Runtime.attach`)."""
        self.connections[end.peer] = end
        self.world.network.serve(end)

    def post(self, end: End, message: Any) -> None:
        """As `Reactor.send` without hurry."""
        end.out.append(message)
        self.dirty[end] = None

    def flush(self) -> None:
        """As `Reactor.flush`."""
        flush = self.world.network.flush
        while self.dirty:
            flush(self.dirty.popitem()[0])

    def readable(self, end: End) -> None:
        """Something has come in on one end."""
        if not self.alive:
            return
        if not end.noted:
            end.noted = True
            self.noted.append(end)
        self.poke()

    def poke(self) -> None:
        """Look at the sockets if this process is looking at all."""
        raise AssertionError("of the subclass")

    def serve(self) -> None:
        """Read every end that has something (one turn of the reactor, without its tail)."""
        noted, self.noted = self.noted, []
        for end in noted:
            end.noted = False
        for end in noted:
            messages = self.world.network.read(end)
            if messages:
                self.on_messages(end, messages)
            if end.eof and not end.closed and not end.inbox:
                end.closed = True
                self.on_closed(end)

    def on_messages(self, end: End, messages: list[Any]) -> None:
        """Messages have come over one end."""
        raise AssertionError("of the subclass")

    def on_closed(self, end: End) -> None:
        """The other end is closed, and everything it sent was read."""
        raise AssertionError("of the subclass")

    def frozen(self) -> bool:
        """Whether this process is stopped now."""
        return self.frozen_until > self.world.clock.now
