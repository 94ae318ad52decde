"""The protocol of an actor's checkpoints: when one counts, and when it is safe.

A checkpoint goes in turn into one of two memories, so the last one is whole until the next one
counts. What it refers to of others' objects is held by the actor's creator, which may outlive it:
so the creator is asked to hold that (`Keep`), and the checkpoint counts once it does (`Holding`).
Then its memory says so, and the node is told, which has that memory from now on; the next time it
finds by itself what is written there, and is not told any more (`CheckpointKept.looks`).

Pure: the edge writes, and sends what it is given.
"""

from __future__ import annotations

from typing import Any

from engine.core.control import Checkpoint
from engine.core.ids import owner_of
from engine.core.messages import Keep

__all__ = ["ActorCheckpoints"]


class ActorCheckpoints:
    """Those of one actor, one under way at most."""

    def __init__(self, actor: bytes) -> None:
        self.actor = actor
        self.creator = owner_of(actor)
        self.number = 0  # of the last one
        self._open: Checkpoint | None = None
        self._refs: Any = None
        self._waits = False  # the one under way, for the creator
        self._held = False  # the last one contained references
        self._looks = [False, False]  # whether the node finds what is written there by itself
        self._behind: Any = None

    @property
    def under_way(self) -> bool:
        """Whether the last one is not safe yet."""
        return self._open is not None

    def begin(self) -> int:
        """Which of the two memories the next one is to be written to."""
        self.number += 1
        return self.number % 2

    def on_written(
        self, size: int, check: int, ids: list[bytes], refs: Any, creator_is_dead: bool
    ) -> Keep | None:
        """It is there. What the creator is asked; if None, it counts at once (`on_holding`).

        `ids` is what it refers to, and `refs` what keeps that alive until it is safe.
        """
        self._open = Checkpoint(self.actor, self.number, size, check)
        self._refs = refs
        self._waits = True
        held, self._held = self._held, bool(ids)  # what the last one held is to be let go
        if creator_is_dead or not (ids or held):
            return None
        return Keep(self.actor, self.number, ids)

    def on_holding(self, number: int) -> Checkpoint | None:
        """The creator holds the references: this one counts now, if it was waited for."""
        if not self._waits or self._open is None or self._open.number != number:
            return None
        self._waits = False
        return self._open

    def on_death(self, process: bytes) -> Checkpoint | None:
        """A process has died. If it was the creator (of a detached actor), nobody is waited for."""
        if process != self.creator or self._open is None:
            return None
        return self.on_holding(self._open.number)

    def on_counted(self) -> list[Any]:
        """Its memory says that it counts: what the node is told, the checkpoint first; or nothing,
        since the node finds it by itself. Then it is safe.
        """
        assert self._open is not None
        if self._looks[self.number % 2]:
            self.on_kept(self.number)
            return []
        behind, self._behind = self._behind, None
        return [self._open] if behind is None else [self._open, behind]

    def put_behind(self, message: Any) -> bool:
        """Whether the node may be told this now; else it is, once it has the one under way."""
        if self._waits:
            self._behind = message
        return not self._waits

    def on_kept(self, number: int, looks: bool = True) -> None:
        """The one under way is safe."""
        if self._open is not None and self._open.number == number:
            self._open = self._refs = None
            self._looks[number % 2] = looks
