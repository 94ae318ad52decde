"""The order in which a copy of a topology did its steps: what it needs to do them again (pure).

What a copy sends is a function of its snapshot, of the items it was sent, and of the order in which
it took them up: which channel came next, where between two polls an epoch ended, what a clock made
it decide. That order is this log, two small numbers a step, and steps of one kind in a row are one
*run*. Each frame that leaves the copy carries the part that its receiver lacks, so nobody has
ever seen an effect of a step that is not known outside of the copy (causal logging; "Lineage
Stash", SOSP 2019; "Clonos", SIGMOD 2021). Nothing is written on the path of an item, and a copy
with a single sender and no polls has nothing to log.

A log covers one epoch: every receiver has learnt the whole of it with the marker that ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["DECIDED", "POLL", "TRIGGER", "Repeat", "Steps", "joined"]

# Entries: the number of the sender an item was taken from (>= 0), or one of these.
TRIGGER = -1
"""The coordinator ended an epoch (at a copy without inputs)."""
POLL = -2
"""`poll()` sent something, or ended the member. Polls that did neither are not logged."""
DECIDED = -3
"""The same, and what it did depended on a clock: see `MemberContext.decide`."""

# Numbers in the log of one epoch: half a megabyte, in the copy and in each receiver. A copy that
# would need more is not worth replaying: a rollback is faster.
_NUMBERS_MAX = 1 << 16
_LOST = -1


class Steps:
    """The steps of one epoch, as the copy logs them or as a receiver has learnt of them.

    Attributes:
        count: how many.
        lost: there were too many, or a part is missing: they cannot be repeated.
        runs: entry, count, entry, count, ...
    """

    __slots__ = ("count", "lost", "runs")

    def __init__(self) -> None:
        self.count = 0
        self.lost = False
        self.runs: list[int] = []

    def append(self, entry: int, count: int = 1) -> None:
        """The next `count` steps."""
        self.count += count
        runs = self.runs
        if runs and runs[-2] == entry:
            runs[-1] += count
        elif not self.lost:
            runs += (entry, count)
            if len(runs) > _NUMBERS_MAX:
                self.lose()

    def undo(self) -> None:
        """The last step sent nothing: it does not count."""
        self.count -= 1
        runs = self.runs
        if runs:
            runs[-1] -= 1
            if not runs[-1]:
                del runs[-2:]

    def lose(self) -> None:
        """They cannot be repeated any more."""
        self.lost = True
        self.runs.clear()

    def since(self, count: int) -> list[int]:
        """The steps after the first `count`, as `learn` takes them."""
        if self.lost:
            return [_LOST]
        runs = self.runs
        wanted = self.count - count
        if runs[-1] >= wanted:
            return [count, runs[-2], wanted]
        begin = len(runs)
        while wanted > 0:
            begin -= 2
            wanted -= runs[begin + 1]
        found = [count, *runs[begin:]]
        found[2] += wanted  # wanted <= 0: so many of the first run are known
        return found

    def learn(self, part: list[int]) -> None:
        """Take what a frame brought. What is known already is skipped; a gap loses all."""
        first, runs = part[0], self.runs
        if first == self.count and len(part) == 3 and runs and runs[-2] == part[1]:
            self.count += part[2]  # the last run goes on: nearly always
            runs[-1] += part[2]
            return
        if first == _LOST or first > self.count:
            self.lose()
            return
        known = self.count - first
        for entry, count in zip(part[1::2], part[2::2], strict=True):
            if count > known:
                self.append(entry, count - known)
            known = max(0, known - count)


def joined(logs: Iterable[Steps]) -> list[int] | None:
    """The runs of epochs one after another; None when one of them is lost."""
    runs: list[int] = []
    for log in logs:
        if log.lost:
            return None
        runs += log.runs
    return runs


class Repeat:
    """Steps that are done again, one by one.

    Attributes:
        entry: of the next one.
    """

    __slots__ = ("_at", "_left", "_runs", "entry")

    def __init__(self, runs: Sequence[int]) -> None:
        self._runs = runs
        self._at = 0
        self.entry, self._left = runs[0], runs[1]

    def advance(self) -> bool:
        """That one is done; whether there is another."""
        self._left -= 1
        if not self._left:
            self._at += 2
            if self._at == len(self._runs):
                return False
            self.entry, self._left = self._runs[self._at], self._runs[self._at + 1]
        return True
