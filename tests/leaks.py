"""What belongs to this process and its descendants now, to be compared with later.

Processes, threads, descriptors, shared memory, socket files: whatever is there afterwards and was
not before has been left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["adopt_orphans", "bury", "census", "settle"]

# Processes and threads that were told to stop get this long to be gone.
EXIT_SECONDS_MAX = 3.0
_PR_SET_CHILD_SUBREAPER = 36
# Kinds of descriptors that only we can have opened; a library's cached file is none of them.
_OURS = ("socket:", "pipe:", "/memfd:", "anon_inode:[eventpoll]", "anon_inode:[pidfd]", "/dev/shm")


def adopt_orphans(yes: bool) -> None:
    """Become the parent of descendants whose parent dies: nothing can hide behind one."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def bury() -> None:
    """Collect the orphans that have ended here; nobody else will."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def census() -> set[str]:
    """One line a thing."""
    return {*_processes(), *_threads(), *_descriptors(), *_shared_memory()}


def _processes() -> Iterator[str]:
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                continue  # has ended; whoever started it collects it when it next looks
            yield f"process {child.pid}: {' '.join(child.cmdline())[:200]}"
        except psutil.NoSuchProcess:
            continue


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        yield f"thread {thread.ident}: {thread.name}"


def _descriptors() -> Iterator[str]:
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
        if target.startswith(_OURS):
            yield f"descriptor {entry.name}: {target}"


def _shared_memory() -> Iterator[str]:
    """Named segments; anonymous ones are descriptors. Other people's names are not ours."""
    for path in Path("/dev/shm").glob("*"):
        if path.name.startswith(("penstock", "engine", "psm_")):
            yield f"shared memory {path}"


def settle(before: set[str], folder: Path) -> list[str]:
    """What is there that was not, once what was told to stop has had its time.

    `folder` is the temporary directory of all of them: no socket file may be in it.
    """
    deadline = time.monotonic() + EXIT_SECONDS_MAX
    while True:
        left = sorted(census() - before)
        left += [f"socket file {path}" for path in folder.rglob("*") if path.is_socket()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
