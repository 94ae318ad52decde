"""From submitted tasks to leased workers: the owner's half of scheduling.

The node grants *leases* on workers and is not on the path of a call. Tasks that ask for the same
resources share a `Shape`; each shape holds leases and sends tasks straight to their workers,
several ahead (pipelining), as many as fill `pipeline_target_us` at the run time seen so far. Two
rules make that safe: a worker that blocks inside a task, or runs one for more than a few
milliseconds, gives its unstarted tasks back, and an idle worker takes half of the longest queue
(`Recall`). So a task never waits behind a slower one for long, and never behind one that waits for
it.

Pure: effects leave through `send`; time comes in as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from engine.config import Config
from engine.core.control import (
    Assigned,
    LeaseGrant,
    LeaseReclaim,
    LeaseRequest,
    LeaseReturn,
    Unplaceable,
)
from engine.core.intensity import Deaths
from engine.core.messages import Call, Define, Recall
from engine.core.placing import Placing
from engine.core.speculation import Speculation

__all__ = ["Dispatcher", "Lease", "Shape", "Task"]

# Short tasks in flight on the least loaded worker from which on one more worker is asked for.
_CROWDED = 4
# Tasks of at least this length are worth a worker of their own.
_LONG_US = 1_000.0


class Task:
    """A submitted call: its message, what it still waits for and what it keeps alive."""

    __slots__ = (
        "actor",
        "actor_ref",
        "answered",
        "attempts",
        "brings",
        "call",
        "cancelled",
        "carried",
        "deaths",
        "deps",
        "id",
        "keep",
        "missing",
        "name",
        "nbytes",
        "parent",
        "parts",
        "retries",
        "retry_exceptions",
        "returns",
        "shape",
        "worker",
    )

    def __init__(
        self, call: Any, name: str, returns: list[bytes], retries: int, shape: Any
    ) -> None:
        self.call = call
        self.id: bytes = call.id
        self.name = name
        self.returns = returns
        self.retries = retries
        self.retry_exceptions: Any = None
        self.shape = shape
        self.actor: Any = None
        self.actor_ref: Any = None  # a pending call keeps its actor alive
        self.answered = False  # kept although answered: its actor may have to be replayed
        self.attempts = 0
        self.deaths: Deaths | None = None  # of its workers, while it ran
        self.deps: list[bytes] | None = None
        self.brings = False  # its call names objects, whose places are filled in when it leaves
        self.carried: list[bytes] | None = None  # objects that must stay where the call says
        self.missing = 0
        self.parts: list[Any] = []  # messages that go before the call
        self.keep: Any = None
        self.nbytes = 0
        self.worker = b""  # where it was sent and is not answered yet
        self.parent: Any = None  # the call that submitted it, when one did
        self.cancelled = False

    def release(self) -> None:
        """Let go of what the call kept alive."""
        self.keep = self.deps = self.actor_ref = None


class Lease:
    """A worker of ours: tasks sent to it and not yet answered, in order."""

    __slots__ = (
        *("drain", "idle_since", "in_flight", "known", "pid", "recalled", "shape", "stuck"),
        *("waits", "worker"),
    )

    def __init__(self, shape: Shape, worker: bytes, pid: int, known: set[bytes]) -> None:
        self.shape = shape
        self.worker = worker
        self.pid = pid
        self.in_flight: dict[bytes, Task] = {}
        self.drain = False
        self.recalled = False
        self.stuck = False  # runs something long: nothing is sent to wait behind it
        self.waits = 0  # objects of ours that it waits for
        self.idle_since = 0.0
        self.known = known


class Shape:
    """Tasks with the same placing, and the leases that serve them.

    `depth` is how many are sent to a worker at a time, at most `depth_max`.
    """

    __slots__ = ("depth", "depth_max", "key", "leases", "mean_us", "pending", "placing",
                 "requested", "watch")

    def __init__(self, key: bytes, placing: Placing, depth_max: int) -> None:
        self.key = key
        self.placing = placing
        self.depth_max = depth_max
        self.pending: deque[Task] = deque()
        self.leases: dict[bytes, Lease] = {}
        self.requested = 0
        self.mean_us = -1.0
        self.depth = 1  # until the first answer tells how long the tasks are
        self.watch: Speculation | None = None  # of tasks that may run twice


class Dispatcher:
    """All shapes of one owner."""

    def __init__(
        self,
        node: bytes,
        config: Config,
        send: Callable[[bytes, Any], None],
        definition: Callable[[bytes], bytes],
        load: Callable[[Task], None] = lambda task: None,
        unload: Callable[[Task], None] = lambda task: None,
    ) -> None:
        self._node = node
        self._config = config
        self._send = send
        self._definition = definition
        self._load = load
        self._unload = unload
        # Takes a task that was given back, if its arguments are lost; False: they are not.
        self.aside: Callable[[Task], bool] = lambda task: False
        self._shapes: dict[bytes, Shape] = {}
        self._watched: list[Shape] = []
        self.leases: dict[bytes, Lease] = {}
        self._known: dict[bytes, set[bytes]] = {}  # definitions sent, by process

    def shape(self, placing: Placing) -> Shape:
        """The shape of this placing, made at first use."""
        key = placing.key()
        shape = self._shapes.get(key)
        if shape is None:
            depth = 1 if placing.spread else self._config.pipeline_depth_max
            shape = self._shapes[key] = Shape(key, placing, depth)
            if placing.speculative:
                shape.watch = Speculation(
                    shape, self._node, self._config, self._send, self._unload
                )
                self._watched.append(shape)
        return shape

    def shapes(self) -> list[Shape]:
        """All shapes seen so far."""
        return list(self._shapes.values())

    # ------------------------------------------------------------------ submitting

    def enqueue(self, task: Task) -> None:
        """A task whose arguments are all there."""
        shape: Shape = task.shape
        if not shape.pending:
            best = None
            best_load = shape.depth
            for lease in shape.leases.values():
                load = len(lease.in_flight)
                if load < best_load and not (lease.drain or lease.stuck):
                    best, best_load = lease, load
                    if not load:
                        break
            if best is not None and (best_load == 0 or not self._ask_first(shape)):
                if best_load >= _CROWDED and not shape.requested:
                    shape.requested = 1
                    self._ask(shape, 1)
                self._push(best, task)
                return
        task.worker = b""  # that of an earlier attempt, perhaps
        shape.pending.append(task)
        self._request(shape)

    def enqueue_first(self, task: Task) -> None:
        """A task that others wait for, which were before all that has not begun."""
        shape: Shape = task.shape
        if not shape.pending:
            self.enqueue(task)
            return
        task.worker = b""
        shape.pending.appendleft(task)
        self._request(shape)

    def _ask_first(self, shape: Shape) -> bool:
        """Long tasks, or of unknown length: ask for another worker before queueing behind one."""
        return shape.requested == 0 and not 0 <= shape.mean_us < _LONG_US

    def _request(self, shape: Shape) -> None:
        limit = self._config.leases_per_shape_max - len(shape.leases)
        if limit <= 0:  # those that wait for an object of ours must not keep others from making it
            limit += sum(lease.waits > 0 for lease in shape.leases.values())
        wanted = min(len(shape.pending), limit)
        if wanted > 0 and (shape.requested == 0 or wanted >= 2 * shape.requested):
            shape.requested = wanted
            self._ask(shape, wanted)

    def on_wait(self, lease: Lease) -> None:
        """A worker waits for an object of ours."""
        lease.waits += 1
        if lease.shape.pending:
            self._request(lease.shape)

    def _ask(self, shape: Shape, wanted: int) -> None:
        if shape.watch is not None:
            shape.watch.asked = 0  # this replaces what it has asked for
        where = shape.placing
        name = shape.pending[0].name if shape.pending else ""
        message = LeaseRequest(
            shape.key, where.resources, wanted, where.group, where.bundle, where.environment, name
        )
        self._send(self._node, message)

    def _push(self, lease: Lease, task: Task) -> None:
        call: Call = task.call
        if call.key not in lease.known:
            lease.known.add(call.key)
            self._send(lease.worker, Define(call.key, self._definition(call.key)))
        if task.brings:
            self._load(task)
        task.worker = lease.worker
        lease.in_flight[task.id] = task
        for part in task.parts:
            self._send(lease.worker, part)
        if not task.retries:
            call.final = True
        self._send(lease.worker, call)

    def _fill(self, lease: Lease) -> None:
        shape = lease.shape
        pending, depth = shape.pending, shape.depth
        if pending and not lease.drain:
            if len(shape.leases) > 1 or shape.requested:
                # Leave a share for the others: they may be about to become free.
                depth = min(depth, max(1, len(pending) // (len(shape.leases) or 1)))
            while pending and len(lease.in_flight) < depth:
                self._push(lease, pending.popleft())
            if not pending and shape.requested:
                shape.requested = 0
                self._ask(shape, 0)

    # ------------------------------------------------------------------ events

    def on_grant(self, message: LeaseGrant, now: float) -> None:
        """The node gives us a worker."""
        shape = self._shapes[message.shape]
        shape.requested = max(0, shape.requested - 1)
        known = self._known.setdefault(message.worker, set())
        lease = Lease(shape, message.worker, message.pid, known)
        lease.idle_since = now
        shape.leases[message.worker] = self.leases[message.worker] = lease
        where = shape.placing
        given = Assigned(where.resources, message.devices, where.group, where.capture)
        self._send(message.worker, given)
        self._fill(lease)
        if shape.pending and not shape.requested:
            self._request(shape)  # fewer were asked for than have come to wait since
        if not lease.in_flight:
            self._steal(lease)
            if shape.watch is not None:
                shape.watch.on_grant()
                shape.watch.look(now, self._push)

    def on_done(
        self, worker: bytes, task_id: bytes, us: int, now: float, failed: bool = False
    ) -> Task | None:
        """A worker answered; returns the task, or None when that answer does not count.

        It does not when the task was not in flight there, or runs twice and the other copy counts.
        `failed`: the answer is an error of the user's code.
        """
        lease = self.leases.get(worker)
        if lease is None:
            return None
        task = lease.in_flight.pop(task_id, None)
        if task is None:
            return None
        lease.stuck = False
        shape = lease.shape
        if shape.watch is not None and not shape.watch.on_done(task, worker, us, failed, now):
            task = None
        else:
            mean = shape.mean_us
            shape.mean_us = mean = us if mean < 0 else mean + 0.2 * (us - mean)
            depth = int(self._config.pipeline_target_us / (mean + 1.0))
            shape.depth = min(max(depth, 1), shape.depth_max)
        if shape.pending and not lease.drain:
            if len(lease.in_flight) * 2 <= shape.depth:
                self._fill(lease)
        elif not lease.in_flight:
            self._idle(lease, now)
        return task

    def _idle(self, lease: Lease, now: float) -> None:
        lease.idle_since = now
        lease.recalled = False
        shape = lease.shape
        if shape.requested and not any(one.in_flight for one in shape.leases.values()):
            shape.requested = 0
            self._ask(shape, 0)
        if lease.drain:
            self._give_back(lease)
        else:
            self._steal(lease)

    def _steal(self, thief: Lease) -> None:
        """An idle worker: ask the one with the longest queue for half of it."""
        longest, length = None, 1
        for lease in thief.shape.leases.values():
            if not lease.recalled and len(lease.in_flight) > length:
                longest, length = lease, len(lease.in_flight)
        if longest is not None:
            longest.recalled = True
            self._send(longest.worker, Recall(length // 2))

    def on_returned(self, worker: bytes, ids: list[bytes]) -> list[Task]:
        """A worker gives unstarted tasks back; returns those among them that were cancelled."""
        lease = self.leases.get(worker)
        if lease is None:
            return []
        if not lease.recalled:
            # It gave them back by itself: what it runs takes long, and so may the others.
            lease.stuck = True
            lease.shape.mean_us = max(lease.shape.mean_us, _LONG_US)
            lease.shape.depth = 1
        lease.recalled = False
        tasks = [lease.in_flight.pop(one) for one in ids if one in lease.in_flight]
        tasks = [task for task in tasks if not self.survives(task, worker)]
        shape = lease.shape
        for task in reversed(tasks):
            if task.brings:
                self._unload(task)
            task.worker = b""
            if not (task.cancelled or (task.deps is not None and self.aside(task))):
                shape.pending.appendleft(task)
        if not lease.in_flight:
            lease.stuck = False  # nothing runs there
            if lease.drain:
                self._give_back(lease)
        for other in list(shape.leases.values()):
            if shape.pending and not other.in_flight:
                self._fill(other)
        if shape.pending:
            shape.requested = 0
            self._request(shape)
        return [task for task in tasks if task.cancelled]

    def on_reclaim(self, message: LeaseReclaim) -> None:
        """The node wants a worker back for others."""
        lease = self.leases.get(message.worker)
        if lease is None:
            return
        if message.drain:
            lease.drain = True
            if len(lease.in_flight) > 1:
                self._send(lease.worker, Recall(len(lease.in_flight)))
        if not lease.in_flight:
            self._give_back(lease)

    def _give_back(self, lease: Lease) -> None:
        del self.leases[lease.worker]
        del lease.shape.leases[lease.worker]
        self._send(self._node, LeaseReturn(lease.worker))
        if lease.shape.pending:
            lease.shape.requested = 0
            self._request(lease.shape)

    def on_process_died(self, worker: bytes) -> list[Task]:
        """Tasks that were in flight on the dead worker, the one that ran first."""
        self._known.pop(worker, None)
        lease = self.leases.pop(worker, None)
        if lease is None:
            return []
        shape = lease.shape
        del shape.leases[worker]
        if shape.pending and not shape.requested:
            self._request(shape)  # those that wait had as many workers as there may be
        return list(lease.in_flight.values())

    def on_unplaceable(self, message: Unplaceable) -> list[Task]:
        """Tasks that will never have a worker, or whose workers the node is ending."""
        shape = self._shapes[message.shape]
        tasks = list(shape.pending)
        shape.pending.clear()
        shape.requested = 0
        if message.running:
            for worker, lease in shape.leases.items():
                found = lease.in_flight.values()
                tasks += [task for task in found if not self.survives(task, worker)]
                del self.leases[worker]
            shape.leases.clear()
        return tasks

    def survives(self, task: Task, worker: bytes) -> bool:
        """A task was lost with its worker, or given back: whether another copy of it counts."""
        watch: Speculation | None = task.shape.watch
        return watch is not None and watch.lost(task, worker)

    def remove(self, task: Task) -> bool:
        """Take a task out of the queue. False when it is no longer there."""
        try:
            task.shape.pending.remove(task)
        except ValueError:  # it has been sent meanwhile
            return False
        return True

    def tasks(self) -> Iterator[Task]:
        """All tasks that wait for a worker or are with one."""
        for shape in self._shapes.values():
            yield from shape.pending
        for lease in self.leases.values():
            yield from lease.in_flight.values()

    def tick(self, now: float) -> float | None:
        """Give back what was idle too long; returns the time of the next look, or None."""
        keep = self._config.lease_idle_seconds
        next_look = None
        for shape in self._watched:
            if shape.leases and shape.watch is not None:
                shape.watch.look(now, self._push)
                next_look = now + self._config.speculation_look_seconds
        for lease in list(self.leases.values()):
            if lease.in_flight:
                continue
            until = lease.idle_since + keep
            if until <= now:
                self._give_back(lease)
            elif next_look is None or until < next_look:
                next_look = until
        return next_look
