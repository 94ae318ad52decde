"""Who has to end when memory is short, when to look again, and what is said about it.

The node measures (`runtime.memory_watch`) and kills before the kernel does, because that may choose
the driver. The choice: tasks that can run again come first, of the owner that runs most of them the
one that started last, since least is lost with it; then other tasks; actors and idle owners of
objects last. But only somebody whose end makes a difference: among small tasks a hog is found by
its size. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Holder", "Level", "choose", "explain", "next_look"]

# In the order in which they are given up.
_ORDER = ("retriable", "task", "actor", "idle")
# A holder of less than this share of what is allowed does not matter, unless all do.
_SHARE_MIN = 0.05
_TOP = 5


class Level(NamedTuple):
    """Memory in use and allowed, in bytes; `what` says whose: "this machine"."""

    what: str
    used: int
    allowed: int

    @property
    def excess(self) -> int:
        """Bytes above what is allowed; negative while there is room."""
        return self.used - self.allowed


class Holder(NamedTuple):
    """A worker and the memory that is its own. `kind` is one of retriable, task, actor, idle."""

    process: bytes
    pid: int
    name: str
    kind: str
    owner: bytes
    since: float  # when what it runs began
    nbytes: int


def choose(level: Level, holders: Sequence[Holder]) -> Holder | None:
    """Who is to end; None when no end of a worker would help."""
    worth = max(level.excess, int(level.allowed * _SHARE_MIN))
    heavy = [one for one in holders if one.nbytes >= worth]
    if not heavy and sum(one.nbytes for one in holders) >= worth:
        # Many small ones: one of the larger half.
        largest = max(one.nbytes for one in holders)
        heavy = [one for one in holders if one.nbytes >= largest / 2]
    for kind in _ORDER:
        groups: defaultdict[bytes, list[Holder]] = defaultdict(list)
        for one in heavy:
            if one.kind == kind:
                groups[one.owner].append(one)
        if groups:
            most = max(
                groups.values(), key=lambda group: (len(group), sum(one.nbytes for one in group))
            )
            return max(most, key=lambda one: (one.since, one.nbytes))
    return None


def next_look(headroom: int, bytes_per_second: float, soonest: float, latest: float) -> float:
    """Seconds until the memory has to be looked at again: it cannot be gone before."""
    return min(latest, max(soonest, headroom / bytes_per_second))


def explain(level: Level, victim: Holder, holders: Sequence[Holder], store: int) -> str:
    """The cause of death as its owners are told: its memory, the limit, the top holders."""
    top = sorted(holders, key=lambda one: -one.nbytes)[:_TOP]
    named = [f"{one.name or one.kind} (pid {one.pid}) {one.nbytes:,}" for one in top]
    return (
        f"was stopped by the memory watch: {victim.name or 'it'} held {victim.nbytes:,} bytes of "
        f"its own when {level.what} used {level.used:,} of at most {level.allowed:,} bytes (let "
        "fewer run at a time by num_cpus= or memory=, or allow more). Top holders: "
        f"{', '.join(named)}; the object store: {store:,}"
    )
