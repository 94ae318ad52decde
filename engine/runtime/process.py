"""Small services of the operating system: parents, deaths, descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket

__all__ = [
    "be_first_to_go",
    "become_subreaper",
    "die_with_parent",
    "exit_cause",
    "keep_freed_memory",
    "socket_from",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL this process when its parent dies, however that happens."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)


def become_subreaper() -> None:
    """Orphans below this process become its children, so that it can wait for them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def keep_freed_memory() -> None:
    """Have the C allocator keep freed arrays for the next ones instead of unmapping them.

    A worker makes and drops arrays of much the same sizes over and over; by default glibc gives
    those above 128 KiB back to the system each time, and the next one faults in fresh pages. The
    price is up to 64 MiB of freed memory kept by a process. Inherited over fork. Elsewhere than in
    glibc this does nothing.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def be_first_to_go() -> None:
    """Should the kernel itself run out of memory, let it choose this process, not its parents."""
    # Where /proc cannot be written it chooses by size alone.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def exit_cause(status: int) -> str:
    """A wait status in words: "was killed by SIGKILL" or "exited with code 3"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:  # a real-time signal has no name
            name = f"signal {number}"
        return f"was killed by {name}"
    return f"exited with code {os.WEXITSTATUS(status)}"


def socket_from(fd: int) -> socket.socket:
    """The Unix stream socket behind a descriptor, which it takes over."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
