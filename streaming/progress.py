"""The progress bar of a running job: rows, rate and watermark, on a terminal only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from streaming.member import SOURCE_ROWS, WATERMARK
from streaming.time import EventTime

__all__ = ["ProgressBar", "SourceProgress"]


class _Copy(Protocol):
    """What is read of `engine.topology.MemberStatistics`."""

    @property
    def member(self) -> str:
        """Name of the member."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What the member has counted."""


class SourceProgress:
    """Sums the counters of the sources; pure, apart from the clock given."""

    def __init__(
        self, times: dict[str, EventTime | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._times = times
        self._clock = clock
        self._began_s = clock()

    def text(self, statistics: Sequence[_Copy]) -> str:
        """One line: rows read, rows a second since the start, lowest watermark of a source."""
        rows = sum(copy.counters.get(SOURCE_ROWS, 0) for copy in statistics)
        seconds = self._clock() - self._began_s
        rate = rows / seconds if seconds > 0 else 0.0
        text = f"{rows:,} rows, {rate:,.0f} rows/s"
        marks = []
        for name, event_time in self._times.items():
            copies = [
                copy.counters[WATERMARK]
                for copy in statistics
                if copy.member == name and WATERMARK in copy.counters
            ]
            if event_time is not None and copies:
                marks.append(_instant(min(copies), event_time))
        return f"{text}, watermark {min(marks)}" if marks else text


def _instant(watermark: int, event_time: EventTime) -> str:
    tick_ns = event_time.tick_ns(event_time.type) or 1
    seconds = watermark * tick_ns / 1e9
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(watermark)  # an int64 time that counts from elsewhere


class ProgressBar:
    """Shows a line while a job runs; silent unless `shown`."""

    def __init__(self, name: str, source: SourceProgress, shown: bool | None) -> None:
        console = Console(stderr=True)
        self._source = source
        self._progress: Progress | None = None
        if shown if shown is not None else console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._progress.add_task(name)
        self._name = name

    @property
    def is_shown(self) -> bool:
        """Whether updates are worth making."""
        return self._progress is not None

    def update(self, statistics: Sequence[_Copy]) -> None:
        """Redraw."""
        if self._progress is not None:
            text = f"{self._name}: {self._source.text(statistics)}"
            self._progress.update(self._task, description=text)

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
