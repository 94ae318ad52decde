"""The first steps of the node process: what the driver has it run."""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from engine.runtime.node import Node
from engine.runtime.process import become_subreaper, socket_from

__all__ = ["main"]


def main(fd: int) -> None:
    """Entry point of the node process; `fd` is its end of the driver's socket pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Whoever ignores it passes that on, and then nobody can hear how a child has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    become_subreaper()
    sock = socket_from(fd)
    size = int.from_bytes(_exactly(sock, 4), "little")
    start = msgspec.msgpack.decode(_exactly(sock, size))
    Node(sock, start).run()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise SystemExit("the driver left before it said how to start")
        data += part
    return data
