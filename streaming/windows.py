"""Window shapes and the slices they share (pure).

A hopping window of size 10 s every 4 s is cut in slices of gcd(10, 4) = 2 s. Rows are aggregated
once, into the slice they fall in; a window is the merge of its `per_window` slices, and neighbours
share them. A tumbling window is the case of one slice. (Krishnamurthi et al., "On-the-fly sharing
for streamed aggregation", SIGMOD 2006; Traub et al., "Scotty", EDBT 2019.)

Slice q covers [offset + q*width, offset + (q+1)*width); window j covers the slices
[j*step, j*step + per_window). All divisions are floor divisions: instants before the epoch are
ordinary instants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streaming.time import (
    MAX_WATERMARK,
    MIN_WATERMARK,
    Duration,
    EventTime,
    duration_ns,
    format_duration,
)

__all__ = ["Slices", "WindowShape", "hop", "tumble"]


@dataclass(frozen=True)
class WindowShape:
    """Size, distance and offset of time windows, in nanoseconds; made by `tumble` and `hop`."""

    size_ns: int
    every_ns: int
    offset_ns: int

    def __str__(self) -> str:
        offset = f", offset={format_duration(self.offset_ns)}" if self.offset_ns else ""
        if self.size_ns == self.every_ns:
            return f"tumble({format_duration(self.size_ns)}{offset})"
        every = format_duration(self.every_ns)
        return f"hop({format_duration(self.size_ns)}, every={every}{offset})"

    def bind(self, type_: pa.DataType) -> Slices:
        """The shape in ticks of an event-time type; ValueError when it is finer than a tick."""
        return Slices(
            size=EventTime.ticks_in(self.size_ns, type_, "window size"),
            every=EventTime.ticks_in(self.every_ns, type_, "window every"),
            offset=EventTime.ticks_in(self.offset_ns, type_, "window offset"),
        )


def tumble(size: Duration, *, offset: Duration = 0) -> WindowShape:
    """Windows of one size, end to end. They begin at multiples of `size` since the epoch, + offset.

    `tumble("1d", offset="-2h")` gives days of a zone two hours ahead of UTC. ValueError when size
    is not positive.
    """
    return _shape(size, size, offset, "tumble")


def hop(size: Duration, *, every: Duration, offset: Duration = 0) -> WindowShape:
    """Windows of `size` that begin `every` so often; each row is in about size/every of them.

    ValueError when size or every is not positive, or every is larger than size (rows would fall
    between windows).
    """
    return _shape(size, every, offset, "hop")


def _shape(size: Duration, every: Duration, offset: Duration, verb: str) -> WindowShape:
    size_ns = duration_ns(size, f"{verb}: size")
    every_ns = duration_ns(every, f"{verb}: every")
    if size_ns <= 0:
        raise ValueError(f"{verb}: size must be positive, found {size!r}")
    if every_ns <= 0:
        raise ValueError(f"{verb}: every must be positive, found {every!r}")
    if every_ns > size_ns:
        raise ValueError(
            f"{verb}: every ({every!r}) must not be larger than size ({size!r}), "
            f"or rows would fall between the windows"
        )
    return WindowShape(size_ns, every_ns, duration_ns(offset, f"{verb}: offset") % every_ns)


@dataclass(frozen=True)
class Slices:
    """The arithmetic of one window shape in ticks."""

    size: int
    every: int
    offset: int

    @property
    def width(self) -> int:
        """Ticks of one slice."""
        return math.gcd(self.size, self.every)

    @property
    def per_window(self) -> int:
        """Slices of one window."""
        return self.size // self.width

    @property
    def step(self) -> int:
        """Slices from the start of one window to the start of the next."""
        return self.every // self.width

    def of(self, ticks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The slice of each instant."""
        return np.floor_divide(ticks - self.offset, self.width)

    def slice_of(self, tick: int) -> int:
        """The slice of one instant."""
        return (tick - self.offset) // self.width

    def first_window(self, slice_: int) -> int:
        """The earliest window that contains a slice."""
        return -((self.per_window - 1 - slice_) // self.step)

    def last_window(self, slice_: int) -> int:
        """The latest window that contains a slice."""
        return slice_ // self.step

    def last_closed(self, watermark: int) -> int:
        """The latest window whose end is not after the watermark."""
        return (watermark - self.offset - self.size) // self.every

    def start(self, window: int) -> int:
        """First instant of a window."""
        return window * self.every + self.offset

    def end(self, window: int) -> int:
        """First instant after a window."""
        return self.start(window) + self.size

    def late_before(self, watermark: int) -> int:
        """Instants below this one are late: every window that contains them has closed."""
        return self.start(self.last_closed(watermark) + 1)

    def check_range(self, low: int, high: int) -> None:
        """ValueError when a window around these instants leaves the range of 64 bits."""
        if low - self.offset - self.size < MIN_WATERMARK or high + self.size > MAX_WATERMARK:
            raise ValueError(
                f"event times {low}..{high} are too close to the limits of 64 bits for windows "
                f"of {self.size} ticks; are they in the unit of the column's type?"
            )
