"""The order in which an actor applied calls: what its callers must know to have it replayed.

An actor's state is a function of its checkpoint and of the calls applied since, in their order.
The calls lie with their callers; the order is this log. It is kept by whoever has seen an effect of
it: each reply (and each call that the actor makes) is preceded by the part of the log that its
receiver lacks, so nobody has ever seen a state whose history is not known outside of the actor
(causal logging; "Lineage Stash", SOSP 2019). Nothing is written on the path of a call.

Calls of one caller applied one after another are one *run*, so with one caller the whole log is a
single run and nothing of it is ever sent: the caller counts for itself.

*Events* are what the engine told the actor that may differ the next time: clock readings, which
of several objects came first. They are logged for actors with `replayable=True`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OrderLog", "Run"]

# Caller, number of the first call, how many.
Run = tuple[bytes, int, int]


class OrderLog:
    """Calls number `start + 1` to `end` of an actor, in order, and the events among them.

    Order numbers count the calls ever applied, from 1. What a checkpoint covers is forgotten.
    """

    __slots__ = ("end", "event_end", "event_start", "events", "runs", "start")

    def __init__(self, start: int = 0, event_start: int = 0) -> None:
        self.start = start
        self.end = start
        self.runs: list[list[Any]] = []
        self.event_start = self.event_end = event_start
        self.events: list[tuple[int, Any]] = []  # (order number, what was told)

    def append(self, caller: bytes, seq: int) -> None:
        """The next call applied is number `seq` of `caller`."""
        runs = self.runs
        if runs:
            last = runs[-1]
            if last[1] + last[2] == seq and last[0] == caller:
                last[2] += 1
                self.end += 1
                return
        self.append_run(caller, seq, 1)

    def append_run(self, caller: bytes, seq: int, count: int) -> None:
        """The next `count` calls are those of `caller` from number `seq` on."""
        self.end += count
        if self.runs:
            last = self.runs[-1]
            if last[0] == caller and last[1] + last[2] == seq:
                last[2] += count
                return
        self.runs.append([caller, seq, count])

    def known(self) -> tuple[int, list[Run], int, list[Any]]:
        """All that is known, as `extend` takes it."""
        return self.start + 1, self.since(0), self.event_start, self.events

    def note(self, told: Any) -> None:
        """An event during the last call."""
        self.repeat((self.end, told))

    def repeat(self, event: tuple[int, Any]) -> None:
        """An event of a known number."""
        self.events.append(event)
        self.event_end += 1

    def since(self, order: int) -> list[Run]:
        """The runs after number `order`."""
        wanted = self.end - max(order, self.start)
        found: list[Run] = []
        for caller, seq, count in reversed(self.runs):
            if wanted <= 0:
                break
            part = min(count, wanted)
            found.append((caller, seq + count - part, part))
            wanted -= part
        found.reverse()
        return found

    def events_since(self, event: int) -> list[tuple[int, Any]]:
        """The events after the first `event` ones."""
        return self.events[max(0, event - self.event_start) :]

    def extend(self, first: int, runs: list[Run], event: int, events: list[Any]) -> None:
        """Learn a part of the log that begins with number `first`, after `event` events.

        What is known already is skipped; a part that would leave a gap begins the log anew, since
        it comes from behind a checkpoint that covers what lies before.
        """
        if first > self.end + 1:
            self.start = self.end = first - 1
            self.runs.clear()
        skip = self.end + 1 - first
        for caller, seq, count in runs:
            known = min(count, skip)
            skip -= known
            if count > known:
                self.append_run(caller, seq + known, count - known)
        if event > self.event_end:
            self.event_start = self.event_end = event
            self.events.clear()
        news = events[self.event_end - event :]
        self.events += news
        self.event_end += len(news)

    def trim(self, order: int, event: int) -> None:
        """Forget calls up to number `order` and the first `event` events: a checkpoint has them."""
        if order >= self.end:
            self.start = self.end = order
            self.runs.clear()
        elif order > self.start:
            self._drop(order - self.start)
            self.start = order
        if event > self.event_start:
            del self.events[: event - self.event_start]
            self.event_start = event
            self.event_end = event + len(self.events)

    def _drop(self, count: int) -> None:
        at = 0
        while self.runs[at][2] <= count:
            count -= self.runs[at][2]
            at += 1
        run = self.runs[at]
        run[1] += count
        run[2] -= count
        del self.runs[:at]
