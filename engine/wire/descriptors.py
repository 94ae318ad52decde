"""Descriptors: how many are left, and some that only the engine may use.

A message may bring a descriptor, and the kernel drops it when the receiver may not have one more:
the message is then useless, and who waits for it waits for ever. User code that opens files until
the limit must not cause that. So the soft limit of every process lies below the hard one, and is
raised while descriptors are received.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import Any

__all__ = ["OUT_OF_DESCRIPTORS", "Reserve", "descriptors_left", "raise_descriptor_limit", "reserve"]

# The node has half a dozen for each worker, the driver one for each process that it calls.
_WANTED = 1 << 16
# Kept back for the engine: lines to some dozen processes and segments. Of small limits a quarter.
_KEPT = 64
OUT_OF_DESCRIPTORS = (
    "descriptors are used up: close files, or allow more with `ulimit -n` (or LimitNOFILE=) before "
    "the program starts"
)


def raise_descriptor_limit() -> None:
    """Allow this process and its children more descriptors, up to what the system permits.

    The usual soft limit is 1,024. Some are left between it and the hard limit: see `reserve`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:  # then the soft limit can always be raised
        wanted = _WANTED if soft == resource.RLIM_INFINITY else max(soft, _WANTED)
    else:
        wanted = min(max(soft, _WANTED), hard - min(_KEPT, hard // 4))
    if soft != wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors_left() -> int:
    """How many more this process may open, those kept back left out."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _WANTED
    with reserve:
        return soft - len(os.listdir("/proc/self/fd")) + 1  # one was that of the listing


class Reserve:
    """``with reserve:`` more descriptors may be opened than user code may have."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = (0, 0)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                soft, hard = self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
                if soft != resource.RLIM_INFINITY:
                    more = soft + _KEPT if hard == resource.RLIM_INFINITY else hard
                    resource.setrlimit(resource.RLIMIT_NOFILE, (min(more, soft + _KEPT), hard))

    def __exit__(self, *_exc: Any) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._before)


reserve = Reserve()
