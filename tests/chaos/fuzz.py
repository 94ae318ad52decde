"""Malformed input: frames, manifests, states, checkpoints of actors, values on disk.

Inputs are mutations of real ones (bits, bytes, lengths that lie, cuts, pieces of others), drawn
from a seed: some ten microseconds each, so that there can be a million. `hypothesis` searches the
same parsers, with shrinking, in the tests beside them.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np

from engine.core.control import Fork, Hello, LeaseRequest, Request, Welcome
from engine.core.messages import ActorCall, Call, ChannelFrame, Done, DoneMany, Recall
from engine.core.values import Value
from engine.exceptions import ObjectLostError
from engine.store.spill import DiskSegment
from engine.topology.checkpoint import CheckpointDirectory
from engine.topology.durable import digest_of
from engine.topology.errors import CheckpointError
from engine.topology.statefile import StateWriter, read_state
from engine.wire.connection import Connection, ProtocolError
from tests.chaos.trial import Found, dice, trial

__all__ = ["fuzz_files", "fuzz_frames", "mutate"]

FRAME_MAX = 1 << 16
# What parsing a million small inputs may add to the memory of the process, at most.
GROWTH_BYTES_MAX = 32 << 20
_HEAD = struct.Struct("<I")


def mutate(draw: Random, data: bytes, other: bytes) -> bytes:
    """Something else made of these bytes."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        kind, at = draw.randrange(7), draw.randrange(len(found) + 1)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[at : at + draw.randrange(9)] = draw.randbytes(draw.randrange(9))
        elif kind == 2:  # a length that lies: 32 bits, as msgpack has them
            lie = draw.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, draw.randrange(1 << 32)])
            found[at : at + 5] = draw.choice([b"\xdd", b"\xdf", b"\xc6", b"\xdb"]) + lie.to_bytes(4)
        elif kind == 3:
            del found[at:]
        elif kind == 4 and other:
            start = draw.randrange(len(other))
            found[at:at] = other[start : start + draw.randrange(64)]
        elif kind == 5:
            found[at:at] = b"\x91" * draw.randrange(200)  # arrays in arrays
        else:
            found[at : at + 8] = draw.choice([bytes(8), b"\xff" * 8, b"\x80" * 8])
    return bytes(found)


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _frames() -> list[bytes]:
    """Bodies of frames as processes send them."""
    one = bytes(range(16))
    value = Value(b"data" * 9, buffers=[b"b" * 40], contains=[one])
    messages: list[Any] = [
        Call(one, one, b"args", 3), ActorCall(one, one, "method", b"args"), Done(one, b"result", 7),
        DoneMany(one, [value, value]), Recall(9), Hello(one[:8], 4711, "worker"),
        Welcome(one[:8], {"config": {}}), LeaseRequest(one, {"CPU": 10000}, 2),
        Request(1, "segment", {"size": 1 << 20}), Fork(one[:8]), ChannelFrame(one, 1, b"x" * 50),
    ]  # fmt: skip
    bodies = [msgspec.msgpack.encode([message]) for message in messages]
    return [*bodies, msgspec.msgpack.encode(messages)]


@trial("R30", unit="inputs", short=4000, long=1_000_000, minutes=2)
def fuzz_frames(count: int) -> Found:
    """Malformed frames: messages, a wait for more, or a ProtocolError; and no large allocation."""
    draw, bodies = dice(61), _frames()
    wrong = Counter[str]({"crashes": 0, "allocations above the limit": 0})
    outcomes = Counter[str]()
    mine, theirs = socket.socketpair()
    with mine, theirs:
        _parse(mine, _HEAD.pack(len(bodies[-1])) + bodies[-1])
        before = _peak_bytes()
        for _ in range(count):
            body = mutate(draw, draw.choice(bodies), draw.choice(bodies))
            size = len(body) if draw.random() < 0.9 else draw.randrange(1 << 32)
            outcomes[_outcome(partial(_parse, mine, _HEAD.pack(size) + body), wrong)] += 1
        wrong["allocations above the limit"] += _peak_bytes() - before > GROWTH_BYTES_MAX
    figures = {f"share {kind}": round(number / count, 3) for kind, number in outcomes.items()}
    return Found(count, dict(wrong), figures)


def _parse(sock: socket.socket, data: bytes) -> list[Any]:
    connection = Connection(sock, b"stranger", frame_max=FRAME_MAX)
    found: list[Any] = []
    connection._parse(data, found)
    assert all(isinstance(one, msgspec.Struct) for one in found)
    return found


def _outcome(parse: Callable[[], Any], wrong: Counter[str]) -> str:
    try:
        return "accepted" if parse() else "harmless"
    except (ProtocolError, CheckpointError, ObjectLostError):
        return "refused"
    except Exception:  # whatever else it is, it is what is looked for
        wrong["crashes"] += 1
        return "crashed"


# ------------------------------------------------------------------------------ files


@trial("R30", unit="inputs", short=600, long=100_000, minutes=2)
def fuzz_files(count: int) -> Found:
    """Malformed manifests (also with a right checksum), states and values on disk are refused."""
    draw = dice(62)
    wrong = Counter[str]({"crashes": 0, "accepted": 0, "allocations above the limit": 0})
    outcomes = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        targets = [_Manifests(Path(folder)), _States(Path(folder)), _Spilled()]
        for target in targets:
            target.load(target.right)
        before = _peak_bytes()
        for number in range(count):
            target = targets[number % len(targets)]
            data = mutate(draw, target.right, target.right)
            outcome = _outcome(partial(target.load, data), wrong)
            outcomes[outcome] += 1
            wrong["accepted"] += outcome == "accepted"
        wrong["allocations above the limit"] += _peak_bytes() - before > GROWTH_BYTES_MAX
        for target in targets:
            target.close()
    figures = {f"share {kind}": round(number / count, 3) for kind, number in outcomes.items()}
    return Found(count, dict(wrong), figures)


# Of what follows, `load` says whether something wrong was taken for the truth.


class _Manifests:
    """The body of a manifest, its checksum made right again: whoever could, would do that.

    What is well-formed then is a manifest: there is nothing to refuse.
    """

    def __init__(self, folder: Path) -> None:
        self._directory = CheckpointDirectory(folder / "ck", keep=1)
        state, _ = StateWriter(folder / "ck", 0, "a-0", "s").write(1, list(range(100)))
        self._directory.commit(1, "shape", [state], ["token"])
        self._path = folder / "ck" / "manifest-00000001"
        self._magic, _, self.right = self._path.read_bytes().partition(b"\n")

    def load(self, data: bytes) -> bool:
        head = self._magic.rsplit(b" ", 1)[0] + b" " + digest_of([data]).encode()
        self._path.write_bytes(head + b"\n" + data)
        self._directory.latest()
        self._directory.read(1)
        return False

    def close(self) -> None:
        self._directory.close()


class _States:
    """A state's file; its manifest has the checksum of what was written."""

    def __init__(self, folder: Path) -> None:
        (folder / "states").mkdir()
        value = {"array": np.arange(50), "text": "x" * 100}
        self._folder = folder
        self._state, _ = StateWriter(folder, 0, "a-0", "s").write(1, value)
        self._path = folder / "states" / self._state.name
        self.right = self._path.read_bytes()

    def load(self, data: bytes) -> bool:
        self._path.write_bytes(data)
        read_state(self._folder, self._state)
        return data != self.right

    def close(self) -> None:
        return None


class _Spilled:
    """A value in a spill file."""

    def __init__(self) -> None:
        self.right = bytes(range(256)) * 2
        self._fd = os.memfd_create("fuzz")
        self._segment = DiskSegment(-1, self._fd, 1 << 16)
        self._check = self._segment.write(0, memoryview(self.right))

    def load(self, data: bytes) -> bool:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)
        self._segment.read(0, len(self.right), self._check)
        return data[: len(self.right)] != self.right

    def close(self) -> None:
        self._segment.close()
