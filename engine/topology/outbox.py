"""The sending side of one copy: routing, credit, and what waits for credit.

::

    Outbox          one per copy: all its output channels, and how many outlets are closed
      Output        one per output channel: its router over
        Outlet      one per receiving copy: window, sequence number, items that wait

An outlet is *closed* while it has no credit or items wait in it. While any outlet is closed the
loop gives the member no input, so what waits is at most what one call of the member emitted.
Feedback outlets (of channels on a cycle) are counted apart: see `engine.topology.loop`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from engine.core.credits import SendWindow
from engine.topology.errors import expected
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

__all__ = ["Outbox", "Outlet", "Output"]


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
    """

    __slots__ = (
        "_outlets",
        "batches",
        "by_name",
        "closed_count",
        "closed_feedback_count",
        "epoch",
        "nbytes",
        "outputs",
        "owner",
        "rows",
        "sealed",
        "transport",
    )

    def __init__(self, plan: MemberPlan, transport: Transport, epoch: int) -> None:
        self.owner = f"member '{plan.name}' copy {plan.index}"
        self.transport = transport
        self.closed_count = 0
        self.closed_feedback_count = 0
        self.rows = 0
        self.nbytes = 0
        self.batches = 0
        self.epoch = epoch
        self.sealed = False
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
        for outlet in self._outlets.values():
            outlet.send_marker(epoch)

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


class Output:
    """One output channel: spreads items over the outlets of its receivers."""

    __slots__ = ("_list", "_route", "channel", "name", "outbox", "outlet_of", "receivers")

    def __init__(self, outbox: Outbox, plan: OutputPlan, sender: int) -> None:
        self.outbox = outbox
        self.name = plan.name
        self.channel = plan.channel
        self.receivers = len(plan.receivers)
        self.outlet_of = {
            index: Outlet(outbox, plan, sender, index, copy) for index, copy in plan.receivers
        }
        self._list = list(self.outlet_of.values())
        self._route = plan.partitioning.router(sender, self.receivers)

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
    """One receiving copy of one output channel."""

    __slots__ = (
        "channel",
        "closed",
        "copy",
        "feedback",
        "name",
        "outbox",
        "receiver",
        "sender",
        "seq",
        "transport",
        "waiting",
        "window",
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

    def send(self, value: Any, meta: Any, rows: int, nbytes: int) -> None:
        """Send one item, or keep it until credit comes; rows == nbytes == 0 needs no credit."""
        outbox = self.outbox
        frame = Data(self.channel, self.sender, self.seq, rows, nbytes, outbox.epoch, meta, None)
        self.seq += 1
        if nbytes:
            outbox.rows += rows
            outbox.nbytes += nbytes
            outbox.batches += 1
            if self.closed:
                self.waiting.append((frame, value))
            else:
                if not self.window.on_sent(rows, nbytes):
                    self._close()
                self.transport.send(self.copy, frame, value)
        else:
            self._send_free(frame)

    def send_marker(self, epoch: int) -> None:
        """Close the epoch before `epoch`."""
        frame = Marker(self.channel, self.sender, self.seq, epoch)
        self.seq += 1
        self._send_free(frame)

    def send_end(self) -> None:
        """Say that nothing more comes."""
        frame = End(self.channel, self.sender, self.seq)
        self.seq += 1
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
        if self.waiting:
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
