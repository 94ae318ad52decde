"""The checkpoint directory: states of copies, and one manifest for each committed epoch.

::

    manifest-00000007     checksum, then JSON: which files make up epoch 7, with sizes and checksums
    states/00000007-window_0-1f2e3d4c      the state of one copy
    states/00000005-window_0-1f2e3d4c.2    a large table in it, not changed since epoch 5
    driver.lock, members.lock              who uses the directory; released by the kernel

The manifest is written last; its appearance under its name is the commit. What has not changed
since the last committed epoch is not written again (`statefile.py`): the new manifest names old
files.
Nothing is unpickled before its checksum has been compared with that in a manifest whose own
checksum is right and whose number is that of its name, so a flipped bit, a torn or missing file,
two swapped ones or an old one in place of a new one are noticed, and the manifest before counts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.store import codec
from engine.topology.durable import (
    TEMPORARY,
    Lock,
    digest_of,
    read_whole,
    sync_directory,
    write_durably,
)
from engine.topology.errors import CheckpointError
from engine.topology.statefile import PartFile, StateFile

__all__ = ["CheckpointDirectory", "Manifest"]

_MAGIC = b"penstock-checkpoint 1 "
_MANIFEST = re.compile(r"manifest-(\d{8,})")
_STATE = re.compile(r"(\d{8,})-.*")
# Members of a run whose driver has died are killed by the kernel; this is ample.
_MEMBERS_SECONDS = 10.0


class Manifest(msgspec.Struct, frozen=True):
    """One committed epoch. `tokens` is a pickled list of effects that the epoch commits."""

    epoch: int
    topology: str
    states: list[StateFile]
    tokens: bytes

    def decode_tokens(self) -> list[Any]:
        """The effects to commit; the manifest has been verified when it was read."""
        found: list[Any] = codec.decode(self.tokens, None)
        return found


class CheckpointDirectory:
    """A directory in the hands of one driver.

    Raises:
        CheckpointError: another driver uses it, or processes of a former one still do.
        OSError: it cannot be made or read.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep
        self._doubtful: set[int] = set()  # epochs whose commit has failed
        self._states = path / "states"
        # What lies here is unpickled: who can write to it can run code as this account.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._states.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)  # else the directory itself may be gone after a power failure
        try:
            self._lock = Lock(path / "driver.lock", exclusive=True)
        except BlockingIOError as error:
            raise CheckpointError(
                f"expected a checkpoint directory that nobody uses, found that another driver "
                f"runs with {path}; give each run a directory of its own"
            ) from error
        self.wait_for_members()

    def wait_for_members(self) -> None:
        """Wait until no process writes here any more: those of a former attempt or run.

        Raises:
            CheckpointError: they have not ended in time.
        """
        try:
            Lock(self.path / "members.lock", exclusive=True, seconds=_MEMBERS_SECONDS).release()
        except BlockingIOError as error:
            raise CheckpointError(
                f"expected the processes of the former run to have ended, found that they still "
                f"hold {self.path / 'members.lock'} after {_MEMBERS_SECONDS:g} s; end them"
            ) from error

    def close(self) -> None:
        """Let others have the directory. Idempotent."""
        self._lock.release()

    # ------------------------------------------------------------------ reading

    def epochs(self) -> list[int]:
        """Numbers of the manifests there are, whole or not, newest first."""
        found = (_MANIFEST.fullmatch(path.name) for path in self.path.iterdir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def highest(self) -> int:
        """The highest number in use by a manifest or a state."""
        found = (_STATE.fullmatch(path.name) for path in self._states.iterdir())
        return max([0, *self.epochs(), *(int(match[1]) for match in found if match)])

    def read(self, epoch: int) -> Manifest:
        """A manifest, verified; its states are verified when they are read.

        Raises:
            CheckpointError: it is damaged, or not that of this epoch.
        """
        path = self._manifest(epoch)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"expected a manifest: {error}") from error
        head, _, body = content.partition(b"\n")
        if head != _MAGIC + digest_of([body]).encode():
            raise CheckpointError(f"expected a whole manifest, found damage in {path}")
        try:
            manifest = msgspec.json.decode(body, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # written so, with its checksum
            raise CheckpointError(f"expected a manifest in {path}: {error}") from error
        if manifest.epoch != epoch:
            raise CheckpointError(f"expected epoch {epoch}, found {manifest.epoch} in {path}")
        return manifest

    def latest(self, below: int | None = None) -> tuple[Manifest | None, list[str]]:
        """The newest manifest that is whole and whose files have the right sizes.

        Args:
            below: look only at epochs before this one.

        Returns:
            The manifest, durable, or None; and what is wrong with the newer ones.
        """
        wrong: list[str] = []
        for epoch in self.epochs():
            if below is not None and epoch >= below:
                continue
            try:
                manifest = self.read(epoch)
                self._check_sizes(manifest)
                # Its writer may have failed at the last sync. Effects are made visible because it
                # is there, so it must be there after a power failure too.
                sync_directory(self.path)
                return manifest, wrong
            except CheckpointError as error:
                wrong.append(str(error))
        return None, wrong

    def _check_sizes(self, manifest: Manifest) -> None:
        for file in _files(manifest):
            path = self._states / file.name
            found = path.stat().st_size if path.is_file() else None
            if found != file.nbytes:
                raise CheckpointError(
                    f"expected {file.nbytes} bytes in {path}, found "
                    f"{'no such file' if found is None else found}"
                )

    # ------------------------------------------------------------------ writing

    def commit(
        self, epoch: int, topology: str, states: Iterable[StateFile], tokens: list[Any]
    ) -> Manifest:
        """Write the manifest of an epoch: from now on it is the last committed one.

        Raises OSError; then the epoch may be there all the same, when only the last sync failed.
        `settle` says that it is not.
        """
        pickled = codec.encode_durable(tokens)
        data = bytes(pickled.data)
        if pickled.refs or pickled.buffers:
            raise CheckpointError(f"expected tokens of plain data, found {tokens!r:.200}")
        manifest = Manifest(epoch, topology, list(states), data)
        body = msgspec.json.encode(manifest)
        self.settle()
        self._doubtful.add(epoch)
        write_durably(self._manifest(epoch), [_MAGIC, digest_of([body]).encode(), b"\n", body])
        self._doubtful.clear()
        return manifest

    def settle(self) -> None:
        """See to it that an epoch whose commit has failed is not there.

        Raises OSError: it may be there. What it needs must not be undone then, for whoever opens
        the directory next may go on from it.
        """
        if self._doubtful:
            for epoch in self._doubtful:
                self._manifest(epoch).unlink(missing_ok=True)
            sync_directory(self.path)
            self._doubtful.clear()

    def export(self, manifest: Manifest, other: CheckpointDirectory) -> None:
        """Copy an epoch into another directory, verified on the way.

        Raises:
            CheckpointError: a file here is damaged.
            OSError: it could not be written there.
        """
        for file in _files(manifest):
            try:
                content = read_whole(self._states / file.name, file.nbytes, file.digest)
            except ValueError as error:
                raise CheckpointError(
                    f"expected to copy epoch {manifest.epoch}: {error}"
                ) from error
            write_durably(other._states / file.name, [content])
        body = self._manifest(manifest.epoch).read_bytes()
        write_durably(other._manifest(manifest.epoch), [body])

    def drop(self, epoch: int) -> None:
        """Remove the manifest of an epoch that cannot be used."""
        self._manifest(epoch).unlink(missing_ok=True)
        sync_directory(self.path)

    def collect(self, everything: bool = False) -> None:
        """Remove manifests beyond those to keep, and states that no manifest left names.

        States with a number above that of the newest manifest, and those of copies that have
        ended, are kept unless `everything`: a manifest to come may name them. `everything` is for
        when no copy runs.
        """
        epochs = self.epochs()
        for epoch in epochs[self._keep :]:
            self._manifest(epoch).unlink(missing_ok=True)
        named: set[str] = set()
        for epoch in epochs[: self._keep]:
            with contextlib.suppress(CheckpointError):  # a damaged one names nothing
                named |= {file.name for file in _files(self.read(epoch))}
        newest = epochs[0] if epochs else 0
        for path in self._states.iterdir():
            match = _STATE.fullmatch(path.name)
            old = match is not None and int(match[1]) <= newest and TEMPORARY not in path.name
            if path.name not in named and (everything or old):
                path.unlink(missing_ok=True)
        if everything:
            for path in self.path.glob(f"manifest-*{TEMPORARY}*"):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every manifest and state: what they were kept for has ended."""
        for epoch in reversed(self.epochs()):  # the newest last: never an older one alone
            self._manifest(epoch).unlink(missing_ok=True)
        sync_directory(self.path)
        self.collect(everything=True)

    def _manifest(self, epoch: int) -> Path:
        return self.path / f"manifest-{epoch:08}"


def _files(manifest: Manifest) -> Iterator[StateFile | PartFile]:
    """All files that an epoch consists of, beside the manifest."""
    for state in manifest.states:
        yield state
        yield from state.parts
