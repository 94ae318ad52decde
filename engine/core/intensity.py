"""Restart intensity: how often a task or actor may die before it is given up, and its story.

A budget of retries bounds how often, not how fast; with an endless one, what kills its worker again
and again would keep the machine busy with forking. As in OTP's supervisors: so many deaths in so
many seconds, and it is over. Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Deaths", "backoff"]

_CAUSE_CHARACTERS_MAX = 120
_TOLD_MAX = 10


class Deaths:
    """The last deaths of one task or actor; `limit` of them within `seconds` are too many."""

    __slots__ = ("_limit", "_recent", "_seconds", "by_memory", "count")

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._recent: deque[tuple[float, int, str]] = deque(maxlen=max(1, limit))
        self.count = 0
        self.by_memory = 0  # of them, those that the memory watch caused

    def add(self, now: float, pid: int, cause: str) -> None:
        """Its process `pid` is dead."""
        self.count += 1
        self._recent.append((now, pid, cause))

    def too_many(self, now: float) -> bool:
        """Whether it must not be tried again, whatever its budget says."""
        return len(self._recent) >= self._limit and now - self._recent[0][0] <= self._seconds

    def story(self) -> str:
        """The last deaths, each with its time, pid and cause."""
        first, last = self._recent[0][0], self._recent[-1][0]
        count = len(self._recent)
        told = [
            f"+{when - first:.2f} s (pid {pid}) {_short(cause)}"
            for when, pid, cause in list(self._recent)[-_TOLD_MAX:]
        ]
        left_out = ["..."] if count > _TOLD_MAX else []
        return f"died {count} times within {last - first:.2f} s: {'; '.join(left_out + told)}"

    def limit_text(self) -> str:
        """Which limit was reached, and how to change it."""
        return (
            f"{self._limit} deaths within {self._seconds:g} s are the limit, whatever the budget "
            "of retries or restarts (engine.config.Config: restart_deaths_max, "
            "restart_window_seconds)"
        )


def _short(cause: str) -> str:
    cut = len(cause) > _CAUSE_CHARACTERS_MAX
    return cause[:_CAUSE_CHARACTERS_MAX] + " ..." if cut else cause


def backoff(attempt: int, first: float, longest: float) -> float:
    """Seconds to wait before try number `attempt` + 1: twice as long each time."""
    return float(min(longest, first * 2 ** min(attempt - 1, 30)))
