"""The actor's half of exactly-once: which calls it has applied, and the answers still wanted.

A call is known by its caller and the number the caller gave it. A caller that lost the answer
(the actor died before it left, or the caller itself is an actor that is being replayed) sends the
call again and gets the answer again; it is not applied twice. An answer is kept until the caller
says that it has it: `acked`, which rides on its later calls.

A `caller` is a process, or an actor that is replayed itself: then its calls keep their numbers
across its deaths, and it acknowledges an answer when its own checkpoint covers it.

Pure: the ledger is told what happens; what it holds of replies is opaque to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.core.order import OrderLog, Run

__all__ = ["APPLY", "KNOWN", "RUNNING", "SKIPPED", "Caller", "Ledger", "Untold"]

# What is to be done with a call that has come.
APPLY, RUNNING, KNOWN, SKIPPED = "apply", "running", "known", "skipped"
# (first order number, runs, number of the first event, events)
Untold = tuple[int, list[Run], int, list[Any]]


class Caller:
    """What the actor knows of one caller."""

    __slots__ = ("acked", "answers", "next", "running")

    def __init__(self, following: int = 0) -> None:
        self.next = following  # number of the next call
        self.acked = -1
        self.answers: dict[int, Any] = {}  # by number, those not acknowledged
        # Calls of an actor being applied, and whom to answer: (process, call id), the last asker.
        self.running: dict[int, tuple[bytes, bytes]] = {}

    def acknowledge(self, acked: int) -> None:
        """The caller has the answers up to number `acked`."""
        answers = self.answers
        if acked >= self.next - 1:
            answers.clear()
        for seq in range(self.acked + 1, acked + 1):
            if not answers:
                break
            answers.pop(seq, None)
        self.acked = acked

    def has_answered(self, seq: int) -> bool:
        """Whether the answer to an applied call is known."""
        return seq <= self.acked or seq in self.answers


class Ledger:
    """Calls applied by one actor.

    `ordered`: the actor is replayed, so the order of its calls is logged too.
    """

    def __init__(self, ordered: bool) -> None:
        self.ordered = ordered
        self.callers: dict[bytes, Caller] = {}
        self.applied = 0  # since the last checkpoint
        self._log = OrderLog()
        self._told: dict[bytes, list[int]] = {}  # process -> [order, events] it knows
        # Most calls come from the process that the last one came from, and it counts for itself.
        # Such a streak costs a call nothing but its number: it is written into the log, and into
        # what the process was told, when somebody looks.
        self._streak: Caller | None = None
        self._process = b""  # whose streak it is
        self._from = 0  # its first call that is not in the log
        # The streak's caller, while its process knows all of the log but a call being applied.
        self.in_step: Caller | None = None

    @property
    def log(self) -> OrderLog:
        """The order of the calls so far."""
        streak = self._streak
        if streak is not None:
            following = streak.next
            if following > self._from:
                self._log.append_run(self._process, self._from, following - self._from)
                self._from = following
            if self.in_step is not None:
                self.in_step = None
                told = self._told[self._process]
                told[0] = self._log.end - (not streak.has_answered(following - 1))
        return self._log

    # ------------------------------------------------------------------ calls

    def arrive(self, caller: bytes, seq: int, acked: int, asker: tuple[bytes, bytes]) -> str:
        """A call has come: APPLY it, or it is RUNNING (the answer goes to this asker), or KNOWN.

        SKIPPED: later ones of its caller were applied, so it was cancelled before its turn.
        """
        known = self.callers.get(caller)
        if known is None:
            known = self.callers[caller] = Caller()
        if acked > known.acked:
            known.acknowledge(acked)
        if seq >= known.next:
            return APPLY
        if seq in known.running:
            known.running[seq] = asker
            return RUNNING
        return KNOWN if seq <= known.acked or seq in known.answers else SKIPPED

    def begin(self, caller: bytes, seq: int) -> Caller:
        """The call is applied now: it gets the next order number."""
        known = self.callers[caller]
        if self.ordered:
            log, self._streak = self.log, None
            log.append(caller, seq)
            self.applied += 1
        known.next = seq + 1
        return known

    def begin_if_new(self, process: bytes, seq: int, acked: int) -> Caller | None:
        """`arrive` and `begin` in one, for the usual case; None when it is anything else."""
        known = self._streak
        if known is None or seq != known.next or process != self._process:
            known = self.callers.get(process)
            if known is None or seq < known.next:
                return None
            self.log  # noqa: B018  (what there was of a streak is written)
            self._streak, self._process, self._from = known, process, seq
        if acked > known.acked:
            if acked == known.acked + 1:
                known.acked = acked
                known.answers.pop(acked, None)
            else:
                known.acknowledge(acked)
        known.next = seq + 1
        self.applied += 1
        return known

    def covered_of(self, caller: bytes) -> int:
        """The number of a caller's last call that is not in the log: a checkpoint covers it."""
        for one, seq, _count in self.log.runs:
            if one == caller:
                return int(seq) - 1
        known = self.callers.get(caller)
        return -1 if known is None else known.next - 1

    def answer(self, caller: bytes, seq: int) -> Any:
        """The answer of a known call; None when the caller has acknowledged it."""
        return self.callers[caller].answers.get(seq)

    # ------------------------------------------------------------------ what others know

    def before_answer(self, process: bytes) -> Untold | None:
        """What a process has to be told before the answer to its call, the last one applied.

        It counts that call itself, unless the call was told something (an event): should the answer
        be lost, what is known of events must not be about a call whose number another one takes.
        """
        log = self.log
        told_itself = bool(log.events) and log.events[-1][0] == log.end
        lacks = self._untold(process, log.end if told_itself else log.end - 1)
        self._told[process] = [log.end, log.event_end]
        if process == self._process:
            self.in_step = self._streak
        return lacks

    def before_effect(self, process: bytes) -> Untold | None:
        """What a process has to be told before it sees anything else of this actor."""
        log = self.log
        lacks = self._untold(process, log.end)
        self._told[process] = [log.end, log.event_end]
        return lacks

    def _untold(self, process: bytes, order: int) -> Untold | None:
        log, known = self._log, self._told.get(process)
        if known is None:  # even an empty part tells it where it stands
            known = [log.start, log.event_start]
        elif known[0] >= order and known[1] >= log.event_end:
            return None
        told, event = max(known[0], log.start), max(known[1], log.event_start)
        runs = log.since(told)
        if order < log.end:
            runs = _shortened(runs, log.end - order)
        return told + 1, runs, event, log.events_since(event)

    def told(self) -> list[bytes]:
        """The processes that know some of the log."""
        return list(self._told)

    # ------------------------------------------------------------------ checkpoints

    def snapshot(self, pack: Callable[[dict[int, Any]], Any] = dict) -> dict[str, Any]:
        """What a checkpoint has to hold of the ledger; no call may be running.

        `pack` copies the answers of one caller, in whatever form; `restore` has its inverse.
        """
        log = self.log
        return {
            "order": log.end,
            "events": log.event_end,
            "callers": {
                one: (known.next, known.acked, pack(known.answers))
                for one, known in self.callers.items()
            },
        }

    def restore(
        self, saved: dict[str, Any], unpack: Callable[[Any], dict[int, Any]] = dict
    ) -> None:
        """Become what `snapshot` described."""
        self._log = OrderLog(saved["order"], saved["events"])
        self._streak = self.in_step = None
        self.applied = 0
        self._told.clear()
        self.callers = {}
        for one, (following, acked, answers) in saved["callers"].items():
            known = self.callers[one] = Caller(following)
            known.acked = acked
            known.answers = unpack(answers)

    def covered(self, order: int, event: int) -> None:
        """A checkpoint with everything up to these numbers is safe."""
        self.log.trim(order, event)

    def forget(self, caller: bytes, process: bytes) -> None:
        """A caller is gone for good."""
        if process == self._process:
            self.log  # noqa: B018  (its streak is written)
            self._streak = None
        self.callers.pop(caller, None)
        self._told.pop(process, None)


def _shortened(runs: list[Run], count: int) -> list[Run]:
    """The runs without the last `count` calls."""
    runs = list(runs)
    while count and runs:
        caller, seq, size = runs.pop()
        if size > count:
            runs.append((caller, seq, size - count))
            return runs
        count -= size
    return runs
