"""Stragglers: a second copy of a task that runs far beyond its siblings' median.

*Siblings* are the calls of one function with the same options: such a function has a `Shape` of its
own, whose `watch` is the machine here. A worker runs the first of the calls in flight on its lease.
Nobody tells when that one began; looks are frequent, so the time since it was first seen in front
is near enough, and the path of a call stays as it was.

A copy goes to another worker where one is free: to an idle lease, or to one asked for with `spare`,
which never takes anything from others. The first result counts. The other copy is interrupted, then
its process killed if it has not ended within a grace (it may be stopped), and what it still says is
dropped. What the arguments keep alive stays, where it is, until that copy is over too: it may be
reading them.

There are two copies at most at a time: what is slow because of its data is slow everywhere. While
one of them runs, the death of the other costs nothing; it may be replaced, as often as a task may
die at all.

Pure: effects leave through `send`; time comes in as an argument.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.config import Config
from engine.core.control import KillWorker, LeaseRequest
from engine.core.messages import Cancel

if TYPE_CHECKING:
    from engine.core.dispatch import Lease, Shape, Task

__all__ = ["Speculation"]

# Run times whose median is the siblings': the last ones, since work may change as it goes on.
_SIBLINGS_KEPT = 101


class _Twice:
    """A task that runs twice, or did and has one copy left."""

    __slots__ = ("carried", "keep", "name", "over", "started", "until", "workers")

    def __init__(self, name: str, worker: bytes) -> None:
        self.name = name
        self.workers = {worker}  # where a copy is in flight
        self.started = 1  # copies so far
        self.over = False  # a result has come; what is left is to end
        self.until = math.inf  # when it is killed
        self.keep: Any = None
        self.carried: list[bytes] | None = None


class Speculation:
    """The siblings of one shape."""

    def __init__(
        self,
        shape: Shape,
        node: bytes,
        config: Config,
        send: Callable[[bytes, Any], None],
        unload: Callable[[Task], None] = lambda task: None,
    ) -> None:
        self._unload = unload
        self._shape = shape
        self._node = node
        self._config = config
        self._send = send
        self._run_us: deque[int] = deque(maxlen=_SIBLINGS_KEPT)
        self._front: dict[bytes, tuple[bytes, float]] = {}  # by worker: first call, seen since
        self._twice: dict[bytes, _Twice] = {}
        self.asked = 0  # workers that the node still owes us

    # ------------------------------------------------------------------ starting copies

    def look(self, now: float, push: Callable[[Lease, Task], None]) -> None:
        """Start copies of what is late where a worker is free, and end what should have ended."""
        self._press(now)
        shape = self._shape
        late = self._late(now)
        if shape.pending or not late:  # what has not run at all comes first
            self._ask(0)
            return
        free = [one for one in shape.leases.values() if not (one.in_flight or one.drain)]
        for (lease, task), other in zip(late, free, strict=False):
            twice = self._twice.get(task.id)
            if twice is None:
                twice = self._twice[task.id] = _Twice(task.name, lease.worker)
            twice.workers.add(other.worker)
            twice.started += 1
            push(other, task)
        room = self._config.leases_per_shape_max - len(shape.leases)
        self._ask(min(room, len(late) - len(free)))

    def limit(self) -> float:
        """Seconds beyond which a task is late; infinite while too few siblings have ended."""
        times = sorted(self._run_us)
        if len(times) < self._config.speculation_siblings_min:
            return math.inf
        median = times[len(times) // 2] / 1e6
        factor = self._shape.placing.speculative
        return max(self._config.speculation_seconds_min, factor * median)

    def _late(self, now: float) -> list[tuple[Lease, Task]]:
        """Tasks that are late, and where.

        Those behind one of them too: a worker that is alive would have given them back.
        """
        limit = self.limit()
        before, self._front = self._front, {}
        late = []
        for lease in self._shape.leases.values():
            if not lease.in_flight:
                continue
            first = next(iter(lease.in_flight))
            seen, since = before.get(lease.worker, (b"", now))
            if seen != first:
                since = now
            self._front[lease.worker] = (first, since)
            if now - since >= limit:
                lease.stuck = True
                late += [(lease, task) for task in lease.in_flight.values() if self._alone(task)]
        return late

    def _alone(self, task: Task) -> bool:
        twice = self._twice.get(task.id)
        return twice is None or (
            len(twice.workers) == 1
            and not twice.over
            and twice.started <= self._config.restart_deaths_max
        )

    def _ask(self, wanted: int) -> None:
        """Ask the node for workers that nobody else wants, or withdraw that."""
        shape = self._shape
        wanted = max(0, wanted)
        if not shape.requested and wanted != self.asked:  # else an ordinary request stands
            self.asked = wanted
            where = shape.placing
            request = LeaseRequest(
                shape.key, where.resources, wanted, where.group, where.bundle, where.environment,
                spare=True,
            )  # fmt: skip
            self._send(self._node, request)

    def on_grant(self) -> None:
        """The node gave us a worker."""
        self.asked = max(0, self.asked - 1)

    # ------------------------------------------------------------------ ends of copies

    def on_done(self, task: Task, worker: bytes, us: int, failed: bool, now: float) -> bool:
        """A copy has answered, with an error of the user's code if `failed`.

        False when that answer is to be dropped: another copy has answered, or still may.
        """
        twice = self._twice.get(task.id)
        if twice is None:
            self._run_us.append(us)
            return True
        twice.workers.discard(worker)
        if not twice.workers:
            self._end(task, twice)
        if twice.over:
            return False
        if failed and task.retry_exceptions and twice.workers:
            self._moved(task, twice)  # the other copy is the retry
            return False
        self._run_us.append(us)
        twice.over, twice.keep = True, task.keep
        if twice.workers:
            twice.carried, task.carried = task.carried, None
        twice.until = now + self._config.speculation_grace_seconds
        for other in twice.workers:
            self._send(other, Cancel(task.id))
        return True

    def lost(self, task: Task, worker: bytes) -> bool:
        """A copy is gone without an answer: given back, or dead with its worker.

        True when nothing is to be done about it: another copy runs, or the result is there.
        """
        twice = self._twice.get(task.id)
        if twice is None:
            return False
        twice.workers.discard(worker)
        if twice.workers:
            self._moved(task, twice)
            return True
        self._end(task, twice)
        return twice.over

    def _end(self, task: Task, twice: _Twice) -> None:
        """The last copy is over."""
        del self._twice[task.id]
        if twice.carried is not None:
            task.carried = twice.carried
            self._unload(task)

    @staticmethod
    def _moved(task: Task, twice: _Twice) -> None:
        task.worker = next(iter(twice.workers))

    def others(self, task: Task) -> list[bytes]:
        """Workers beside `task.worker` that have a copy of a task."""
        twice = self._twice.get(task.id)
        return [one for one in twice.workers if one != task.worker] if twice is not None else []

    def _press(self, now: float) -> None:
        """Kill the processes of copies that an interrupt did not end."""
        for twice in self._twice.values():
            if twice.until <= now:
                twice.until = math.inf
                grace = self._config.speculation_grace_seconds
                cause = (
                    f"was killed: another copy of {twice.name} had ended, and an interrupt did not "
                    f"end this one within {grace:g} s"
                )
                for worker in twice.workers:
                    self._send(self._node, KillWorker(worker, cause))
