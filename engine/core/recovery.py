"""The replay of an actor that was restored from a checkpoint.

It has asked every process that may have seen an effect of it (`witnesses`) what of the order it
knows. Each knows a beginning of the same order (see `core.order`), so the longest answer is all of
it. Then the calls, which their callers send again, are applied in that order, and after them the
rest as they came. A call in the order whose caller is gone cannot be had any more: it is skipped
and counted (`lost`); its caller died together with the actor, before the next checkpoint. It keeps
its order number in the actor's log, and so do its events: others know what came after it, and what
was told then, by these numbers.

Pure: calls go in, calls to be applied come out.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from engine.core.order import OrderLog, Run
from engine.core.retention import ERROR, UNREAD

__all__ = ["Recovery"]


class Recovery:
    """One replay. `log` is the actor's own, empty behind its checkpoint."""

    def __init__(self, log: OrderLog, witnesses: set[bytes], until: float) -> None:
        self._log = log
        self._known = OrderLog(log.start, log.event_start)
        self._event = 0  # events of the order that have been told again, or skipped
        self.waiting = set(witnesses)  # processes, and actors that are replayed themselves
        self._until = until  # the wait for witnesses, and for each call, has an end
        self._patience = 0.0
        self._runs: deque[list[Any]] | None = None  # None until all witnesses have answered
        self._calls: dict[bytes, deque[Any]] = {}
        self._arrived: deque[tuple[bytes, Any]] = deque()
        # Whoever lives and has ever called is a witness: other callers in the order are gone.
        self._living = set(witnesses)
        # What `next` gave last was applied in an earlier life; or it is behind the order: it was
        # applied in this life, for another asker, or was cancelled before it could be applied.
        self.in_order = self.behind = False
        self.lost = 0
        self.replayed = 0

    def event(self) -> Any:
        """What the call that is being applied was told next; None if it was told no more."""
        events = self._known.events
        if self._event == len(events) or events[self._event][0] != self._log.end:
            return None
        self._event += 1
        return events[self._event - 1][1]

    def contradicts(self, outcome: int, reading: bool) -> bool:
        """Whether what has been seen is denied now that the call being applied raises a loss.

        `outcome` is how it was answered before; `reading`: it is an argument that is lost.
        """
        return self.in_order and outcome != UNREAD and (reading or outcome != ERROR)

    def counts_on(self) -> list[bytes]:
        """Whose death matters: those whose answers or calls may still be wanted."""
        return [*self.waiting, *self._living]

    @property
    def waits_for_witnesses(self) -> bool:
        """Whether the order is not known yet."""
        return self._runs is None

    def on_offer(
        self, witness: bytes, first: int, runs: list[Run], event: int, events: list[Any]
    ) -> None:
        """A witness tells what it knows."""
        if (runs or events) and first <= self._known.end + 1:
            self._known.extend(first, runs, event, events)
        self._answered(witness)

    def on_gone(self, process: bytes) -> None:
        """A process is dead, as a witness and as a caller."""
        self._living.discard(process)
        self._answered(process)

    def _answered(self, witness: bytes) -> None:
        self.waiting.discard(witness)
        if not self.waiting:
            self._begin()

    def _begin(self) -> None:
        if self._runs is None:
            self._runs = deque([caller, seq, count] for caller, seq, count in self._known.runs)

    def on_time(self, now: float, patience: float) -> None:
        """Time has passed: those that do not answer are given up at last."""
        if self._until <= now:
            self._until = now + patience
            if self._runs is None:
                self.waiting.clear()
                self._begin()
            elif self._runs:
                self._living.discard(self._runs[0][0])

    @property
    def until(self) -> float:
        """When `on_time` is due."""
        return self._until

    def on_call(self, caller: bytes, seq: int, item: Any) -> None:
        """A call has come; `seq` -1 for one that only reads."""
        self._calls.setdefault(caller, deque()).append((seq, item))
        self._arrived.append((caller, item))

    def held(self) -> list[Any]:
        """The calls that have come, those in the order that were applied since among them."""
        return [item[1] for _caller, item in list(self._arrived)]

    def next(self) -> Any:
        """The next call to apply, or None when it is not there yet."""
        self.in_order = self.behind = False
        if self._runs is None:
            return None
        while self._runs:
            run = self._runs[0]
            caller, seq, count = run
            queue = self._calls.get(caller)
            if queue:
                found, item = queue[0]
                if found <= seq:
                    queue.popleft()
                    if found == seq:
                        self._advance(run, 1)
                        self.in_order = True
                        self.replayed += 1
                    self.behind = 0 <= found < seq
                    return item
                # The caller has nothing before this: what the order wants will not come.
                self._lose(run, 1)
            elif caller not in self._living:
                self._lose(run, count)
            else:
                return None
        return self._rest()

    def _advance(self, run: list[Any], count: int) -> None:
        assert self._runs is not None
        run[1] += count
        run[2] -= count
        if not run[2]:
            self._runs.popleft()

    def _lose(self, run: list[Any], count: int) -> None:
        """The next calls of the order cannot be had."""
        self.lost += count
        log, events = self._log, self._known.events
        log.append_run(run[0], run[1], count)
        while self._event < len(events) and events[self._event][0] <= log.end:
            log.repeat(events[self._event])
            self._event += 1
        self._advance(run, count)

    def _rest(self) -> Any:
        while self._arrived:
            caller, item = self._arrived.popleft()
            queue = self._calls[caller]
            if queue and queue[0][1] is item:
                queue.popleft()
                return item
        return None

    @property
    def finished(self) -> bool:
        """Whether the order is replayed and nothing is held back."""
        return self._runs is not None and not self._runs and not any(self._calls.values())
