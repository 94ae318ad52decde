"""Every disk that a crash in a commit may leave, on a file system that does the least it may.

The operations of the checkpoint store are recorded (through the functions that `durable.py` calls).
After each of them the machine may lose power. Of what was written and not synced, anything may be
on the disk or not: the content of a file, in part; each entry of a directory. Such disks are made
and loaded: an epoch must be there, whole, and no older than the last one whose commit had returned.
"""

from __future__ import annotations

import builtins
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import engine.topology.durable as durable
import engine.topology.statefile as statefile
from engine.topology.checkpoint import CheckpointDirectory
from tests.chaos.trial import Found, dice, trial
from tests.topology import test_checkpoint as checkpoints

__all__ = ["Disk", "Recorder", "commit_crashes"]

EPOCHS = 3
Operation = tuple[Any, ...]


class Recorder:
    """Stands for `os` and `open` in `durable.py`; does what is asked for and notes it."""

    def __init__(self, root: Path) -> None:
        self.operations: list[Operation] = []
        self._root = root
        self._directories: dict[int, str] = {}
        self._files: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def name(self, path: Any) -> str:
        return os.path.relpath(path, self._root)

    def note(self, *operation: Any) -> None:
        self.operations.append(operation)

    def open_file(self, path: Any, mode: str, **options: Any) -> Any:
        if "x" not in mode:
            return builtins.open(path, mode, **options)
        file = builtins.open(path, mode, **options)  # noqa: SIM115 (its caller closes it)
        self._files[file.fileno()] = self.name(path)
        self.note("create", self.name(path))
        return _Written(file, self, self.name(path))

    def open(self, path: Any, flags: int, *rest: Any) -> int:
        fd = os.open(path, flags, *rest)
        if flags & os.O_DIRECTORY:
            self._directories[fd] = self.name(path)
        return fd

    def close(self, fd: int) -> None:
        self._directories.pop(fd, None)
        os.close(fd)

    def fsync(self, fd: int) -> None:
        if fd in self._directories:
            self.note("sync directory", self._directories[fd])
        else:
            self.note("sync", self._files[fd])

    def replace(self, source: Any, target: Any) -> None:
        os.replace(source, target)
        self.note("rename", self.name(source), self.name(target))

    def unlinker(self) -> Callable[..., None]:
        """What `Path.unlink` is meanwhile."""
        unlink = Path.unlink

        def noted(path: Path, missing_ok: bool = False) -> None:
            there = path.exists()
            unlink(path, missing_ok=missing_ok)
            if there:
                self.note("unlink", self.name(path))

        return noted


class _Written:
    """A file that is written to."""

    def __init__(self, file: Any, recorder: Recorder, name: str) -> None:
        self._file, self._recorder, self._name = file, recorder, name

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_exc: Any) -> None:
        self._file.close()

    def fileno(self) -> int:
        return int(self._file.fileno())

    def write(self, data: memoryview) -> int:
        count = self._file.write(data)
        self._recorder.note("write", self._name, bytes(data[:count]))
        return int(count)


class _Inode:
    """A file's content, and how much of it is safe."""

    def __init__(self) -> None:
        self.content = b""
        self.safe = 0


class Disk:
    """What is safe on a disk, and what may be there as well."""

    def __init__(self) -> None:
        self._names: dict[str, _Inode] = {}  # as programs see them
        self._safe: dict[str, _Inode] = {}
        self._pending: list[tuple[str, ...]] = []  # changes of directories that nobody has synced
        self._inodes: dict[tuple[str, ...], _Inode] = {}

    def apply(self, operation: Operation) -> None:
        """An operation has returned."""
        kind, name, *rest = operation
        if kind == "create":
            self._names[name] = inode = _Inode()
            self._change(("link", name), inode)
        elif kind == "write":
            self._names[name].content += rest[0]
        elif kind == "sync":
            self._names[name].safe = len(self._names[name].content)
        elif kind == "rename":
            inode = self._names[rest[0]] = self._names.pop(name)
            self._change(("rename", name, rest[0]), inode)
        elif kind == "unlink":
            self._change(("unlink", name), self._names.pop(name))
        elif kind == "sync directory":
            there = [one for one in self._pending if os.path.dirname(one[1]) == _folder(name)]
            for change in there:
                self._pending.remove(change)
                self._put(self._safe, change)

    def _change(self, change: tuple[str, ...], inode: _Inode) -> None:
        self._pending.append(change)
        self._inodes[change] = inode

    def _put(self, names: dict[str, _Inode], change: tuple[str, ...]) -> None:
        if change[0] != "link":
            names.pop(change[1], None)
        if change[0] != "unlink":
            names[change[-1]] = self._inodes[change]

    def after_a_crash(self, draw: Random) -> dict[str, bytes]:
        """One of the disks that may be found: files by name."""
        names = dict(self._safe)
        share = draw.choice([0.0, 0.5, 1.0])
        for change in self._pending:
            if draw.random() < share:
                self._put(names, change)
        return {name: _content(inode, draw) for name, inode in names.items()}


def _folder(name: str) -> str:
    return "" if name == "." else name


def _content(inode: _Inode, draw: Random) -> bytes:
    """What is safe, and some of the rest: a piece of it, or zeros of its length."""
    safe, rest = inode.content[: inode.safe], inode.content[inode.safe :]
    if not rest:
        return safe
    kind = draw.randrange(4)
    return safe + (b"", rest, rest[: draw.randrange(len(rest))], bytes(len(rest)))[kind]


def record(folder: Path) -> tuple[list[Operation], list[int]]:
    """Operations of commits in turn, each followed by a collection; where each has returned."""
    recorder, returned = Recorder(folder), []
    with (
        mock.patch.object(durable, "os", recorder),
        mock.patch.object(durable, "open", recorder.open_file, create=True),
        mock.patch.object(Path, "unlink", recorder.unlinker()),
        mock.patch.object(statefile, "PART_BYTES_MIN", 1000),
    ):
        directory = CheckpointDirectory(folder, keep=1)
        for epoch in range(1, EPOCHS + 1):
            checkpoints.write_epoch(directory, epoch)
            returned.append(len(recorder.operations))
            directory.collect()
        directory.close()
    return recorder.operations, returned


def crashed(operations: list[Operation], draw: Random) -> Iterator[tuple[int, dict[str, bytes]]]:
    """After each operation, one of the disks that a crash may leave."""
    disk = Disk()
    yield 0, disk.after_a_crash(draw)
    for number, operation in enumerate(operations, 1):
        disk.apply(operation)
        yield number, disk.after_a_crash(draw)


@trial("R18", unit="disks", short=150, long=20_000, minutes=2)
def commit_crashes(count: int) -> Found:
    """Power is lost after each operation of a commit, with what was not synced there or not."""
    draw, done = dice(51), 0
    wrong = {"a mix, or damage accepted": 0, "a returned commit lost": 0}
    with tempfile.TemporaryDirectory() as folder:
        (work := Path(folder, "work")).mkdir()
        operations, returned = record(work)
        while done < count:
            for number, files in crashed(operations, draw):
                found = Path(folder, "found")
                (found / "states").mkdir(parents=True)
                for name, content in files.items():
                    (found / name).write_bytes(content)
                directory = CheckpointDirectory(found, keep=1)
                try:
                    epoch = checkpoints.check(checkpoints.load(directory))
                    least = sum(one <= number for one in returned)
                    wrong["a returned commit lost"] += epoch < least
                except AssertionError:
                    wrong["a mix, or damage accepted"] += 1
                directory.close()
                for path in sorted(found.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                found.rmdir()
                done += 1
    return Found(done, wrong, {"operations": len(operations)})
