"""The form of a journal: batches of records, each whole or not there.

A machine whose state must outlive its process writes down every event before anything that follows
from it is seen by others; its state is what comes of applying them in order. Events are written in
*batches*, and the next batch is written only when the one before is safe on disk. So at most the
last batch can be torn or lost, and nobody has seen anything of it: it is cut off. A batch that is
damaged while a good one follows was safe once: that is a broken disk, and is said.

    batch = length (4) + CRC-32 (4) + number (8) + payload;  the checksum covers number and payload

Pure: bytes in, bytes out. `payload` is a list of records in msgpack.
"""

from __future__ import annotations

from struct import Struct
from typing import Any
from zlib import crc32

import msgspec

__all__ = ["JournalDamaged", "Reading", "batch", "read"]

_HEADER = Struct(">IIQ")
_NUMBER = Struct(">Q")


class JournalDamaged(Exception):
    """A batch that was safe on disk cannot be read any more."""


class Reading:
    """What a journal holds: its records, the bytes that are good, the next batch's number."""

    __slots__ = ("good", "next", "records")

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.good = 0
        self.next = 0


def batch(number: int, records: list[Any]) -> bytes:
    """The bytes of one batch; batches are numbered from 0."""
    payload = msgspec.msgpack.encode(records)
    check = crc32(payload, crc32(_NUMBER.pack(number)))
    return _HEADER.pack(len(payload), check, number) + payload


def read(data: bytes, kind: type[Any]) -> Reading:
    """Everything up to the end, or to where the last write was torn. Records are of type `kind`."""
    decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
    found = Reading()
    while True:
        payload = _payload(data, found.good, found.next)
        if payload is None:
            break
        found.records += decoder.decode(payload)
        found.good += _HEADER.size + len(payload)
        found.next += 1
    _look_behind(data, found)
    return found


def _payload(data: bytes, at: int, number: int) -> bytes | None:
    """The batch at `at`, if it is whole and has this number."""
    if len(data) < at + _HEADER.size:
        return None
    length, check, written = _HEADER.unpack_from(data, at)
    payload = data[at + _HEADER.size : at + _HEADER.size + length]
    if len(payload) < length or written != number:
        return None
    return payload if crc32(payload, crc32(_NUMBER.pack(number))) == check else None


def _look_behind(data: bytes, found: Reading) -> None:
    """What is cut off may be one batch; a later one would have been written on top of a good one.

    Only the header that says how long the bad batch is leads to the one behind it, so damage to
    that length passes for a torn end: the next batch's number tells, wherever it lies.
    """
    mark = _NUMBER.pack(found.next + 1)
    at = data.find(mark, found.good + _HEADER.size)
    while at >= 0:
        if _payload(data, at - 8, found.next + 1) is not None:
            raise JournalDamaged(
                f"batch {found.next} at byte {found.good} is damaged, but the one at byte {at - 8} "
                "behind it is good: the disk has lost what was safe. Restore the file from a "
                "copy, or remove it to start without its state"
            )
        at = data.find(mark, at + 1)
