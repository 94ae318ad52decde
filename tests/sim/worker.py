"""A worker: queue, execution, answers; around the owner's part that every process has.

Mirrors `runtime.worker` and `runtime.execution` method by method, with the named points at which
the fault "points" may kill it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from engine.core.control import (
    ActorChanged,
    Assigned,
    Blocked,
    CheckpointKept,
    CreateActor,
    Hello,
    Kept,
    KillActor,
    Retire,
    Welcome,
)
from engine.core.ids import owner_of
from engine.core.messages import (
    ActorCall,
    Call,
    Cancel,
    Consumed,
    Define,
    Dependencies,
    Done,
    DoneMany,
    Holding,
    Item,
    Recall,
    ReplayOffer,
    Returned,
    Settled,
)
from engine.core.streams import settle_key
from engine.core.values import ELSEWHERE, ERROR_USER, STREAMING, ObjectValue, Value, encode_failure
from tests.sim.member import Failure, Steps, Violation
from tests.sim.network import End
from tests.sim.process import Interrupted
from tests.sim.references import Encoded, encode
from tests.sim.replay import LOST, Replay
from tests.sim.user import User
from tests.sim.values import Unreadable

__all__ = ["ActorExit", "Worker"]

_REPLY_SECONDS = 200e-6  # as in `runtime.worker`
_PATIENCE_SECONDS = 300e-6  # as in `runtime.waiting`


class ArgumentMissing(Exception):
    """As in `runtime.arguments`."""


class ActorExit(Exception):
    """User code ends its process: an actor's exit, or `os._exit` of a task."""


class Worker(User):
    """A process that runs calls."""

    kind = "worker"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue: deque[tuple[bytes, Any]] = deque()
        self.blobs: dict[bytes, bytes] = {}
        self.parts: dict[bytes, list[ObjectValue]] = {}
        self.consumed: dict[bytes, int] = {}
        self.unsettled: dict[bytes, Any] = {}
        self.stopping: str | None = None
        self.welcome = False
        self.assigned = Assigned({})
        self.actor: Any = None
        self.actor_id = b""
        self.replay: Replay | None = None
        self.notebook = b""  # the call that runs, for the node to read after our death
        self._seen_running: tuple[bytes, Any] | None = None
        self._interrupt = b""

    def begin(self) -> None:
        """The process runs."""
        self.start(self._run())

    # ------------------------------------------------------------------ messages

    def on_messages(self, end: End, messages: list[Any]) -> None:
        if not self.welcome:
            assert type(messages[0]) is Welcome
            self.welcome = True
            messages = messages[1:]
        super().on_messages(end, messages)

    def unclaimed(self, peer: bytes, message: Any) -> None:
        """As `Worker.on_message`."""
        kind = type(message)
        if kind is Call or kind is ActorCall or kind is CreateActor:
            if kind is ActorCall and message.caller:
                self.owner.callers.on_received(message)
                if self.replay is not None and self.replay.on_repeated(peer, message):
                    return
            self.queue.append((peer, message))
        elif kind is Dependencies:
            self.parts.setdefault(message.id, []).extend(message.deps)
        elif kind is Define:
            self.blobs[message.key] = message.blob
        elif kind is Recall:
            self._give_back(peer, message.count)
        elif kind is Cancel:
            self._cancel(peer, message)
        elif kind is Assigned:
            self.assigned = message
        elif kind is Consumed:
            self._on_consumed(message)
        elif kind is Settled:
            self.unsettled.pop(message.id, None)
        elif kind is KillActor or kind is Retire or kind is ReplayOffer:
            self.queue.append((peer, message))
        elif kind is Holding or kind is CheckpointKept:
            if self.replay is not None:
                self.replay.on_progress(message)
                self.queue.append((peer, message))
        else:
            raise Violation(f"a worker cannot handle {message!r}")
        if self.running is not None and self.queue:
            self.arm_tick()

    def _on_consumed(self, message: Consumed) -> None:
        if message.id in self.consumed:
            self.consumed[message.id] = message.count
            return
        calls = [call for _, call in self.queue]
        if self.running is not None:
            calls.append(self.running[1])
        for call in calls:
            if getattr(call, "id", None) == message.id and call.details is not None:
                call.details.window = 0

    def _give_back(self, peer: bytes, count: int) -> None:
        ids, kept = [], []
        while self.queue and count > 0:
            item = self.queue.pop()
            if item[0] == peer and type(item[1]) is Call:
                ids.append(item[1].id)
                self.parts.pop(item[1].id, None)
                count -= 1
            else:
                kept.append(item)
        self.queue.extend(reversed(kept))
        ids.reverse()
        end = self.connections.get(peer)
        if end is not None:
            self.world.mark("gave back" if ids else "had nothing to give back")
            self.post_now(end, Returned(ids))

    def post_now(self, end: End, message: Any) -> None:
        """As `Reactor.send` with hurry."""
        end.out.append(message)
        self.world.network.flush(end)

    def _give_back_all(self) -> None:
        for peer in dict.fromkeys(peer for peer, one in self.queue if type(one) is Call):
            self._give_back(peer, len(self.queue))

    def _cancel(self, peer: bytes, message: Cancel) -> None:
        if self.replay is not None and self.replay.cancel(message.id):
            return
        for item in self.queue:
            if getattr(item[1], "id", None) == message.id:
                self.queue.remove(item)
                self.world.mark("cancelled in the queue")
                self._cancelled(*item, us=-1)
                return
        running = self.running
        if running is not None and running[1].id == message.id:
            self.cancelled[message.id] = None
            if message.recursive:
                self.owner.cancel_children(message.id, message.force)
            if self.actor_id:
                self.world.mark("an actor was told that its call is cancelled")
                return
            if message.force:
                self.world.mark("cancelled by force")
                self.flush()
                self.world.die(self, "exited with code 1")
            self._interrupt = message.id
            if self._busy:
                self._signal()
            else:
                self.after_turn.append(self._raise_interrupt)

    def _signal(self) -> None:
        """As `Worker._signal` and `_on_signal`: not while the engine's own code runs."""
        if not self._interrupt or not self._busy or self.inside_engine:
            return
        if self.world.draw.random() < 0.7:
            self._raise_interrupt()

    def _raise_interrupt(self) -> None:
        running, wanted = self.running, self._interrupt
        self._interrupt = b""
        if running is not None and wanted and getattr(running[1], "id", None) == wanted:
            self.world.mark("interrupted")
            self.interrupt()

    def on_service_tick(self) -> None:
        """As `Worker._on_tick`."""
        if self._interrupt:
            self._signal()
            if self._interrupt and self._waiting is not None:
                self.world.mark("interrupted where it came to wait")
                self.after_turn.append(self._raise_interrupt)
                self.kick()
        running = self.running
        if running is not None and running is self._seen_running and self.queue:
            self._give_back_all()
        self._seen_running = running

    def wants_tick(self) -> bool:
        return self.running is not None and bool(
            self._interrupt or any(type(one) is Call for _, one in self.queue)
        )

    def on_peer_gone(self, peer: bytes) -> None:
        """As `Execution.on_peer_gone` and `Worker._on_peer_gone`."""
        for call_id in [one for one, (who, _) in self.unsettled.items() if who == peer]:
            del self.unsettled[call_id]
        for call_id in [one for one in self.parts if owner_of(one) == peer]:
            del self.parts[call_id]
        for items in (self.queue, self.replay.repeated if self.replay is not None else deque()):
            kept = [item for item in items if item[0] != peer]
            if len(kept) < len(items):
                self.world.mark("dropped the calls of a dead caller")
                items.clear()
                items.extend(kept)

    # ------------------------------------------------------------------ loop

    def _run(self) -> Steps:
        """As `Worker.run`."""
        self.world.network.ends[self.id, self.node].out.append(
            Hello(self.id, self.pid, "worker")
        )
        self.open(self.world.network.ends[self.id, self.node])
        self.world.network.flush(self.connections[self.node])
        clock = self.world.clock
        last_flush = clock.now
        while self.stopping is None:
            if self.queue:
                yield from self._next()
                if clock.now - last_flush > _REPLY_SECONDS:
                    last_flush = clock.now
                    self.flush()
                    self.world.faults.at_point(self, "after the reply")
                continue
            self.drain()
            wake = self.replay.next_wake() if self.replay is not None else None
            if not (yield (lambda: bool(self.queue) or self.stopping is not None), wake):
                assert self.replay is not None
                yield from self.replay.on_time()
            last_flush = clock.now
        return 0

    def on_main_ended(self) -> None:
        if not self.actor_id:
            self.world.retired[self.id] = None
        self.world.end(self, "exited with code 0")

    def _next(self) -> Steps:
        peer, message = self.queue.popleft()
        if type(message) is CreateActor:
            yield from self._create(message)
        elif type(message) is KillActor:
            self.stopping = message.cause
        elif type(message) is Retire:
            self._retire()
        elif type(message) is ActorCall:
            if self.replay is None and message.caller:
                self.replay = Replay(self, message.actor, None)
            if self.replay is not None:
                yield from self.replay.take(peer, message)
            else:
                yield from self.run_call(peer, message)
        elif type(message) is Call:
            yield from self.run_call(peer, message)
        elif self.replay is not None:
            yield from self.replay.on_message(peer, message)

    def run_call(self, peer: bytes, message: Any) -> Steps:
        """As `Worker.run_call`."""
        self.running = peer, message
        self.notebook = message.id
        if self.queue:
            self.arm_tick()
        self.world.on_started(self, message)
        yield from self._execute(peer, message)
        self.notebook = b""
        self.running = None
        self.cancelled.pop(message.id, None)
        self.world.faults.at_point(self, "before the reply leaves")

    def _retire(self) -> None:
        self.drain()
        retains = self.owner.callers.retains()
        if self.owner.objects.entries or self.unsettled or retains:
            if retains:
                self.world.mark("stayed for its calls to a replayed actor")
            self.world.mark("stayed for what it owns")
            self.send(self.node, Kept())
        else:
            self.world.mark("retired")
            self.stopping = "idle for long"

    def _create(self, create: CreateActor) -> Steps:
        self.running = (b"", create)
        try:
            yield from self._construct(create)
        except Failure as error:
            changed = ActorChanged(
                create.id, "dead", cause="its constructor raised", failure=self._error(error)
            )
        else:
            changed = ActorChanged(create.id, "alive", self.id)
        self.running = None
        if self.replay is not None and self.replay.checkpoints is not None:
            self.replay.checkpoints.send_behind(changed)
        else:
            self.send(self.node, changed)
        self.flush()

    def _construct(self, create: CreateActor) -> Steps:
        every = create.options.get("checkpoint_every")
        if every is not None:
            self.replay = Replay(self, create.id, every)
        if self.restoring is not None:
            assert self.replay is not None
            self.actor_id = create.id
            memory = self.world.descriptors.pop((self.id, -1))
            state = yield from self.replay.restore(self.restoring, memory)
            self.actor = self.world.keepers.restored(create, state)
            return
        args = yield from self._read_arguments(create)
        self.world.faults.at_point(self, "in a constructor")
        self.actor_id = create.id
        self.actor = yield from self.world.actors.construct(self, create, args)
        if self.replay is not None:
            yield from self.replay.write()

    # ------------------------------------------------------------------ execution

    def wait_for(self, ready: Any, timeout: float | None) -> Steps:
        """As `Waiting.wait`: whoever waits inside a call lends its slot out."""
        deadline = None if timeout is None else self.world.clock.now + timeout
        patience = self.world.clock.now + _PATIENCE_SECONDS
        if self.running is None:
            return (yield ready, deadline)
        if deadline is not None and deadline <= patience:
            return (yield from self._serve(ready, deadline))
        if (yield from self._serve(ready, patience)):
            return True
        self._give_back_all()
        self.send(self.node, Blocked(True))
        self.flush()
        self.world.faults.at_point(self, "while blocked")
        try:
            return (yield from self._serve(ready, deadline))
        finally:
            self.send(self.node, Blocked(False))

    def _serve(self, ready: Any, deadline: float | None) -> Steps:
        """As `Waits._serve`."""
        replay = self.replay
        while replay is not None:
            found = yield (lambda: bool(replay.repeated) or ready()), deadline
            if not replay.repeated:
                return found
            self.world.mark("a repeated call was answered while another one waits")
            yield from replay.answer_repeated()
        return (yield ready, deadline)

    def _read_arguments(self, call: Any) -> Steps:
        if call.large is not None:
            args, slots = yield from self._read(call.large)
        else:
            args, slots = self.decode(call.args)
        deps = [*self.parts.pop(call.id, ()), *(call.deps or ())]
        if len(deps) != len(slots):
            raise Violation(f"{len(deps)} values for {len(slots)} arguments of {call!r}")
        caller = owner_of(call.id) if type(call) is Call else b""
        for slot, dep in zip(slots, deps, strict=True):
            if dep.value.block is not None:
                args[slot] = yield from self._read(dep, caller)
            else:
                args[slot] = self.decode(dep.value.data)
        return args

    def _read(self, found: ObjectValue, caller: bytes = b"") -> Steps:
        """As `arguments._read`."""
        ref = self.adopt(found.id)
        if found.value.block == ELSEWHERE:
            self.world.mark("asked the owner where an argument lies")
        else:
            try:
                return (yield from self.materialise(found.value, ref))
            except Unreadable as lost:
                self.world.mark("a lost argument")
                self.report_lost(ref, lost)
        if owner_of(found.id) == caller:
            raise ArgumentMissing
        return (yield from self.get([ref]))[0]

    def before_memory_wait(self) -> None:
        if self.running is not None:
            self._give_back_all()

    def _execute(self, peer: bytes, call: Any) -> Steps:
        """As `Execution.run`."""
        start, reading = self.world.clock.now, True
        try:
            args = yield from self._read_arguments(call)
            reading = False
            self.world.faults.at_point(self, "arguments read")
            if type(call) is Call:
                if call.key not in self.blobs:
                    raise Violation(f"{call!r} came before its definition")
                code = self.world.tasks.run(self, call, args)
            else:
                code = self.world.actors.run(self, peer, call, args)
            del args
            if call.returns == STREAMING:
                yield from self._stream(peer, call, code, start)
                return
            result = yield from code
            if call.id in self.cancelled:
                self._cancelled(peer, call)
                return
            yield from self._reply(peer, call, result, start)
        except ArgumentMissing:
            self.world.mark("gave a call back for a lost argument")
            if (end := self.connections.get(peer)) is not None:
                self.post(end, Returned([call.id]))
                self.flush()
        except Interrupted:
            self._cancelled(peer, call)
        except Failure as error:
            self._fail(peer, call, error, start, reading)
        except ActorExit:
            self._leave()

    def _stream(self, peer: bytes, call: Any, code: Any, start: float) -> Steps:
        """As `Execution._stream`: items come out of user code as ("item", value)."""
        index = 0
        self.consumed.setdefault(call.id, 0)
        try:
            value = None
            while True:
                try:
                    wish = code.send(value)
                except StopIteration:
                    break
                if type(wish) is not tuple or wish[0] != "item":
                    value = yield wish
                    continue
                value = None
                yield from self._send_item(peer, call, index, wish[1])
                del wish
                index += 1
                if self._is_ahead(call, index):
                    self.world.mark("a generator waits for its consumer")
                    yield from self.wait_for(partial(self._may_go_on, peer, call, index), None)
                    if not self._reaches(peer):
                        break
                if call.id in self.cancelled:
                    break
        finally:
            self.consumed.pop(call.id, None)
        if call.id in self.cancelled:
            self._cancelled(peer, call)
            return
        self._send(peer, Done(call.id, encode(index).data, self._us(start)))

    def _may_go_on(self, peer: bytes, call: Any, index: int) -> bool:
        gone = not self._reaches(peer)
        return gone or not self._is_ahead(call, index) or call.id in self.cancelled

    def _reaches(self, peer: bytes) -> bool:
        return peer in self.connections or peer == self.id

    def _is_ahead(self, call: Any, index: int) -> bool:
        window = call.details.window if call.details is not None else 0
        return bool(window) and index - self.consumed.get(call.id, 0) >= window

    def _send_item(self, peer: bytes, call: Any, index: int, item: Any) -> Steps:
        encoded = encode(item)
        value = yield from self.store(encoded, peer)
        if encoded.refs:
            self.unsettled[settle_key(call.id, index)] = (peer, encoded.refs)
        self._send(peer, Item(call.id, index, value))
        self.flush()
        self.world.faults.at_point(self, "an item sent")

    def _us(self, start: float) -> int:
        return int((self.world.clock.now - start) * 1e6)

    def _leave(self, cause: str = "exited by exit_actor()") -> None:
        """As `Execution.leave`."""
        self.flush()
        if self.actor is not None:
            failure = encode_failure("ActorDiedError", cause)
            dead = ActorChanged(self.actor_id, "dead", b"", "exited", failure)
            self.send(self.node, dead)
        self.flush()
        self.wrote_out = True
        self.world.die(self, "exited with code 0")

    def _cancelled(self, peer: bytes, call: Any, us: int = 0) -> None:
        self.parts.pop(call.id, None)
        self.consumed.pop(call.id, None)
        failure = encode_failure("TaskCancelledError", "was cancelled")
        self._send(peer, DoneMany(call.id, [failure], us))

    # ------------------------------------------------------------------ answering

    def _reply(self, peer: bytes, call: Any, result: Any, start: float) -> Steps:
        """As `Execution.reply`."""
        if call.returns == 0:
            self._send(peer, Done(call.id, b"\xc0", self._us(start)))
            return
        results = [result] if call.returns == 1 else result
        encoded: list[Encoded] = [encode(one) for one in results]
        values, refs = [], []
        try:
            for one in encoded:
                refs += one.refs
                recovery = call.details is not None and call.details.recovery
                values.append((yield from self.store(one, peer, recovery=recovery)))
        except BaseException:  # the call fails: nobody will own those stored already
            for stored in values:
                if stored.block is not None:
                    self.values.free(stored.block)
            raise
        if refs:
            self.unsettled[call.id] = (peer, refs)
        value = values[0]
        if call.returns == 1 and not (value.contains or value.block):
            self._send(peer, Done(call.id, value.data, self._us(start)))
        else:
            self._send(peer, DoneMany(call.id, values, self._us(start)))

    def _error(self, error: Failure) -> Value:
        if error.kind == "TaskCancelledError":
            return encode_failure(error.kind, error.text)
        return Value(encode([error.kind, error.text]).data, error=ERROR_USER)

    def _fail(
        self, peer: bytes, call: Any, error: Failure, start: float, reading: bool = False
    ) -> None:
        if self.replay is not None and (reading or error.kind in LOST):
            value = self.replay.on_loss(call, error, reading)
        else:
            value = self._error(error)
        self._send(peer, DoneMany(call.id, [value], self._us(start)))

    def _send(self, peer: bytes, message: Any) -> None:
        """As `Execution.send`."""
        if self.replay is not None:
            peer = self.replay.on_reply(peer, message)
        self.drain()
        objects = self.owner.objects
        if objects.unsettled:
            waiting = objects.unsettled_except(peer)
            if objects.after_settled(waiting, peer, message, in_order=True):
                self.world.mark("a reply waits for a registration")
                return
        end = self.connections.get(peer)
        if end is not None:
            self.post(end, message)
        elif peer == self.id:
            self.send(peer, message)
