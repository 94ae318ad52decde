"""The numbers of a replayed actor's calls to others, when calls of its own cannot be had again.

A replayed actor makes its calls again under the same numbers, and those it calls know them by
these. But a call that is lost (its caller died together with the actor, see `core.recovery`) makes
none again, nor does one that only reads; and what they had called keeps the numbers that it had. So
each call tells within which one of its caller's it was made (`ActorCall.order`). The called actor
remembers that (`Received`) until the caller's checkpoint covers it, and says it when the caller is
replayed. Then the caller's numbers step over those that are taken (`Taken`), in each later life in
the same way.

Pure.
"""

from __future__ import annotations

__all__ = ["Made", "Received", "Taken"]

# Calls of one actor to another: (its `ActorCall.order`, number of the first, of the last).
Made = tuple[int, int, int]


class Received:
    """What an actor has received of the calls of replayed actors, applied or not."""

    def __init__(self, actor: bytes = b"", made: dict[bytes, list[Made]] | None = None) -> None:
        self.actor = actor  # that was called; none if empty
        self._made = made or {}  # by caller

    def note(self, actor: bytes, caller: bytes, order: int, seq: int, acked: int) -> None:
        """A call has come. Those up to number `acked` the caller's checkpoint covers."""
        self.actor = actor
        made = self._made.setdefault(caller, [])
        if made and seq <= made[-1][2]:
            return  # it came before
        covered = 0
        while covered < len(made) and made[covered][2] <= acked:
            covered += 1
        del made[:covered]
        if made and made[-1][0] == order:
            made[-1] = order, made[-1][1], seq
        else:
            made.append((order, seq, seq))

    def of(self, caller: bytes) -> list[Made]:
        """The calls of one actor that its checkpoint may not cover."""
        return self._made.get(caller, [])

    def snapshot(self) -> tuple[bytes, dict[bytes, list[Made]]]:
        """For the checkpoint of the called: what it is made from again."""
        return self.actor, self._made


class Taken:
    """What those that a replayed actor calls have received of it in earlier lives."""

    def __init__(self) -> None:
        self._made: dict[bytes, list[Made]] = {}

    def add(self, actor: bytes, made: list[Made]) -> None:
        """One of them has told."""
        if made:
            self._made[actor] = made[::-1]  # the next one last

    def first(self, actor: bytes, order: int) -> int:
        """No call to an actor that is made within a call of this order has a smaller number."""
        made = self._made.get(actor)
        number = 0
        while made and made[-1][0] < order:
            number = made.pop()[2] + 1
        if made:
            return made[-1][1] if made[-1][0] == order else number
        self._made.pop(actor, None)
        return number

    def end(self, actor: bytes) -> int:
        """No call to an actor that is none of those has a smaller number."""
        made = self._made.pop(actor, None)
        return made[0][2] + 1 if made else 0

    def pass_all(self) -> dict[bytes, int]:
        """The next number of calls to each actor when all those before it have theirs."""
        return {actor: self.end(actor) for actor in list(self._made)}

    def __bool__(self) -> bool:
        return bool(self._made)
