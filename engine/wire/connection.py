"""The one connection type: an ordered stream of messages over a Unix stream socket.

Messages gather in `out` and leave together: one frame is a 4-byte length and a msgpack *array* of
messages, so a burst of calls costs one encode, one write, one read and one decode. Descriptors
ride along as SCM_RIGHTS on the control connection to the node only.

A connection never blocks: what the socket does not take stays in `backlog` until the reactor says
that it is writable again. Bounds on what can gather are kept by the layers above (in-flight
budget, credits); the frame size limit is kept here, on both sides.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from struct import Struct
from typing import Any

import msgspec

from engine.core.messages import Message
from engine.wire.descriptors import OUT_OF_DESCRIPTORS, reserve

__all__ = ["Connection", "ConnectionClosed", "ProtocolError"]

_HEAD = Struct("<I")
# Above 128 KiB the C library maps and unmaps the buffer anew at each read, which costs 20 us.
_READ = 64 << 10
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Message]).decode
_DESCRIPTORS_MAX = 64


class ConnectionClosed(Exception):
    """The other side is gone."""


class ProtocolError(Exception):
    """The other side sent something that is not a frame of ours, or one above the limit."""


class Connection:
    """One end of a direct line to `peer` (an 8-byte process id; the node's own id for the node).

    Not thread-safe: the runtime's lock is held around every call.
    """

    __slots__ = (
        "_head",
        "_tail",
        "backlog",
        "closed",
        "descriptors",
        "fd",
        "fds_out",
        "frame_max",
        "open_calls",
        "out",
        "passing",
        "peer",
        "pid",
        "received",
        "sent",
        "sock",
        "trouble",
    )

    def __init__(
        self, sock: socket.socket, peer: bytes, *, frame_max: int, passing: bool = False
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.pid = 0
        self.passing = passing  # may carry descriptors
        self.out: list[Any] = []
        self.fds_out: list[int] = []
        self.backlog: deque[tuple[memoryview, list[int]]] = deque()
        self.descriptors: deque[int] = deque()
        self.frame_max = frame_max
        self.open_calls = 0  # calls sent and not yet answered: says whether the peer is busy
        self.closed = False
        self.trouble = ""  # why it was given up
        self._head = b""
        self._tail: bytearray | None = None
        self.sent = 0
        self.received = 0

    def send_fd(self, message: Any, *fds: int) -> None:
        """Queue a message with descriptors; `fds` are closed here once they have been sent."""
        assert self.passing
        if len(self.fds_out) + len(fds) > _DESCRIPTORS_MAX:
            self._seal()
        self.out.append(message)
        self.fds_out += fds

    def _seal(self) -> None:
        """Make frames of what is queued; the first of them carries the descriptors."""
        out, self.out = self.out, []
        fds, self.fds_out = self.fds_out, []
        for frame in self._frames(out):
            self.backlog.append((frame, fds))
            fds = []

    def flush(self) -> bool:
        """Write what can be written. False while something is left for a later turn."""
        backlog = self.backlog
        if self.out:
            if not backlog and not self.fds_out:  # nearly always
                body = _encode(self.out)
                size = len(body)
                if size <= self.frame_max:
                    self.out = []
                    frame = _HEAD.pack(size) + body
                    count = self._put(frame, [])
                    if count == size + 4:
                        return True
                    backlog.append((memoryview(frame)[max(0, count) :], []))
                    return False
            self._seal()
        while backlog:
            rest, fds = backlog[0]
            count = self._put(rest, fds)
            if count < 0:
                return False
            if count == len(rest):
                backlog.popleft()
            else:
                backlog[0] = (rest[count:], [])
        return True

    def _put(self, frame: bytes | memoryview, fds: list[int]) -> int:
        """How much of a frame the socket took; -1 when it takes nothing now."""
        try:
            count = self._send_with(frame, fds) if fds else self.sock.send(frame)
        except BlockingIOError:  # the reactor goes on when there is room
            return -1
        except OSError as error:
            self.closed = True
            raise ConnectionClosed(str(error)) from error
        self.sent += count
        return count

    def _frames(self, messages: list[Any]) -> list[memoryview]:
        body = _encode(messages)
        if len(body) <= self.frame_max:
            return [memoryview(_HEAD.pack(len(body)) + body)]
        if len(messages) == 1:
            raise ProtocolError(
                f"a {type(messages[0]).__name__} message of {len(body)} bytes is above the "
                f"frame limit of {self.frame_max} bytes"
            )
        half = len(messages) // 2
        return self._frames(messages[:half]) + self._frames(messages[half:])

    def _send_with(self, frame: bytes | memoryview, fds: list[int]) -> int:
        assert len(fds) <= _DESCRIPTORS_MAX
        count = self.sock.sendmsg(
            [frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        )
        for fd in fds:
            os.close(fd)
        return count

    def receive(self) -> list[Any]:
        """All messages that have arrived; raises ConnectionClosed at the end of the stream."""
        messages: list[Any] = []
        while True:
            try:
                data = self._read()
            except BlockingIOError:  # that was all, for now
                return messages
            except OSError:  # reset: what it had sent before it died has been read by now
                data = b""
            if not data:
                if messages:
                    return messages  # the end is seen again at the next turn
                self.closed = True
                raise ConnectionClosed(f"process {self.peer.hex()} closed the connection")
            self.received += len(data)
            self._parse(data, messages)
            if len(data) < _READ:
                return messages

    def receive_some(self) -> list[Any]:
        """Messages of one read on a socket that is (for once) blocking: for the handshake."""
        try:
            data = self._read()
        except ConnectionResetError:  # it has died with something of ours unread
            data = b""
        if not data:
            self.closed = True
            raise ConnectionClosed(f"process {self.peer.hex()} closed the connection")
        messages: list[Any] = []
        self._parse(data, messages)
        return messages

    def _read(self) -> bytes:
        if not self.passing:
            return self.sock.recv(_READ)
        with reserve:
            data, ancillary, flags, _address = self.sock.recvmsg(
                _READ, socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX), socket.MSG_CMSG_CLOEXEC
            )
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self.descriptors.extend(fds)
        if flags & socket.MSG_CTRUNC:  # those to come would be taken for the ones that are lost
            raise ProtocolError(OUT_OF_DESCRIPTORS)
        return data

    def _parse(self, data: bytes, messages: list[Any]) -> None:
        tail = self._tail
        if tail is not None:
            tail += data
            if len(tail) < 4:
                return
            (size,) = _HEAD.unpack_from(tail)
            if size > self.frame_max:
                raise ProtocolError(f"frame of {size} bytes, at most {self.frame_max} allowed")
            if len(tail) - 4 < size:
                return
            data = bytes(tail)
            self._tail = None
        at, end = 0, len(data)
        while end - at >= 4:
            (size,) = _HEAD.unpack_from(data, at)
            if size > self.frame_max:
                raise ProtocolError(f"frame of {size} bytes, at most {self.frame_max} allowed")
            if end - at - 4 < size:
                break
            try:
                found = _decode(memoryview(data)[at + 4 : at + 4 + size])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProtocolError(f"unreadable frame from {self.peer.hex()}: {error}") from error
            messages += found
            at += 4 + size
        if at < end:
            self._tail = bytearray(data[at:])

    def take_descriptor(self) -> int:
        """The next descriptor that came with a message, in order."""
        if not self.descriptors:
            raise ProtocolError("a message that brings a descriptor came without one")
        return self.descriptors.popleft()

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took; idempotent."""
        self.closed = True
        self.sock.close()
        while self.descriptors:
            os.close(self.descriptors.popleft())
        for fd in self.fds_out:
            os.close(fd)
        self.fds_out = []
        for _frame, fds in self.backlog:
            for fd in fds:
                os.close(fd)
        self.backlog.clear()
