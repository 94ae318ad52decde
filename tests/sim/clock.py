"""Virtual time: a heap of what happens when. Ties go in the order in which they were made."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

__all__ = ["Clock"]


class Clock:
    """The time of a world, in seconds from its start."""

    __slots__ = ("_count", "_heap", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Have `action(*args)` happen at `when`, which has not passed."""
        self._count += 1
        heappush(self._heap, (when, self._count, action, args))

    def after(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Have `action(*args)` happen `delay` seconds from now."""
        self.at(self.now + delay, action, *args)

    def next(self) -> float | None:
        """When the next thing happens; None when nothing will ever happen again."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """Go on to the next thing and let it happen."""
        self.now, _, action, args = heappop(self._heap)
        action(*args)
