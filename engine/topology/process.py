"""One copy of a member in a process of its own: the edge around its `MemberLoop`.

Frames ride the connections of the runtime, like calls. A value above the inline limit is written
to shared memory once and *lent*: it becomes an object of the sender with the receivers as borrowers
from the start, so the block is free again when the last of them has dropped it, and no message but
that one is needed.

A snapshot is stored by a helper thread, which wakes this one; its report is the answer to the
coordinator's standing call (`report`). Frames of another attempt are dropped and counted: their
sender was ended for good, but what it had sent may still be on its way.

When another copy comes back alone, `rejoin` tells of it, and where its new process is. Whatever of
the old one comes after that is dropped, for the new one is told what had come until then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import msgspec

from engine.core.messages import ChannelFrame
from engine.exceptions import ObjectLostError
from engine.runtime.client import Runtime
from engine.runtime.execution import Deferred
from engine.runtime.worker import current_worker
from engine.store import codec
from engine.store.refs import ObjectRef
from engine.topology.coordinator import Start
from engine.topology.durable import Lock
from engine.topology.errors import LostSenderError, MemberError, task_error
from engine.topology.frames import Credit, Data, Frame, Trigger
from engine.topology.loop import MemberLoop
from engine.topology.member import Member
from engine.topology.plan import MemberPlan, construct
from engine.topology.rejoin import Answer, Rejoin, Unrecoverable
from engine.topology.snapshot import Snapshot, SnapshotWriter
from engine.topology.statefile import read_state
from engine.topology.statistics import MemberStatistics

__all__ = ["MemberActor", "preload"]

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], Frame] = msgspec.msgpack.Decoder(Frame).decode
# While there is work, incoming frames and calls are looked at this often.
_POLL_SECONDS = 200e-6
# Nobody holds the members' lock exclusively for longer than a look at whether it is free.
_LOCK_SECONDS = 5.0
# From one attempt to store the end of a member to the next.
_RETRY_SECONDS = 1.0


def preload() -> None:
    """Having been imported is all: members start and come back so much sooner (see `preload`)."""


class MemberActor:
    """The actor that hosts one copy. Its calls and its frames share one thread."""

    def __init__(self, topology: bytes, plan: MemberPlan) -> None:
        worker = current_worker()
        assert worker is not None, "members live in workers"
        self._worker = worker
        self._runtime: Runtime = worker.runtime
        self._topology = topology
        self._plan = plan
        # What has arrived: frames, frames to itself, and the ids of processes that have died.
        self._raw: deque[ChannelFrame | tuple[Frame, Any] | bytes] = deque()
        self._loop: MemberLoop | None = None
        self._addresses: dict[int, bytes] = {}
        self._done: Deferred | None = None
        self._writer: SnapshotWriter | None = None
        self._asked: Deferred | None = None
        self._end_stored = False
        self._end_retry: float | None = None  # when storing the end is tried again
        self._stale = 0
        self._is_local = False  # copies may come back alone
        self._copies = {(p.channel, s): copy for p in plan.inputs for s, copy in p.senders}
        self._fenced: set[bytes] = set()  # processes whose copies have come back in others
        self._torn: set[int] = set()  # dead copies of whose last items the first ones are lost
        self._catching_up: Deferred | None = None
        self._failed = False
        self._last: tuple[Any, Any] = (None, None)
        self._polled = 0.0
        worker.channel = self

    # ------------------------------------------------------------------ calls

    def configure(self, addresses: dict[int, bytes]) -> None:
        """Learn where the other copies are, and open the lines to them."""
        self._addresses = addresses
        mine = self._runtime.id
        with self._runtime.lock:
            for copy in self._plan.peers:
                if addresses[copy] != mine and mine < addresses[copy]:
                    self._runtime.open_line(addresses[copy])
            self._runtime.reactor.flush()

    def start(self, start: Start | None = None, rejoin: Rejoin | None = None) -> Deferred:
        """Make the member and run it, from its checkpoint if there is one; `rejoin`: alone.

        Answered with (result, tokens still to commit) when the member has ended, nobody sends to it
        any more, and all it sent is on its way.
        """
        self._done = Deferred()
        try:
            self._loop = self._make_loop(start, rejoin)
        except MemberError as error:
            raise task_error(error) from error.__cause__
        return self._done

    def _make_loop(self, start: Start | None, rejoin: Rejoin | None) -> MemberLoop:
        plan = self._plan
        if start is None:
            return MemberLoop(plan, construct(plan), self, perf_counter)
        # Held until this process is gone: whoever restarts the topology waits for that.
        self._lock = Lock(start.directory / "members.lock", exclusive=False, seconds=_LOCK_SECONDS)
        title, kick = f"{plan.name}-{plan.index}", self._runtime.reactor.kick
        self._writer = SnapshotWriter(start.directory, plan.copy, title, start.salt, kick)
        state = start.states.get(plan.copy)
        found: Snapshot | None = None if state is None else read_state(start.directory, state)
        if state is not None:
            self._writer.adopt(start.epoch, state)
        ended = found is not None and found.ended
        loop = MemberLoop(
            plan,
            Member() if ended else construct(plan),
            self,
            perf_counter,
            self._writer.submit,
            epoch=start.epoch,
            restore=found,
            ended=start.ended,
            retain_bytes=start.retain_bytes,
            rejoin=rejoin,
        )
        self._is_local = start.retain_bytes is not None
        loop.context.is_storing = self._is_storing
        return loop

    def _is_storing(self) -> bool:
        return self._writer is not None and self._writer.waiting > 0

    def report(self) -> Deferred:
        """The next report on a stored snapshot; there is always one such call under way."""
        self._asked = Deferred()
        return self._asked

    def trigger(self, epoch: int, committed: int, begin: bool) -> None:
        """An epoch is taken, and `committed` is the last one that counts.

        `begin`: copies without inputs close the epoch before it now; to the others it comes by
        markers.
        """
        assert self._loop is not None
        assert self._writer is not None
        self._loop.on_committed(committed)
        self._writer.on_committed(committed)
        if begin and self._plan.is_root and not self._loop.ended:
            self._loop.receive(Trigger(epoch))

    def committed(self, epoch: int) -> None:
        """Nobody goes back behind the beginning of `epoch`."""
        assert self._loop is not None
        self._loop.on_committed(epoch)

    def rejoin(self, copy: int, address: bytes, epoch: int, ended: bool) -> Answer:
        """A copy that we have a channel with has died and comes back alone, in another process.

        See `MemberLoop.rejoin`.
        """
        loop, runtime = self._loop, self._runtime
        if loop is None or self._failed:
            raise Unrecoverable(f"{self._plan.name}[{self._plan.index}] does not run")
        with runtime.lock:
            self._fenced.add(self._addresses[copy])
        self._take_in(loop)
        self._torn.discard(copy)
        with runtime.lock:
            self._addresses[copy] = address
            if runtime.id < address:
                runtime.open_line(address)
        return loop.rejoin(copy, epoch, ended)

    def caught_up(self) -> Deferred | None:
        """Answered when the copy, which has come back alone, is where the one before it was."""
        if self._loop is None or not self._loop.repeats:
            return None
        self._catching_up = Deferred()
        return self._catching_up

    def statistics(self) -> MemberStatistics | None:
        """What the member has done so far; None before it starts."""
        if self._loop is None:
            return None
        found = self._loop.statistics()
        if self._stale:
            found = replace(found, counters={**found.counters, "stale_frames": self._stale})
        return found

    def describe(self) -> str:
        """What the member waits for, for reports."""
        if self._loop is None:
            return f"{self._plan.name}[{self._plan.index}] has not started"
        return self._loop.describe()

    # ------------------------------------------------------------------ transport

    def send(self, copy: int, frame: Frame, value: Any) -> None:
        """Hand a frame to another copy (the loop's transport)."""
        address = self._addresses[copy]
        runtime = self._runtime
        if address == runtime.id:
            self._raw.append((frame, value))
            return
        packed, loan = None, b""
        if value is not None:
            packed = self._pack(value)
        with runtime.lock:
            if packed is not None and packed.block is not None:
                loan = self._lend(packed, value, address)
            message = ChannelFrame(self._topology, copy, _encode(frame), packed, loan)
            runtime.send(address, message)

    def _pack(self, value: Any) -> Any:
        # A broadcast hands over the same object several times: one copy in memory serves all.
        last, packed = self._last
        if last is not value:
            packed = self._runtime.values.store(codec.encode(value))
            self._last = (value, packed)
            self._loan = b""
        return packed

    def _lend(self, packed: Any, value: Any, borrower: bytes) -> bytes:
        objects = self._runtime.owner.objects
        if not self._loan or not objects.lend_again(self._loan, borrower):
            if self._loan:  # everybody has dropped it already, and the block is gone
                packed = self._runtime.values.store(codec.encode(value))
                self._last = (value, packed)
            self._loan = self._runtime.ids.new()
            objects.lend(self._loan, packed, borrower)
        return self._loan

    # ------------------------------------------------------------------ the worker's hooks

    def receive(self, peer: bytes, message: ChannelFrame) -> None:
        """A frame has arrived; under the lock, maybe on another thread."""
        if message.topology == self._topology and peer not in self._fenced:
            self._raw.append(message)
        else:
            self._stale += 1

    def on_peer_gone(self, peer: bytes) -> None:
        """A process has died, and all it had sent is here; under the lock."""
        self._raw.append(peer)

    def has_work(self) -> bool:
        """Whether `step` has something to look at."""
        return self._loop is not None and bool(self._raw or self._has_report())

    def next_wake(self) -> float | None:
        """When `step` has work without a frame."""
        if self._loop is None:
            return None
        return self._loop.next_wake() or (None if self._end_stored else self._end_retry)

    def step(self) -> bool:
        """Take what has arrived and do one unit of work; False when there is nothing to do."""
        loop = self._loop
        if loop is None:
            return False  # another copy has begun before this one: what it has sent waits
        if self._failed:
            self._raw.clear()
            return False
        try:
            self._take_in(loop)
            worked = loop.step()
            if self._catching_up is not None and not loop.repeats:
                catching, self._catching_up = self._catching_up, None
                catching.set(None)
            if self._has_report():
                self._tell()
        except Exception as error:  # whatever it is, it ends the topology with this as the reason
            self._fail(error)
            return False
        if loop.drained and self._done is not None:
            done, self._done = self._done, None
            done.set((loop.result, [one.token for one in loop.context.handed]))
        if worked:
            self._serve()
        return worked

    def _take_in(self, loop: MemberLoop) -> None:
        raw = self._raw
        while raw:
            item = raw.popleft()
            if isinstance(item, bytes):
                self._check_senders(item)
            else:
                frame = self._unpack(item)
                if frame is not None:
                    loop.receive(frame)

    def _check_senders(self, gone: bytes) -> None:
        assert self._loop is not None
        if self._is_local:
            return  # the supervisor hears of it too, and brings it back or ends us all
        waiting = [
            one for one in self._loop.waiting_for() if self._addresses.get(one.copy) == gone
        ]
        if waiting:
            raise LostSenderError(
                f"member '{self._plan.name}' copy {self._plan.index}: the process that sends to "
                f"{waiting[0]!r} died before it had sent its end"
            )

    # ------------------------------------------------------------------ snapshots

    def _has_report(self) -> bool:
        """Whether `_tell` has something to do."""
        writer = self._writer
        if writer is None or self._asked is None:
            return False
        return bool(writer.done) or self._end_is_due(writer)

    def _end_is_due(self, writer: SnapshotWriter) -> bool:
        """Whether the member has ended, and all that was before is reported, but not its end."""
        if self._loop is None or not self._loop.ended or self._end_stored or writer.waiting:
            return False
        return self._end_retry is None or perf_counter() >= self._end_retry

    def _tell(self) -> None:
        """Answer the coordinator's call if there is an answer."""
        writer, asked = self._writer, self._asked
        assert writer is not None
        assert asked is not None
        assert self._loop is not None
        try:
            report = writer.take_done()
        except Exception as error:  # it cannot be stored, ever: say whose state it is
            raise MemberError(self._plan.name, self._plan.index, "snapshot") from error
        if report is not None:
            if self._end_stored and report.state is None:  # a full disk may have room again
                self._end_stored = False
                self._end_retry = perf_counter() + _RETRY_SECONDS
            self._asked = None
            asked.set(report)
            with self._runtime.lock:
                self._runtime.reactor.flush()
        elif self._end_is_due(writer):
            self._end_stored = True
            writer.submit(0, *self._loop.final_snapshot())

    def _serve(self) -> None:
        reactor = self._runtime.reactor
        now = perf_counter()
        if now - self._polled > _POLL_SECONDS:
            self._polled = now
            reactor.poll()
        else:
            with reactor.lock:
                reactor.flush()

    def _unpack(self, item: ChannelFrame | tuple[Frame, Any]) -> Frame | None:
        if isinstance(item, tuple):
            frame, value = item
            if type(frame) is Data:
                frame.value = value
            return frame
        frame = _decode(item.body)
        if (
            self._torn
            and not isinstance(frame, Credit | Trigger)
            and self._copies[frame.channel, frame.sender] in self._torn
        ):
            self._stale += 1
            return None
        packed = item.value
        if packed is not None:
            assert isinstance(frame, Data)
            pin: ObjectRef[Any] | None = None
            if item.loan:
                self._runtime.accept_loan(item.loan)
                pin = ObjectRef(item.loan)
            try:
                frame.value = self._runtime.values.materialise(packed, pin)
            except ObjectLostError:
                copy = self._copies[frame.channel, frame.sender]
                if not self._is_local or not self._runtime.owner.is_dead(self._addresses[copy]):
                    raise
                # Its memory went with it: as if this item, and what follows it, had never come.
                self._torn.add(copy)
                self._stale += 1
                return None
        return frame

    def _fail(self, error: Exception) -> None:
        self._failed = True
        done, self._done = self._done, None
        if isinstance(error, MemberError):
            made: BaseException = task_error(error)
        else:
            made = error
        if done is not None:
            done.fail(made)
        elif self._asked is not None:  # it has answered with its result already
            asked, self._asked = self._asked, None
            asked.fail(made)
