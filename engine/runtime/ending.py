"""The end of a node: every process ends, and all they have printed reaches the driver."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from time import perf_counter
from typing import TYPE_CHECKING

import psutil

from engine.core.control import Stop

if TYPE_CHECKING:
    from engine.runtime.logs import WorkerLogs
    from engine.runtime.reactor import Reactor
    from engine.runtime.record import Process

__all__ = ["end_all"]


def end_all(
    reason: str, processes: Collection[Process], reactor: Reactor, logs: WorkerLogs, patience: float
) -> None:
    """Tell the workers to stop, then kill them, and wait for every child.

    `processes` loses members as they end; `patience` is what each of both gets, in seconds.
    """
    logs.ending = True
    for process in processes:
        if process.kind == "worker" and process.connection is not None:
            process.connection.out.append(Stop(reason))
            with contextlib.suppress(Exception):  # a worker that is gone already
                process.connection.flush()
    _await_exits(processes, reactor, patience)
    for process in processes:
        if process.kind in ("worker", "zygote") and process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    _await_exits(processes, reactor, patience)
    # As long as it takes: a terminal may be slow. The driver ends this by its own end.
    reactor.wait_until(lambda: logs.quiet)
    _reap_all()


def _reap_all() -> None:
    """Wait for every child. One may have been forked by a zygote that died before it told us."""
    while True:
        for child in psutil.Process().children():
            child.kill()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:  # none is left
            return


def _await_exits(processes: Collection[Process], reactor: Reactor, patience: float) -> None:
    reactor.wait_until(
        lambda: not any(one.kind == "worker" and one.pidfd >= 0 for one in processes),
        perf_counter() + patience,
    )
