"""What a `Crew` deals with: functions, segments of submitted work, batches given to a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

__all__ = ["BATCH_SECONDS", "Admitted", "Batch", "Function", "Segment", "Sink"]

# A batch should take this long: 20 times the cost of a message, and short for whoever waits.
BATCH_SECONDS = 0.003
_BATCH_ITEMS_MAX = 1024
_GROWTH = 4


class Sink(Protocol):
    """Where outcomes go. Called by any thread, under no lock of the crew except `admit`."""

    def admit(self, start: int) -> bool:
        """Whether the work from item `start` on may begin; False drops it (it was cancelled)."""

    def deliver(self, start: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Outcomes of the items from `start` on; `errors` by position in `values`."""


class Function:
    """A function as workers know it: shipped once and kept (`kept`), or with every batch."""

    __slots__ = ("batch", "call", "kept", "key")

    def __init__(self, key: int, call: Callable[..., Any], kept: bool) -> None:
        self.key = key
        self.call = call
        self.kept = kept
        self.batch = 1.0

    def learn(self, count: int, seconds: float) -> None:
        """Adapt the batch size to what `count` items took."""
        fitting = BATCH_SECONDS * count / max(seconds, 1e-7)
        self.batch = max(1.0, min(fitting, self.batch * _GROWTH, _BATCH_ITEMS_MAX))


class Segment:
    """Consecutive items of one submission: a function, argument tuples, where they belong."""

    __slots__ = ("function", "items", "sink", "start")

    def __init__(self, function: Function, items: Sequence[Any], sink: Sink, start: int) -> None:
        self.function = function
        self.items = items
        self.sink = sink
        self.start = start

    def split(self, at: int) -> Segment:
        """Keep the first `at` items; the rest becomes a segment of its own."""
        rest = Segment(self.function, self.items[at:], self.sink, self.start + at)
        self.items = self.items[:at]
        return rest

    def deliver(self, at: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        self.sink.deliver(self.start + at, values, errors)

    def fail(self, error: BaseException) -> None:
        count = len(self.items)
        self.sink.deliver(self.start, [None] * count, dict.fromkeys(range(count), error))


class Batch:
    """What a worker has: segments, how many items are delivered already, when it was sent."""

    __slots__ = ("asked", "count", "done", "segments", "sent")

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self.count = sum(len(one.items) for one in segments)
        self.done = 0
        self.sent = perf_counter()
        self.asked = False

    def cut(self, keep: int) -> list[Segment]:
        """Keep the first `keep` items; the segments of the rest."""
        rest: list[Segment] = []
        at = 0
        kept = []
        for segment in self.segments:
            size = len(segment.items)
            if at >= keep:
                rest.append(segment)
            else:
                if at + size > keep:
                    rest.append(segment.split(keep - at))
                kept.append(segment)
            at += size
        self.segments, self.count = kept, keep
        return rest

    def advance(
        self, values: list[Any], errors: dict[int, BaseException]
    ) -> list[tuple[Segment, int, list[Any], dict[int, BaseException]]]:
        """Deliveries that are due when the outcomes of the first len(values) items are known."""
        due = []
        at = 0
        for segment in self.segments:
            first, last = max(at, self.done), min(at + len(segment.items), len(values))
            if first < last:
                part = {p - first: errors[p] for p in errors if first <= p < last}
                due.append((segment, first - at, values[first:last], part))
            at += len(segment.items)
        self.done = max(self.done, min(len(values), self.count))
        return due


class Admitted:
    """A sink that has agreed to its work before."""

    __slots__ = ("deliver",)

    def __init__(self, sink: Sink) -> None:
        self.deliver = sink.deliver

    def admit(self, start: int) -> bool:
        return start >= 0
