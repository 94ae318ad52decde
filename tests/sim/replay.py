"""A replayed actor's edge: around the real ledger, order and recovery.

Mirrors `runtime.replay`, and of `runtime.checkpoints` what goes into a checkpoint.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from engine.core.control import ActorChanged, CheckpointKept, Restore
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
from engine.core.retention import READS, UNREAD, outcome_of
from engine.core.values import Value, encode_failure
from tests.sim.checkpoints import Checkpoints
from tests.sim.frozen import freeze, restore_calls, retained_calls, thaw
from tests.sim.member import Failure, Steps, Violation

if TYPE_CHECKING:
    from tests.sim.worker import Worker

__all__ = ["LOST", "Gone", "Replay"]

# As subclasses of ObjectLostError.
LOST = {
    *("ObjectFreedError", "ObjectLostError", "ObjectReconstructionFailedError", "OwnerDiedError"),
}
_values = msgspec.msgpack.Decoder(list[Value]).decode
_received = msgspec.msgpack.Decoder(tuple[bytes, dict[bytes, list[Made]]]).decode


class Replay:
    """As `runtime.replay.Replay`."""

    def __init__(self, worker: Worker, actor_id: bytes, every: float | None) -> None:
        self._worker = worker
        self._world = worker.world
        self.actor_id = actor_id
        self.ledger = Ledger(ordered=every is not None)
        self.recovery: Recovery | None = None
        self._calls_max = every if isinstance(every, int) else 1 << 60
        self._seconds = every if isinstance(every, float) else None
        self._look_at = self._calls_max if self._seconds is None else 0
        self._due = 0.0
        self._gone: list[bytes] = []
        self._hurry = False
        self._unwanted: dict[bytes, None] = {}
        self._turn: Any = None
        self._turn_id = b""
        self._open: dict[bytes, tuple[Caller, int]] = {}
        self._processes: dict[bytes, bytes] = {}
        self._pending: tuple[int, int, dict[bytes, int], dict[bytes, int]] | None = None
        self._news = False
        self._former: list[bytes] = []
        self.checkpoints: Checkpoints | None = None
        self.repeated: deque[tuple[bytes, ActorCall]] = deque()
        if every is not None:
            self.checkpoints = Checkpoints(worker, actor_id)
            callers = worker.owner.callers
            callers.identity = actor_id
            callers.next_order = self._next_order
            callers.before_effect = self._before_call_to
            callers.on_death = self._on_death
            callers.on_move = self._note
            callers.concerned = self._concerned

    # ------------------------------------------------------------------ calls

    def take(self, peer: bytes, call: ActorCall) -> Steps:
        """As `Replay.take`."""
        seq = call.seq
        if self.recovery is None and call.id in self._unwanted:
            if seq == READS or not (yield from self._known_already(peer, call)):
                self._drop(peer, call)
            return
        if self.recovery is None:
            if self.checkpoints is not None and seq >= 0 and not call.caller:
                known = self.ledger.begin_if_new(peer, seq, call.acked)
                if known is not None:
                    self._turn, self._turn_id = known, call.id
                    yield from self._worker.run_call(peer, call)
                    if self.ledger.applied >= self._look_at or self._news:
                        yield from self.look()
                    return
            yield from self._apply(peer, call)
            return
        if seq != READS and (yield from self._known_already(peer, call)):
            return
        self.recovery.on_call(call.caller or peer, seq, (peer, call))
        yield from self.go_on()

    def on_repeated(self, peer: bytes, call: ActorCall) -> bool:
        """As `Replay.on_repeated`."""
        known = self.ledger.callers.get(call.caller)
        if known is None or not 0 <= call.seq < known.next:
            return False
        self.repeated.append((peer, call))
        self._worker.queue.append((b"", self.repeated))
        return True

    def answer_repeated(self) -> Steps:
        """As `Aside.go`."""
        while self.repeated:
            yield from self._known_already(*self.repeated.popleft())

    def _known_already(self, peer: bytes, call: ActorCall) -> Steps:
        caller = call.caller or peer
        if call.caller and self._processes.get(caller) != peer:
            self._processes[caller] = peer
            if self.ledger.ordered:
                self._tell_covered(peer, caller)
        what = self.ledger.arrive(caller, call.seq, call.acked, (peer, call.id))
        if what == KNOWN:
            self._world.mark("a repeated call is answered again")
            yield from self._answer_again(peer, call)
        elif what == SKIPPED:
            self._world.mark("a call that was cancelled before it ran came again")
            self._drop(peer, call)
        return what != APPLY

    def _apply(self, peer: bytes, call: ActorCall) -> Steps:
        if call.seq >= 0:
            if (yield from self._known_already(peer, call)):
                return
            known = self.ledger.begin(call.caller or peer, call.seq)
            if call.caller:
                known.running[call.seq] = peer, call.id
                self._open[call.id] = known, call.seq
            else:
                self._turn, self._turn_id = known, call.id
        yield from self._worker.run_call(peer, call)
        if self.checkpoints is not None:
            yield from self.look()

    def cancel(self, call_id: bytes) -> bool:
        """As `Replay.cancel`."""
        running = self._worker.running
        if self.recovery is None or (running is not None and running[1].id == call_id):
            return False
        waiting = [call for _peer, call in self._worker.queue] + self.recovery.held()
        if not any(getattr(call, "id", None) == call_id for call in waiting):
            return False
        self._world.mark("a call was cancelled during a replay")
        self._unwanted[call_id] = None
        return True

    def _drop(self, peer: bytes, call: ActorCall) -> None:
        self._world.mark("a call held back for a replay was dropped")
        self._unwanted.pop(call.id, None)
        self._worker._cancelled(peer, call, us=-1)

    def go_on(self) -> Steps:
        """As `Replay.go_on`."""
        recovery = self.recovery
        while recovery is not None and (item := recovery.next()) is not None:
            self._world.faults.at_point(self._worker, "in a replay", 10)
            if recovery.behind:
                self._world.mark("a call came behind the order of a replay")
                if not (yield from self._known_already(*item)):
                    self._drop(*item)
            elif item[1].id in self._unwanted and not recovery.in_order:
                self._drop(*item)
            else:
                self._unwanted.pop(item[1].id, None)
                yield from self._apply(*item)
        if recovery is not None and recovery.finished:
            self._world.mark("an actor was replayed")
            self._world.keepers.on_replayed(self.actor_id, recovery)
            self.recovery = None

    def on_loss(self, call: ActorCall, error: Failure, reading: bool) -> Value:
        """As `Replay.on_loss`."""
        recovery, outcome = self.recovery, outcome_of(call)
        if recovery is not None and recovery.contradicts(outcome, reading):
            self._world.keepers.on_contradiction(error)
            self._worker._leave(f"cannot be replayed: {error.text}")
        if outcome == UNREAD:
            self._world.mark("a call that was not read is replayed")
        if reading and error.kind in LOST:
            return encode_failure(error.kind, error.text)
        return self._worker._error(error)

    def on_reply(self, peer: bytes, message: Any) -> bytes:
        """As `Replay.on_reply`."""
        ledger = self.ledger
        kind = type(message)
        if message.id == self._turn_id and kind is not Item:
            self._turn_id = b""
            known = self._turn
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
        blobs = [
            None if value.block is None else self._world.memory.read(value.block)
            for value in message.values
        ]
        values = [msgspec.structs.replace(value, block=None) for value in message.values]
        _peer, refs = self._worker.unsettled.get(message.id, (b"", []))
        return values, blobs, refs

    def _answer_again(self, peer: bytes, call: ActorCall) -> Steps:
        answer = self.ledger.answer(call.caller or peer, call.seq)
        send = self._worker._send
        if answer is None:
            send(peer, Done(call.id, b""))
        elif type(answer) is Done:
            send(peer, Done(call.id, answer.data, answer.us))
        else:
            values, blobs, refs = answer
            again = []
            try:
                for value, blob in zip(values, blobs, strict=True):
                    block = None
                    if blob is not None:
                        place = self._worker.values.place
                        block = yield from place(len(blob), blob, peer)
                    again.append(msgspec.structs.replace(value, block=block))
            except Failure as error:
                self._world.mark("an answer could not be placed again")
                for value in again:
                    if value.block is not None:
                        self._worker.values.free(value.block)
                self._worker._fail(peer, call, error, self._world.clock.now)
                return
            if refs:
                self._worker.unsettled[call.id] = (peer, refs)
            send(peer, DoneMany(call.id, again))

    # ------------------------------------------------------------------ telling the order

    def _tell(self, process: bytes, lacks: Untold) -> None:
        self._worker.send(process, Order(self.actor_id, *lacks))

    def _tell_covered(self, process: bytes, caller: bytes) -> None:
        """As `Replay._tell_covered`."""
        log, seq = self.ledger.log, self.ledger.covered_of(caller)
        if seq >= 0:
            self._world.mark("a new process of a caller hears what is covered")
            covered = Covered(self.actor_id, log.start, log.event_start, seq)
            self._worker.send(process, covered)

    def _next_order(self) -> int:
        following = self.ledger.log.end + 1
        return -following if self.recovery is None else following

    def _before_call_to(self, process: bytes) -> None:
        lacks = self.ledger.before_effect(process)
        if lacks is not None:
            self._tell(process, lacks)

    def event(self, fresh: Any) -> Any:
        """As `Replay.event`."""
        told = None if self.recovery is None else self.recovery.event()
        if told is None:
            found = fresh()
            self.ledger.log.note(msgspec.msgpack.encode(found))
            return found
        self._world.mark("an event was replayed")
        self.ledger.log.note(told)
        return msgspec.msgpack.decode(told)

    # ------------------------------------------------------------------ checkpoints

    def look(self) -> Steps:
        """As `Replay.look`."""
        checkpoints = self.checkpoints
        assert checkpoints is not None
        if self._news:
            self._on_safe()
        if not self._is_due():
            return
        if self.recovery is not None or checkpoints.under_way:
            return  # the end of either is a reason to look again
        if self._seconds is not None:
            self._due = self._world.clock.now + self._seconds
        if self._open or self._turn_id:
            return
        if self._worker.owner.unfinished:
            self._world.mark("a checkpoint waits for calls that the actor has made")
            return
        yield from self.write()

    def _is_due(self) -> bool:
        applied = self.ledger.applied
        if applied and self._seconds is not None and self._world.clock.now >= self._due:
            return True
        return applied >= self._calls_max or bool(applied and (self._gone or self._hurry))

    def write(self) -> Steps:
        """As `Replay.write`."""
        worker, ledger = self._worker, self.ledger
        callers, checkpoints = worker.owner.callers, self.checkpoints
        assert checkpoints is not None
        worker.world.faults.at_point(worker, "taking a checkpoint", 10)
        self._hurry = False
        numbers = callers.numbering()
        order, event = ledger.log.end, ledger.log.event_end
        following = {one: known.next - 1 for one, known in ledger.callers.items()}
        content = yield from worker.inside(self._content(numbers))
        self._pending = (order, event, following, numbers)
        checkpoints.write(content)
        ledger.applied = 0
        if not checkpoints.under_way:
            self._on_safe()
        if self._seconds is not None:
            self._due = self._world.clock.now + self._seconds

    def _content(self, numbers: dict[bytes, int]) -> Steps:
        saved = self.ledger.snapshot()
        callers = self._worker.owner.callers
        logs = callers.known_orders()
        received = None
        if callers.received is not None:
            received = msgspec.msgpack.encode(callers.received.snapshot())
        calls = yield from retained_calls(self._worker)
        state = yield from freeze(self._worker, self._worker.actor.state())
        told = []
        for one, (following, acked, answers) in saved["callers"].items():
            kept = []
            for seq, answer in answers.items():
                if type(answer) is Done:
                    kept.append([seq, answer.data, answer.us])
                else:
                    values, blobs, refs = answer
                    frozen = yield from freeze(self._worker, list(refs))
                    kept.append([seq, msgspec.msgpack.encode(values), list(blobs), frozen])
            told.append([one, following, acked, kept])
        return [saved["order"], saved["events"], told, numbers, logs, calls, received, state]

    def next_wake(self) -> float | None:
        """As `Replay.next_wake`."""
        if self.recovery is not None:
            return self.recovery.until
        if self._seconds is None or not self.ledger.applied or self._is_under_way():
            return None
        return self._due

    def _is_under_way(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.under_way

    def _on_safe(self) -> None:
        self._news = False
        if self._pending is None:
            return
        self._world.mark("a checkpoint is safe")
        self._world.faults.at_point(self._worker, "a checkpoint is safe", 10)
        worker = self._worker
        order, event, following, numbers = self._pending
        self._pending = None
        self.ledger.covered(order, event)
        for process in list(self._gone):
            if self.ledger.callers[process].next - 1 == following.get(process):
                self._gone.remove(process)
                self.ledger.forget(process, process)
        if not self._gone and not self._hurry and self._seconds is None:
            self._look_at = self._calls_max
        acked = worker.owner.callers.acked
        acked.update((one, number - 1) for one, number in numbers.items())
        callers = {process: caller for caller, process in self._processes.items()}
        for process in self.ledger.told():
            seq = following.get(callers.get(process, process), -1)
            if process in worker.connections:
                worker.send(process, Covered(self.actor_id, order, event, seq))
        worker.flush()

    # ------------------------------------------------------------------ restoring

    def restore(self, message: Restore, memory: Any) -> Steps:
        """As `Replay.restore`; returns the state."""
        found, worker = message.checkpoint, self._worker
        if len(memory.data) != found.size or crc32(memory.data) != found.check:
            raise Violation(f"checkpoint {found.number} was written to after it was kept")
        content = worker.decode(memory.data)
        order, events, told, numbers, logs, calls, received, state = content
        if received is not None:
            worker.owner.callers.received = Received(*_received(received))
        self._world.faults.at_point(worker, "restoring", 10)
        saved: dict[str, Any] = {"order": order, "events": events, "callers": {}}
        for one, following, acked, kept in told:
            answers: dict[int, Any] = {}
            for seq, data, *rest in kept:
                if type(rest[0]) is int:
                    answers[seq] = Done(b"", data, rest[0])
                else:
                    refs = yield from thaw(self._worker, rest[1])
                    answers[seq] = _values(data), rest[0], refs
            saved["callers"][one] = following, acked, answers
        self.ledger.restore(saved)
        worker.owner.callers.restore(numbers, logs)
        yield from restore_calls(worker, calls)
        assert self.checkpoints is not None
        self._former = message.former
        self.checkpoints.protocol.number = found.number
        patience = self._world.config.replay_patience_seconds
        witnesses = {*message.witnesses, *message.actors}
        until = self._world.clock.now + patience
        self.recovery = Recovery(self.ledger.log, witnesses, until)
        for one in message.witnesses:
            if worker.owner.is_dead(one):
                self.recovery.on_gone(one)
            else:
                self._ask(one, one)
        for actor in message.actors:
            client = worker.owner.callers.client(actor, "actor", True, True)
            if client.state == "alive":
                self._ask(client.process, actor)
        worker.flush()
        self._gone = [one for one in self.ledger.callers if one not in witnesses]
        if self._gone:
            self._look_at = 0
        if not witnesses:
            self.recovery = None
            self._world.keepers.books[self.actor_id].down = False
        yield from self.go_on()
        return (yield from thaw(self._worker, state))

    def _ask(self, process: bytes, caller: bytes) -> None:
        known = self.ledger.callers.get(caller)
        log, seq = self.ledger.log, -1 if known is None else known.next - 1
        covered = Covered(self.actor_id, log.start, log.event_start, seq)
        self._worker.send(process, ReplayAsk(covered, self._former))

    def on_message(self, peer: bytes, message: Any) -> Steps:
        """As `Replay.on_message`."""
        if message is self.repeated:
            yield from self.answer_repeated()
            return
        if type(message) is Gone and message.process in self.ledger.callers:
            self._gone.append(message.process)
            self._look_at = 0
        if type(message) is Gone and message.process in self._processes.values():
            self._hurry = True
            self._look_at = 0
        recovery = self.recovery
        if recovery is not None:
            self._world.faults.at_point(self._worker, "hearing of the order", 10)
            if type(message) is Gone:
                recovery.on_gone(message.process)
            elif type(message) is ActorChanged:
                self._on_move(recovery, message)
            elif type(message) is ReplayOffer:
                known, sender = message.known, message.sender or peer
                self._worker.owner.callers.taken.add(message.called, message.made)
                recovery.on_offer(sender, known.first, known.runs, known.event, known.events)
            yield from self.go_on()
        if self.checkpoints is not None:
            yield from self.look()

    def on_progress(self, message: Holding | CheckpointKept) -> None:
        """As `Replay.on_progress`."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return
        if type(message) is CheckpointKept:
            checkpoints.on_kept(message.number, message.looks)
        else:
            checkpoints.on_holding(message.number)
        self._news = not checkpoints.under_way

    def _on_move(self, recovery: Recovery, message: ActorChanged) -> None:
        if message.state == "dead":
            recovery.on_gone(message.id)
        elif message.state == "alive" and message.id in recovery.waiting:
            self._ask(message.process, message.id)
            self._worker.flush()

    def _on_death(self, process: bytes) -> None:
        concerned = self.recovery is not None or process in self.ledger.callers
        concerned = concerned or process in self._processes.values()
        if self.checkpoints is not None and self.checkpoints.on_death(process):
            self._news = concerned = True
        if concerned:
            self._worker.queue.append((b"", Gone(process)))

    def _concerned(self) -> list[bytes]:
        """As `Replay._concerned`."""
        recovery = self.recovery
        found = [*self.ledger.callers, *self._processes.values()]
        found += (recovery.counts_on() if recovery is not None else ())
        return [owner_of(self.actor_id), *(one for one in found if len(one) == PROCESS_BYTES)]

    def _note(self, message: Any) -> None:
        if self.recovery is not None:
            self._worker.queue.append((b"", message))

    def on_time(self) -> Steps:
        """As `Replay.on_time`."""
        if self.recovery is not None:
            self._world.keepers.on_patience(self.actor_id, self.recovery)
            patience = self._world.config.replay_patience_seconds
            self.recovery.on_time(self._world.clock.now, patience)
            yield from self.go_on()
        elif self.checkpoints is not None:
            yield from self.look()


class Gone:
    """In the worker's queue: a process has died."""

    __slots__ = ("process",)

    def __init__(self, process: bytes) -> None:
        self.process = process

