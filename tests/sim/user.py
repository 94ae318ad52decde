"""The public verbs as user code calls them: generators on a simulated process.

Mirrors `engine.functions`, `engine.actor`, `engine.generators` and `runtime.arguments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.core.callers import ActorClient
from engine.core.control import CreateActor, KillActor
from engine.core.dispatch import Task
from engine.core.ids import short
from engine.core.messages import ActorCall, Call, Details
from engine.core.objects import Entry
from engine.core.placing import Placing
from engine.core.retention import READS, UNNUMBERED
from engine.core.streams import ItemStream
from engine.core.values import (
    ERROR_NONE,
    ERROR_USER,
    STREAMING,
    ObjectValue,
    Value,
    decode_failure,
)
from tests.sim.member import Failure, Steps
from tests.sim.process import Process
from tests.sim.references import Big, Encoded, Handle, Ref, encode
from tests.sim.values import Unreadable

__all__ = ["Failure", "Items", "User"]


class Items:
    """What a generator call returns (as `ObjectRefGenerator`)."""

    __slots__ = ("completed", "home", "stream")

    def __init__(self, home: User, stream: ItemStream) -> None:
        self.home = home
        self.stream = stream
        self.completed = Ref(home, stream.task.id)

    def __del__(self) -> None:
        self.home.dropped_streams.append(self.stream.task.id)


class User(Process):
    """A process with the public verbs."""

    # ------------------------------------------------------------------ waiting

    def wait_for(self, ready: Any, timeout: float | None) -> Steps:
        """As `Waiting.wait`; workers lend their slot out."""
        deadline = None if timeout is None else self.world.clock.now + timeout
        return (yield ready, deadline)

    def get(self, refs: Sequence[Ref], timeout: float | None = None) -> Steps:
        """As `engine.get`."""
        objects = self.owner.objects
        found = [objects.entries[ref.id] for ref in refs]
        if any(entry.value is None for entry in found):
            for ref, entry in zip(refs, found, strict=True):
                objects.want(ref.id, entry)

            def ready() -> bool:
                missing = False
                for entry in found:
                    if entry.value is None:
                        missing = True
                    elif entry.value.error:
                        return True
                return not missing

            if not (yield from self.wait_for(ready, timeout)):
                raise Failure("GetTimeoutError", f"after {timeout} s")
            for entry in found:
                if entry.value is not None and entry.value.error != ERROR_NONE:
                    raise self.error_of(entry.value)
        out = []
        for ref, entry in zip(refs, found, strict=True):
            out.append((yield from self._read_value(ref, entry, timeout)))
        return out

    def _read_value(self, ref: Ref, entry: Entry, timeout: float | None) -> Steps:
        """As `Waits._read`; the time-out begins anew with each loss."""
        while True:
            value = entry.value
            if value is None:
                self.world.mark("waits for what was lost")
                self.owner.objects.want(ref.id, entry)
                if not (yield from self.wait_for(lambda: entry.value is not None, timeout)):
                    raise Failure("GetTimeoutError", f"after {timeout} s")
                continue
            try:
                return (yield from self.materialise(value, ref))
            except Unreadable as lost:
                self.report_lost(ref, lost)

    def report_lost(self, ref: Ref, lost: Unreadable) -> None:
        """As `Runtime.report_lost`."""
        if not self.node_alive:
            raise Failure("ObjectLostError", str(lost))
        self.drain()
        if self.world.memory.is_damaged(lost.block):
            self.world.damaged[short(ref.id)] = None
        self.owner.rebuild.noticed(ref.id, lost.block, str(lost))
        self.flush()
        self.look_at_leases()

    def wait(self, refs: list[Ref], count: int, timeout: float | None) -> Steps:
        """As `engine.wait`: the first `count` ready references, in list order."""
        objects = self.owner.objects
        entries = [objects.entries[ref.id] for ref in refs]
        for ref, entry in zip(refs, entries, strict=True):
            objects.want(ref.id, entry)
        yield from self.wait_for(
            lambda: sum(entry.value is not None for entry in entries) >= count, timeout
        )
        ready = [r for r, entry in zip(refs, entries, strict=True) if entry.value is not None]
        return ready[:count]

    def error_of(self, value: Value) -> Failure:
        """As `Values.error_of`."""
        if value.error == ERROR_USER:
            return Failure(*self.decode(value.data))
        made = decode_failure(value)
        return Failure(made.kind, made.text)

    def materialise(self, value: Value, ref: Any) -> Steps:
        """As `Values.materialise`."""
        if value.error != ERROR_NONE:
            raise self.error_of(value)
        block = value.block
        if block is None:
            return self.decode(value.data)
        data, pin = yield from self.values.view(block, ref)
        found = self.decode(data)
        if type(found) is Big:
            found.pin = pin
        return found

    # ------------------------------------------------------------------ storing

    def store(
        self, encoded: Encoded, owner: bytes, inline: bool = True, recovery: bool = False
    ) -> Steps:
        """As `Values.store`: the value as it is kept, for an object of `owner`."""
        contains = [ref.id for ref in encoded.refs] or None
        if inline and encoded.size <= self.config.inline_bytes_max:
            return Value(encoded.data, None, contains)
        block = yield from self.values.place(encoded.size, encoded.data, owner, recovery)
        return Value(b"", None, contains, block)

    def put(self, value: Any) -> Steps:
        """As `engine.put`."""
        encoded = encode(value)
        stored = yield from self.store(encoded, self.id)
        object_id = self.ids.new()
        self.drain()
        self.owner.objects.add(object_id, stored, encoded.refs)
        return Ref(self, object_id)

    # ------------------------------------------------------------------ submitting

    def _attach(self, task: Task, args: list[Any]) -> Steps:
        """As `attach_arguments`: direct references leave the list and travel as `deps`."""
        self.check_node()
        slots = [at for at, one in enumerate(args) if type(one) is Ref]
        refs = [args[at] for at in slots]
        encoded = encode([[None if type(one) is Ref else one for one in args], slots])
        call = task.call
        if refs:
            task.deps = [ref.id for ref in refs]
        refs += encoded.refs
        task.nbytes = encoded.size
        if encoded.size <= self.config.inline_bytes_max:
            call.args = encoded.data
        else:
            object_id = self.ids.new()
            value = yield from self.store(encoded, self.id)
            self.owner.objects.add(object_id, value, encoded.refs)
            refs.append(Ref(self, object_id))
            call.large = ObjectValue(object_id, value)
        task.brings = call.large is not None or task.deps is not None
        if refs:
            task.keep = refs if task.keep is None else [task.keep, refs]

    def _admit(self, task: Task) -> Steps:
        """As `Admission.admit`."""
        nbytes = task.nbytes
        if self.running is not None:
            task.parent = self.running[1]
        owner, limit = self.owner, self.config.in_flight_bytes_max
        # A low limit for the driver only: a task that may not submit before those tasks are done
        # that wait for its own result would wait for ever.
        calls = self.config.in_flight_calls_max if self.kind == "driver" else 20_000

        def room() -> bool:
            few = owner.unfinished < calls and owner.unfinished_bytes + nbytes <= limit
            return not owner.unfinished or few

        if not room():
            self.world.mark("waited for admission")
            yield from self.wait_for(lambda: room() or not self.node_alive, None)
            if not self.node_alive:
                raise Failure("NodeDiedError", "the node died before a call was submitted")
        self.drain()

    def _after_submit(self, task: Task, in_flight: int) -> None:
        end = self.connections.get(task.worker)
        if end is None:
            self.flush()
        elif in_flight == 1 or len(end.out) >= self.config.flush_messages:
            self.world.network.flush(end)

    def submit(
        self,
        key: bytes,
        args: list[Any],
        *,
        returns: int = 1,
        retries: int = 3,
        retry_exceptions: bool = False,
        cpus: float = 1.0,
        group: bytes = b"",
    ) -> Steps:
        """As `RemoteFunction.remote`; references, in a list unless there is one."""
        call = Call(self.ids.new(), key, b"", returns)
        ids = [call.id, *(self.ids.new() for _ in range(returns - 1))][:returns]
        shape = self.owner.dispatch.shape(Placing({"CPU": cpus} if cpus else {}, group))
        task = Task(call, key.decode(), ids, retries, shape)
        task.retry_exceptions = retry_exceptions
        self.world.on_submitted(call.id, retries)
        yield from self._attach(task, args)
        yield from self._admit(task)
        self.owner.submit(task)
        lease = self.owner.dispatch.leases.get(task.worker)
        self._after_submit(task, 0 if lease is None else len(lease.in_flight))
        self.look_at_leases()
        return Ref(self, call.id) if returns == 1 else [Ref(self, one) for one in ids]

    def stream(
        self, key: bytes, args: list[Any], window: int, retries: int, handle: Handle | None = None
    ) -> Steps:
        """A generator call, of a function or (with `handle`) of an actor."""
        call: Any
        if handle is None:
            shape = self.owner.dispatch.shape(Placing({"CPU": 1.0}))
            call = Call(self.ids.new(), key, b"", STREAMING, details=Details(window))
            task = Task(call, key.decode(), [call.id], retries, shape)
            self.world.on_submitted(call.id, retries)
        else:
            name, ids = key.decode(), self.ids
            call = ActorCall(
                ids.new(), handle.client.id, name, b"", UNNUMBERED, STREAMING,
                details=Details(window),
            )  # fmt: skip
            task = Task(call, name, [call.id], retries, None)
            task.actor_ref = handle.ref
        yield from self._attach(task, args)
        yield from self._admit(task)
        client = handle.client if handle is not None else None
        items = self.owner.submit_stream(task, window, client)
        self.flush()
        self.look_at_leases()
        return Items(self, items)

    def next_item(self, items: Items) -> Steps:
        """The next reference, or None at the end."""
        stream = items.stream
        if not stream.ready and not stream.finished:
            yield from self.wait_for(lambda: bool(stream.ready) or stream.finished, None)
        if not stream.ready:
            return None
        return Ref(self, self.owner.streams.take(stream))

    def completed(self, items: Items) -> Ref:
        """As `ObjectRefGenerator.completed`."""
        if not items.stream.finished:
            self.owner.streams.lift(items.stream)
            self.flush()
        return items.completed

    def cancel(self, ref: Ref, force: bool) -> None:
        """As `engine.cancel`."""
        self.world.on_cancel(self, ref.id)
        force = force and not self.owner.is_actor_call(ref.id)
        self.owner.cancel(ref.id, force, True)
        self.flush()

    # ------------------------------------------------------------------ actors

    def create(
        self,
        key: bytes,
        args: list[Any],
        *,
        cpus: float = 0.0,
        restarts: int = 0,
        retries: int = 0,
        detached: bool = False,
        every: float | None = None,
    ) -> Steps:
        """As `ActorClass.remote`."""
        actor = self.ids.new()
        facts: dict[str, Any] = {
            "class": key.decode(),
            "resources": {"CPU": cpus} if cpus else {},
            "max_restarts": restarts,
            "lifetime": "detached" if detached else None,
            "checkpoint_every": every,
        }
        create = CreateActor(actor, key, self.world.definitions[key], b"", facts)
        task = Task(create, f"{key.decode()}.__init__", [], 0, None)
        yield from self._attach(task, args)
        self.owner.objects.add(actor, Value())
        if not detached:
            farewell = KillActor(actor, True, True, "ended: its last handle is gone")
            self.owner.objects.farewells[actor] = (self.node, farewell)
        client = self.owner.callers.client(actor, key.decode(), False, every is not None)
        self.owner.create(client, task)
        self.flush()
        return Handle(Ref(self, actor), client, retries)

    def call(
        self, handle: Handle, method: str, args: list[Any], returns: int = 1, reads: bool = False
    ) -> Steps:
        """As `ActorMethod.remote`."""
        client: ActorClient = handle.client
        seq = READS if reads and client.retained is not None else UNNUMBERED
        call = ActorCall(self.ids.new(), client.id, method, b"", seq, returns)
        task = Task(call, f"{client.name}.{method}", [call.id][:returns], handle.retries, None)
        task.actor_ref = handle.ref
        if client.retained is None and not self.owner.callers.identity:
            self.world.actors.on_submitted(self, call, handle.retries)
        yield from self._attach(task, args)
        yield from self._admit(task)
        self.owner.call(client, task)
        self._after_submit(task, len(client.in_flight))
        return Ref(self, call.id) if returns else None

    def kill(self, handle: Handle, no_restart: bool) -> None:
        """As `engine.kill`."""
        self.owner.callers.killed(handle.client)
        self.send(self.node, KillActor(handle.client.id, no_restart, False, "was killed"))
        self.flush()
