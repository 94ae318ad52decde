"""What a copy of a member has done, and how it spent its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = [
    "BACKPRESSURED",
    "BUSY",
    "IDLE",
    "CheckpointStatistics",
    "MemberStatistics",
    "Stopwatch",
]

BUSY, IDLE, BACKPRESSURED = range(3)


@dataclass(frozen=True, slots=True, repr=False)
class MemberStatistics:
    """One copy of one member.

    Attributes:
        member, index: which copy.
        rows_in, batches_in, bytes_in: processed; items of meta only are not counted.
        rows_out, batches_out, bytes_out: emitted, counted once a receiver.
        busy, idle, backpressured: shares of the time since the start, 0..1.
        counters: what the member counted by `ctx.count`.
        queue_rows: received and not yet processed.
    """

    member: str
    index: int
    rows_in: int
    rows_out: int
    batches_in: int
    batches_out: int
    bytes_in: int
    bytes_out: int
    busy: float
    idle: float
    backpressured: float
    counters: Mapping[str, int]
    queue_rows: int

    def __repr__(self) -> str:
        counters = "".join(f", {name}={n}" for name, n in sorted(self.counters.items()))
        return (
            f"<{self.member}[{self.index}] in {self.rows_in} rows/{self.batches_in} batches, "
            f"out {self.rows_out} rows/{self.batches_out} batches, queued {self.queue_rows} rows, "
            f"busy {self.busy:.0%} idle {self.idle:.0%} backpressured {self.backpressured:.0%}"
            f"{counters}>"
        )


@dataclass(frozen=True, slots=True)
class CheckpointStatistics:
    """The checkpoints of one run of a topology.

    Attributes:
        attempt: which start of the copies is running, from 1.
        epoch: the last committed one; 0: none.
        commits, aborts: epochs of this run.
        rollbacks: deaths that were answered by going back to the last committed epoch.
        dropped: reports of earlier attempts or aborted epochs that came too late.
        damaged: epochs that could not be read and were left out.
        bytes_written: of committed states.
        states_reused: states that had not changed since the epoch before and were not written.
        last_seconds: what the last committed epoch took, from asking the copies to its commit.
        last_abort: why the last aborted epoch was; "" if none was.
        recoveries: deaths after which one copy was to come back alone; those in which that could
            not be are among the rollbacks as well.
        last_fallback: why it could not the last time; "" if it always could.
        last_recovery_seconds: what the last one took that came back alone, from hearing of its
            death until it had done again what it had done before.
    """

    attempt: int
    epoch: int
    commits: int
    aborts: int
    rollbacks: int
    dropped: int
    damaged: int
    bytes_written: int
    states_reused: int
    last_seconds: float
    last_abort: str
    recoveries: int = 0
    last_fallback: str = ""
    last_recovery_seconds: float = 0.0


class Stopwatch:
    """Adds up the seconds spent in each mode; reads the clock only when the mode changes.

    Args:
        clock: seconds that never go back.

    Attributes:
        mode: the current one, at first IDLE.
    """

    __slots__ = ("_clock", "_seconds", "_since", "mode")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._seconds = [0.0, 0.0, 0.0]
        self.mode = IDLE

    def switch(self, mode: int) -> None:
        """Enter `mode`."""
        if mode == self.mode:
            return
        now = self._clock()
        self._seconds[self.mode] += now - self._since
        self._since = now
        self.mode = mode

    def shares(self) -> tuple[float, float, float]:
        """Shares (0..1) of the time so far: busy, idle, backpressured; all 0 at the start."""
        seconds = list(self._seconds)
        seconds[self.mode] += self._clock() - self._since
        total = sum(seconds)
        if total <= 0:
            return 0.0, 0.0, 0.0
        return seconds[BUSY] / total, seconds[IDLE] / total, seconds[BACKPRESSURED] / total
