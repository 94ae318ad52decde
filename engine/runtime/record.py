"""What the node knows of one process."""

from __future__ import annotations

from time import time

from engine.runtime.notebook import Notebook
from engine.wire.connection import Connection

__all__ = ["Process"]


class Process:
    """A process of this node: a driver, a worker, or the zygote."""

    __slots__ = (
        *("connection", "environment", "error", "expected", "kind", "notebook", "peers", "pid"),
        *("pidfd", "shared", "started", "zygote"),
    )

    def __init__(self, kind: str, connection: Connection | None, pid: int) -> None:
        self.kind = kind
        self.connection = connection
        self.pid = pid
        self.pidfd = -1
        self.peers: set[bytes] = set()
        self.expected = ""  # why the engine itself killed it, and the error its owners get
        self.error = ""
        self.environment = b""
        self.notebook: Notebook | None = None
        self.shared = 0  # bytes of memory that a worker had from its zygote
        self.started = time()
        self.zygote = b""  # which was asked to fork it

    def is_unborn(self) -> bool:
        """Whether it is not known to live. With its zygote gone, and its line, it never will."""
        return not self.pid and self.connection is None
