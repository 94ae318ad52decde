"""The journal of a standing node on disk: a file of events in its directory.

Events are written behind, many at a time, by a thread of its own: nobody waits for the disk, and a
disk that stands still holds nobody up. What is read at the next start is checked record by record;
at the first that is not what was written the reading ends, says so, and puts the file aside.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from engine.core.control import Checkpoint
from engine.core.journal import (
    ActorGone,
    CheckpointStored,
    Event,
    Journal,
    decode_event,
    encode_event,
)
from engine.runtime.checkpoint_memory import memory_of, read_memory

__all__ = ["JOURNAL", "JournalFile"]

JOURNAL = "journal.db"
_FORMAT = 1
# Batches that wait for the disk; beyond that it stands still, and nothing more is written.
_WAITING_MAX = 1_000


# Events, what is done with them, and checkpoints with the descriptors of their memory.
_Batch = tuple[list[Event], list[Any], list[tuple[Checkpoint, int]]]


class JournalFile:
    """The events of one node on disk, in `journal.db` (SQLite, write-ahead log).

    `kick` is called by the writing thread when it has something to say: `done` and `trouble`.
    """

    def __init__(self, directory: Path, events_max: int, kick: Callable[[], None]) -> None:
        self._directory = directory
        self._path = directory / JOURNAL
        self._events_max = events_max
        self._kick = kick
        self.state = Journal()
        self.told: list[str] = []  # what was not as it should be, for people
        self.done: list[Any] = []  # what was handed to `write` and is on disk
        self.trouble = ""
        self._read()
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._shadow = Journal()  # what the file says: the writing thread's own
        for event in self.state.events():
            self._shadow.apply(event)
        self._count = self._least = 0
        self._old: list[Path] = []
        self._thread = threading.Thread(target=self._run, name="engine-journal", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ reading

    def _read(self) -> None:
        if not self._path.exists():
            return
        try:
            with contextlib.closing(sqlite3.connect(self._path)) as file:
                for event in _checked(file):
                    self.state.apply(event)
        except (sqlite3.DatabaseError, _Damaged) as error:
            aside = self._path.with_suffix(f".damaged-{os.getpid()}")
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):  # not all of them need to be there
                    Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
            self.told.append(
                f"the journal is damaged ({error}): what comes after is lost; it lies in {aside}"
            )
        self.state.forget_memory()
        for actor, found in list(self.state.checkpoints.items()):
            if not self._intact(found):
                del self.state.checkpoints[actor]
                self.told.append(f"the checkpoint of actor {actor.hex()} is damaged")
        wanted = {self._checkpoint(one).name for one in self.state.checkpoints.values()}
        for path in self._directory.glob("checkpoint-*"):
            if path.name not in wanted:
                path.unlink()
        for text in self.told:
            sys.stderr.write(f"penstock: {text}\n")

    def _checkpoint(self, found: Checkpoint) -> Path:
        return self._directory / f"checkpoint-{found.actor.hex()}-{found.number}"

    def _intact(self, found: Checkpoint) -> bool:
        try:
            data = self._checkpoint(found).read_bytes()
        except OSError:  # told by the caller, like one with other bytes
            return False
        return len(data) == found.size and zlib.crc32(data) == found.check

    def load(self, found: Checkpoint) -> int:
        """A descriptor of memory with a checkpoint from its file."""
        return memory_of(found, self._checkpoint(found).read_bytes())

    # ------------------------------------------------------------------ writing

    def write(
        self, events: list[Event], then: list[Any], checkpoints: list[tuple[Checkpoint, int]]
    ) -> None:
        """Write behind; `then` is in `done` when it is on disk. Closes checkpoints' descriptors."""
        if self._queue.qsize() >= _WAITING_MAX and not self.trouble:
            self.trouble = "the disk takes nothing: no more is written until the next start"
        if self.trouble:
            for _checkpoint, fd in checkpoints:
                os.close(fd)
            self.done += then  # who asked is told of the trouble
            self._kick()
            return
        self._queue.put((events, then, checkpoints))

    def close(self) -> None:
        """Write what waits, and end. A journal that says nothing is removed."""
        self._queue.put(None)
        self._thread.join()
        if not self.trouble and next(self._shadow.events(), None) is None:
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        # A node of which nothing has to outlive it has no file.
        at_once = self._path.exists() or next(self._shadow.events(), None) is not None
        batch = ([], [], []) if at_once else self._queue.get()
        if batch is None:
            return
        try:
            with contextlib.closing(sqlite3.connect(self._path)) as file:
                self._begin(file)
                while batch is not None:
                    self._take(file, batch)
                    self.done += batch[1]
                    self._kick()
                    batch = self._queue.get()
        except (sqlite3.Error, OSError) as error:
            self.trouble = f"the journal cannot be written: {error}"
            sys.stderr.write(f"penstock: {self.trouble}\n")
            while batch is not None:  # nobody waits for ever
                self.done += batch[1]
                for _checkpoint, fd in batch[2]:
                    os.close(fd)
                self._kick()
                batch = self._queue.get()

    def _take(self, file: sqlite3.Connection, batch: _Batch) -> None:
        events, _then, checkpoints = batch
        events += self._store(checkpoints)
        gone = [one.id for one in events if isinstance(one, ActorGone)]
        found = map(self._shadow.checkpoints.get, gone)
        self._old += [self._checkpoint(one) for one in found if one is not None]
        self._append(file, events)
        self._forget_old()

    def _begin(self, file: sqlite3.Connection) -> None:
        file.isolation_level = None
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=NORMAL")
        file.execute(
            "CREATE TABLE IF NOT EXISTS events "
            "(number INTEGER PRIMARY KEY, sum INTEGER NOT NULL, event BLOB NOT NULL)"
        )
        self._rewrite(file)

    def _rewrite(self, file: sqlite3.Connection) -> None:
        """The same state in as few events as there can be."""
        file.execute("BEGIN IMMEDIATE")
        file.execute("DELETE FROM events")
        self._count = 0
        self._insert(file, list(self._shadow.events()))
        file.execute(f"PRAGMA user_version={_FORMAT}")
        file.execute("COMMIT")
        self._least = self._count

    def _append(self, file: sqlite3.Connection, events: list[Event]) -> None:
        file.execute("BEGIN IMMEDIATE")
        self._insert(file, events)
        file.execute("COMMIT")
        for event in events:
            self._shadow.apply(event)
        if self._count - self._least > self._events_max:
            self._rewrite(file)

    def _insert(self, file: sqlite3.Connection, events: list[Event]) -> None:
        rows = []
        for event in events:
            self._count += 1
            data = encode_event(event)
            rows.append((self._count, _sum(self._count, data), data))
        file.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)

    def _store(self, checkpoints: list[tuple[Checkpoint, int]]) -> list[Event]:
        """Put checkpoints into files; their memory is written to again only by a later one."""
        events: list[Event] = []
        while checkpoints:
            found, fd = checkpoints.pop(0)
            data = read_memory(fd, found)
            if zlib.crc32(data) != found.check:  # a later one has begun, and is about to come
                continue
            path = self._checkpoint(found)
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
            before = self._shadow.checkpoints.get(found.actor)
            events.append(CheckpointStored(found))
            if before is not None and before.number != found.number:
                self._old.append(self._checkpoint(before))
        return events

    def _forget_old(self) -> None:
        """Remove files of checkpoints that no event on disk names any more."""
        while self._old:
            self._old.pop().unlink(missing_ok=True)


class _Damaged(Exception):
    """A record is not what was written."""


def _sum(number: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(number.to_bytes(8, "little")))


def _checked(file: sqlite3.Connection) -> Iterator[Event]:
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version not in (0, _FORMAT):
        raise _Damaged(f"its format is {version}, not {_FORMAT}")
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master WHERE name='events'").fetchone()
    if not tables:
        return
    expected = 1
    for number, check, data in file.execute("SELECT * FROM events ORDER BY number"):
        if number != expected:
            raise _Damaged(f"record {expected} is missing")
        if not isinstance(data, bytes) or _sum(number, data) != check:
            raise _Damaged(f"record {number} is not what was written")
        try:
            event = decode_event(data)
        except msgspec.DecodeError as error:
            raise _Damaged(f"record {number}: {error}") from error
        yield event
        expected += 1
