"""Descriptors kept back for the engine, and what happens when even those are used up."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from engine.wire.connection import Connection, ProtocolError
from engine.wire.descriptors import descriptors_left, raise_descriptor_limit, reserve


@pytest.fixture(autouse=True)
def limit_stays() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def soft() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.fixture
def exhausted() -> Iterator[int]:
    """User code has opened all that it may; how many that were, of those that were left."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    left = descriptors_left()
    held: list[int] = []
    with contextlib.suppress(OSError):  # it ends there
        while len(held) < 10_000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    yield len(held) - left
    for fd in held:
        os.close(fd)


def test_what_is_left_can_be_opened_and_the_engine_may_open_more(exhausted: int) -> None:
    assert exhausted >= 0
    assert descriptors_left() <= 0
    with reserve, reserve:
        os.close(os.open("/dev/null", os.O_RDONLY))
    with pytest.raises(OSError, match="Too many open files"):
        os.open("/dev/null", os.O_RDONLY)


def test_the_limit_is_raised_but_for_what_is_kept_back() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    raise_descriptor_limit()
    first = soft()
    assert first > 256
    with reserve:
        assert soft() > first
    raise_descriptor_limit()
    assert soft() == first


def send(sock: socket.socket, count: int) -> None:
    fds = array.array("i", [0] * count)
    body = b"\x01\x00\x00\x00\x90"  # a frame without messages
    sock.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


Line = tuple[Connection, socket.socket]


@pytest.fixture
def line() -> Iterator[Line]:
    mine, theirs = socket.socketpair()
    connection = Connection(mine, b"peer", frame_max=1 << 16, passing=True)
    yield connection, theirs
    connection.close()
    theirs.close()


def test_descriptors_are_received_when_user_code_has_opened_all_others(
    line: Line, exhausted: int
) -> None:
    connection, theirs = line
    send(theirs, 3)
    assert connection.receive() == []
    assert len(connection.descriptors) == 3


def test_a_descriptor_that_was_dropped_ends_the_line(
    line: Line, exhausted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next one would be taken for it: one object read in place of another."""
    connection, theirs = line
    monkeypatch.setattr("engine.wire.descriptors._KEPT", 2)
    send(theirs, 5)
    with pytest.raises(ProtocolError, match="ulimit -n"):
        connection.receive()
    assert len(connection.descriptors) == 2
