"""What a sink is: data in the driver, a `Writer` in every parallel copy.

Results become visible in two phases. `Writer.prepare` ends the part written since the last call and
returns a token (plain data, kept with the checkpoint); `Sink.sync(token)` makes that part durable.
`Sink.commit(token)` makes it visible; it needs nothing but the token, so it can be repeated after a
crash by whoever finds it. Without checkpoints a job prepares in every copy when all input has been
seen, and the driver commits when every copy of every member has ended well: all results become
visible or none. With checkpoints it does so at the end of each epoch as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["Sink", "Writer"]


class Writer(ABC):
    """One copy of a sink, used from a single thread."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows; nobody else may see them before `commit`, where the sink can promise that."""

    def prepare(self) -> Any:
        """End the current part; the token names it. None: nothing to commit.

        What makes it durable and takes long belongs into `Sink.sync`.
        """
        return None

    def snapshot(self) -> Any:
        """After `prepare`: what `restore` needs to go on behind it; None: nothing."""
        return None

    def restore(self, state: Any) -> None:
        """Go on behind the part that was prepared last before `state` was taken.

        Parts behind it may be visible, when the checkpoint that committed them was damaged: remove
        them, they will be written again.
        """
        return None

    def result(self) -> Any:
        """This copy's share of the job's result, after the last `prepare`."""
        return None


class Sink(ABC):
    """A sink as data: picklable, opened in every copy of the member that writes it."""

    default_name: str = "sink"

    def check(self, schema: pa.Schema | None) -> None:
        """Raise, when the job is built, if rows of this schema cannot be written."""
        return None

    def begin(self) -> None:
        """Raise if results of the run that begins would mix with older ones.

        Not called when a run goes on from a checkpoint.
        """
        return None

    @abstractmethod
    def open(self, index: int, parallelism: int) -> Writer:
        """The writer of copy `index` of `parallelism`."""

    def sync(self, token: Any) -> None:
        """Make a prepared part durable. Called once, on another thread than the writer's."""
        return None

    def commit(self, token: Any) -> None:
        """Make a prepared part visible. Needs no writer; may be called again with its token."""
        return None

    def abort(self) -> None:
        """Remove what copies have begun or prepared and nobody has committed.

        Called when no copy runs: before the first start, before each start after a death, after a
        failure. Copies killed at any moment may have left anything.
        """
        return None

    def combine(self, results: Sequence[Any], schema: pa.Schema | None) -> Any:
        """The job's result from those of the copies, in the driver. `schema` may be unknown."""
        return list(results)

    def describe(self) -> str:
        """One line for explain()."""
        return type(self).__name__
