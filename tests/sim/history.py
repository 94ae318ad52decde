"""What actors that are replayed must come to: each call applied once, in order, as it was answered.

A call to such an actor is named by a text: whose it is and its number, or the name of the call
that made it and which of its calls it is, so it has the same name in each replay. The actor's state
begins with the names of the calls applied to it, and an answer says how many there were then and a
digest of them. So what anybody was answered can be compared with the history in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tests.sim.member import Violation
from tests.sim.tasks import mix

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Book", "Keeper", "digest_after"]


def digest_after(digest: int, name: str) -> int:
    """The digest of a history to which one more call is applied."""
    return mix(digest, crc32(name.encode()))


class Book:
    """The calls to one actor, and their answers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines: dict[str, bytes] = {}  # name of a call -> its caller's process
        self.numbers: dict[str, int] = {}  # name of a call -> its number among the caller's
        self.counts: dict[bytes, int] = {}
        self.optional: dict[str, None] = {}  # cancelled, or refused before it was sent
        self.answers: dict[str, tuple[int, int]] = {}
        self.lost = 0  # calls of dead callers that a replay could not have
        self.deaths = 0
        self.down = False  # it has died, and its replay is not over
        self.together: set[Book] = set()  # of actors that were down while it was
        self.targets: list[Book] = []
        self.callers: list[Book] = []
        self.kept: dict[str, int] = {}  # what the call of this name gave the actor to keep

    @property
    def decided_anew(self) -> bool:
        """Whether which of two callers came first may be another one than somebody has seen.

        That is not promised where an actor and one that calls it, or two on the way to it, are
        down together: what each knew of the other's order is lost with them.
        """
        above = {self}
        left = [self]
        while left:
            found = [one for one in left.pop().callers if one not in above]
            above.update(found)
            left += found
        return self.deaths > 0 and any(one.together & above for one in above)

    def name(self, process: bytes) -> str:
        """The name of a process's next call."""
        number = self.counts[process] = self.counts.get(process, 0) + 1
        name = f"{self.number % 1000}:{process.hex()[:6]}.{number}"
        self.lines[name], self.numbers[name] = process, number
        return name

    def on_answer(self, name: str, position: int, digest: int) -> None:
        """Somebody has seen the answer to a call."""
        known = self.answers.get(name)
        if known not in (None, (position, digest)) and not self.lost and not self.decided_anew:
            raise Violation(f"call {name} was answered {known} and then {position, digest}")
        self.answers[name] = position, digest

    def missing(self, history: list[str], world: World) -> list[str]:
        """Calls of those who live that are not in a history."""
        there = set(history)
        return [
            one for one, process in self.lines.items()
            if one not in there and one not in self.optional
            and world.is_well(process)
        ]  # fmt: skip

    def check(
        self,
        history: list[str],
        made: dict[str, tuple[Any, int]],
        may_be_lost: Callable[[str], bool],
        world: World,
    ) -> None:
        """The history at the end. Raises Violation.

        `made` are the calls of other such actors: whose, and which; `may_be_lost` says whether a
        call to one of those, in which it made others, may be in no history.
        """
        if len(set(history)) < len(history):
            twice = sorted(one for one in set(history) if history.count(one) > 1)
            raise Violation(f"applied more than once to actor {self.number}: {twice}")
        latest: dict[Any, int] = {}
        digest, digests = 0, []
        for name in history:
            digest = digest_after(digest, name)
            digests.append(digest)
            if name in self.lines:
                line: Any = self.lines[name]
                number = self.numbers[name]
            elif name in made:
                line, number = made[name]
            elif "/" in name and may_be_lost(name.rpartition("/")[0]):
                continue
            else:
                raise Violation(f"actor {self.number} has {name}, which nobody has called")
            if number <= latest.get(line, -1):
                raise Violation(f"actor {self.number} has {name} after a later call of its caller")
            latest[line] = number
        there = set(history)
        self.lost += sum(
            name not in there and not world.is_well(self.lines[name]) for name in self.answers
        )  # died together with the actor: nobody knows of them any more
        if self.lost or self.decided_anew:
            return  # what was answered before may have been after a call that is gone
        for name, (position, digest) in self.answers.items():
            if not 0 < position <= len(history) or history[position - 1] != name:
                raise Violation(f"actor {self.number}: {name} was answered as number {position}")
            if digests[position - 1] != digest:
                raise Violation(f"actor {self.number}: what came before {name} has changed")


class Keeper:
    """One incarnation of such an actor: its state, and what it is made of."""

    def __init__(self, number: int, targets: list[Any]) -> None:
        self.number = number
        self.targets = targets  # [handle, whether it has targets itself] each
        self.history: list[str] = []
        self.digest = 0
        self.seen: list[Any] = []  # [name, answers of the targets]
        self.held: list[Any] = []  # [name, thing]

    def state(self) -> list[Any]:
        """What a checkpoint stores of it."""
        return [
            self.number, self.targets, list(self.history), self.digest, self.seen, self.held
        ]  # fmt: skip

    @staticmethod
    def again(state: list[Any]) -> Keeper:
        """From what a checkpoint has stored."""
        number, targets, history, digest, seen, held = state
        made = Keeper(number, targets)
        made.history, made.digest, made.seen, made.held = history, digest, seen, held
        return made

    def apply(self, name: str) -> list[int]:
        """A call is applied; its answer."""
        self.history.append(name)
        self.digest = digest_after(self.digest, name)
        return [len(self.history), self.digest]

