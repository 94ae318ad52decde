"""What `Topology.deploy` returns, whoever runs the topology."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from engine.topology.statistics import MemberStatistics

__all__ = ["MemberStatistics", "TopologyHandle"]


class TopologyHandle(ABC):
    """A running topology; subclasses run it inline or in processes."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        """Wait until every member has ended.

        Args:
            timeout: in seconds; None waits as long as it takes.

        Returns:
            Member name -> results of its copies (what `close` returned), by index. May be called
            again, with the same answer.

        Raises:
            TaskError: a member's code raised; it is an instance of that exception's class too,
                names member and copy, and the whole topology is stopped.
            GetTimeoutError: the time is over; the topology goes on.
            TopologyStalledError: nobody can make progress.
            TopologyError: the topology was stopped.
        """

    @abstractmethod
    def statistics(self) -> list[MemberStatistics]:
        """One entry a copy, in order of declaration."""

    @abstractmethod
    def stop(self) -> None:
        """End all members without results; `close` is not called. Idempotent."""

    def __enter__(self) -> TopologyHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
