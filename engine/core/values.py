"""Values as they travel and are kept: bytes, or where they lie, or an error.

Opaque to everybody but the codec: only workers and drivers ever unpickle what is inside.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "ELSEWHERE",
    "ERROR_NONE",
    "ERROR_SYSTEM",
    "ERROR_USER",
    "STREAMING",
    "Block",
    "Failure",
    "ObjectValue",
    "Value",
    "decode_failure",
    "encode_failure",
]

ERROR_NONE, ERROR_USER, ERROR_SYSTEM = 0, 1, 2
STREAMING = -1


class Block(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Where a large value lies: `size` bytes at `offset` of segment `segment`.

    Segments with a negative number are files: what lies there is read, not mapped, and `check` is
    its CRC-32. `holder` is the process that allocated the block and alone may give the space out
    again.
    """

    segment: int
    offset: int
    size: int
    holder: bytes
    check: int = 0


# Stands for a location that only the object's owner can tell.
ELSEWHERE = Block(0, 0, 0, b"")


class Value(msgspec.Struct, array_like=True, gc=False):
    """A value as it travels: pickle bytes with out-of-band buffers, or a block, or an error.

    `error` is ERROR_NONE, ERROR_USER (data is a pickled TaskError) or ERROR_SYSTEM (data is an
    encoded `Failure`). `contains` are the ids of the references pickled inside the value.
    """

    data: bytes = b""
    buffers: list[bytes] | None = None
    contains: list[bytes] | None = None
    block: Block | None = None
    error: int = ERROR_NONE


class ObjectValue(msgspec.Struct, array_like=True, gc=False, tag=24):
    """From the owner: the value of `id`. Also an argument of a call that was a reference.

    `fetch` is the number of the Fetch that it answers.
    """

    id: bytes
    value: Value
    fetch: int = 0


class Failure(msgspec.Struct, array_like=True, gc=False):
    """An error made by the engine itself: name of a class in `engine.exceptions`, and its text.

    `detail` stands below the text: the last lines of the process that died.
    """

    kind: str
    text: str
    detail: str = ""


_failure_encoder = msgspec.msgpack.Encoder()
_failure_decoder = msgspec.msgpack.Decoder(Failure)


def encode_failure(kind: str, text: str, detail: str = "") -> Value:
    """A value that stands for an error of the engine."""
    return Value(data=_failure_encoder.encode(Failure(kind, text, detail)), error=ERROR_SYSTEM)


def decode_failure(value: Value) -> Failure:
    """The failure inside a value made by `encode_failure`."""
    return _failure_decoder.decode(value.data)
