"""Frames on a socket pair: whatever arrives is messages, a wait for more, or a ProtocolError."""

from __future__ import annotations

import os
import resource
import socket
import tracemalloc
from collections.abc import Iterator
from struct import pack

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from engine.core.control import Stop
from engine.core.messages import ActorCall, BorrowAck, Call, Done, DoneMany, Recall
from engine.core.values import Value, encode_failure
from engine.wire.connection import Connection, ConnectionClosed, ProtocolError

FRAME_MAX = 1 << 20
Pair = tuple[Connection, Connection]


def make_pair(frame_max: int = FRAME_MAX, *, passing: bool = False) -> Pair:
    one, other = socket.socketpair()
    return (
        Connection(one, b"peer-one", frame_max=frame_max, passing=passing),
        Connection(other, b"peer-two", frame_max=frame_max, passing=passing),
    )


@pytest.fixture
def pair() -> Iterator[Pair]:
    both = make_pair()
    yield both
    for one in both:
        one.close()


ids = st.binary(min_size=16, max_size=16)
values = st.builds(
    Value,
    data=st.binary(max_size=200),
    buffers=st.none() | st.lists(st.binary(max_size=50), max_size=3),
    contains=st.none() | st.lists(ids, max_size=3),
)
messages = st.one_of(
    st.builds(Done, ids, st.binary(max_size=300), st.integers(0, 1 << 40)),
    st.builds(DoneMany, ids, st.lists(values, max_size=3)),
    st.builds(Call, ids, ids, st.binary(max_size=300), st.integers(0, 9)),
    st.builds(ActorCall, ids, ids, st.text(max_size=20), st.binary(max_size=30)),
    st.builds(Recall, st.integers(0, 1000)),
    st.builds(BorrowAck, ids, st.booleans()),
    st.builds(Stop, st.text(max_size=20)),
)


@settings(deadline=None)
@given(st.lists(messages, min_size=1, max_size=20), st.integers(1, 64))
def test_round_trip_whatever_the_cuts(sent: list[object], cut: int) -> None:
    sender, receiver = make_pair()
    raw, feed = socket.socketpair()
    cutter = Connection(raw, b"cut", frame_max=FRAME_MAX)
    try:
        sender.out.extend(sent)
        assert sender.flush()
        stream = receiver.sock.recv(1 << 20)
        found: list[object] = []
        for at in range(0, len(stream), cut):
            feed.send(stream[at : at + cut])
            found += cutter.receive()
        assert found == sent
        assert cutter.received == len(stream) == sender.sent
    finally:
        for one in (sender, receiver, cutter, feed):
            one.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_random_bytes_never_crash(data: bytes) -> None:
    receiver, feed = make_pair()
    try:
        feed.sock.send(data)
        try:
            found = receiver.receive()
        except ProtocolError:
            return
        assert all(isinstance(one, msgspec.Struct) for one in found)
    finally:
        receiver.close()
        feed.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(messages, min_size=1, max_size=3), st.data())
def test_a_damaged_body_is_a_protocol_error_or_other_messages(
    noise: bytes, sent: list[object], data: st.DataObject
) -> None:
    body = bytearray(msgspec.msgpack.encode(sent))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + len(noise)] = noise
    receiver, feed = make_pair()
    try:
        feed.sock.send(pack("<I", len(body)) + body)
        try:
            found = receiver.receive()
        except ProtocolError:
            return
        assert all(isinstance(one, msgspec.Struct) for one in found)
    finally:
        receiver.close()
        feed.close()


def test_a_truncated_frame_waits_for_the_rest(pair: Pair) -> None:
    sender, receiver = pair
    body = msgspec.msgpack.encode([Recall(7)])
    frame = pack("<I", len(body)) + body
    for at in range(len(frame)):
        sender.sock.send(frame[at : at + 1])
        found = receiver.receive()
        assert found == ([Recall(7)] if at == len(frame) - 1 else [])


def test_a_truncated_stream_ends_in_connection_closed(pair: Pair) -> None:
    sender, receiver = pair
    sender.sock.send(pack("<I", 100) + b"only this")
    sender.close()
    assert receiver.receive() == []
    with pytest.raises(ConnectionClosed):
        receiver.receive()
    assert receiver.closed


def test_an_oversized_claim_is_refused_before_its_body_is_read(pair: Pair) -> None:
    sender, receiver = pair
    sender.sock.send(pack("<I", FRAME_MAX + 1))
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=f"frame of {FRAME_MAX + 1} bytes"):
        receiver.receive()
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_oversized_claim_in_the_tail_is_refused_too(pair: Pair) -> None:
    """A head cut in two must be looked at when its second half comes, not when all has come."""
    sender, receiver = pair
    head = pack("<I", 0xFFFFFFFF)
    sender.sock.send(head[:2])
    assert receiver.receive() == []
    sender.sock.send(head[2:] + b"x" * 100)
    with pytest.raises(ProtocolError, match="4294967295"):
        receiver.receive()


def test_a_claim_of_nested_containers_does_not_allocate(pair: Pair) -> None:
    """msgpack's length prefixes may promise 4 billion entries in five bytes."""
    sender, receiver = pair
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for body in (b"\xdd\xff\xff\xff\xff", b"\x91\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        sender.sock.send(pack("<I", len(body)) + body)
        with pytest.raises(ProtocolError):
            receiver.receive()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - limit < 100 * 1024


def test_deep_nesting_is_a_protocol_error(pair: Pair) -> None:
    sender, receiver = pair
    body = b"\x91" * 100_000
    sender.sock.settimeout(5)
    sender.sock.sendall(pack("<I", len(body)) + body)
    with pytest.raises(ProtocolError):
        receiver.receive()


def test_a_message_above_the_limit_is_refused_by_the_sender() -> None:
    sender, receiver = make_pair(1000)
    sender.out.append(Done(b"i" * 16, b"x" * 2000))
    with pytest.raises(ProtocolError, match=r"Done message of .* above the frame limit of 1000"):
        sender.flush()
    sender.close()
    receiver.close()


def test_many_messages_above_the_limit_together_are_several_frames() -> None:
    sender, receiver = make_pair(1000)
    sent = [Done(b"i" * 16, bytes([number]) * 90) for number in range(50)]
    sender.out.extend(sent)
    assert sender.flush()
    assert receiver.receive() == sent
    sender.close()
    receiver.close()


def test_what_the_socket_does_not_take_stays_and_nothing_is_lost() -> None:
    sender, receiver = make_pair(8 << 20)
    sent = [Done(b"i" * 16, bytes([n]) * 100_000) for n in range(40)]
    found: list[object] = []
    for one in sent:
        sender.out.append(one)
        sender.flush()
    assert sender.backlog, "4 MB fit into no socket buffer"
    while not sender.flush():
        found += receiver.receive()
    found += receiver.receive()
    assert found == sent
    sender.close()
    receiver.close()


def test_descriptors_arrive_with_their_messages_in_order() -> None:
    sender, receiver = make_pair(passing=True)
    made = [os.memfd_create(f"test-{number}") for number in range(3)]
    for number, fd in enumerate(made):
        os.write(fd, b"%d" % number)
        sender.send_fd(Recall(number), fd)
    sender.flush()
    assert receiver.receive() == [Recall(0), Recall(1), Recall(2)]
    for number in range(3):
        fd = receiver.take_descriptor()
        assert os.pread(fd, 10, 0) == b"%d" % number
        os.close(fd)
    with pytest.raises(ProtocolError, match="came without one"):
        receiver.take_descriptor()
    sender.close()
    receiver.close()


def test_many_descriptors_queued_at_once_are_all_sent() -> None:
    """A node that answers a hundred requests in one turn sends a hundred descriptors."""
    sender, receiver = make_pair(passing=True)
    for number in range(100):
        sender.send_fd(Recall(number), os.memfd_create("test"))
    while not sender.flush():
        pass
    found: list[object] = []
    while len(found) < 100:
        found += receiver.receive()
    assert len(receiver.descriptors) == 100
    sender.close()
    receiver.close()


def test_closing_closes_descriptors_that_nobody_took() -> None:
    before = len(os.listdir("/proc/self/fd"))
    sender, receiver = make_pair(passing=True)
    for number in range(3):
        sender.send_fd(Recall(number), os.memfd_create("test"))
    sender.flush()
    sender.send_fd(Recall(9), os.memfd_create("test"))
    receiver.receive()
    sender.close()
    receiver.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failure_travels_as_a_value(pair: Pair) -> None:
    sender, receiver = pair
    failure = encode_failure("WorkerCrashedError", "the worker \N{SKULL} is gone")
    sender.out.append(DoneMany(b"i" * 16, [failure]))
    sender.flush()
    assert receiver.receive() == [DoneMany(b"i" * 16, [failure])]
