"""Bulk-synchronous supersteps as a pure state machine: votes in, the next superstep out.

Every copy ends a superstep by sending one vote to all others: what it has to say for the common
decision (how many vertices are active, partial sums) and, in message-passing programs, what it has
to deliver. When a copy has the votes of all copies it combines them *in the order of the copies*.
All copies combine the same values in the same order, so all reach the same totals, bit for bit, and
take the same decision without a coordinator. One exchange is both barrier and reduction; with the
copies of one machine (p <= 16) sending p - 1 votes beats a tree.

A copy may be one superstep ahead of another, never two: it cannot leave superstep k before it has
everybody's vote k. So votes of exactly two supersteps are kept, and state that is written in one
superstep and read in the next needs two buffers and no locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ProtocolError", "Supersteps", "Tally", "add"]

Values = Sequence[float]
"""What a vote says: plain numbers, equally many in every copy's vote."""


class ProtocolError(RuntimeError):
    """A vote that cannot be right: from a stranger, twice, or for a superstep out of reach."""


@dataclass(frozen=True)
class Tally:
    """All votes of one superstep."""

    step: int
    values: tuple[Any, ...]
    """What each copy said, by copy."""
    messages: tuple[Any, ...]
    """What each copy sent to this one (None: nothing), by copy."""


def add(votes: Sequence[Values]) -> tuple[float, ...]:
    """The sums over all copies, added in the order of the copies."""
    return tuple(sum(column) for column in zip(*votes, strict=True))


class Supersteps:
    """Which superstep one copy is in, and the votes it has for this one and the next."""

    def __init__(self, index: int, copies: int) -> None:
        """The machine of copy ``index`` out of ``copies``; begins in superstep 0."""
        if not 0 <= index < copies:
            raise ProtocolError(f"copy {index} of {copies}")
        self.index = index
        self.copies = copies
        self.step = 0
        self._votes: list[dict[int, tuple[Any, Any]]] = [{}, {}]

    def vote(self, sender: int, step: int, values: Any, message: Any = None) -> Tally | None:
        """Take a vote (the copy's own included); the tally if it was the last one missing.

        With the tally the machine has moved to the next superstep.
        """
        if not 0 <= sender < self.copies:
            raise ProtocolError(f"a vote of copy {sender}, there are {self.copies}")
        if step not in (self.step, self.step + 1):
            raise ProtocolError(f"copy {sender} votes on superstep {step} during {self.step}")
        box = self._votes[step & 1]
        if sender in box:
            raise ProtocolError(f"copy {sender} votes twice on superstep {step}")
        box[sender] = (values, message)
        return self._tally()

    def _tally(self) -> Tally | None:
        """The tally of the present superstep if it is complete, which ends the superstep."""
        box = self._votes[self.step & 1]
        if len(box) < self.copies:
            return None
        votes = [box[i] for i in range(self.copies)]
        tally = Tally(self.step, tuple(v for v, _ in votes), tuple(m for _, m in votes))
        self._votes[self.step & 1] = {}
        self.step += 1
        return tally

    def story(self) -> str:
        """Where this copy stands and for whose votes it waits."""
        missing = [i for i in range(self.copies) if i not in self._votes[self.step & 1]]
        return f"copy {self.index} in superstep {self.step} waits for votes of copies {missing}"
