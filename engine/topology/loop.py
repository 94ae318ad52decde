"""The loop of one copy of a member, without I/O: frames in, frames out, one unit of work a step.

An edge (a process, or the inline runner) constructs a `MemberLoop`, feeds it every frame that
arrives (`receive`, cheap, runs no user code), and calls `step` while that returns True. When it
returns False the edge waits for a frame or for `next_wake()`. It goes on until `drained`.

**Backpressure.** While any outlet lacks credit the member gets no input and is not polled. On a
cycle this rule alone would deadlock (two copies that wait for each other's credit), so an item
that came by a feedback channel is still processed while only feedback outlets are closed: around
a cycle the program itself bounds what it has in flight, as a superstep does.

**Epochs.** A marker from every sender closes an epoch: the member's `snapshot` goes to
`on_snapshot` and the marker is forwarded. What comes from a sender already past its marker is
held, within its credit, until the others are. Copies without inputs close an epoch on a `Trigger`.
On a cycle no barrier can align: a marker there is refused, and members close epochs by themselves
(`MemberContext.close_epoch`).

**Ends.** A copy that has ended keeps receiving: it throws items away and returns their credit, so
that nobody waits for it. It is `drained` when its inputs have ended too and all it sent is gone.
In later epochs its state is its result. A sender that had ended in an epoch sent its end before any
marker of it, so whoever is restored from that epoch has seen that end and gets no other.

**Coming back alone.** With `retain_bytes` the loop keeps what `engine.topology.rejoin` needs, and
tells others who come back (`rejoin`). One that comes back itself is given a `Rejoin`: it repeats
its steps in their old order (`core.determinants`), waiting for the sender whose turn it was, and
from then on goes by what has arrived, as ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from engine.core.credits import CreditError, ReceiveAccount
from engine.core.determinants import POLL, TRIGGER, Repeat, Steps
from engine.topology.alignment import Alignment
from engine.topology.errors import MemberError, ProtocolError, TopologyError, expected
from engine.topology.frames import Credit, Data, End, Frame, Marker, Transport
from engine.topology.inlet import Inlet
from engine.topology.member import Member, MemberContext
from engine.topology.outbox import Outbox
from engine.topology.plan import MemberPlan
from engine.topology.rejoin import Answer, FromReceiver, Rejoin, Unrecoverable
from engine.topology.snapshot import Handed, Snapshot
from engine.topology.statistics import BACKPRESSURED, BUSY, IDLE, MemberStatistics, Stopwatch

__all__ = ["MemberLoop"]

SnapshotCallback = Callable[[int, Snapshot, list[Handed]], None]


class MemberLoop:
    """Runs one copy.

    Args:
        plan: which copy, with its channels.
        member: the constructed member.
        transport: takes outgoing frames.
        clock: seconds that never go back; for statistics and `wake_after` only.
        on_snapshot: called with (epoch, snapshot, handed-over tokens) at each barrier; without it
            `close_epoch` is ignored.
        epoch: the epoch to start in.
        restore: a snapshot to go on from: what `member.restore` gets after `open`.
        ended: ids of copies that had ended in that epoch.
        retain_bytes: what may be kept for others that come back alone; None: nobody does.
        rejoin: this copy comes back alone, and this is what the others have said.

    Attributes:
        plan, member, context: as given and as made.
        ended: the member has ended and `result` is there.
        result: what `close` returned.
    """

    def __init__(
        self,
        plan: MemberPlan,
        member: Member,
        transport: Transport,
        clock: Callable[[], float],
        on_snapshot: SnapshotCallback | None = None,
        *,
        epoch: int = 0,
        restore: Snapshot | None = None,
        ended: Collection[int] = (),
        retain_bytes: int | None = None,
        rejoin: Rejoin | None = None,
    ) -> None:
        self.plan = plan
        self.member = member
        self.ended = restore is not None and restore.ended
        self.result: Any = restore.state if restore is not None and restore.ended else None
        self._transport = transport
        self._clock = clock
        self._on_snapshot = on_snapshot
        self._restore = restore
        recovers = retain_bytes is not None
        self._numbered = inlets = self._make_inlets(epoch, recovers, ended)
        ports = {p.port: len(p.senders) for p in plan.inputs}
        polled = type(member).poll is not Member.poll
        # One sender and no polls: there is but one order.
        has_log = recovers and bool(plan.outputs) and (polled or len(inlets) > 1)
        self._outbox = Outbox(plan, transport, epoch, retain_bytes, Steps() if has_log else None)
        self.context = MemberContext(plan, ports, polled, self._outbox)
        if on_snapshot is not None:
            self.context.on_close_epoch = self._close_epoch
        if restore is not None:
            self.context.is_restored = True
            self.context.counters = dict(restore.counters)
        self._alignment = Alignment([one for one in inlets if not one.ended], epoch)
        self._has_cycle = any(p.feedback for p in plan.inputs)
        self._count_open(ports)
        self._inbox: deque[tuple[Inlet, Frame]] = deque()
        self._feedback_inbox: deque[tuple[Inlet, Frame]] = deque()
        self._feedback_turn = False
        self._held: deque[tuple[Inlet, Frame]] = deque()
        self._triggers: deque[int] = deque()
        self._is_polled = polled
        self._poll_due = self._is_polled
        self._wake: float | None = None
        self._opened = False
        self._failed = False
        self._hook = "open"
        self._watch = Stopwatch(clock)
        self._rows_in = self._bytes_in = self._batches_in = 0
        self._repeat: Repeat | None = None
        if rejoin is not None:
            self._resume(rejoin)

    def _make_inlets(self, epoch: int, recovers: bool, ended: Collection[int]) -> list[Inlet]:
        self._inlets = {
            p.channel: {s: Inlet(p, s, copy, epoch, recovers) for s, copy in p.senders}
            for p in self.plan.inputs
        }
        inlets = [inlet for senders in self._inlets.values() for inlet in senders.values()]
        for number, inlet in enumerate(inlets):
            inlet.number = number
            inlet.ended = inlet.copy in ended
        return inlets

    def _count_open(self, ports: dict[str, int]) -> None:
        self._open_senders = ports.copy()
        for inlet in self._numbered:
            self._open_senders[inlet.port] -= inlet.ended
        self._open_inlets = sum(self._open_senders.values())

    def _resume(self, rejoin: Rejoin) -> None:
        for inlet in self._numbered:
            inlet.resume(rejoin.inlets[inlet.channel, inlet.sender])
        self._outbox.resume(rejoin.outlets)
        if rejoin.steps and not self.ended:
            self._repeat = self.context.repeat = Repeat(rejoin.steps)

    # --- the edge's side -------------------------------------------------------------------

    @property
    def drained(self) -> bool:
        """The member has ended, nobody sends to it any more, and nothing waits to be sent."""
        return self.ended and self._open_inlets == 0 and self._outbox.waiting_count() == 0

    def receive(self, frame: Frame) -> None:
        """Take one frame; runs no user code. A `Data` frame must carry its decoded value.

        Raises:
            ProtocolError, CreditError: the frame cannot be right.
        """
        kind = type(frame)
        if kind is Data or kind is End or kind is Marker:
            inlet = self._inlets[frame.channel][frame.sender]  # type: ignore[union-attr]
            if frame.seq != inlet.seq or inlet.ended:  # type: ignore[union-attr]
                self._refuse(inlet, frame)
            inlet.seq += 1
            if inlet.known is not None:
                inlet.learn(frame)  # type: ignore[arg-type]
            if kind is Data:
                if frame.nbytes:  # type: ignore[union-attr]
                    inlet.account.on_received(frame.rows, frame.nbytes)  # type: ignore[union-attr]
            elif kind is End:
                inlet.ended = True
            if self.ended:
                self._discard(inlet, frame)
            elif inlet.feedback:
                self._feedback_inbox.append((inlet, frame))
            elif self._repeat is not None:
                inlet.queue.append(frame)
            else:
                self._inbox.append((inlet, frame))
        elif kind is Credit:
            self._outbox.on_credit(
                frame.channel,  # type: ignore[union-attr]
                frame.receiver,  # type: ignore[union-attr]
                frame.rows,  # type: ignore[union-attr]
                frame.nbytes,  # type: ignore[union-attr]
            )
        else:
            self._triggers.append(frame.epoch)  # type: ignore[union-attr]
        self._poll_due = self._is_polled

    def step(self) -> bool:
        """Do one unit of work: process one item, or poll once.

        Returns:
            True when something was done; False when there is nothing to do until a frame comes
            or `next_wake()` is reached (idle, without credit, or ended).

        Raises:
            MemberError: the member's code raised; the loop must not be used any more.
        """
        if self.ended:
            return False
        if self._failed:
            raise TopologyError(f"expected no step after the failure of {self._outbox.owner}")
        watch = self._watch
        if watch.mode != BUSY:
            watch.switch(BUSY)
        try:
            worked = self._work()
            if self.context.finished and not self.ended:
                self._end()
        except (ProtocolError, CreditError):
            self._failed = True
            raise
        except Exception as error:  # the member's own, whatever it is
            self._failed = True
            raise MemberError(self.plan.name, self.plan.index, self._hook) from error
        if not worked or self.ended:
            watch.switch(BACKPRESSURED if self._outbox.closed_count else IDLE)
        elif self.context.wake_seconds is not None:
            self._wake = self._clock() + self.context.wake_seconds
            self.context.wake_seconds = None
        return worked

    def next_wake(self) -> float | None:
        """When, on the loop's clock, `step` may have work again without a frame; None: never."""
        return None if self.ended or self._outbox.closed_count else self._wake

    def rest(self) -> None:
        """The edge turns to other things: the time until the next step does not count as busy."""
        self._watch.switch(BACKPRESSURED if self._outbox.closed_count else IDLE)

    def statistics(self) -> MemberStatistics:
        """What this copy has done so far."""
        outbox = self._outbox
        busy, idle, backpressured = self._watch.shares()
        queues = (self._inbox, self._feedback_inbox, self._held)
        counters = dict(self.context.counters)
        if outbox.given_up:
            counters["retention_given_up"] = outbox.given_up
        queued = sum(f.rows for q in queues for _, f in q if type(f) is Data)
        queued += sum(f.rows for i in self._numbered for f in i.queue if type(f) is Data)
        return MemberStatistics(
            member=self.plan.name,
            index=self.plan.index,
            rows_in=self._rows_in,
            rows_out=outbox.rows,
            batches_in=self._batches_in,
            batches_out=outbox.batches,
            bytes_in=self._bytes_in,
            bytes_out=outbox.nbytes,
            busy=busy,
            idle=idle,
            backpressured=backpressured,
            counters=counters,
            queue_rows=queued,
        )

    def describe(self) -> str:
        """What this copy is doing or waiting for, in one line; for reports of a stall."""
        who = f"{self.plan.name}[{self.plan.index}]"
        outbox = self._outbox
        if outbox.closed_count:
            return f"{who} waits for credit on " + "; ".join(outbox.closed_outlets())
        if self.drained:
            return f"{who} has ended"
        waits = []
        if self._alignment.pending is not None:
            missing = ", ".join(map(repr, self._alignment.missing()))
            waits.append(f"the marker of epoch {self._alignment.pending} from {missing}")
        live = [repr(inlet) for inlet in self._numbered if not inlet.ended]
        if live:
            waits.append("input or the end from " + ", ".join(live))
        if self._is_polled and not self.ended:
            waits.append("a frame, because poll() returned False without wake_after()")
        ended = "has ended and " if self.ended else ""
        return f"{who} {ended}waits for " + " and ".join(waits or ["nothing"])

    def outbox(self) -> Outbox:
        """The sending side, for checks and reports."""
        return self._outbox

    def accounts(self) -> dict[tuple[int, int], ReceiveAccount]:
        """(channel, sending copy's index) -> credit account, for checks and reports."""
        return {(i.channel, i.sender): i.account for i in self._numbered}

    # --- one unit of work --------------------------------------------------------------------

    def _work(self) -> bool:
        if not self._opened:
            self._open()
            return True
        outbox = self._outbox
        if outbox.closed_count:
            if self._feedback_inbox and outbox.closed_count == outbox.closed_feedback_count:
                self._process(*self._feedback_inbox.popleft())
                return True
            return False
        if self._repeat is not None:
            return self._do_again(self._repeat)
        if self._triggers:
            self._on_trigger(self._triggers.popleft())
            return True
        if self._feedback_inbox:
            # In turns, so that neither the cycle nor the outside starves.
            self._feedback_turn = not self._feedback_turn
            if self._feedback_turn or not self._inbox:
                self._process(*self._feedback_inbox.popleft())
                return True
        if self._inbox:
            self._process(*self._inbox.popleft())
            return True
        if self._is_polled:
            return self._poll()
        return False

    def _open(self) -> None:
        self._opened = True
        self.member.open(self.context)
        if self._restore is not None:
            self._hook = "restore"
            self.member.restore(self._restore.state)
            self._restore = None

    def _process(self, inlet: Inlet, frame: Frame) -> None:
        if self._alignment.passed and inlet in self._alignment.passed:
            self._held.append((inlet, frame))
            return
        log = self._outbox.log
        if log is not None:
            log.append(inlet.number)
        if type(frame) is Data:
            rows, nbytes = frame.rows, frame.nbytes
            if frame.epoch != self._alignment.epoch:
                self._refuse(inlet, frame)
            self._hook = "on_batch"
            value, frame.value = frame.value, None  # the frame must not keep the buffers alive
            self.member.on_batch(inlet.port, value, frame.meta, inlet.sender)
            if nbytes:
                self._rows_in += rows
                self._bytes_in += nbytes
                self._batches_in += 1
                self._return_credit(inlet, rows, nbytes)
        elif type(frame) is End:
            self._on_end(inlet)
        elif type(frame) is Marker:
            self._on_marker(inlet, frame.epoch)

    def _poll(self) -> bool:
        wake = self._wake
        if not self._poll_due and (wake is None or self._clock() < wake):
            return False
        self._wake = None
        self._hook = "poll"
        context, log = self.context, self._outbox.log
        if log is not None:
            log.append(POLL)
        again = bool(self.member.poll())
        if log is not None and not context.finished and not self._outbox.has_told():
            log.undo()
        self._poll_due = again
        if not again and context.wake_seconds is not None:
            self._wake = self._clock() + context.wake_seconds
            context.wake_seconds = None
        return again or context.finished

    def _return_credit(self, inlet: Inlet, rows: int, nbytes: int) -> None:
        due = inlet.account.on_consumed(rows, nbytes)
        if due is None and self._repeat is not None:
            # The order is fixed: a sender must have as much credit as it had when it came about.
            due = inlet.account.return_all()
        if due is not None:
            credit = Credit(inlet.channel, self.plan.index, due[0], due[1])
            self._transport.send(inlet.copy, credit, None)

    # --- ends --------------------------------------------------------------------------------

    def _on_end(self, inlet: Inlet) -> None:
        self._open_inlets -= 1
        self._open_senders[inlet.port] -= 1
        completes = self._alignment.on_end(inlet)
        if self._open_senders[inlet.port] == 0:
            self._hook = "on_end"
            self.member.on_end(inlet.port)
        if completes:  # an end before any marker belongs to the epoch that is closed
            self._complete_epoch()
        if self._open_inlets == 0:
            self._hook = "on_all_ended"
            self.member.on_all_ended()
            self.context.finished = True

    def _end(self) -> None:
        # The ends follow the close: if it raises, no receiver takes the stream for complete.
        self._outbox.sealed = True
        self._hook = "close"
        self.result = self.member.close()
        for one in self.context.handed:
            one.make_durable()
        self.ended = True
        self._outbox.send_ends()
        self._outbox.check_repeated()
        for queue in (self._held, self._feedback_inbox, self._inbox):
            while queue:
                self._discard(*queue.popleft())

    def _discard(self, inlet: Inlet, frame: Frame) -> None:
        if type(frame) is Data and frame.nbytes:
            self._return_credit(inlet, frame.rows, frame.nbytes)
        elif type(frame) is End:
            self._open_inlets -= 1

    # --- epochs ------------------------------------------------------------------------------

    def _on_trigger(self, epoch: int) -> None:
        if self.plan.inputs or epoch <= self._alignment.epoch:
            raise ProtocolError(
                f"expected a trigger of an epoch > {self._alignment.epoch} at a copy without "
                f"inputs, found epoch {epoch} at {self._outbox.owner}"
            )
        if self._outbox.log is not None:
            self._outbox.log.append(TRIGGER)
        self._alignment.pending = epoch
        self._complete_epoch()

    def _on_marker(self, inlet: Inlet, epoch: int) -> None:
        if self._has_cycle:
            raise ProtocolError(
                f"expected no epochs on a cycle, found a marker of epoch {epoch} at "
                f"{self._outbox.owner}; end the cycle's work before a checkpoint"
            )
        if self._alignment.on_marker(inlet, epoch):
            self._complete_epoch()

    def _complete_epoch(self) -> None:
        epoch = self._alignment.advance()
        self._hook = "snapshot"
        self._take(epoch, self.member.snapshot())
        self._outbox.send_markers(epoch)
        self._inbox.extendleft(reversed(self._held))
        self._held.clear()

    def _close_epoch(self, epoch: int, state: Any) -> None:
        if not self._has_cycle:
            raise expected(
                "close_epoch() from a member on a cycle",
                f"one of {self._outbox.owner}",
                "leave epochs to the topology, which asks for snapshot()",
            )
        self._take(epoch, state)

    def _take(self, epoch: int, state: Any) -> None:
        if self._on_snapshot is not None:
            handed = self.context.handed
            for one in handed:
                one.epoch = one.epoch or epoch
            counters = dict(self.context.counters)
            self._on_snapshot(epoch, Snapshot(state, counters), handed.copy())

    def on_committed(self, epoch: int) -> None:
        """The epoch counts: what was handed over by then is visible and need not be told again."""
        handed = self.context.handed
        handed[:] = [one for one in handed if not 0 < one.epoch <= epoch]
        self._outbox.on_committed(epoch)
        for inlet in self._numbered:
            inlet.forget(epoch)

    def waiting_for(self) -> list[Inlet]:
        """The senders that have not ended, as far as has been received."""
        return [inlet for inlet in self._numbered if not inlet.ended]

    def final_snapshot(self) -> tuple[Snapshot, list[Handed]]:
        """What stands for the state of a copy that has ended, and the tokens still to commit."""
        assert self.ended
        snapshot = Snapshot(self.result, dict(self.context.counters), ended=True)
        return snapshot, self.context.handed.copy()

    # --- copies that come back ---------------------------------------------------------------

    def rejoin(self, copy: int, epoch: int, ended: bool) -> Answer:
        """Copy `copy` has come back alone and goes on from the beginning of `epoch`.

        All that has come of the old one is received, and the transport reaches the new one.
        `ended`: the copy had ended by then.
        """
        self.on_committed(epoch)
        inlets = [inlet for inlet in self._numbered if inlet.copy == copy]
        try:
            receivers = [self._answer(inlet, epoch, ended) for inlet in inlets]
            senders = [one.resend(epoch) for one in self._outbox.outlets() if one.copy == copy]
        except Unrecoverable as error:  # the one who asks has to know
            return Answer(refused=f"{self.plan.name}[{self.plan.index}]: {error}")
        return Answer(senders, receivers)

    def _answer(self, inlet: Inlet, epoch: int, ended: bool) -> FromReceiver:
        if ended:
            return inlet.dismiss(self.plan.index)
        if self.ended and not inlet.ended:  # what it would send would be thrown away
            inlet.ended = True
            self._open_inlets -= 1
        return inlet.answer(epoch, self.plan.index, self.ended)

    def _do_again(self, repeat: Repeat) -> bool:
        """The next one of the steps to be repeated, if what it needs is there."""
        entry = repeat.entry
        if entry >= 0:
            inlet = self._numbered[entry]
            if not inlet.queue:
                return False
            self._process(inlet, inlet.queue.popleft())
        elif entry == TRIGGER:
            if not self._triggers:
                return False
            self._on_trigger(self._triggers.popleft())
        else:
            log = self._outbox.log
            assert log is not None
            count = log.count
            worked = self._poll()
            if log.count == count:  # nothing has come of it: that was not the one
                return worked
        if not repeat.advance() or self.context.finished:
            self._go_on()
        return True

    def _go_on(self) -> None:
        """All is repeated: take up what has come meanwhile."""
        self._repeat = self.context.repeat = None
        if not self.context.finished:
            self._outbox.check_repeated()
        for inlet in self._numbered:
            self._inbox.extend((inlet, frame) for frame in inlet.queue)
            inlet.queue.clear()

    @property
    def repeats(self) -> bool:
        """Whether it has come back alone and has not seen or sent again all it had before."""
        if self._repeat is not None or self._outbox.repeats():
            return True
        return any(inlet.seq < inlet.lacks for inlet in self._numbered)

    # --- helpers -----------------------------------------------------------------------------

    def _refuse(self, inlet: Inlet, frame: Frame) -> None:
        raise ProtocolError(
            f"{self._outbox.owner}, {inlet!r}: expected "
            f"{'nothing after the end' if inlet.ended else f'seq {inlet.seq}'} in epoch "
            f"{self._alignment.epoch}, found {frame!r}"
        )
