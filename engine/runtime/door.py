"""The way into a standing node: its socket, and who is let in.

Before anything that comes is looked at, the kernel has said that it comes from the node's own user
and it has shown the token of this start; what comes then are typed frames, as from everybody.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from engine.runtime.address import SOCKET, TOKEN, TOKEN_BYTES, peer_of, sweep, taken, within

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["Door"]

# Processes that have knocked and not shown their token: each has this long, and more than so many
# at once are nobody's drivers.
_PATIENCE_SECONDS = 5.0
_KNOCKING_MAX = 64
_REST_SECONDS = 1.0


class _Guest:
    __slots__ = ("pid", "shown", "sock", "until")

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self.shown = b""
        self.until = perf_counter() + _PATIENCE_SECONDS


class Door:
    """Listens in `directory`, which it locks; RuntimeError when another node lives there."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        fd = taken(directory)
        if fd is None:
            raise RuntimeError(f"a node lives in {directory} already")
        self._directory = fd
        sweep(fd)
        self._token = secrets.token_bytes(TOKEN_BYTES)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        token = os.open(TOKEN, flags, 0o600, dir_fd=fd)
        os.write(token, self._token)
        os.close(token)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            self._listener.bind(within(fd, SOCKET))
        finally:
            os.umask(mask)
        self._listener.listen(_KNOCKING_MAX)
        self._guests: dict[int, _Guest] = {}
        self._closed_until = 0.0  # or 0: open
        node.reactor.watch(self._listener.fileno(), self._on_knock)

    def _on_knock(self) -> None:
        try:
            sock, _address = self._listener.accept()  # what is kept back is not for guests
        except (BlockingIOError, ConnectionAbortedError):  # gone again
            return
        except OSError as error:  # no descriptor is left: who knocks waits until one may be
            sys.stderr.write(f"penstock: nobody can come in: {error}\n")
            self._node.reactor.unwatch(self._listener.fileno())
            self._closed_until = perf_counter() + _REST_SECONDS
            self._node.reactor.look_at(self._closed_until)
            return
        pid, uid = peer_of(sock)
        if uid != os.geteuid() or len(self._guests) >= _KNOCKING_MAX:
            self._turn_away(sock, f"user {uid}" if uid != os.geteuid() else "too many at once")
            return
        sock.setblocking(False)
        guest = self._guests[sock.fileno()] = _Guest(sock, pid)
        self._node.reactor.watch(sock.fileno(), lambda: self._on_shown(guest))
        self._node.reactor.look_at(guest.until)

    def _on_shown(self, guest: _Guest) -> None:
        try:
            part = guest.sock.recv(TOKEN_BYTES - len(guest.shown))
        except BlockingIOError:  # it was seen readable, and is not
            return
        except ConnectionResetError:  # the same as its end
            part = b""
        guest.shown += part
        if part and len(guest.shown) < TOKEN_BYTES:
            return
        self._forget(guest)
        if hmac.compare_digest(guest.shown, self._token):
            self._node.admit(guest.sock, guest.pid)
        else:
            self._turn_away(guest.sock, f"process {guest.pid} without the token")

    def _forget(self, guest: _Guest) -> None:
        del self._guests[guest.sock.fileno()]
        self._node.reactor.unwatch(guest.sock.fileno())

    @staticmethod
    def _turn_away(sock: socket.socket, who: str) -> None:
        sock.close()
        sys.stderr.write(f"penstock: turned away: {who}\n")

    def tick(self, now: float) -> float | None:
        """Turn away who takes too long; returns the time of the next look."""
        for guest in [one for one in self._guests.values() if one.until <= now]:
            self._forget(guest)
            self._turn_away(guest.sock, f"process {guest.pid} that showed no token")
        looks = [one.until for one in self._guests.values()]
        if self._closed_until > now:
            looks.append(self._closed_until)
        elif self._closed_until:
            self._closed_until = 0.0
            self._node.reactor.watch(self._listener.fileno(), self._on_knock)
        return min(looks, default=None)

    def close(self) -> None:
        """Nobody comes in any more; nothing is left in the directory that leads here."""
        for guest in list(self._guests.values()):
            self._forget(guest)
            guest.sock.close()
        if not self._closed_until:
            self._node.reactor.unwatch(self._listener.fileno())
        self._listener.close()
        sweep(self._directory)
        os.close(self._directory)
