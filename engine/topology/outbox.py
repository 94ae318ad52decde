"""The sending side of one copy: routing, credit, and what waits for credit.

::

    Outbox          one per copy: all its output channels, and how many outlets are closed
      Output        one per output channel: its router over
        Outlet      one per receiving copy: window, sequence number, items that wait

An outlet is *closed* while it has no credit or items wait in it. While any outlet is closed the
loop gives the member no input, so what waits is at most what one call of the member emitted.
Feedback outlets (of channels on a cycle) are counted apart: see `engine.topology.loop`.

**Retention.** When copies may come back alone (`engine.topology.rejoin`), an outlet keeps a
reference to all that it sent since the last committed epoch. Beyond a limit the copy gives that up
until the next epoch begins: a death of a receiver takes all back then. One that has to give up
again and again leaves out more and more epochs between: to keep the first part of an epoch helps
few, and it takes memory that would else be used again while it is warm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from engine.core.credits import SendWindow
from engine.core.determinants import DECIDED, POLL, Steps
from engine.topology.errors import ReplayError, expected
from engine.topology.frames import (
    Data,
    End,
    Frame,
    Marker,
    Transport,
    estimate_nbytes,
    estimate_rows,
)
from engine.topology.plan import MemberPlan, OutputPlan
from engine.topology.rejoin import FromReceiver, FromSender, Unrecoverable, traced

__all__ = ["Outbox", "Outlet", "Output"]

# What a retained frame takes beside the bytes of its value, and each column of a batch: objects of
# Arrow, measured. In a stream of small batches they are most of it.
_FRAME_BYTES = 1024
_COLUMN_BYTES = 512
# Epochs that are left out at most by a copy that has given up.
_PAUSE_MAX = 15
# A receiver that has ended has "seen" everything.
_ALL = 1 << 62


class Outbox:
    """All that one copy sends.

    Attributes:
        outputs: the output channels, in order of declaration.
        by_name: the same by name.
        closed_count: outlets without credit or with waiting items.
        closed_feedback_count: those of them on a cycle.
        rows, nbytes, batches: sent so far, waiting ones included; meta alone is not counted.
        epoch: of the items sent now.
        sealed: nothing may be emitted any more.
        log: the copy's steps in this epoch, which go out with what it sends; None: not logged.
        told: as many of them some receiver has been told of, or will be.
        retained_bytes: what outlets keep for receivers that come back.
        retain_bytes: as much as they may; None: they keep nothing.
        given_up: how often it was too much.
        pause: epochs that are left out before it is tried again.
    """

    __slots__ = (
        *("_outlets", "batches", "by_name", "closed_count", "closed_feedback_count", "epoch"),
        *("_next_pause", "given_up", "log", "nbytes", "outputs", "owner", "pause"),
        *("retain_bytes", "retained_bytes", "rows", "sealed", "told", "transport"),
    )

    def __init__(
        self,
        plan: MemberPlan,
        transport: Transport,
        epoch: int,
        retain_bytes: int | None = None,
        log: Steps | None = None,
    ) -> None:
        self.owner = f"member '{plan.name}' copy {plan.index}"
        self.transport = transport
        self.closed_count = 0
        self.closed_feedback_count = 0
        self.rows = 0
        self.nbytes = 0
        self.batches = 0
        self.epoch = epoch
        self.sealed = False
        self.retain_bytes = retain_bytes
        self.log = log
        self.told = self.retained_bytes = self.given_up = self.pause = self._next_pause = 0
        self.outputs = [Output(self, output, plan.index) for output in plan.outputs]
        self.by_name = {output.name: output for output in self.outputs}
        self._outlets = {
            (output.channel, index): outlet
            for output in self.outputs
            for index, outlet in output.outlet_of.items()
        }

    def on_credit(self, channel: int, receiver: int, rows: int, nbytes: int) -> None:
        """Credit came back: send what waited for it."""
        self._outlets[channel, receiver].on_credit(rows, nbytes)

    def send_markers(self, epoch: int) -> None:
        """Close the epoch on every outlet; what is sent from now on belongs to `epoch`."""
        self.epoch = epoch
        if all(outlet.since is not None for outlet in self._outlets.values()):
            self._next_pause = 0  # a whole epoch was not too much
        for outlet in self._outlets.values():
            outlet.send_marker(epoch)
        self.pause = max(0, self.pause - 1)
        if self.log is not None:
            self.log, self.told = Steps(), 0
        if self.retain_bytes is not None:
            for output in self.outputs:
                output.turn_over()

    def send_ends(self) -> None:
        """Say on every outlet that nothing more comes."""
        for outlet in self._outlets.values():
            outlet.send_end()

    def closed_outlets(self) -> list[str]:
        """One line for each outlet that holds the member back; for reports."""
        return [outlet.describe() for outlet in self._outlets.values() if outlet.closed]

    def waiting_count(self) -> int:
        """Frames that wait for credit."""
        return sum(len(outlet.waiting) for outlet in self._outlets.values())

    def outlets(self) -> list[Outlet]:
        """All outlets, for checks and reports."""
        return list(self._outlets.values())

    # --- copies that come back ---------------------------------------------------------------

    def on_committed(self, epoch: int) -> None:
        """Nobody goes back behind the beginning of `epoch`."""
        if self.retain_bytes is not None:
            for outlet in self._outlets.values():
                outlet.forget(epoch)

    def give_up(self) -> None:
        """Too much would have to be retained: begin again with the next epoch, or a later one."""
        self.given_up += 1
        self.pause, self._next_pause = self._next_pause, min(2 * self._next_pause + 1, _PAUSE_MAX)
        self.retained_bytes = 0
        for outlet in self._outlets.values():
            outlet.since = None
            outlet.retained.clear()

    def resume(self, told: Mapping[tuple[int, int], FromReceiver]) -> None:
        """We have come back: go on as the receivers say."""
        for key, outlet in self._outlets.items():
            outlet.resume(told[key])

    def repeats(self) -> bool:
        """Whether a receiver has seen more than was sent again so far."""
        return any(one.seq < one.seen < _ALL for one in self._outlets.values())

    def has_told(self) -> bool:
        """Whether a receiver has been told, or will be, of the last step of the log."""
        return self.log is not None and self.told == self.log.count

    def on_decided(self) -> None:
        """A clock decides about the step under way, which is a poll."""
        if self.log is not None:
            last = self.log.runs[-2:-1]
            if self.has_told() or (last != [POLL] and not self.log.lost):
                raise expected("decide() in poll() before it emits", "it elsewhere", "move it")
            self.log.undo()
            self.log.append(DECIDED)

    def check_repeated(self) -> None:
        """All that was to be repeated has been.

        Raises:
            ReplayError: not all that receivers have seen was sent again.
        """
        for outlet in self._outlets.values():
            if outlet.seq < outlet.seen < _ALL:
                raise outlet.unlike(f"only {outlet.seq}")


class Output:
    """One output channel: spreads items over the outlets of its receivers."""

    __slots__ = (
        *("_list", "_partitioning", "_route", "_sender", "channel", "name", "outbox"),
        *("outlet_of", "receivers"),
    )

    def __init__(self, outbox: Outbox, plan: OutputPlan, sender: int) -> None:
        self.outbox = outbox
        self.name = plan.name
        self.channel = plan.channel
        self.receivers = len(plan.receivers)
        self.outlet_of = {
            index: Outlet(outbox, plan, sender, index, copy) for index, copy in plan.receivers
        }
        self._list = list(self.outlet_of.values())
        self._partitioning, self._sender = plan.partitioning, sender
        self.turn_over()

    def turn_over(self) -> None:
        """Spread items as from the start: whoever comes back begins with an epoch and must too."""
        self._route = self._partitioning.router(self._sender, self.receivers)

    def emit(self, value: Any, meta: Any) -> None:
        """Send by the partitioning; see `MemberContext.emit`."""
        if self.outbox.sealed:
            raise self._sealed()
        outlets = self._list
        if value is None:
            for outlet in outlets:
                outlet.send(None, meta, 0, 0)
            return
        parts = self._route(value, meta)
        previous: Any = None
        rows = nbytes = 0
        for position, part in parts:
            if part is not previous:  # broadcast: measure once
                rows, nbytes = estimate_rows(part), estimate_nbytes(part)
                previous = part
            outlets[position].send(part, meta, rows, nbytes)
        if meta is not None and len(parts) < len(outlets):
            served = {position for position, _ in parts}
            for position, outlet in enumerate(outlets):
                if position not in served:
                    outlet.send(None, meta, 0, 0)

    def send(self, receiver: int, value: Any, meta: Any) -> None:
        """Send to one receiving copy; see `MemberContext.send`."""
        if self.outbox.sealed:
            raise self._sealed()
        outlet = self.outlet_of.get(receiver)
        if outlet is None:
            raise expected(
                f"one of the receivers {list(self.outlet_of)} of channel '{self.name}'",
                receiver,
                "a forward channel reaches only the copy of the same index",
            )
        outlet.send(value, meta, estimate_rows(value), estimate_nbytes(value))

    def _sealed(self) -> Exception:
        return expected(
            f"{self.outbox.owner} to emit before it ends",
            "an item emitted after the end",
            "emit in on_all_ended() at the latest, or before finish() takes effect; not in close()",
        )


class Outlet:
    """One receiving copy of one output channel.

    Attributes:
        retained: what was sent since the beginning of epoch `since`, which is None when it is not
            kept.
        known: steps of the log that the receiver has been told of.
        seen: frames that the receiver has, numbered below this, are not sent again.
    """

    __slots__ = (
        *("channel", "closed", "copy", "feedback", "known", "name", "outbox", "receiver"),
        *("retained", "seen", "sender", "seq", "since", "trace", "trace_seen", "transport"),
        *("waiting", "window"),
    )

    def __init__(
        self, outbox: Outbox, plan: OutputPlan, sender: int, receiver: int, copy: int
    ) -> None:
        self.outbox = outbox
        self.transport = outbox.transport
        self.channel = plan.channel
        self.name = plan.name
        self.feedback = plan.feedback
        self.sender = sender
        self.receiver = receiver
        self.copy = copy
        self.seq = 0
        self.window = SendWindow(plan.capacity_rows, plan.capacity_bytes)
        self.waiting: deque[tuple[Frame, Any]] = deque()
        self.closed = False
        self.retained: deque[tuple[Frame, Any]] = deque()
        self.since = None if outbox.retain_bytes is None else outbox.epoch
        self.known = self.seen = self.trace = self.trace_seen = 0

    def send(self, value: Any, meta: Any, rows: int, nbytes: int) -> None:
        """Send one item, or keep it until credit comes; rows == nbytes == 0 needs no credit."""
        outbox = self.outbox
        log, part = outbox.log, None
        if log is not None and self.known != log.count:
            part, self.known = log.since(self.known), log.count
            outbox.told = log.count
        frame = Data(
            self.channel, self.sender, self.seq, rows, nbytes, outbox.epoch, meta, None, part
        )
        self.seq += 1
        if self.since is not None:
            self._retain(frame, value, nbytes)
        if nbytes:
            outbox.rows += rows
            outbox.nbytes += nbytes
            outbox.batches += 1
            if frame.seq < self.seen:
                self._repeat(rows)
            elif self.closed:
                self.waiting.append((frame, value))
            else:
                if not self.window.on_sent(rows, nbytes):
                    self._close()
                self.transport.send(self.copy, frame, value)
        else:
            self._send_free(frame)

    def send_marker(self, epoch: int) -> None:
        """Close the epoch before `epoch`."""
        frame = Marker(self.channel, self.sender, self.seq, epoch, self._news())
        self.seq += 1
        self.known = 0
        outbox = self.outbox
        if self.since is None:
            if outbox.retain_bytes is not None and not outbox.pause:  # it was given up
                self.since = epoch
        elif self.since >= epoch:  # committed meanwhile
            self._drop_retained()
            self.since = epoch
        else:
            self._retain(frame, None, 0)
        self._send_free(frame)

    def send_end(self) -> None:
        """Say that nothing more comes."""
        frame = End(self.channel, self.sender, self.seq, self._news())
        self.seq += 1
        if self.since is not None:
            self._retain(frame, None, 0)
        self._send_free(frame)

    def on_credit(self, rows: int, nbytes: int) -> None:
        """Send as much of what waits as the credit allows."""
        if not self.window.on_credit(rows, nbytes) or not self.closed:
            return
        waiting = self.waiting
        window = self.window
        while waiting:
            frame, value = waiting[0]
            if type(frame) is Data and frame.nbytes:
                if not window.may_send():
                    return
                window.on_sent(frame.rows, frame.nbytes)
            waiting.popleft()
            self.transport.send(self.copy, frame, value)
        if window.may_send():
            self._reopen()

    def describe(self) -> str:
        """What holds the sender back here."""
        return (
            f"channel '{self.name}' to copy {self.receiver}: {self.window!r}, "
            f"{len(self.waiting)} frames wait"
        )

    def _send_free(self, frame: Frame) -> None:
        """Send what needs no credit, but behind what waits."""
        if frame.seq < self.seen:  # type: ignore[union-attr]
            kind = type(frame)
            self._repeat(0 if kind is Data else -1 if kind is Marker else -2)
        elif self.waiting:
            self.waiting.append((frame, None))
        else:
            self.transport.send(self.copy, frame, None)

    def _close(self) -> None:
        self.closed = True
        self.outbox.closed_count += 1
        self.outbox.closed_feedback_count += self.feedback

    def _reopen(self) -> None:
        self.closed = False
        self.outbox.closed_count -= 1
        self.outbox.closed_feedback_count -= self.feedback

    # --- copies that come back ---------------------------------------------------------------

    def _news(self) -> list[int] | None:
        """The steps that the receiver does not know of."""
        outbox, log = self.outbox, self.outbox.log
        if log is None or self.known == log.count:
            return None
        part, self.known = log.since(self.known), log.count
        outbox.told = log.count
        return part

    def _retain(self, frame: Frame, value: Any, nbytes: int) -> None:
        outbox = self.outbox
        self.retained.append((frame, value))
        outbox.retained_bytes += nbytes + _overhead(value)
        assert outbox.retain_bytes is not None
        if outbox.retained_bytes > outbox.retain_bytes:
            outbox.give_up()

    def _drop_retained(self, marker: int | None = None) -> None:
        """Drop what is retained, up to the marker of an epoch if it is there."""
        retained, outbox = self.retained, self.outbox
        while retained:
            frame, value = retained.popleft()
            outbox.retained_bytes -= _overhead(value)
            if type(frame) is Data:
                outbox.retained_bytes -= frame.nbytes
            elif type(frame) is Marker and frame.epoch == marker:
                return

    def forget(self, epoch: int) -> None:
        """The receiver never goes back behind the beginning of `epoch`.

        No marker of it there: it comes next, or the copy had ended before.
        """
        if self.since is not None and self.since < epoch:
            self._drop_retained(epoch)
            self.since = epoch

    def resend(self, epoch: int) -> FromSender:
        """The receiver has come back and goes on from the beginning of `epoch`: send all again.

        Raises:
            Unrecoverable: it is not retained any more.
        """
        if self.since is None or self.since > epoch:
            raise Unrecoverable(
                f"{self.outbox.owner} could not retain what it sent: more than "
                f"{self.outbox.retain_bytes} bytes since the last epoch (Checkpoints.retain_bytes)"
            )
        self.forget(epoch)
        base = self.retained[0][0].seq if self.retained else self.seq  # type: ignore[union-attr]
        # Were we repeating ourselves: the copy that died had seen more than we have sent again.
        sent = max(self.seq, self.seen if self.seen < _ALL else 0)
        self.seen = 0
        self.waiting = self.retained.copy()
        self.window = SendWindow(self.window.capacity_rows, self.window.capacity_bytes)
        if not self.closed:
            self._close()
        self.on_credit(0, 0)
        return FromSender(self.channel, self.sender, base, sent)

    def resume(self, told: FromReceiver) -> None:
        """We have come back: the receiver has what is numbered below `told.seen`."""
        self.seq, self.seen = told.base, _ALL if told.mute else told.seen
        self.trace, self.trace_seen = told.trace_base, told.trace
        if told.nbytes:
            self.window.on_sent(told.rows, told.nbytes)
        self._end_repeat()

    def _repeat(self, what: int) -> None:
        """The receiver has this already; compare it as far as that is possible."""
        self.trace = traced(self.trace, what)
        if self.seq == self.seen and self.trace != self.trace_seen:
            raise self.unlike("others")
        self._end_repeat()

    def _end_repeat(self) -> None:
        # What is not sent needs no credit: a want of it must not hold up what others wait for.
        if self.seq >= self.seen and not self.window.may_send():
            self._close()

    def unlike(self, found: str) -> ReplayError:
        """What the member sent now is not what it had sent before it died."""
        return ReplayError(
            f"{self.outbox.owner} came back and was to send the first {self.seen} frames of "
            f"channel '{self.name}' to copy {self.receiver} again, found {found}: it does not do "
            "the same for the same input; Member.replayable = False says so"
        )


def _overhead(value: Any) -> int:
    return _FRAME_BYTES + _COLUMN_BYTES * getattr(value, "num_columns", 0)
