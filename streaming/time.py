"""Event time: durations, event-time columns and watermarks (pure, no clock).

A *tick* is one unit of the stream's event-time column: a millisecond for an int64 column, otherwise
the unit of its timestamp type. Every instant and every watermark inside the engine is a count of
ticks, so no rounding ever happens after a plan has been built.

A watermark `w` promises: no row with event time below `w` will follow, unless it is late.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "MAX_WATERMARK",
    "MIN_WATERMARK",
    "Duration",
    "EventTime",
    "WatermarkMerge",
    "duration_ns",
    "format_duration",
]

MIN_WATERMARK = -(2**63)
MAX_WATERMARK = 2**63 - 1

Duration = timedelta | int | str

_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|min|s|m|h|d)")


def duration_ns(value: Duration, what: str = "duration") -> int:
    """Nanoseconds in a timedelta, an int (milliseconds) or a text such as "4s", "1h30m", "0.5s".

    Raises TypeError for another type and ValueError for a text it cannot read; `what` names the
    argument in the message.
    """
    if isinstance(value, bool) or not isinstance(value, timedelta | int | str):
        raise TypeError(
            f"{what}: expected a timedelta, an int (milliseconds) or a text such as '10s', "
            f"found {value!r} ({type(value).__name__})"
        )
    if isinstance(value, timedelta):
        whole_seconds = value.days * 86_400 + value.seconds
        return whole_seconds * 1_000_000_000 + value.microseconds * 1_000
    if isinstance(value, int):
        return value * 1_000_000
    text = value.strip().lower()
    sign = -1 if text.startswith("-") else 1
    body = text.lstrip("+-").strip()
    parts = _PART.findall(body)
    if not parts or _PART.sub("", body).strip():
        raise ValueError(
            f"{what}: cannot read {value!r}; write a number and a unit of "
            f"ns, us, ms, s, m, h, d, as in '10s', '250ms', '1h30m'"
        )
    total = sum((Fraction(number) * _UNIT_NS[unit] for number, unit in parts), Fraction(0))
    if total.denominator != 1:
        raise ValueError(f"{what}: {value!r} is not a whole number of nanoseconds")
    return sign * int(total)


def format_duration(ns: int) -> str:
    """The shortest text with one unit that means `ns` nanoseconds exactly: "10s", "1500ms"."""
    if ns == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if ns % _UNIT_NS[unit] == 0:
            return f"{ns // _UNIT_NS[unit]}{unit}"
    return f"{ns}ns"


@dataclass(frozen=True)
class EventTime:
    """Where a stream keeps its event time, and how far its rows may be out of order.

    `out_of_orderness` is in ticks. `shift` is added to the column to obtain the event time: window
    results carry `window_end` and their event time is the last tick inside the window.
    """

    column: str
    type: pa.DataType
    out_of_orderness: int = 0
    idle_after_s: float | None = None
    shift: int = 0

    @staticmethod
    def tick_ns(type_: pa.DataType) -> int | None:
        """Nanoseconds per tick of a column type; None when the type cannot be an event time."""
        if pa.types.is_timestamp(type_):
            return _UNIT_NS[type_.unit]
        return _UNIT_NS["ms"] if pa.types.is_int64(type_) else None

    @staticmethod
    def ticks_in(ns: int, type_: pa.DataType, what: str) -> int:
        """`ns` nanoseconds as ticks of `type_`; ValueError when that is not a whole number."""
        unit_ns = EventTime.tick_ns(type_)
        if unit_ns is None:
            raise TypeError(
                f"{what}: event time must be timestamp or int64 (milliseconds), found {type_}"
            )
        ticks, rest = divmod(ns, unit_ns)
        if rest:
            raise ValueError(
                f"{what}: {format_duration(ns)} is finer than the event-time type {type_} "
                f"(one tick is {format_duration(unit_ns)}); use a multiple of it or a finer type"
            )
        return ticks

    def ticks(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """Event times of the rows as int64 ticks (a view where possible).

        Raises KeyError when the column is missing, TypeError when its type has changed and
        ValueError when it holds a null, for a row without time belongs to no window.
        """
        index = batch.schema.get_field_index(self.column)
        if index < 0:
            raise KeyError(
                f"event-time column {self.column!r} is missing from the rows; "
                f"they have {batch.schema.names}"
            )
        column = batch.column(index)
        if column.type != self.type:
            raise TypeError(
                f"event-time column {self.column!r}: expected {self.type}, found {column.type}"
            )
        if column.null_count:
            where = int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"event-time column {self.column!r} is null in the row "
                f"{batch.slice(where, 1).to_pylist()[0]}; "
                f"drop such rows first: .filter(col({self.column!r}).is_valid())"
            )
        ticks: npt.NDArray[np.int64] = column.view(pa.int64()).to_numpy()
        return ticks + self.shift if self.shift else ticks

    def highest(self, batch: pa.RecordBatch) -> int | None:
        """The latest event time among the rows, None when all are null.

        Nulls are passed over here: a filter behind the source may yet remove them.
        """
        column = batch.column(batch.schema.get_field_index(self.column))
        highest: int | None = pc.max(column.view(pa.int64())).as_py()
        return highest if highest is None else highest + self.shift

    def array(self, ticks: npt.NDArray[np.int64]) -> pa.Array:
        """Ticks as a column of the event-time type."""
        return pa.array(ticks, pa.int64()).view(self.type)


class WatermarkMerge:
    """The minimum of the watermarks of several senders, of which some may be idle or have ended.

    Never goes back. All `senders` count from the start, so nothing closes before every one of them
    has spoken. An idle sender is left out of the minimum until it speaks again; when
    all are idle the largest value seen holds, whatever the order in which they fell silent.
    An ended sender has sent MAX_WATERMARK.
    """

    def __init__(self, senders: int) -> None:
        self._senders = senders
        self._marks: dict[tuple[str, int], int] = {}
        self._idle: set[tuple[str, int]] = set()
        self.current = MIN_WATERMARK
        self.all_idle = False

    def update(self, sender: tuple[str, int], watermark: int) -> bool:
        """Note a sender's watermark; True when the combined one has risen."""
        if watermark >= self._marks.get(sender, MIN_WATERMARK):
            self._marks[sender] = watermark
        self._idle.discard(sender)
        return self._combine()

    def idle(self, sender: tuple[str, int]) -> bool:
        """Leave a silent sender out of the minimum; True when the combined one has risen."""
        self._marks.setdefault(sender, MIN_WATERMARK)
        self._idle.add(sender)
        return self._combine()

    def snapshot(self) -> list[Any]:
        """Plain data from which `restore` brings everything back.

        Idleness too: senders that go on do not say it again when only this member comes back.
        """
        marks = [[*sender, mark, sender in self._idle] for sender, mark in self._marks.items()]
        return [self.current, marks]

    def restore(self, state: list[Any]) -> None:
        """Go on from a snapshot."""
        current, marks = state
        for port, copy, mark, is_idle in marks:
            self._marks[port, copy] = mark
            if is_idle:
                self._idle.add((port, copy))
        self._combine()
        self.current = current

    def _combine(self) -> bool:
        if len(self._marks) < self._senders:
            return False
        self.all_idle = len(self._idle) == len(self._marks)
        if self.all_idle:
            combined = max(self._marks.values(), default=MIN_WATERMARK)
        else:
            combined = min(m for s, m in self._marks.items() if s not in self._idle)
        risen = combined > self.current
        if risen:
            self.current = combined
        return risen
