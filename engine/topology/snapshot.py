"""What is kept of one copy at the end of an epoch, and the thread that makes it durable.

The member's thread does no more than the copy-out (`Member.snapshot`); pickling, checksums, writing
and syncing happen on a helper thread, which is started with the first snapshot.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine.topology.statefile import StateFile, StateWriter

__all__ = ["Handed", "Report", "Snapshot", "SnapshotWriter"]

# Snapshots that wait for the disk. One is under way at a time; a second one may come when an epoch
# was aborted because the disk is slow. More would only fill memory.
_WAITING_MAX = 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a copy, or when it has `ended` its result; and its counters."""

    state: Any
    counters: Mapping[str, int]
    ended: bool = False


class Handed:
    """A token that was handed over; `epoch` is the one that covers it, 0 until a snapshot does."""

    __slots__ = ("_sync", "epoch", "token")

    def __init__(self, token: Any, sync: Callable[[], None] | None) -> None:
        self.token = token
        self.epoch = 0
        self._sync = sync

    def make_durable(self) -> None:
        """Have what the token names synced, once."""
        if self._sync is not None:
            self._sync()
            self._sync = None


@dataclass(frozen=True, slots=True)
class Report:
    """How storing the snapshot of an epoch went: the file and the tokens, or what went wrong.

    Epoch 0 stands for the end, which belongs to all epochs to come. `written` is 0 when the state
    was that of the last committed epoch.
    """

    epoch: int
    state: StateFile | None
    tokens: tuple[Any, ...]
    written: int = 0
    problem: str = ""


class SnapshotWriter:
    """Stores the snapshots of one copy, in order.

    Args:
        directory: the checkpoint directory.
        copy: the copy's id.
        title: part of the files' names.
        salt: makes them different from those of every other attempt.
        wake: called from the helper thread after something was put into `done`.

    Attributes:
        done: reports, or the exception that ended the helper thread.
    """

    def __init__(
        self, directory: Path, copy: int, title: str, salt: str, wake: Callable[[], None]
    ) -> None:
        self.done: deque[Report | BaseException] = deque()
        self._title = title
        self._files = StateWriter(directory, copy, title, salt)
        self._wake = wake
        self._queue: SimpleQueue[tuple[int, Snapshot, list[Handed]]] = SimpleQueue()
        self._submitted = 0  # changed by the member's thread only
        self._finished = 0  # changed by the helper thread only
        self._stored: dict[int, StateFile] = {}
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Snapshots taken and not yet durable."""
        return self._submitted - self._finished

    def submit(self, epoch: int, snapshot: Snapshot, handed: list[Handed]) -> None:
        """Store a snapshot in the background; a report follows in any case."""
        if self.waiting >= _WAITING_MAX:
            problem = f"{self._title}: {self.waiting} earlier snapshots are not written yet"
            self.done.append(Report(epoch, None, (), problem=problem))
            return
        self._submitted += 1
        self._queue.put((epoch, snapshot, handed))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
            self._thread.start()

    def adopt(self, epoch: int, state: StateFile) -> None:
        """The copy goes on from this state of a committed epoch."""
        self._stored[epoch] = state
        self.on_committed(epoch)

    def on_committed(self, epoch: int) -> None:
        """The epoch counts: a later state that is equal to its state need not be written."""
        if epoch in self._stored:
            self._files.on_committed(self._stored[epoch])
            self._stored = {e: state for e, state in self._stored.items() if e > epoch}

    def take_done(self) -> Report | None:
        """The next report, or None. Raises what ended the helper thread."""
        if not self.done:
            return None
        found = self.done.popleft()
        if isinstance(found, BaseException):
            raise found
        if found.state is not None:
            self._stored[found.epoch] = found.state
        return found

    def store_now(self, epoch: int, snapshot: Snapshot, handed: list[Handed]) -> Report:
        """Store a snapshot on the calling thread; the report is not put into `done`.

        Raises:
            as `_store`.
        """
        report = self._store(epoch, snapshot, handed)
        if report.state is not None:
            self._stored[epoch] = report.state
        return report

    def _store(self, epoch: int, snapshot: Snapshot, handed: list[Handed]) -> Report:
        """Write a snapshot, after what its tokens name.

        Raises:
            SerializationError: it cannot be pickled: it never will.
            CheckpointError: it holds references to objects.
        """
        try:
            for one in handed:
                one.make_durable()
            state, written = self._files.write(epoch, snapshot, snapshot.ended)
        except OSError as error:
            # A full disk may have room again: this epoch is aborted and the next one tried.
            return Report(epoch, None, (), problem=f"{self._title}: {error}")
        return Report(epoch, state, tuple(one.token for one in handed), written)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            try:
                self.done.append(self._store(*item))
            except BaseException as error:  # it is raised again on the member's thread
                self.done.append(error)
                return
            finally:
                del item  # the state is not kept until the next one comes
                self._finished += 1
                self._wake()
