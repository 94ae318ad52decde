"""Epochs of one topology: when to take a snapshot, when it counts, what a death leads to (pure).

An epoch is *taken* (every copy is asked for its state), *stored* (all copies have said that their
state is durable, so the manifest may be written) and *committed* (the manifest is durable). Only
one is under way at a time. One that is not complete in time, or that a copy could not store, is
aborted: the copies pass its markers on all the same, and what it would have covered is covered by
the next. A death takes all copies back to the last committed epoch, in a new *attempt*; what is
heard of an earlier attempt is dropped and counted. After too many deaths in a while it gives up,
with their story. Where the copies can do that, one that died is brought back alone: the epoch under
way goes on and waits for it.

::

    idle --(interval | request)--> taking --(all durable)--> storing --(durable)--> idle
                                      \\--(deadline | cannot store)--> idle, aborted
    any  --(death)--> down --(begin)--> idle, one attempt later
    any but storing --(death of one that can come back)--> the same, without its report

When the copies are *self-paced* they close epochs by themselves, at the same points of their common
work (supersteps on a cycle, where no barrier can align): they are asked for the next one in
advance, and the number is theirs.

Calls take the time as an argument and return effects in order; the caller carries them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Abort", "Commit", "Effect", "Epochs", "GiveUp", "Recover", "RollBack", "Store", "Take"]

# Deaths told in the error of a topology that is given up; more would hide the first.
_STORY_LINES_MAX = 20
# When all copies have ended and the manifest of that cannot be written: a full disk may have room
# again, but nobody's work paces the attempts any more.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Take:
    """Ask every copy for its state at the end of the epoch before `epoch`.

    `committed` is the last committed epoch. Of self-paced copies the number is a lower bound.
    """

    epoch: int
    committed: int


@dataclass(frozen=True, slots=True)
class Store:
    """Write the manifest of an epoch; answer with `on_stored` or `on_failed`."""

    epoch: int
    reports: dict[int, Any]


@dataclass(frozen=True, slots=True)
class Commit:
    """The epoch counts: make visible what it covers. `final`: every copy had ended in it."""

    epoch: int
    reports: dict[int, Any]
    final: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """The epoch will never count."""

    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """End every copy and start all of them from `epoch` (0: from the beginning), then `begin`."""

    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Recover:
    """Start one copy from `epoch` while the others go on; if that cannot be: `on_not_recovered`."""

    copy: int
    epoch: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End every copy for good; `story` has one line a death."""

    story: str


Effect = Take | Store | Commit | Abort | RollBack | Recover | GiveUp


class Epochs:
    """The coordinator of one topology.

    Args:
        copies: ids of all copies.
        every: seconds from one epoch to the next; None: only on request.
        self_paced: the copies close epochs by themselves; `every` says nothing then.
        timeout: seconds an epoch may take before it is aborted.
        restarts: deaths within `restart_seconds` that are answered by a rollback.
        restart_seconds: see `restarts`.
        committed: the epoch to begin at; 0: the beginning.
        highest: the highest number that any epoch ever had here.

    Attributes:
        committed: the last committed epoch.
        attempt: which start of the copies this is, from 1.
        pending: the epoch under way, or None.
        commits, aborts, rollbacks: how many so far.
        recoveries: deaths after which one copy was to come back alone.
        dropped: reports of earlier attempts and aborted epochs.
        last_abort: why the last aborted epoch was, "" if none was.
        last_seconds: from asking for the last committed epoch to its commit.
    """

    def __init__(
        self,
        copies: Iterable[int],
        *,
        every: float | None,
        self_paced: bool = False,
        timeout: float,
        restarts: int,
        restart_seconds: float,
        committed: int = 0,
        highest: int = 0,
    ) -> None:
        self._copies = frozenset(copies)
        self._every = every
        self._self_paced = self_paced
        self._timeout = timeout
        self._restarts = restarts
        self._restart_seconds = restart_seconds
        self.committed = committed
        self._highest = max(committed, highest)
        self.attempt = 1
        self.pending: int | None = None
        self._reports: dict[int, Any] = {}
        self._ended: dict[int, Any] = {}
        self._storing = False
        self._requested = False
        self._running = False
        self._began = 0.0
        self._next: float | None = None
        self._deadline: float | None = None
        self._deaths: deque[tuple[float, str]] = deque()
        self.commits = self.aborts = self.rollbacks = self.recoveries = self.dropped = 0
        self.last_abort = ""
        self.last_seconds = 0.0

    # ------------------------------------------------------------------ time

    def begin(self, now: float) -> list[Effect]:
        """Every copy of this attempt has started."""
        self._running = True
        if self._self_paced or self._requested:
            return self._take(now)
        self._next = None if self._every is None else now + self._every
        return []

    def due(self) -> float | None:
        """When `tick` has something to do; None: not without an event."""
        if not self._running:
            return None
        return self._deadline if self.pending is not None else self._next

    def tick(self, now: float) -> list[Effect]:
        """Time has passed."""
        due = self.due()
        if due is None or now < due:
            return []
        if self.pending is None:
            return self._take(now)
        missing = sorted(self._copies - self._reports.keys() - self._ended.keys())
        return self._abort(now, f"not complete within {self._timeout:g} s: no state of {missing}")

    def request(self, now: float) -> list[Effect]:
        """An epoch is wanted now; while one is under way, right after it."""
        if self._self_paced:
            return []  # it is asked for already
        if self._running and self.pending is None:
            return self._take(now)
        self._requested = True
        return []

    def _take(self, now: float) -> list[Effect]:
        self._requested = False
        self._reports = {}
        self._began = now
        if self._self_paced and len(self._ended) < len(self._copies):
            return [Take(self._highest + 1, self.committed)]  # under way once a copy has closed it
        self._open(self._highest + 1, now)
        if len(self._ended) == len(self._copies):
            return self._complete()
        return [Take(self._highest, self.committed)]

    def _open(self, epoch: int, now: float) -> None:
        self.pending = self._highest = epoch
        self._deadline = now + self._timeout

    # ------------------------------------------------------------------ reports

    def on_durable(
        self, attempt: int, copy: int, epoch: int, report: Any, now: float
    ) -> list[Effect]:
        """The state of one copy is durable; `report` says where."""
        if self._opens(attempt, epoch):
            self._open(epoch, now)
        if attempt != self.attempt or epoch != self.pending or self._storing:
            self.dropped += 1
            return []
        self._reports[copy] = report
        return self._complete()

    def on_ended(self, attempt: int, copy: int, report: Any, now: float) -> list[Effect]:
        """A copy has ended and its result is durable: that is its state in every epoch to come.

        What it had to report of earlier epochs must have been told before.
        """
        if attempt != self.attempt or not self._running:
            self.dropped += 1
            return []
        self._ended[copy] = report
        if self.pending is not None:
            return self._complete()
        if self._self_paced and len(self._ended) == len(self._copies):
            return self._take(now)
        return []

    def _complete(self) -> list[Effect]:
        if self._storing or len(self._ended.keys() | self._reports.keys()) < len(self._copies):
            return []
        assert self.pending is not None
        self._reports = {**self._ended, **self._reports}
        self._storing, self._deadline = True, None
        return [Store(self.pending, self._reports)]

    def _opens(self, attempt: int, epoch: int) -> bool:
        """Whether this is news of the epoch that self-paced copies are closing."""
        if not self._self_paced or self.pending is not None or attempt != self.attempt:
            return False
        return self._running and epoch > self._highest

    def on_failed(self, attempt: int, epoch: int, why: str, now: float) -> list[Effect]:
        """A copy could not store its state, or the manifest could not be written.

        Epoch 0 stands for the end of a copy, which whatever is under way would need.
        """
        epoch = epoch or self.pending or 0
        if self._opens(attempt, epoch):
            self._open(epoch, now)
        if attempt != self.attempt or epoch != self.pending:
            self.dropped += 1
            return []
        return self._abort(now, why)

    def on_stored(self, epoch: int, now: float) -> list[Effect]:
        """The manifest is durable."""
        assert self._storing, "a manifest that nobody has asked for"
        assert epoch == self.pending, "a manifest of another epoch"
        reports = self._reports
        self.committed = epoch
        self.commits += 1
        self.last_seconds = now - self._began
        final = all(reports[copy] is self._ended.get(copy) for copy in reports)
        if final:
            self._running, self.pending = False, None
            return [Commit(epoch, reports, True)]
        return [Commit(epoch, reports, False), *self._settle(now)]

    def _abort(self, now: float, why: str) -> list[Effect]:
        epoch = self.pending
        assert epoch is not None
        self.aborts += 1
        self.last_abort = why
        return [Abort(epoch, why), *self._settle(now)]

    def _settle(self, now: float) -> list[Effect]:
        """No epoch is under way any more."""
        self.pending = self._deadline = None
        self._storing = False
        self._reports = {}
        self._next = None
        if self._self_paced and len(self._ended) == len(self._copies):
            self._next = now + _RETRY_SECONDS  # only the last manifest is missing
            return []
        if self._self_paced or self._requested:
            return self._take(now)
        if self._every is None:
            return []
        # From the beginning of the last one, but never at once: the copies have work to do.
        self._next = max(self._began + self._every, now + self._every / 2)
        return []

    # ------------------------------------------------------------------ deaths

    def on_death(self, attempt: int, story: str, now: float) -> list[Effect]:
        """A copy has died (or cannot go on for another's death)."""
        if attempt != self.attempt:
            self.dropped += 1  # the whole attempt has been ended for it already
            return []
        self._count(story, now)
        return self._roll_back(story, now)

    def on_lost(self, attempt: int, copy: int, story: str, now: float) -> list[Effect]:
        """A copy has died that may be able to come back alone.

        What it had to report of the epoch under way it will report again.
        """
        if attempt != self.attempt:
            self.dropped += 1
            return []
        self._count(story, now)
        # While a manifest is written that may name its state, the copy must not go behind it.
        if not self._running or self._storing or len(self._deaths) > self._restarts:
            return self._roll_back(story, now)
        self._reports.pop(copy, None)
        self._ended.pop(copy, None)
        self.recoveries += 1
        return [Recover(copy, self.committed)]

    def on_not_recovered(self, attempt: int, why: str, now: float) -> list[Effect]:
        """The copy of a `Recover` could not come back alone; its death has been counted."""
        if attempt != self.attempt:
            self.dropped += 1
            return []
        return self._roll_back(why, now)

    def _count(self, story: str, now: float) -> None:
        self._deaths.append((now, story))
        while now - self._deaths[0][0] > self._restart_seconds:
            self._deaths.popleft()

    def _roll_back(self, story: str, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.pending is not None:
            self.aborts += 1
            self.last_abort = story
            effects.append(Abort(self.pending, story))
        self.pending = self._deadline = self._next = None
        self._running = self._storing = False
        self._reports, self._ended = {}, {}
        if self._self_paced:
            self._highest = self.committed  # they will come to the same points again
        if len(self._deaths) > self._restarts:
            return [*effects, GiveUp(self._story(now))]
        self.attempt += 1
        self.rollbacks += 1
        return [*effects, RollBack(self.attempt, self.committed)]

    def fall_back(self, epoch: int) -> None:
        """The checkpoint of the committed epoch cannot be read: `epoch` is the last one now."""
        assert not self._running, "a checkpoint is read before the copies run"
        self.committed = epoch
        if self._self_paced:
            self._highest = epoch

    def _story(self, now: float) -> str:
        lines = [f"  {now - when:.1f} s ago: {what}" for when, what in self._deaths]
        more = len(lines) - _STORY_LINES_MAX
        if more > 0:
            lines = [f"  ({more} earlier ones)", *lines[more:]]
        return "\n".join(lines)

    def __repr__(self) -> str:
        state = "down" if not self._running else "idle"
        if self.pending is not None:
            missing = sorted(self._copies - self._reports.keys() - self._ended.keys())
            state = f"epoch {self.pending} under way, no state of {missing}"
        return f"Epochs(attempt {self.attempt}, committed {self.committed}, {state})"
