"""Files that are whole or not there: checksums, durable writes, and locks that die with processes.

A file is written under a temporary name, synced, renamed, and its directory synced: whatever
happens at whichever point, the name shows the old content or the new one, complete (on a file
system that keeps its word about `fsync` and `rename`). Whoever reads compares size and digest with
those noted elsewhere, before anything looks at the content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["TEMPORARY", "Lock", "digest_of", "read_whole", "sync_directory", "write_durably"]

TEMPORARY = ".tmp-"
"""Part of the names of files that are being written; whoever finds an old one may remove it."""

_DIGEST_BYTES = 16
_POLL_SECONDS = 0.005


def digest_of(parts: Iterable[Any]) -> str:
    """Checksum of the concatenation of byte-like parts, in hexadecimal (128-bit BLAKE2b)."""
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def write_durably(path: Path, parts: Iterable[Any]) -> None:
    """Make `path` a file of these parts, replacing what was there.

    Raises OSError; the temporary file is removed then, and `path` is as it was, or complete when
    only the last sync failed.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb", buffering=0) as file:
            for part in parts:
                view = memoryview(part).cast("B")
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path, nbytes: int, digest: str) -> memoryview:
    """The content of a file, verified; in memory of its own, page-aligned, that may be written to.

    Raises:
        ValueError: it is missing, has another size or another checksum; says which.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            found = os.fstat(file.fileno()).st_size
            if found != nbytes:
                raise ValueError(f"{path} has {found} bytes instead of {nbytes}")
            content = memoryview(mmap.mmap(-1, max(1, nbytes), mmap.MAP_PRIVATE))[:nbytes]
            view = content
            while view and (count := file.readinto(view)):
                view = view[count:]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(view) or digest_of([content]) != digest:
        raise ValueError(f"{path} is damaged: its checksum is not {digest}")
    return content


class Lock:
    """A lock on a file, shared or exclusive; the kernel releases it when its holder dies.

    Raises BlockingIOError when it could not be had within `seconds`.
    """

    def __init__(self, path: Path, *, exclusive: bool, seconds: float = 0.0) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # There is no waiting for a lock with a deadline; holders that die do so quickly.
                if time.monotonic() >= deadline:
                    self.release()
                    raise
            time.sleep(_POLL_SECONDS)

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
