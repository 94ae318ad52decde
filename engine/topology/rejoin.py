"""What a copy that comes back alone is told by those it talks to (pure).

A single death need not stop the others. A new process gets the snapshot of the last committed
epoch, and every copy it has a channel with is asked to take it in. A *sender* says from which
number on it has kept what it sent since then, and sends it again. A *receiver* says how far it has
seen, what credit is in use, and the order of steps it has learnt. From the answers comes a
`Rejoin`: the new copy repeats the steps in that order, does not send what its receivers have, and
then goes on by itself. `Unrecoverable` says why that cannot be: then all go back.

What a receiver has seen and what the copy repeats are compared by their numbers of rows: code that
does not do the same again is noticed where it shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.exceptions import EngineError
from engine.topology.plan import MemberPlan

__all__ = ["Answer", "FromReceiver", "FromSender", "Rejoin", "Unrecoverable", "combine", "traced"]


class Unrecoverable(EngineError):
    """One copy cannot come back alone; the message says why. All go back then."""


class FromSender(msgspec.Struct, frozen=True):
    """A sender: the items numbered `base` to `sent` - 1 are coming (again)."""

    channel: int
    sender: int
    base: int
    sent: int


class FromReceiver(msgspec.Struct, frozen=True):
    """A receiver: it has seen the items up to number `seen` - 1.

    `base` and `trace_base` are the number and the trace at the beginning of the epoch that the copy
    goes on from, `trace` that of all it has seen. `rows` and `nbytes` are credit in use. `steps`
    are the copy's steps since then, as runs. `mute`: it has ended and wants nothing.
    """

    channel: int
    receiver: int
    base: int = 0
    seen: int = 0
    trace_base: int = 0
    trace: int = 0
    rows: int = 0
    nbytes: int = 0
    steps: Sequence[int] = ()
    mute: bool = False


class Answer(msgspec.Struct, frozen=True):
    """One copy's answer to the news that another one has come back; `refused` says why not."""

    senders: Sequence[FromSender] = ()
    receivers: Sequence[FromReceiver] = ()
    refused: str = ""


class Rejoin(msgspec.Struct, frozen=True):
    """What the copy that comes back has to know, by (channel, index of the other copy)."""

    inlets: dict[tuple[int, int], FromSender]
    outlets: dict[tuple[int, int], FromReceiver]
    steps: Sequence[int]


def combine(plan: MemberPlan, answers: Sequence[Answer]) -> Rejoin:
    """Make one of the answers of all that the copy has a channel with.

    Raises:
        Unrecoverable: one of them cannot give what is needed.
    """
    for answer in answers:
        if answer.refused:
            raise Unrecoverable(answer.refused)
    inlets = {(one.channel, one.sender): one for a in answers for one in a.senders}
    outlets = {(one.channel, one.receiver): one for a in answers for one in a.receivers}
    wanted = {(p.channel, one) for p in plan.inputs for one, _ in p.senders}
    missing = wanted - inlets.keys()
    wanted = {(p.channel, one) for p in plan.outputs for one, _ in p.receivers}
    missing |= wanted - outlets.keys()
    if missing:
        raise Unrecoverable(f"nothing was said of the channels {sorted(missing)}")
    # All of them are beginnings of the same order: who has seen more knows more of it.
    steps = max((one.steps for one in outlets.values()), key=_count, default=())
    return Rejoin(inlets, outlets, steps)


def traced(trace: int, what: int) -> int:
    """The trace after one more frame: `what` is its number of rows, or -1 and -2 for the others."""
    return hash((trace, what))


def _count(steps: Sequence[int]) -> int:
    return sum(steps[1::2])

