"""Asking every process the same question and answering once, for views of the whole cluster.

A process that dies is left out. One that does not answer in time is named: a view is a snapshot of
what could be seen, and nobody waits for a process that is stopped. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.core.control import Gather, Gathered

__all__ = ["PATIENCE_SECONDS", "Gatherings"]

PATIENCE_SECONDS = 2.0


class _Gathering:
    __slots__ = ("asked", "deliver", "records", "silent", "until")

    def __init__(
        self,
        asked: set[bytes],
        until: float,
        deliver: Callable[[list[Any], list[bytes]], None],
    ) -> None:
        self.asked = asked
        self.until = until
        self.deliver = deliver
        self.records: list[Any] = []
        self.silent: list[bytes] = []  # did not answer in time


class Gatherings:
    """Questions under way."""

    def __init__(self, send: Callable[[bytes, Any], None]) -> None:
        self._send = send
        self._open: dict[int, _Gathering] = {}
        self._number = 0

    def ask(
        self,
        what: str,
        processes: list[bytes],
        now: float,
        deliver: Callable[[list[Any], list[bytes]], None],
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Ask; `deliver` gets all records, and the processes that gave none within `patience`.

        Each process's records are in the order it gave them.
        """
        self._number += 1
        asked = set(processes)
        self._open[self._number] = _Gathering(asked, now + patience, deliver)
        for process in processes:
            self._send(process, Gather(self._number, what))
        self._close(self._number)

    def on_gathered(self, process: bytes, message: Gathered) -> None:
        """One process has answered."""
        gathering = self._open.get(message.number)
        if gathering is not None and process in gathering.asked:
            gathering.records += message.records
            gathering.asked.discard(process)
            self._close(message.number)

    def on_died(self, process: bytes) -> None:
        """A process will not answer any more."""
        for number, gathering in list(self._open.items()):
            gathering.asked.discard(process)
            self._close(number)

    def tick(self, now: float) -> float | None:
        """Stop waiting for those that take too long; returns the time of the next look."""
        for number, gathering in list(self._open.items()):
            if gathering.until <= now:
                gathering.silent = sorted(gathering.asked)
                gathering.asked.clear()
                self._close(number)
        return min((one.until for one in self._open.values()), default=None)

    def _close(self, number: int) -> None:
        gathering = self._open[number]
        if not gathering.asked:
            del self._open[number]
            gathering.deliver(gathering.records, gathering.silent)
