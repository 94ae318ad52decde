"""An actor whose calls are applied exactly once: the edge around its ledger and its recovery.

`Replay` stands between the worker's queue and the execution of a call. It drops calls that were
applied before and answers them again, tells others of the order before they see an effect, takes
checkpoints between calls, and after a restart holds calls back until they are due in the order in
which they were applied before. An actor without checkpoints gets one too when a replayed actor
calls it: then it only recognises repeated calls.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from engine.core.control import ActorChanged, CheckpointKept
from engine.core.ids import PROCESS_BYTES, owner_of
from engine.core.ledger import APPLY, KNOWN, SKIPPED, Caller, Ledger, Untold
from engine.core.messages import (
    ActorCall,
    Covered,
    Done,
    DoneMany,
    Holding,
    Item,
    Order,
    ReplayAsk,
    ReplayOffer,
)
from engine.core.numbering import Made, Received
from engine.core.recovery import Recovery
from engine.core.retention import READS, outcome_of
from engine.core.values import Value, encode_failure
from engine.exceptions import EngineError, ObjectLostError, SerializationError, TaskError
from engine.runtime.checkpoints import (
    Checkpoints,
    capture,
    pack_answers,
    read_checkpoint,
    rebuild,
    restore_calls,
    retained_calls,
    unpack_answers,
)
from engine.runtime.execution import ActorExit
from engine.runtime.waiting import Aside

if TYPE_CHECKING:
    from engine.core.control import Restore
    from engine.runtime.worker import Worker

__all__ = ["Gone", "Replay"]

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode
_received = msgspec.msgpack.Decoder(tuple[bytes, dict[bytes, list[Made]]]).decode


class Replay:
    """One actor's. `every` is how often a checkpoint is due: calls (int) or seconds (float)."""

    def __init__(self, worker: Worker, actor_id: bytes, every: float | None) -> None:
        self._worker = worker
        self._runtime = worker.runtime
        self._execution = worker.execution
        self.actor_id = actor_id
        self.ledger = Ledger(ordered=every is not None)
        self.recovery: Recovery | None = None
        self._calls_max = every if isinstance(every, int) else 1 << 60
        self._seconds = every if isinstance(every, float) else None
        self._look_at = self._calls_max if self._seconds is None else 0
        self._due = 0.0
        self._quick = every is not None  # new calls of processes are applied, without a question
        self.wakes = self._seconds is not None  # `next_wake` may name a time
        self._gone: list[bytes] = []  # callers that are dead and that no checkpoint covers yet
        self._hurry = False  # a checkpoint is due as soon as it can be
        self._unwanted: set[bytes] = set()  # cancelled before it was known if they were applied
        self.turn: Any = None  # the caller whose call is being applied
        self.turn_id = b""
        self._open: dict[bytes, tuple[Caller, int]] = {}  # calls of actors being applied
        self._processes: dict[bytes, bytes] = {}  # of callers that are actors
        self._pending: tuple[int, int, dict[bytes, int], dict[bytes, int]] | None = None
        self._news = False  # the checkpoint under way is safe, and nobody has been told
        self._former: list[bytes] = []  # processes that this actor has had since its checkpoint
        self.checkpoints: Checkpoints | None = None
        self._aside = self._runtime.aside = Aside(self._known_already)
        if every is not None:
            self.checkpoints = Checkpoints(self._runtime, actor_id)
            callers = self._runtime.owner.callers
            callers.identity = actor_id
            callers.next_order = self._next_order
            callers.before_effect = self._before_call_to
            callers.on_death = self._on_death
            callers.on_move = self._note
            callers.concerned = self._concerned

    # ------------------------------------------------------------------ calls

    def take(self, peer: bytes, call: ActorCall) -> None:
        """A call is at the head of the worker's queue."""
        seq = call.seq
        if self._quick and seq >= 0 and not call.caller:  # the usual case, worth a short way
            ledger = self.ledger
            known = ledger.begin_if_new(peer, seq, call.acked)
            if known is not None:
                self.turn, self.turn_id = known, call.id
                self._worker.run_call(peer, call)
                if ledger.applied >= self._look_at or self._news:
                    self.look()
                return
        if self.recovery is None:
            if call.id in self._unwanted:
                if seq == READS or not self._known_already(peer, call):
                    self._drop(peer, call)
            else:
                self._apply(peer, call)
            return
        if seq != READS and self._known_already(peer, call):
            return
        self.recovery.on_call(call.caller or peer, seq, (peer, call))
        self.go_on()

    def on_repeated(self, peer: bytes, call: ActorCall) -> bool:
        """An actor that is replayed calls again what it has called before; False if it does not.

        Such a call is not queued behind the one that runs: that one may wait for an actor that
        waits, in the order of its own replay, for what the caller does after it has this answer.
        Under the lock, on any thread.
        """
        known = self.ledger.callers.get(call.caller)
        if known is None or not 0 <= call.seq < known.next:
            return False
        self._aside.items.append((peer, call))
        self._worker.queue.append((b"", self._aside))  # if the main thread does not wait meanwhile
        return True

    def _known_already(self, peer: bytes, call: ActorCall) -> bool:
        caller = call.caller or peer
        if call.caller and self._processes.get(caller) != peer:
            self._processes[caller] = peer
            if self.ledger.ordered:
                self._tell_covered(peer, caller)
        what = self.ledger.arrive(caller, call.seq, call.acked, (peer, call.id))
        if what == KNOWN:
            self._answer_again(peer, call)
        elif what == SKIPPED:
            self._drop(peer, call)
        return what != APPLY

    def _apply(self, peer: bytes, call: ActorCall) -> None:
        if call.seq >= 0:
            if self._known_already(peer, call):
                return
            known = self.ledger.begin(call.caller or peer, call.seq)
            if call.caller:
                known.running[call.seq] = peer, call.id
                self._open[call.id] = known, call.seq
            else:
                self.turn, self.turn_id = known, call.id
        self._worker.run_call(peer, call)
        if self.checkpoints is not None:
            self.look()

    def cancel(self, call_id: bytes) -> bool:
        """A call is not wanted any more. True when it is for the replay to say what becomes of it.

        One that was applied in an earlier life is part of the history: only others are dropped.
        Under the lock, on any thread.
        """
        running = self._worker.running
        if self.recovery is None or (running is not None and running[1].id == call_id):
            return False
        waiting = [call for _peer, call in list(self._worker.queue)] + self.recovery.held()
        if not any(getattr(call, "id", None) == call_id for call in waiting):
            return False
        self._unwanted.add(call_id)
        self._quick = False
        return True

    def _drop(self, peer: bytes, call: ActorCall) -> None:
        self._unwanted.discard(call.id)
        self._choose_way()
        self._execution.cancelled(peer, call, us=-1)

    def go_on(self) -> None:
        """Apply what is due in the replay."""
        recovery = self.recovery
        while recovery is not None and (item := recovery.next()) is not None:
            if recovery.behind:
                if not self._known_already(*item):
                    self._drop(*item)
            elif item[1].id in self._unwanted and not recovery.in_order:
                self._drop(*item)
            else:
                self._unwanted.discard(item[1].id)
                self._apply(*item)
        if recovery is not None and recovery.finished:
            self.recovery = None
            if recovery.lost:
                sys.stderr.write(
                    f"penstock: {recovery.lost} calls that this actor had applied are gone: who "
                    "made them died together with it, and nobody else can send them again\n"
                )
            self._choose_way()

    def _choose_way(self) -> None:
        self._quick = self.checkpoints is not None and self.recovery is None and not self._unwanted
        self.wakes = self.recovery is not None or self._seconds is not None

    def on_loss(self, call: Any, error: EngineError, reading: bool) -> Value:
        """A call raises since what it needs is lost: its answer, if the actor can go on after that.

        `reading`: its arguments cannot be had, and nothing has run.
        """
        execution = self._execution
        title = execution.title(call)
        recovery = self.recovery
        if recovery is not None and recovery.contradicts(outcome_of(call), reading):
            execution.leave(ActorExit(
                f"cannot be replayed: {title} (number {call.seq} of its caller) is part of what "
                f"others have seen, and what it was given is lost now: {error} What is put with "
                "put(durable=True) outlives that, as does what a checkpoint covers"
            ))
        if reading and isinstance(error, ObjectLostError) and not isinstance(error, TaskError):
            return encode_failure(type(error).__name__, str(error))  # the caller sees what it was
        return execution.error_value(error, title)

    def on_reply(self, peer: bytes, message: Any) -> bytes:
        """An answer is about to leave: keep it, and see to it that its receiver knows the order.

        Returns whom it is for.
        """
        ledger = self.ledger
        kind = type(message)
        if message.id == self.turn_id and kind is not Item:
            self.turn_id = b""
            known = self.turn
            known.answers[known.next - 1] = message if kind is Done else self._kept(message)
            if known is ledger.in_step:
                return peer
            lacks = ledger.before_answer(peer)
        elif message.id in self._open and kind is not Item:
            known, seq = self._open.pop(message.id)
            known.answers[seq] = message if kind is Done else self._kept(message)
            peer, message.id = known.running.pop(seq)
            lacks = ledger.before_answer(peer) if ledger.ordered else None
        else:
            lacks = ledger.before_effect(peer) if ledger.ordered else None
        if lacks is not None:
            self._tell(peer, lacks)
        return peer

    def _kept(self, message: DoneMany) -> tuple[list[Value], list[bytes | None], Any]:
        """An answer with all that it needs: large values are copied, references held."""
        blobs = []
        for value in message.values:
            blob = None
            if value.block is not None:
                blob = bytes(self._runtime.values.raw(value.block))
            blobs.append(blob)
        values = [msgspec.structs.replace(value, block=None) for value in message.values]
        _peer, refs = self._execution.unsettled.get(message.id, (b"", []))
        return values, blobs, refs

    def _answer_again(self, peer: bytes, call: ActorCall) -> None:
        answer = self.ledger.answer(call.caller or peer, call.seq)
        if answer is None:  # the caller has it, and only wants to know that we do
            self._execution.send(peer, Done(call.id, b""))
        elif type(answer) is Done:
            self._execution.send(peer, Done(call.id, answer.data, answer.us))
        else:
            values, blobs, refs = answer
            try:
                again = self._placed(values, blobs)
            except EngineError as error:  # there is no room: as if it had been so the first time
                self._execution.fail(peer, call, error, perf_counter())
                return
            if refs:
                self._execution.unsettled[call.id] = (peer, refs)
            self._execution.send(peer, DoneMany(call.id, again))

    def _placed(self, values: list[Value], blobs: list[bytes | None]) -> list[Value]:
        """An answer as `_kept` has it, with blocks of its own. Raises when there is no room."""
        placed: list[Value] = []
        try:
            for value, blob in zip(values, blobs, strict=True):
                placed.append(value if blob is None else self._with_block(value, blob))
        except BaseException:  # nobody will own those that are there already
            with self._runtime.lock:
                for value in placed:
                    if value.block is not None:
                        self._runtime.values.free(value.block)
            raise
        return placed

    def _with_block(self, value: Value, blob: bytes) -> Value:
        def fill(view: memoryview) -> None:
            view[: len(blob)] = blob

        block = self._runtime.values.place(len(blob), fill)
        return msgspec.structs.replace(value, block=block)

    # ------------------------------------------------------------------ telling the order

    def _tell(self, process: bytes, lacks: Untold) -> None:
        with self._runtime.lock:
            self._runtime.send(process, Order(self.actor_id, *lacks))

    def _tell_covered(self, process: bytes, caller: bytes) -> None:
        """An actor that calls has a new process, which does not know where its numbers stand in
        the order: those that a checkpoint of ours covers it would count once more.
        """
        log, seq = self.ledger.log, self.ledger.covered_of(caller)
        if seq >= 0:
            covered = Covered(self.actor_id, log.start, log.event_start, seq)
            with self._runtime.lock:
                self._runtime.send(process, covered)

    def _next_order(self) -> int:
        following = self.ledger.log.end + 1
        return -following if self.recovery is None else following

    def _before_call_to(self, process: bytes) -> None:
        lacks = self.ledger.before_effect(process)
        if lacks is not None:
            self._tell(process, lacks)

    def event(self, fresh: Any) -> Any:
        """What `fresh()` says, noted in the log; in a replay, what it said then."""
        told = None if self.recovery is None else self.recovery.event()
        found = fresh() if told is None else _decode(told)
        self.ledger.log.note(_encode(found) if told is None else told)
        return found

    # ------------------------------------------------------------------ checkpoints

    def look(self) -> None:
        """Take a checkpoint if one is due and nothing stands against it."""
        checkpoints = self.checkpoints
        assert checkpoints is not None
        if self._news:
            self._on_safe()
        if not self._is_due():
            return
        if self.recovery is not None or checkpoints.under_way:
            return  # the end of either is a reason to look again
        if self._seconds is not None:
            self._due = perf_counter() + self._seconds
        if self._open or self.turn_id:
            return
        if self._runtime.owner.unfinished:
            return  # calls of the actor are on their way: restored, it would not make them again
        try:
            self.write()
        except (SerializationError, ObjectLostError) as error:
            # Going on would break the promise at the next death, and nobody would know.
            self._execution.leave(ActorExit(f"could not be checkpointed: {str(error).rstrip('.')}"))

    def _is_due(self) -> bool:
        applied = self.ledger.applied
        if applied and self._seconds is not None and perf_counter() >= self._due:
            return True
        return applied >= self._calls_max or bool(applied and (self._gone or self._hurry))

    def write(self) -> None:
        """Take a checkpoint now."""
        checkpoints, ledger, callers = self.checkpoints, self.ledger, self._runtime.owner.callers
        assert checkpoints is not None
        with self._runtime.lock:  # whoever waits for the last answer need not wait for this
            self._runtime.reactor.flush()
            received = None if callers.received is None else _encode(callers.received.snapshot())
            numbers = callers.numbering()
        self._hurry = False
        saved = ledger.snapshot(pack_answers)
        logs = callers.known_orders()
        calls = retained_calls(self._runtime)
        following = {one: known.next - 1 for one, known in ledger.callers.items()}
        self._pending = (saved["order"], saved["events"], following, numbers)
        state = capture(self._execution.actor)
        checkpoints.write((saved, numbers, logs, calls, received, *state))
        ledger.applied = 0
        if not checkpoints.under_way:
            self._on_safe()
        if self._seconds is not None:
            self._due = perf_counter() + self._seconds

    def next_wake(self) -> float | None:
        """When `look` is due although no call has come."""
        if self.recovery is not None:
            return self.recovery.until
        if self._seconds is None or not self.ledger.applied or self._is_under_way():
            return None  # a call, or the node's word on the last checkpoint, comes first
        return self._due

    def _is_under_way(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.under_way

    def _on_safe(self) -> None:
        self._news = False
        if self._pending is None:
            return
        order, event, following, numbers = self._pending
        self._pending = None
        self.ledger.covered(order, event)
        for process in list(self._gone):
            if self.ledger.callers[process].next - 1 == following.get(process):
                self._gone.remove(process)
                self.ledger.forget(process, process)
        if not self._gone and not self._hurry and self._seconds is None:
            self._look_at = self._calls_max
        acked = self._runtime.owner.callers.acked
        acked.update((one, number - 1) for one, number in numbers.items())
        callers = {process: caller for caller, process in self._processes.items()}
        with self._runtime.lock:
            for process in self.ledger.told():
                seq = following.get(callers.get(process, process), -1)
                if process in self._runtime.connections:
                    self._runtime.send(process, Covered(self.actor_id, order, event, seq))
            self._runtime.reactor.flush()

    # ------------------------------------------------------------------ restoring

    def restore(self, cls: type, message: Restore, fd: int) -> Any:
        """The actor as it was at its last checkpoint; the calls since then will be replayed."""
        saved, numbers, logs, calls, received, form, state = read_checkpoint(message, fd)
        runtime = self._runtime
        if received is not None:
            with runtime.lock:
                runtime.owner.callers.received = Received(*_received(received))
        self.ledger.restore(saved, unpack_answers)
        runtime.owner.callers.restore(numbers, logs)
        restore_calls(runtime, calls)
        assert self.checkpoints is not None
        self._former = message.former
        self.checkpoints.protocol.number = message.checkpoint.number
        patience = runtime.config.replay_patience_seconds
        witnesses = {*message.witnesses, *message.actors}
        self.recovery = Recovery(self.ledger.log, witnesses, perf_counter() + patience)
        with runtime.lock:
            for one in message.witnesses:
                if runtime.owner.is_dead(one):
                    self.recovery.on_gone(one)
                else:
                    self._ask(one, one)
            for actor in message.actors:  # asked once the head has told where it is
                client = runtime.owner.callers.client(actor, "actor", True, True)
                if client.state == "alive":
                    self._ask(client.process, actor)
            runtime.reactor.flush()
        self._gone = [one for one in self.ledger.callers if one not in witnesses]
        if self._gone:
            self._look_at = 0
        if not witnesses:
            self.recovery = None
        self._choose_way()
        self.go_on()
        return rebuild(cls, form, state)

    def _ask(self, process: bytes, caller: bytes) -> None:
        known = self.ledger.callers.get(caller)
        log, seq = self.ledger.log, -1 if known is None else known.next - 1
        covered = Covered(self.actor_id, log.start, log.event_start, seq)
        self._runtime.send(process, ReplayAsk(covered, self._former))

    def on_message(self, peer: bytes, message: Any) -> None:
        """A message for the replay has come to its turn in the worker's queue."""
        if message is self._aside:
            self._aside.go()
            return
        if type(message) is Gone and message.process in self.ledger.callers:
            # What it has called nobody else can have applied again: soon a checkpoint covers it.
            self._gone.append(message.process)
            self._look_at = 0
        if type(message) is Gone and message.process in self._processes.values():
            # What it had called here in calls that died with it, its next life does not make again.
            self._hurry = True
            self._look_at = 0
        recovery = self.recovery
        if recovery is not None:
            if type(message) is Gone:
                recovery.on_gone(message.process)
            elif type(message) is ActorChanged:
                self._on_move(recovery, message)
            elif type(message) is ReplayOffer:
                known, sender = message.known, message.sender or peer
                with self._runtime.lock:
                    self._runtime.owner.callers.taken.add(message.called, message.made)
                recovery.on_offer(sender, known.first, known.runs, known.event, known.events)
            self.go_on()
        if self.checkpoints is not None:
            self.look()

    def on_progress(self, message: Holding | CheckpointKept) -> None:
        """The checkpoint under way has come a step further. Under the lock, on any thread."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return
        if type(message) is CheckpointKept:
            checkpoints.on_kept(message.number, message.looks)
        else:
            checkpoints.on_holding(message.number)
        self._news = not checkpoints.under_way  # for the next look: calls may be running

    def _on_move(self, recovery: Recovery, message: ActorChanged) -> None:
        if message.state == "dead":
            recovery.on_gone(message.id)
        elif message.state == "alive" and message.id in recovery.waiting:
            with self._runtime.lock:
                self._ask(message.process, message.id)
                self._runtime.reactor.flush()

    def _on_death(self, process: bytes) -> None:
        """A process has died. Under the lock, on any thread."""
        concerned = self.recovery is not None or process in self.ledger.callers
        concerned = concerned or process in self._processes.values()
        if self.checkpoints is not None and self.checkpoints.on_death(process):
            self._news = concerned = True
        if concerned:
            self._worker.queue.append((b"", Gone(process)))

    def _concerned(self) -> list[bytes]:
        """The processes whose death matters here. Under the lock, on any thread."""
        recovery = self.recovery
        found = [*self.ledger.callers, *self._processes.values()]
        found += (recovery.counts_on() if recovery is not None else ())
        return [owner_of(self.actor_id), *(one for one in found if len(one) == PROCESS_BYTES)]

    def _note(self, message: Any) -> None:
        if self.recovery is not None:
            self._worker.queue.append((b"", message))

    def on_time(self) -> None:
        """What waits for a witness or a call has waited long enough."""
        if self.recovery is not None:
            self.recovery.on_time(perf_counter(), self._runtime.config.replay_patience_seconds)
            self.go_on()
        elif self.checkpoints is not None:
            self.look()


class Gone:
    """In the worker's queue: a process has died."""

    __slots__ = ("process",)

    def __init__(self, process: bytes) -> None:
        self.process = process
