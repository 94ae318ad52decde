"""Which worker processes a node has: those that are being started, idle ones, and their end.

A worker belongs to one runtime environment for life. Those idle longest end first, after a while or
when there are too many; one a CPU is kept of each environment that a driver's own work runs in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine.config import Config
from engine.core.control import Retire
from engine.core.resources import Pool

__all__ = ["Roster", "RosterEdge", "Worker"]

# The environment of workers that are of no further use: no demand has it.
_SPENT = b"spent"


class RosterEdge(Protocol):
    """What the roster has done for it."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process of this node."""

    def start_worker(self, environment: bytes) -> None:
        """Fork a worker."""


class Worker:
    """A worker process. `use` says what for: "" (idle), "lease", "actor", "retiring", "doomed"."""

    __slots__ = (
        "blocked",
        "devices",
        "environment",
        "leaving",
        "lent",
        "owner",
        "pid",
        "pool",
        "process",
        "reclaim",
        "shape",
        "since",
        "title",
        "units",
        "use",
        "used",
        "weighed",
    )

    def __init__(self, process: bytes, pid: int, environment: bytes = b"") -> None:
        self.process = process
        self.pid = pid
        self.environment = environment
        self.title = ""
        self.use = ""
        self.used = False  # has had work, and may be known to others for it
        self.owner = b""
        self.shape = b""
        self.units: dict[str, int] = {}
        self.pool: Pool | None = None
        self.devices: dict[str, int] = {}  # shares of GPUs
        self.blocked = False
        self.lent: dict[str, int] = {}  # of its units, while it is blocked
        self.since = 0.0
        self.reclaim = 0
        self.leaving = False  # has run as many calls as it may
        self.weighed = False  # its memory was looked at since it fell idle

    def kept_units(self) -> dict[str, int]:
        """What it has and has not lent out."""
        lent = self.lent
        return {name: amount - lent.get(name, 0) for name, amount in self.units.items()}


class Roster:
    """The workers of a node. `kept`: idle ones of a favoured environment that do not end."""

    def __init__(self, config: Config, edge: RosterEdge, environment: bytes, kept: int) -> None:
        self.workers: dict[bytes, Worker] = {}
        self._idle: list[Worker] = []  # the one used last is last
        self._config = config
        self._edge = edge
        self._favoured: dict[bytes, None] = {environment: None}
        self._kept = kept
        self._starting: dict[bytes, int] = {}  # by environment
        self._failed: dict[bytes, int] = {}  # starts, in a row, by environment

    # ------------------------------------------------------------------ beginning

    @property
    def starting(self) -> int:
        """How many workers were forked and have not said hello."""
        return sum(self._starting.values())

    def start(self, environment: bytes, wanted: int) -> None:
        """See to it that `wanted` workers of this environment are being started."""
        for _ in range(wanted - self._starting.get(environment, 0)):
            self._starting[environment] = self._starting.get(environment, 0) + 1
            self._edge.start_worker(environment)

    def ready(self, process: bytes, pid: int, environment: bytes, now: float) -> Worker:
        """A started worker said hello; it is idle now."""
        self._no_longer_starting(environment)
        self._failed.pop(environment, None)
        worker = self.workers[process] = Worker(process, pid, environment)
        self.rest(worker, now)
        return worker

    def failed(self, environment: bytes) -> int:
        """A worker died before its hello; how many in a row have."""
        self._no_longer_starting(environment)
        count = self._failed[environment] = self._failed.get(environment, 0) + 1
        return count

    def not_started(self, environment: bytes) -> int:
        """A worker could not be forked; how many others of its environment are on their way."""
        self._no_longer_starting(environment)
        return self._starting.get(environment, 0)

    def forgive(self, environment: bytes) -> None:
        """Starts that have failed until now are accounted for."""
        self._failed.pop(environment, None)

    def _no_longer_starting(self, environment: bytes) -> None:
        left = self._starting.get(environment, 0) - 1
        if left > 0:
            self._starting[environment] = left
        else:
            self._starting.pop(environment, None)

    def favour(self, environment: bytes) -> None:
        """A driver's own work runs in this environment from now on."""
        self._favoured[environment] = None

    def disown(self, environments: Callable[[bytes], bool]) -> None:
        """No driver's own work runs in these any more: what is idle there ends."""
        for one in [one for one in self._favoured if environments(one)]:
            del self._favoured[one]
        for worker in [one for one in self._idle if environments(one.environment)]:
            self.end(worker)

    # ------------------------------------------------------------------ idle

    def take(self, environment: bytes, owner: bytes, unused: bool = False) -> Worker | None:
        """The idle worker of this environment that was used last: it is the warmest.

        Never the owner that is to have it: there is no line from a process to itself. `unused`: one
        that has had no work.
        """
        for worker in reversed(self._idle):
            fits = worker.environment == environment and worker.process != owner
            if fits and not (unused and worker.used):
                return self.take_this(worker)
        return None

    def take_this(self, worker: Worker) -> Worker | None:
        """This worker, if it is idle."""
        if worker not in self._idle:
            return None
        self._idle.remove(worker)
        return worker

    def rest(self, worker: Worker, now: float) -> None:
        """A worker has nothing to do. If there are too many such, the oldest ends."""
        worker.use, worker.owner, worker.since = "", b"", now
        worker.weighed = False
        self._idle.append(worker)
        if len(self._idle) > self._config.idle_workers_max:
            self.end(self._idle[0])

    def spend(self, worker: Worker) -> None:
        """Have a worker end that is not to be used again, also if it has to live on as an owner."""
        worker.environment = _SPENT
        self.end(worker)

    def unweighed(self) -> list[Worker]:
        """Idle workers whose memory was not looked at since they fell idle; now it is."""
        found = [worker for worker in self._idle if not worker.weighed]
        for worker in found:
            worker.weighed = True
        return found

    # ------------------------------------------------------------------ end

    def end(self, worker: Worker) -> None:
        """Have a worker without work end, unless it is needed as an owner."""
        if worker in self._idle:
            self._idle.remove(worker)
        worker.use, worker.owner = "retiring", b""
        self._edge.send(worker.process, Retire())

    def replace(self, worker: Worker) -> None:
        """End an idle worker and start another."""
        self.end(worker)
        self.start(worker.environment, self._starting.get(worker.environment, 0) + 1)

    def retire(self, now: float) -> float | None:
        """End workers that have been idle for long; the time of the next look, if one is due."""
        spare = dict.fromkeys(self._favoured, -self._kept)
        for worker in self._idle:
            if worker.environment in spare:
                spare[worker.environment] += 1
        following = None
        for worker in list(self._idle):
            left = spare.get(worker.environment)
            if left is not None:
                if left <= 0:
                    continue
                spare[worker.environment] = left - 1
            until = worker.since + self._config.worker_idle_seconds
            if until <= now:
                self.end(worker)
            elif following is None or until < following:
                following = until
        return following

    def keep(self, process: bytes, now: float) -> bool:
        """A worker that was to end stays, for what it owns is needed; it is idle again."""
        worker = self.workers.get(process)
        if worker is None or worker.use != "retiring":
            return False
        worker.use, worker.since = "", now
        self._idle.append(worker)
        return True

    def remove(self, process: bytes) -> Worker | None:
        """A process is gone: the worker that it was, if it was one."""
        worker = self.workers.pop(process, None)
        if worker in self._idle:
            self._idle.remove(worker)
        return worker
