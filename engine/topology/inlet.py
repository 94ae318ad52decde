"""The receiving side of one channel from one sending copy."""

from __future__ import annotations

from collections import deque

import msgspec

from engine.core.credits import ReceiveAccount
from engine.core.determinants import Steps, joined
from engine.topology.frames import Data, End, Frame, Marker
from engine.topology.plan import InputPlan
from engine.topology.rejoin import FromReceiver, FromSender, Unrecoverable, traced

__all__ = ["Inlet"]

# Epochs whose beginning is remembered: the committed one, the one under way, and some that were
# aborted. With more of them, a death takes all back.
_EPOCHS_MAX = 16


class Inlet:
    """One sending copy of one input channel, seen by the receiver.

    Attributes:
        number: which of the copy's inlets it is.
        seq: number of the next frame.
        ended: the sender's end has come.
        known: the sender's steps by epoch, as far as they are known here; None: not wanted.
        marks: epoch -> (seq, trace) at its beginning.
        lacks: frames up to here the copy that was in our place may have seen.
        queue: what waits while we repeat our steps.
    """

    __slots__ = (
        *("account", "channel", "copy", "ended", "epoch", "feedback", "known", "lacks", "marks"),
        *("number", "port", "queue", "sender", "seq", "trace"),
    )

    def __init__(
        self, plan: InputPlan, sender: int, copy: int, epoch: int, recovers: bool
    ) -> None:
        self.channel = plan.channel
        self.port = plan.port
        self.feedback = plan.feedback
        self.sender = sender
        self.copy = copy
        self.number = self.seq = 0
        self.ended = False
        self.account = ReceiveAccount(plan.capacity_rows, plan.capacity_bytes)
        self.queue: deque[Frame] = deque()
        self.lacks = 0
        self.trace = 0
        self.epoch = epoch
        self.known: dict[int, Steps] | None = {epoch: Steps()} if recovers else None
        self.marks = {epoch: (0, 0)}

    def resume(self, told: FromSender) -> None:
        """We have come back: what is numbered from `base` on comes again."""
        self.seq, self.lacks = told.base, told.sent
        self.marks = {self.epoch: (told.base, 0)}

    def learn(self, frame: Data | Marker | End) -> None:
        """Note what a frame tells of its sender, for the day on which it has to be told."""
        assert self.known is not None
        if frame.log:
            self.known[self.epoch].learn(frame.log)
        if type(frame) is Data:
            self.trace = traced(self.trace, frame.rows)
        elif type(frame) is Marker:
            self.trace = traced(self.trace, -1)
            self.epoch = frame.epoch
            self.known[frame.epoch] = Steps()
            self.marks[frame.epoch] = self.seq, self.trace
            if len(self.known) > _EPOCHS_MAX:
                self.forget(sorted(self.known)[1])
        else:
            self.trace = traced(self.trace, -2)

    def forget(self, epoch: int) -> None:
        """Nobody goes back behind the beginning of `epoch`."""
        if self.known is not None and epoch in self.known:
            self.known = {e: log for e, log in self.known.items() if e >= epoch}
            self.marks = {e: mark for e, mark in self.marks.items() if e >= epoch}

    def answer(self, epoch: int, receiver: int, ended: bool) -> FromReceiver:
        """What the sender has to know when it goes on from the beginning of `epoch`.

        `ended`: we have. Then the beginning of that epoch may never have come.

        Raises:
            Unrecoverable: it is not known here.
        """
        known, mark = self.known, self.marks.get(epoch)
        if ended and mark is None:
            return self.dismiss(receiver)
        if known is None or mark is None:
            raise Unrecoverable(f"the beginning of epoch {epoch} at {self!r} is not known")
        if self.seq < self.lacks:
            raise Unrecoverable(
                f"{self!r} died together with its receiver, which alone knew the order of its steps"
            )
        steps = joined(known[one] for one in sorted(known) if one >= epoch)
        if steps is None:
            raise Unrecoverable(f"the order of the steps of {self!r} was too long to be kept")
        return msgspec.structs.replace(
            self.dismiss(receiver),
            base=mark[0],
            seen=self.seq,
            trace_base=mark[1],
            trace=self.trace,
            steps=steps,
            mute=ended,
        )

    def dismiss(self, receiver: int) -> FromReceiver:
        """The answer to a sender that has ended, or of a receiver that has: send nothing."""
        account = self.account
        rows = account.held_rows + account.due_rows
        nbytes = account.held_bytes + account.due_bytes
        return FromReceiver(self.channel, receiver, rows=rows, nbytes=nbytes, mute=True)

    def __repr__(self) -> str:
        return f"port '{self.port}' copy {self.sender}"
