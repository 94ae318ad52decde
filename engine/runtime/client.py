"""The runtime of a process that submits work: drivers and workers alike.

Here the pure owner machine meets sockets and shared memory. The rule of the house: state changes
under `reactor.lock`; nothing that can wait (a segment lease, a fetch) happens under it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from time import perf_counter
from typing import Any

from engine.config import Config
from engine.core.control import (
    ActorChanged,
    Attach,
    Census,
    CensusReply,
    Connect,
    Gather,
    Gathered,
    MemoryEased,
    Peer,
    ReleaseSegments,
    Reply,
    Restore,
    SegmentDropped,
    SegmentsReturned,
    Waiting,
    WorkerDied,
)
from engine.core.dispatch import Shape, Task
from engine.core.environments import Scope, decode_environment
from engine.core.ids import IdSource
from engine.core.owner import Owner
from engine.core.placing import Placing
from engine.core.values import ERROR_NONE, ERROR_USER, Value, encode_failure
from engine.runtime import futures
from engine.runtime.admission import Admission
from engine.runtime.disk import Disk
from engine.runtime.events import Events
from engine.runtime.process import socket_from
from engine.runtime.reactor import Reactor
from engine.runtime.requests import Requests
from engine.runtime.shared_memory import SharedMemory
from engine.runtime.spilling import Spilling
from engine.runtime.values import Unreadable, Values
from engine.runtime.views import Views
from engine.runtime.waiting import Aside, Waits
from engine.store import codec
from engine.store.refs import ObjectRef, adopt, set_holder
from engine.wire.connection import Connection

__all__ = ["Runtime", "current", "set_current"]

_log = logging.getLogger("engine")
_current: Runtime | None = None
_running: ContextVar[Any] = ContextVar("engine_running", default=None)


def current() -> Runtime | None:
    """The runtime of this process, if the engine runs in it."""
    return _current


def set_current(runtime: Runtime | None) -> None:
    """Make `runtime` this process's; references and handles find it here."""
    global _current
    _current = runtime
    if runtime is None:
        set_holder(None, None)
    else:
        set_holder(runtime, runtime.released.append)


class Runtime:
    """Submits tasks and calls, keeps objects, answers other processes."""

    def __init__(
        self,
        process: bytes,
        config: Config,
        node: bytes,
        info: dict[str, Any],
        environment: bytes = b"",
    ) -> None:
        self.id = process
        self.scope = Scope(decode_environment(environment))
        self.config = config
        self.node = node
        self.info = info
        self.ids = IdSource(process)
        self.reactor = Reactor(
            self._on_messages,
            self._on_closed,
            self._on_tick,
            spin_seconds=config.spin_seconds,
            tick_seconds=config.service_tick_seconds,
        )
        self.lock = self.reactor.lock
        self.connections: dict[bytes, Connection] = {}
        self._connecting: dict[bytes, list[Any]] = {}
        self.released: deque[bytes] = deque()
        self.dropped_streams: deque[bytes] = deque()
        self.values = self._make_values()
        self.definitions: dict[bytes, bytes] = {}
        self.pinned: list[Any] = []  # references that exported definitions have captured
        self.requests = Requests(self)
        self.events = Events(config)
        self.values.on_stored = self.events.span
        self.owner = self._make_owner()
        self._entries = self.owner.objects.entries
        self.waits = waiting = Waits(self)
        self.get = waiting.get
        self.get_one = waiting.get_one
        self.ready_among = waiting.ready_among
        self.wait = waiting.wait
        self.reason = waiting.reason
        self._wait_for = waiting.wait_for
        self.restoring: tuple[Restore, int] | None = None  # checkpoint of an actor to be made
        # Notes what may differ in a replay, or repeats it; set in an actor that is `replayable`.
        self.event: Callable[[Callable[[], Any]], Any] | None = None
        # What the main thread does even while it waits; set in an actor that may be asked again.
        self.aside: Aside | None = None
        self._admit = Admission(self, _running.get).admit
        self.node_alive = True
        self.unclaimed: Callable[[bytes, Any], None] | None = None  # what is not for an owner
        self.on_peer_gone: Callable[[bytes], None] | None = None
        self.before_block: Callable[[], None] | None = None
        self.cancelled: set[bytes] = set()  # calls that run here and that nobody wants any more
        # What this process can tell when the node gathers a view of the cluster, under the lock.
        self.views = Views(self)
        self.records: dict[str, Callable[[], list[Any]]] = {
            "tasks": self.views.tasks, "objects": self.views.objects
        }
        self.values.look = self.owner.spill.look
        self.unseen = self.values.unseen = self.owner.spill.unseen
        self.spilling = Spilling(self)

    def _make_owner(self) -> Owner:
        return Owner(
            self.ids,
            self.node,
            self.config,
            send=self.send,
            free=self.values.free,
            make_refs=lambda ids: [adopt(one) for one in ids],
            definition=self.definitions.__getitem__,
            retry=self._retry_exception,
            note=self.events.failed,
            refs_of=lambda keep: {ref.binary(): ref for ref in keep},
        )

    def _make_values(self) -> Values:
        info, config = self.info, self.config
        memory = SharedMemory(
            self.id,
            info["segment_bytes"],
            info["store_bytes"],
            request=lambda what, unless, **args: self.requests.request_unless(
                what, unless, **args
            ),
            before_wait=self._before_memory_wait,
            freed=lambda: self.spilling.freed(),
        )
        disk = Disk(
            self.id,
            config,
            info["disk_segment_bytes"],
            info["spill_directory"],
            request=self._request,
            given_up=self._give_up,
        )
        return Values(
            config,
            memory,
            disk,
            request=self._request,
            settle=self.settle,
            lock=self.lock,
        )

    def _give_up(self, segments: list[int]) -> None:
        with self.lock:
            self.send(self.node, SegmentsReturned(segments))

    def _before_memory_wait(self) -> None:
        if self.before_block is not None and self.running is not None:
            with self.lock:
                self.before_block()

    @property
    def running(self) -> Any:
        """The call whose code is running here: by thread, or by coroutine."""
        return _running.get()

    @running.setter
    def running(self, call: Any) -> None:
        _running.set(call)

    # ------------------------------------------------------------------ messages

    def attach(self, connection: Connection) -> None:
        """Serve a connection to `connection.peer`."""
        self.connections[connection.peer] = connection
        self.reactor.add(connection)

    def send(self, peer: bytes, message: Any) -> None:
        """Queue a message for a process, connecting first if need be. Under the lock."""
        connection = self.connections.get(peer)
        if connection is not None:
            self.reactor.send(connection, message, False)
        elif peer == self.id:
            self.reactor.after_turn.append(lambda: self._to_self(message))
            self.reactor.kick()
        elif self.owner.is_dead(peer):
            # Whoever holds something of it must hear of the death, however late it came by it.
            self.reactor.after_turn.append(lambda: self._died_before(peer))
            self.reactor.kick()
        elif self.node_alive:
            waiting = self._connecting.get(peer)
            if waiting is None:
                self._connecting[peer] = [message]
                self.reactor.send(self.connections[self.node], Connect(peer), True)
            else:
                waiting.append(message)

    def reaches(self, peer: bytes) -> bool:
        """Whether there is a line to a process; an actor may have called itself."""
        return peer in self.connections or peer == self.id

    def _died_before(self, peer: bytes) -> None:
        with self.lock:
            self.owner.died_before(peer)
            self.drain()

    def _to_self(self, message: Any) -> None:
        with self.lock:
            self._handle(self.id, message, perf_counter())
            self.drain()

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        now = perf_counter()
        peer = connection.peer
        if connection.passing:
            for message in messages:
                if not self._on_control(connection, message):
                    self._handle(peer, message, now)
        else:
            for message in messages:
                self._handle(peer, message, now)
        if self.released:
            self.drain()
        if self.owner.dispatch.leases or self.owner.delayed:
            self._look_at_leases()

    def _handle(self, peer: bytes, message: Any, now: float) -> None:
        if not self.owner.handle(peer, message, now):
            if self.unclaimed is None:
                raise AssertionError(f"unexpected message {message!r} from {peer.hex()}")
            self.unclaimed(peer, message)

    def _on_control(self, connection: Connection, message: Any) -> bool:
        kind = type(message)
        if kind is Peer:
            self._on_peer(connection, message)
        elif kind is Attach:
            self.requests.on_attach(message, connection.take_descriptor())
        elif kind is Reply:
            self.requests.on_reply(message)
        elif kind is SegmentDropped:
            self.values.drop_mappings(message.segments)
        elif kind is ReleaseSegments:
            self.spilling.on_release(message)
            self.reactor.flush_one(connection)
        elif kind is MemoryEased:
            self.spilling.on_eased()
        elif kind is Restore:
            self.restoring = message, connection.take_descriptor()
        elif kind is Waiting:  # outside of the lock: a terminal may be slow
            self.reactor.after_turn.append(lambda: _log.warning(message.text))
        elif kind is Gather:
            records = self.records.get(message.what, list)()
            self.reactor.send(connection, Gathered(message.number, records), False)
        elif kind is Census:
            blocks = self.owner.objects.blocks_in(set(message.segments), message.node)
            census = CensusReply(message.segments, blocks, message.node)
            self.reactor.send(connection, census, False)
        else:
            if kind is WorkerDied:
                self._hear_out(message.process)
            elif kind is ActorChanged and message.state != "alive":
                client = self.owner.callers.actors.get(message.id)
                self._hear_out(b"" if client is None else client.process)
            return False
        return True

    def _hear_out(self, process: bytes) -> None:
        """What a process said before it died counts, though the news of its death was faster."""
        connection = self.connections.get(process)
        if connection is not None:
            self.reactor.hear_out(connection)

    def _on_peer(self, connection: Connection, message: Peer) -> None:
        waiting = self._connecting.pop(message.process, [])
        if not message.alive:
            return  # why was told just before, by WorkerDied
        sock = socket_from(connection.take_descriptor())
        peer = Connection(sock, message.process, frame_max=self.config.frame_bytes_max)
        peer.pid = message.pid
        self.attach(peer)
        for queued in waiting:
            self.reactor.send(peer, queued, False)

    def _on_closed(self, connection: Connection) -> None:
        if self.connections.get(connection.peer) is connection:
            del self.connections[connection.peer]
        if connection.peer == self.node:
            self.node_alive = False
            trouble = connection.trouble
            self.owner.node_died(f"is not heard any more: {trouble}" if trouble else "is gone")
            return
        if self.owner.is_dead(connection.peer):
            # Its last words came after the news of its death, and what they brought up is lost.
            self.owner.died_before(connection.peer)
        if self.on_peer_gone is not None:
            self.on_peer_gone(connection.peer)

    def _on_tick(self, now: float) -> float | None:
        if self.released:
            self.drain()
        return self.owner.tick(now)

    # ------------------------------------------------------------------ references

    def hold(self, object_id: bytes) -> None:
        """A reference object for this id now exists in this process."""
        with self.lock:
            self.owner.objects.hold(object_id)

    def accept_loan(self, object_id: bytes) -> None:
        """An object was lent to us; a reference to it is about to exist."""
        with self.lock:
            if self.released:
                self.drain()
            self.owner.objects.accept_loan(object_id)

    def open_line(self, process: bytes) -> None:
        """Open a direct connection ahead of its first use. Under the lock."""
        if process not in self.connections and process not in self._connecting:
            self._connecting[process] = []
            self.reactor.send(self.connections[self.node], Connect(process), True)

    def check_known(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Raise ValueError for a reference of an engine that was shut down."""
        for ref in refs:
            if ref._id not in self._entries:
                raise ValueError(
                    f"{ref!r} is not known to this engine: it comes from before the last "
                    "engine.shutdown()"
                )

    def _request(self, what: str, **args: Any) -> Any:
        return self.requests.request(what, **args)

    def settle(self) -> None:
        """`drain` for callers without the lock."""
        if self.released:
            with self.lock:
                self.drain()

    def drain(self) -> None:
        """Tell the object table of references that died. Under the lock."""
        released, release = self.released, self.owner.objects.release
        if self.unseen:
            self.owner.spill.settle()
        while self.dropped_streams:
            self.owner.drop_stream(self.dropped_streams.popleft())
        while released:
            release(released.popleft())

    # ------------------------------------------------------------------ submitting

    def submit(self, task: Task, on_full: str | None = None) -> None:
        """Submit a task; waits or raises while this process has too many in flight."""
        task.call.submitted = perf_counter()
        self._admit(task, on_full)
        with self.lock:
            if self.released:
                self.drain()
            self.owner.submit(task)
            lease = self.owner.dispatch.leases.get(task.worker)
            self._after_submit(task, 0 if lease is None else len(lease.in_flight))
            if not self.reactor.ticking:
                self._look_at_leases()

    def submit_stream(
        self, task: Task, window: int, client: Any, on_full: str | None = None
    ) -> Any:
        """Submit a generator call; returns its stream of items."""
        task.call.submitted = perf_counter()
        self._admit(task, on_full)
        with self.lock:
            self.drain()
            stream = self.owner.submit_stream(task, window, client)
            self.reactor.flush()
            self._look_at_leases()
        return stream

    def _look_at_leases(self) -> None:
        """See to it that leases which fall idle are given back in time."""
        if not self.reactor.ticking:
            self.reactor.look_at(perf_counter() + self.config.lease_idle_seconds)

    def submit_call(self, client: Any, task: Task, on_full: str | None = None) -> None:
        """Submit an actor call; waits or raises while this process has too many in flight."""
        task.call.submitted = perf_counter()
        self._admit(task, on_full)
        with self.lock:
            if self.released:
                self.drain()
            self.owner.call(client, task)
            self._after_submit(task, len(client.in_flight))

    def _after_submit(self, task: Task, in_flight: int) -> None:
        """Write a call at once if its worker was idle or enough has gathered for it.

        `in_flight` counts the calls on their way to that worker, this one included.
        """
        reactor = self.reactor
        reactor.touched += 1
        connection = self.connections.get(task.worker)
        if connection is None:  # not sent yet, or to a worker whose line has just closed
            reactor.flush()
        elif (
            in_flight == 1
            or len(connection.out) >= self.config.flush_messages
            or reactor.sleeping
        ):
            reactor.flush_one(connection)

    def shape(self, placing: Placing) -> Shape:
        """The scheduling shape of this placing."""
        with self.lock:
            return self.owner.dispatch.shape(placing)

    def _retry_exception(self, task: Task, value: Value) -> bool:
        wanted = task.retry_exceptions
        if not wanted or task.retries == 0 or value.error != ERROR_USER:
            return False
        if wanted is True:
            return True
        error = codec.decode(value.data, value.buffers)
        return isinstance(error.cause, tuple(wanted))

    # ------------------------------------------------------------------ values

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value and own it."""
        encoded = codec.encode(value)
        if encoded.refs:
            self.check_known(encoded.refs)
        stored = self.values.store(encoded)
        object_id = self.ids.new()
        with self.lock:
            if self.released:
                self.drain()
            self.owner.objects.add(object_id, stored, encoded.refs)
        return ObjectRef(object_id)

    def is_ready(self, ref: ObjectRef[Any]) -> bool:
        """Whether the object has a value or an error."""
        return self._entries[ref._id].value is not None

    def value_of(self, ref: ObjectRef[Any]) -> tuple[bool, Any]:
        """Without waiting: (True, the value of an object), or (False, None) if it is not there.

        Raises its error. An object that is found to be lost is on its way once more.
        """
        value = self._entries[ref._id].value
        if value is None:
            return False, None
        try:
            return True, self.values.materialise(value, ref)
        except Unreadable as lost:
            self.report_lost(ref, lost)
            return False, None

    def report_lost(self, ref: ObjectRef[Any], lost: Unreadable) -> None:
        """An object cannot be read: have it rebuilt. It is pending from now on, or has an error."""
        if not self.node_alive:
            raise lost  # nothing runs any more
        with self.lock:
            self.drain()
            self.owner.rebuild.noticed(ref._id, lost.block, str(lost))
            self.reactor.flush()
            self._look_at_leases()

    def locate(self, ref: ObjectRef[Any]) -> Value:
        """The stored form of an object; waits for it."""
        entry = self._entries[ref._id]
        while (value := entry.value) is None:
            self._wait_for((ref,), [entry], None)
        if value.error != ERROR_NONE:
            raise self.values.error_of(value)
        return value

    def ask(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """Ask the node or head and wait for the result; raises what it answers as a failure."""
        return self.requests.ask(what, timeout, **args)

    def promise(self, what: str, value: Any = None, **args: Any) -> ObjectRef[Any]:
        """Ask the node or head; the answer, or `value` in its place, becomes an object."""
        return self.requests.promise(what, value, **args)

    # ------------------------------------------------------------------ futures

    def when_ready(self, object_id: bytes, wake: Callable[[], None]) -> None:
        """Call `wake` (outside of the lock) once the object has a value or an error."""
        after = self.reactor.after_turn
        with self.lock:
            ready = self.owner.objects.when_ready(object_id, lambda _value: after.append(wake))
            self.reactor.flush()
        if ready:
            wake()

    def future_of(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A `concurrent.futures.Future` for the object."""
        return futures.future_of(self, ref)

    def task_of(self, ref: ObjectRef[Any]) -> bytes:
        """The id of the task that makes an object, as far as it is known here."""
        entry = self._entries.get(ref._id)
        return ref._id if entry is None or entry.task is None else entry.task.id

    def awaitable(self, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
        """What `await ref` runs, in whatever loop runs it."""
        return futures.awaitable(self, ref)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close every connection and forget everything."""
        failure = encode_failure("EngineError", "the engine was shut down")
        with self.lock:
            for object_id, entry in list(self._entries.items()):
                if entry.value is None:
                    self.owner.objects.resolve(object_id, failure)
        while self.reactor.after_turn:
            self.reactor.after_turn.popleft()()
        self.spilling.close()
        self.reactor.stop()
        self.values.close()
