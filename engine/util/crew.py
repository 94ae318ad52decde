"""A crew of worker actors that runs plain functions: what `Pool` and `Executor` stand on.

Work comes as *segments* (one function, many argument tuples, a sink for the outcomes). A worker has
one *batch* at a time. How many items go into a batch follows the measured cost of the function, so
that short items do not pay for a message each; an item is still the unit of balance: a batch that
takes longer than expected is asked to hand its outcomes over and give its unstarted items back.

Nobody polls: outcomes are delivered by whichever thread serves the engine's sockets, usually the
one that waits for them. Only values in shared memory, callbacks of the user and the look after slow
batches are left to the helper thread (`engine.util.helper`).
"""

from __future__ import annotations

import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from engine.actor import ActorHandle
from engine.api import get, kill, remote, wait
from engine.exceptions import ActorError, SerializationError, TaskError
from engine.session import runtime
from engine.store import codec
from engine.util.crew_batch import BATCH_SECONDS, Admitted, Batch, Function, Segment, Sink
from engine.util.crew_worker import CrewWorker
from engine.util.helper import HELPER

__all__ = ["Crew", "Function", "Sink", "original"]

# A batch older than this gives its unstarted items back.
_SLOW_SECONDS = 4 * BATCH_SECONDS
# Functions that a worker keeps between batches.
_FUNCTIONS_MAX = 32
_EXIT_SECONDS = 5.0


class _Slot:
    """Place of one worker; the worker is started with its first batch."""

    def __init__(self) -> None:
        self.actor: ActorHandle | None = None
        self.batch: Batch | None = None
        self.known: OrderedDict[int, None] = OrderedDict()
        self.tasks = 0

    def retire(self) -> ActorHandle | None:
        actor, self.actor = self.actor, None
        self.known.clear()
        self.tasks = 0
        return actor


class Crew:
    """`size` workers, each a process of its own that needs no logical CPU.

    Args:
        size: how many workers.
        initializer, initargs: called once in every worker before its first item; if it raises,
            the crew is broken with that error.
        tasks_max: items after which a worker is replaced by a fresh one (None: never).
        replaces: a worker that died is replaced and only its batch fails; otherwise a death
            breaks the crew.
    """

    def __init__(
        self,
        size: int,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        tasks_max: int | None = None,
        *,
        replaces: bool = True,
    ) -> None:
        self.size = size
        self.broken: BaseException | None = None
        self._home = runtime()
        self._class = remote(CrewWorker).options(num_cpus=0, max_concurrency=2)
        self._arguments = (initializer, tuple(initargs))
        self._tasks_max = tasks_max
        self._replaces = replaces
        self._lock = threading.RLock()
        self._pending: deque[Segment] = deque()
        self._queued = 0
        self._slots = [_Slot() for _ in range(size)]
        self._free = list(reversed(self._slots))
        self._functions: OrderedDict[int, Function] = OrderedDict()
        self._keys = 0

    # ------------------------------------------------------------------ submitting

    def start(self) -> None:
        """Start all workers now instead of with their first batch."""
        for slot in self._slots:
            if slot.actor is None:
                slot.actor = self._class.remote(*self._arguments)

    def function(self, call: Callable[..., Any], kept: bool = False) -> Function:
        """How `call` is known to the workers.

        A plain function without a closure is shipped to a worker once. Whatever may change
        between two calls (closures, partials, bound methods, objects) is shipped as it is now.
        """
        fixed = isinstance(call, type | types.BuiltinFunctionType) or (
            isinstance(call, types.FunctionType) and call.__closure__ is None
        )
        with self._lock:
            found = self._functions.get(id(call))
            if found is not None and found.call is call:
                return found
            self._keys += 1
            made = Function(self._keys, call, fixed or kept)
            if fixed:
                self._functions[id(call)] = made
                if len(self._functions) > _FUNCTIONS_MAX:
                    self._functions.popitem(last=False)
        return made

    def submit(self, function: Function, items: Sequence[Any], sink: Sink, start: int = 0) -> None:
        """Queue items; an item is a tuple of arguments, or a list [arguments, keywords]."""
        with self._lock:
            if self.broken is None:
                self._pending.append(Segment(function, items, sink, start))
                self._queued += len(items)
        if self.broken is not None:
            Segment(function, items, sink, start).fail(self.broken)
            return
        self._pump()

    def _pump(self) -> None:
        """Give batches to free workers. Messages are sent outside of the lock."""
        while self._pending and self._free:
            if self.broken is not None:
                self._drop()
                return
            with self._lock:
                if not self._free:
                    return
                slot = self._free.pop()
                segments = self._take(slot)
                if not segments:
                    self._free.append(slot)
                    return
                batch = slot.batch = Batch(segments)
            self._send(slot, batch)

    def _take(self, slot: _Slot) -> list[Segment]:
        """The next batch for a worker: items of one function, a fair share at most."""
        taken: list[Segment] = []
        room = 0
        while self._pending:
            segment = self._pending[0]
            if taken and segment.function is not taken[0].function:
                break
            if not taken:
                room = min(int(segment.function.batch), max(1, self._queued // (2 * self.size)))
                if self._tasks_max is not None:
                    room = min(room, self._tasks_max - slot.tasks)
            if room <= 0:
                break
            self._pending.popleft()
            size = len(segment.items)
            if size > room:
                self._pending.appendleft(segment.split(room))
                size = room
            self._queued -= size
            if segment.items and segment.sink.admit(segment.start):
                taken.append(segment)
                room -= size
        return taken

    def _send(self, slot: _Slot, batch: Batch) -> None:
        function = batch.segments[0].function
        items = [item for segment in batch.segments for item in segment.items]
        try:
            if slot.actor is None:
                slot.actor = self._class.remote(*self._arguments)
            shipped, forget = self._ship(slot, function)
            ref = slot.actor.run.remote(function.key, shipped, function.kept, forget, items)
        except Exception as error:  # cannot be pickled, or has no place: told as the items' outcome
            self._unsent(slot, batch, error)
            return
        slot.tasks += batch.count
        if batch.count > 1:
            HELPER.look_after(self)
        self._home.when_ready(ref.binary(), lambda: self._arrived(slot, batch, ref))

    def _ship(self, slot: _Slot, function: Function) -> tuple[Any, list[int]]:
        if not function.kept:
            return function.call, []
        if function.key in slot.known:
            slot.known.move_to_end(function.key)
            return None, []
        slot.known[function.key] = None
        forget = []
        if len(slot.known) > _FUNCTIONS_MAX:
            forget.append(slot.known.popitem(last=False)[0])
        return function.call, forget

    def _unsent(self, slot: _Slot, batch: Batch, error: Exception) -> None:
        """A batch could not be pickled: the items go one by one, so that only the bad one fails."""
        with self._lock:
            slot.known.pop(batch.segments[0].function.key, None)
            slot.batch = None
            self._free.append(slot)
            single = batch.count == 1 or not isinstance(error, SerializationError)
            if not single:
                batch.segments[0].function.batch = 1.0
                self._requeue(batch.cut(0))
        if single:
            for segment in batch.segments:
                segment.fail(error)
            self.tell()

    def _requeue(self, segments: list[Segment]) -> None:
        """Put given-back work in front again. Under the lock."""
        for segment in reversed(segments):
            self._queued += len(segment.items)
            if not isinstance(segment.sink, Admitted):  # it has begun: nobody is asked again
                segment.sink = Admitted(segment.sink)
            self._pending.appendleft(segment)

    # ------------------------------------------------------------------ outcomes

    def _arrived(self, slot: _Slot, batch: Batch, ref: Any) -> None:
        value = self._home._entries[ref.binary()].value
        if value is not None and value.block is not None:
            HELPER.call(lambda: self._finish(slot, batch, ref))  # mapping memory may wait
        else:
            self._finish(slot, batch, ref)

    def _finish(self, slot: _Slot, batch: Batch, ref: Any) -> None:
        try:
            values, packed, seconds = get(ref)
            errors = _unpacked(packed)
        except ActorError as error:
            self._lost(slot, batch, error)
            return
        except Exception as error:  # the engine was shut down, or a value cannot be rebuilt here
            values, seconds = [None] * batch.count, 0.0
            errors = dict.fromkeys(range(batch.count), original(error))
            if not isinstance(error, TaskError):
                self.fail(error)
        if values is None:
            self._release(slot, batch, [])
            self.fail(errors[0])
            for segment in batch.segments:
                segment.fail(errors[0])
            return
        batch.segments[0].function.learn(max(1, len(values)), seconds)
        with self._lock:
            due = batch.advance(values, errors)
            rest = batch.cut(len(values)) if len(values) < batch.count else []
        self._release(slot, batch, rest)
        self._pump()  # first the next batch, so that the worker does not wait for the sinks
        for segment, at, part, failed in due:
            segment.deliver(at, part, failed)

    def _release(self, slot: _Slot, batch: Batch, rest: list[Segment]) -> None:
        retired = None
        with self._lock:
            if rest:
                slot.tasks -= sum(len(one.items) for one in rest)
                self._requeue(rest)
            if slot.batch is batch:
                slot.batch = None
                self._free.append(slot)
            if self._tasks_max is not None and slot.tasks >= self._tasks_max:
                retired = slot.retire()
        del retired  # the worker ends with its last handle

    def _lost(self, slot: _Slot, batch: Batch, error: BaseException) -> None:
        with self._lock:
            slot.retire()
            if slot.batch is batch:
                slot.batch = None
                self._free.append(slot)
            rest = batch.cut(batch.done)
        if not self._replaces:
            self.kill(error)
        for segment in rest:
            segment.fail(error)
        if self._replaces and self._home.node_alive:
            self._pump()

    def fail(self, error: BaseException) -> None:
        """Break the crew: queued work gets `error`, and so does whatever is submitted later."""
        with self._lock:
            if self.broken is None:
                self.broken = error
        self._drop()

    def withdraw(self) -> list[Any]:
        """Take back all work that was never given to a worker; its sinks."""
        with self._lock:
            taken = [one for one in self._pending if not isinstance(one.sink, Admitted)]
            self._pending = deque(one for one in self._pending if isinstance(one.sink, Admitted))
            self._queued = sum(len(one.items) for one in self._pending)
        return [one.sink for one in taken]

    def _drop(self) -> None:
        assert self.broken is not None
        with self._lock:
            pending, self._pending = self._pending, deque()
            self._queued = 0
            dropped = [one for one in pending if one.sink.admit(one.start)]
        for segment in dropped:
            segment.fail(self.broken)
        self.tell()

    # ------------------------------------------------------------------ slow batches

    def look(self, now: float) -> bool:
        """Ask slow batches for their outcomes and unstarted items; whether to look again."""
        busy = False
        for slot in self._slots:
            batch, actor = slot.batch, slot.actor
            if batch is None or actor is None or batch.count <= 1 or batch.asked:
                continue
            busy = True
            if now - batch.sent > _SLOW_SECONDS:
                batch.asked = True
                self._ask(slot, actor, batch)
        return busy

    def _ask(self, slot: _Slot, actor: ActorHandle, batch: Batch) -> None:
        ref = actor.give_back.remote()
        HELPER.call_when_ready(self._home, ref, lambda: self._given_back(slot, batch, ref))

    def _given_back(self, slot: _Slot, batch: Batch, ref: Any) -> None:
        try:
            values, packed, limit = get(ref)
        except (ActorError, SerializationError, TaskError):
            return  # the answer of the batch itself tells
        errors = _unpacked(packed)
        with self._lock:
            if slot.batch is not batch:
                return  # it has ended meanwhile
            due = batch.advance(values[: batch.count], errors)
            if limit < batch.count:
                rest = batch.cut(limit)
                slot.tasks -= sum(len(one.items) for one in rest)
                self._requeue(rest)
        for segment, at, part, failed in due:
            segment.deliver(at, part, failed)
        self._pump()

    # ------------------------------------------------------------------ waiting, ending

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Serve the engine until `ready()` or `timeout` seconds have passed; whether ready."""
        return self._home.wait(ready, timeout)

    def poll(self) -> None:
        """Take what has arrived, without waiting."""
        self._home.reactor.poll()

    def tell(self) -> None:
        """Wake whoever waits in another thread: something has changed without a message."""
        HELPER.tell(self._home)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""
        return not self._pending and all(slot.batch is None for slot in self._slots)

    def end(self) -> None:
        """Let the workers finish and end them; waits for it."""
        self.wait(lambda: self.idle, None)
        actors = [actor for slot in self._slots if (actor := slot.retire()) is not None]
        if actors and self._home.node_alive:
            refs = [actor.__getattr__("__ray_terminate__").remote() for actor in actors]
            wait(refs, num_returns=len(refs), timeout=_EXIT_SECONDS)

    def kill(self, error: BaseException) -> None:
        """End the workers at once; what is queued or running gets `error`."""
        self.fail(error)
        for slot in self._slots:
            actor = slot.retire()
            if actor is not None and self._home.node_alive:
                kill(actor)


def _unpacked(packed: dict[int, bytes] | None) -> dict[int, BaseException]:
    if not packed:
        return {}
    return {at: original(codec.decode(data, None)) for at, data in packed.items()}


def original(error: BaseException) -> BaseException:
    """The exception as the function raised it, the remote traceback as its `__cause__`."""
    if isinstance(error, TaskError):
        cause: BaseException | None = error.__dict__["cause"]
        if cause is not None:
            cause.__cause__ = error
            return cause
    return error
