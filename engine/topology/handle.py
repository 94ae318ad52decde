"""What `Topology.deploy` returns, whoever runs the topology."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

from engine.topology.errors import TopologyError, expected
from engine.topology.statistics import CheckpointStatistics, MemberStatistics

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
    def stop(self, savepoint: str | os.PathLike[str] | None = None) -> None:
        """End all members without results; `close` is not called. Idempotent.

        What was prepared outside and not committed is removed; checkpoints are kept.

        Args:
            savepoint: first close an epoch and copy it to this directory, from which another run
                can start.

        Raises:
            TopologyError: a savepoint of a topology without checkpoints.
        """

    def checkpoint(self, timeout: float | None = None) -> int:
        """Close an epoch now and wait until it is committed; its number.

        Args:
            timeout: in seconds; None: as long as an epoch may take.

        Raises:
            TopologyError: there are no checkpoints, or the epoch was aborted; says why.
            GetTimeoutError: the time is over; the epoch may still be committed.
        """
        raise self._without_checkpoints()

    def checkpoint_statistics(self) -> CheckpointStatistics:
        """Epochs and deaths so far.

        Raises:
            TopologyError: there are no checkpoints.
        """
        raise self._without_checkpoints()

    def _without_checkpoints(self) -> TopologyError:
        return expected(
            f"checkpoints of {self!r}", "none", "deploy it with checkpoints=Checkpoints(...)"
        )

    def __enter__(self) -> TopologyHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
