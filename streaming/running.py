"""A job that runs: its handle, its result, and what it does outside."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.topology import CheckpointStatistics, External, MemberStatistics, TopologyHandle
from streaming.member import MemberResult
from streaming.plan import SinkNode

__all__ = ["JobHandle", "JobResult", "SinkCommits"]


class JobResult(Mapping[str, Any]):
    """Results of the sinks by name: `result["out"]` is a Table for collect().

    `statistics` has one entry per copy of each member; `late_rows` counts over all of them;
    `checkpoints` tells of epochs and deaths, None without checkpoints.
    """

    def __init__(
        self,
        sinks: Mapping[str, Any],
        statistics: list[MemberStatistics],
        late_rows: int,
        checkpoints: CheckpointStatistics | None = None,
    ) -> None:
        self._sinks = dict(sinks)
        self.statistics = statistics
        self.late_rows = late_rows
        self.checkpoints = checkpoints

    def __getitem__(self, name: str) -> Any:
        if name not in self._sinks:
            raise KeyError(f"no sink {name!r}; there are {list(self._sinks)}")
        return self._sinks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sinks)

    def __len__(self) -> int:
        return len(self._sinks)

    def __repr__(self) -> str:
        return f"JobResult({self._sinks!r}, late_rows={self.late_rows})"


class SinkCommits(External):
    """Commits and undoes what the sinks of a job have prepared; runs in the driver."""

    def __init__(self, sinks: Sequence[SinkNode]) -> None:
        self._nodes = {node.name: node for node in sinks}

    def begin(self, resumed: bool) -> None:
        """A new run finds the sinks as they want to be found; one that goes on finds its own."""
        for node in self._nodes.values():
            node.sink.check(node.schema)
            if not resumed:
                node.sink.begin()

    def commit(self, tokens: Sequence[Any]) -> None:
        """Tokens are `[name of the sink, the writer's token]`."""
        for name, token in tokens:
            self._nodes[name].sink.commit(token)

    def undo(self, epoch: int) -> None:
        """Nobody will commit what is left."""
        for node in self._nodes.values():
            node.sink.abort()


class JobHandle:
    """A started job. Stop it, or wait for its end; it does not stop by being forgotten."""

    def __init__(
        self, name: str, handle: TopologyHandle, sinks: Sequence[SinkNode], has_checkpoints: bool
    ) -> None:
        self.name = name
        self._handle = handle
        self._sinks = sinks
        self._has_checkpoints = has_checkpoints

    def wait(self, timeout: float | None = None) -> JobResult:
        """Wait until every source has ended; the results of the sinks.

        Raises TaskError (also an instance of the exception's own class) when a step raised,
        GetTimeoutError when `timeout` seconds are over (the job goes on), ActorDiedError when a
        process died and there are no checkpoints, TopologyFailedError when too many did.
        """
        results: dict[str, list[MemberResult]] = self._handle.wait(timeout)
        copies = [copy for member in results.values() for copy in member]
        late_rows = sum(copy.counters.get("late_rows", 0) for copy in copies)
        found = {}
        for node in self._sinks:
            shares = [copy.sinks[node.name] for copy in copies if node.name in copy.sinks]
            found[node.name] = node.sink.combine(shares, node.schema)
        return JobResult(found, self.statistics(), late_rows, self.checkpoints())

    def statistics(self) -> list[MemberStatistics]:
        """One entry per copy of each member."""
        return self._handle.statistics()

    def checkpoints(self) -> CheckpointStatistics | None:
        """Epochs and deaths so far; None without checkpoints."""
        return self._handle.checkpoint_statistics() if self._has_checkpoints else None

    def checkpoint(self, timeout: float | None = None) -> int:
        """Close an epoch now and wait until it is committed; its number.

        Raises TopologyError when there are no checkpoints or the epoch was aborted, and
        GetTimeoutError after `timeout` seconds.
        """
        return self._handle.checkpoint(timeout)

    def stop(self, savepoint: str | os.PathLike[str] | None = None) -> None:
        """End the job without results. Idempotent.

        What was committed stays, what was not is removed. The checkpoint stays as well: starting
        the job again with the same directory goes on from it. `savepoint`: close an epoch first
        and copy it to this directory, to start from later.
        """
        self._handle.stop(savepoint)

    def __enter__(self) -> JobHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<job {self.name!r}: {self._handle!r}>"
