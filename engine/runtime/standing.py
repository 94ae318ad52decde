"""Nodes that stand by themselves: `penstock start` and `penstock stop`.

Such a node is a daemon in a directory of its own (`runtime.address`). Drivers come and go; it ends
when it is told to, and takes all its processes with it, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec

from engine.config import Config
from engine.core.control import Join, Request
from engine.exceptions import EngineError
from engine.runtime.address import LOG, default_directory, knock, prepare, sweep, taken
from engine.runtime.driver import spawn
from engine.runtime.journal import JOURNAL
from engine.wire.connection import Connection, ConnectionClosed
from engine.wire.descriptors import raise_descriptor_limit

__all__ = ["halt", "launch", "observer"]

_LOG_SHOWN_BYTES = 2_000
# How long a node that was told to stop may take until it is killed: twice what it gives its
# workers, and what their last words take.
_STOP_SECONDS = 10.0


def observer() -> Join:
    """What somebody says at the door who runs no work."""
    return Join("default", [], "/", b"", [], False, "block", True)


def launch(directory: Path, head: dict[str, Any], config: Config) -> int:
    """Start a node that stays, with what `driver.begin` says; its pid.

    EngineError when one lives there already, or when it does not come up.
    """
    prepare(directory)
    lock = taken(directory)
    if lock is None:
        raise EngineError(
            f"a node lives in {directory} already. `penstock status` shows it, `penstock stop` "
            "ends it; --directory starts another one elsewhere."
        )
    sweep(lock)  # what a killed one has left
    os.close(lock)
    raise_descriptor_limit()
    log = os.open(directory / LOG, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        head = head | {"directory": str(directory)}
        node, line = spawn(
            head, config.start_timeout_seconds, stdout=log, stderr=log, cwd=directory
        )
    finally:
        os.close(log)
    with line:
        try:
            answer = line.recv(1 << 16)
        except TimeoutError:  # told below, with what it has said
            answer = b""
    if not answer:
        node.kill()
        node.wait()
        said = (directory / LOG).read_bytes()[-_LOG_SHOWN_BYTES:].decode(errors="replace")
        raise EngineError(f"the node did not start; it said:\n{said}")
    pid: int = msgspec.msgpack.decode(answer)["pid"]
    return pid


def halt(directory: Path, seconds: float = _STOP_SECONDS) -> str:
    """Stop the node of a directory and wait until it is gone; says how it went.

    A node that does not stop in time is killed. What it needed to be reached is removed, after one
    that was killed too. ConnectionError when there is no node and nothing of one.
    """
    try:
        sock, pid = knock(directory, seconds)
    except ConnectionError:
        lock = taken(directory) if directory.is_dir() else None
        if lock is None:
            raise
        stale = sweep(lock)
        os.close(lock)
        if not stale:
            raise
        _tidy(directory)
        return "no node was running; what a killed one had left is removed"
    end = f"the node (pid {pid}) has stopped"
    gone = os.pidfd_open(pid)
    try:
        _tell(sock, seconds)
        if not select.select([gone], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
            select.select([gone], [], [])
            end = f"the node (pid {pid}) did not stop within {seconds:g} s and was killed"
    finally:
        os.close(gone)
    lock = taken(directory)
    if lock is not None:
        sweep(lock)
        os.close(lock)
    _tidy(directory)
    return end


def _tell(sock: socket.socket, seconds: float) -> None:
    connection = Connection(sock, b"", frame_max=Config().frame_bytes_max, passing=True)
    connection.out += [observer(), Request(1, "stop", {})]
    sock.settimeout(seconds)
    # One that is gone, or does not listen, is dealt with by the caller.
    with contextlib.suppress(OSError, ConnectionClosed):
        connection.flush()
        while True:
            connection.receive_some()
    connection.close()


def _tidy(directory: Path) -> None:
    """Remove the log of a node that was stopped, and the directory if nothing else is left.

    What scopes hold stays only where the user has named a directory for it.
    """
    names = (LOG,) if directory != default_directory() else (LOG, JOURNAL, "checkpoint-")
    for path in directory.iterdir():
        if path.name.startswith(names):
            path.unlink()
    with contextlib.suppress(OSError):  # it holds something of the user's
        directory.rmdir()
