"""The reactor: who waits gets what arrives, with one thread or many, and the service thread."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.core.messages import Recall
from engine.runtime.reactor import Reactor
from engine.wire.connection import Connection
from tests.engine.support import eventually


class _Side:
    """A reactor with one connection, and what has come over it."""

    def __init__(self, sock: socket.socket) -> None:
        self.found: list[Any] = []
        self.closed: list[Connection] = []
        self.ticks: list[float] = []
        self.reactor = Reactor(
            lambda _connection, messages: self.found.extend(messages),
            self.closed.append,
            self.on_tick,
            spin_seconds=0.0,
            tick_seconds=0.005,
        )
        self.connection = Connection(sock, b"peer", frame_max=1 << 20)
        self.reactor.add(self.connection)

    def on_tick(self, now: float) -> float | None:
        self.ticks.append(now)
        return None

    def send(self, message: Any) -> None:
        with self.reactor.lock:
            self.reactor.send(self.connection, message, True)


@pytest.fixture
def sides() -> Iterator[tuple[_Side, _Side]]:
    one, other = (_Side(sock) for sock in socket.socketpair())
    yield one, other
    for side in (one, other):
        if not side.reactor._stopped:
            side.reactor.stop()


def test_waiting_serves_the_sockets(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    one.send(Recall(1))
    assert other.reactor.wait_until(lambda: bool(other.found), time.perf_counter() + 5)
    assert other.found == [Recall(1)]


def test_a_deadline_ends_the_wait(sides: tuple[_Side, _Side]) -> None:
    start = time.perf_counter()
    assert not sides[0].reactor.wait_until(lambda: False, start + 0.02)
    assert 0.02 <= time.perf_counter() - start < 2


def test_a_deadline_in_the_past_still_looks_once(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    one.send(Recall(1))
    assert other.reactor.wait_until(lambda: bool(other.found), 0.0)


def test_many_threads_wait_for_different_things(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    done: list[int] = []

    def wait(number: int) -> None:
        if other.reactor.wait_until(
            lambda: Recall(number) in other.found, time.perf_counter() + 10
        ):
            done.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(8):
        one.send(Recall(number))
        eventually(lambda number=number: number in done)
    for thread in threads:
        thread.join(5)
    assert done == list(range(8))


def test_the_service_thread_serves_while_all_others_are_away(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    other.reactor.start_service()
    for number in range(5):
        one.send(Recall(number))
        eventually(lambda number=number: Recall(number) in other.found)
    assert other.reactor.wait_until(lambda: True)


def test_the_service_thread_yields_to_a_waiter(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    other.reactor.start_service()
    one.send(Recall(0))
    eventually(lambda: bool(other.found))  # by now the service thread has the baton
    for number in range(1, 20):
        one.send(Recall(number))
        found = other.reactor.wait_until(
            lambda number=number: Recall(number) in other.found, time.perf_counter() + 5
        )
        assert found


def test_the_end_of_a_connection_is_reported_once(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    one.send(Recall(1))
    one.reactor.remove(one.connection)
    assert other.reactor.wait_until(lambda: bool(other.closed), time.perf_counter() + 5)
    assert other.found == [Recall(1)]
    assert other.closed == [other.connection]


def test_garbage_closes_the_connection_and_not_the_reactor(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    one.connection.sock.send(b"\xff" * 64)
    assert other.reactor.wait_until(lambda: bool(other.closed), time.perf_counter() + 5)


def test_ticks_come_when_asked_for(sides: tuple[_Side, _Side]) -> None:
    reactor = sides[0].reactor
    now = time.perf_counter()
    reactor.look_at(now + 0.03)
    reactor.look_at(now + 0.01)
    assert reactor.wait_until(lambda: bool(sides[0].ticks), now + 5)
    assert now + 0.01 <= sides[0].ticks[0] < now + 2


def test_watched_descriptors(sides: tuple[_Side, _Side]) -> None:
    reader, writer = os.pipe()
    seen: list[bytes] = []
    reactor = sides[0].reactor
    reactor.watch(reader, lambda: seen.append(os.read(reader, 10)))
    os.write(writer, b"x")
    assert reactor.wait_until(lambda: bool(seen), time.perf_counter() + 5)
    reactor.unwatch(reader)
    os.close(reader)
    os.close(writer)


def test_a_full_socket_is_written_when_it_drains(sides: tuple[_Side, _Side]) -> None:
    one, other = sides
    count = 5000
    with one.reactor.lock:
        for number in range(count):
            one.reactor.send(one.connection, Recall(number), number % 7 == 0)
    other.reactor.start_service()
    one.reactor.start_service()
    eventually(lambda: len(other.found) == count)
    assert other.found == [Recall(number) for number in range(count)]


def test_stop_wakes_nobody_into_a_hang(sides: tuple[_Side, _Side]) -> None:
    stopped = threading.Event()
    one = sides[0]

    def wait() -> None:
        one.reactor.wait_until(lambda: one.reactor._stopped, time.perf_counter() + 10)
        stopped.set()

    thread = threading.Thread(target=wait)
    thread.start()
    one.reactor.stop()
    assert stopped.wait(5)
    thread.join(5)
