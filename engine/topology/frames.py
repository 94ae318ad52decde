"""The frames that members of a topology exchange, and what an item costs in credit.

Frames are small typed structs; the value of an item travels beside its frame (in shared memory
between processes, as the object itself inline), so a frame can be encoded without a look at it.
Frames between one sending and one receiving copy of a channel arrive in order, each once:
`Data`, `Marker` and `End` share one consecutive `seq`, which the receiver checks.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import pyarrow as pa

__all__ = [
    "Credit",
    "Data",
    "End",
    "Frame",
    "Marker",
    "Transport",
    "Trigger",
    "estimate_nbytes",
    "estimate_rows",
]

# What any value costs at least, so that a stream of empty values is bounded too.
_VALUE_BYTES_MIN = 64


class Data(msgspec.Struct, array_like=True, tag="D"):
    """One item. `sender` is the copy index of the sender; rows and nbytes are its credit cost.

    `value` is None while the frame travels; the receiving edge sets it before
    `MemberLoop.receive`. `log` has the steps of the sender that the receiver does not know of yet
    (`core.determinants`), None when there are none; so have ends and markers.
    """

    channel: int
    sender: int
    seq: int
    rows: int
    nbytes: int
    epoch: int
    meta: Any = None
    value: Any = None
    log: list[int] | None = None


class Credit(msgspec.Struct, array_like=True, tag="C"):
    """Copy `receiver` has consumed this much of `channel`; goes back to the sender."""

    channel: int
    receiver: int
    rows: int
    nbytes: int


class End(msgspec.Struct, array_like=True, tag="E"):
    """Copy `sender` will send nothing more on `channel`."""

    channel: int
    sender: int
    seq: int
    log: list[int] | None = None


class Marker(msgspec.Struct, array_like=True, tag="M"):
    """The end of the epoch before `epoch` in the stream of copy `sender` on `channel`."""

    channel: int
    sender: int
    seq: int
    epoch: int
    log: list[int] | None = None


class Trigger(msgspec.Struct, array_like=True, tag="T"):
    """From the coordinator to a copy without inputs: snapshot now and start `epoch`."""

    epoch: int


Frame = Data | Credit | End | Marker | Trigger


class Transport(Protocol):
    """What a `MemberLoop` needs to speak to other copies.

    `send` must not run user code, must not block, and must keep the order of the frames to one
    copy. `value` belongs to a `Data` frame and is None otherwise. The same value object may come
    in consecutive calls (broadcast, several channels): an edge that encodes may do so once.
    """

    def send(self, copy: int, frame: Frame, value: Any) -> None:
        """Hand `frame` to the copy with id `copy`."""
        ...


def estimate_rows(value: Any) -> int:
    """Rows an item counts for credits: `num_rows` of tabular values, 0 of None, else 1."""
    if value is None:
        return 0
    rows = getattr(value, "num_rows", 1)
    return rows if isinstance(rows, int) else 1


def estimate_nbytes(value: Any) -> int:
    """Bytes an item counts for credits; cheap, exact for columns and arrays, else a guess.

    `RecordBatch.nbytes` counts only what a slice shows, not the buffers behind it. Strings and
    bytes count their length, containers 64 bytes an element, everything else 64 bytes.
    """
    if value is None:
        return 0
    if type(value) is pa.RecordBatch:
        nbytes = value.get_total_buffer_size()
        if nbytes != value.num_rows * _row_bytes(value.schema):  # a slice, or not as plain
            nbytes = value.nbytes
    else:
        nbytes = getattr(value, "nbytes", None)
        if not isinstance(nbytes, int):
            if isinstance(value, (bytes, bytearray, str)):
                nbytes = len(value)
            elif isinstance(value, (list, tuple, dict, set, frozenset)):
                nbytes = _VALUE_BYTES_MIN * len(value)
            else:
                nbytes = _VALUE_BYTES_MIN
    return nbytes if nbytes > _VALUE_BYTES_MIN else _VALUE_BYTES_MIN


# The last schema that was asked for, and its `_row_bytes`.
_last: tuple[pa.Schema, int] = (pa.schema([]), 0)


def _row_bytes(schema: pa.Schema) -> int:
    """What a row takes where no value is missing; -1 if rows differ, or end within a byte.

    `RecordBatch.nbytes` looks at each column from Python, which is half of what it costs to send a
    small batch. Most need not be looked at: their buffers together are as large as the rows.
    """
    global _last
    known, nbytes = _last
    if schema is not known and not schema.equals(known):
        widths = [one.bit_width if pa.types.is_primitive(one) else 1 for one in schema.types]
        nbytes = -1 if any(width % 8 for width in widths) else sum(widths) // 8
        _last = schema, nbytes
    return nbytes
