"""Which nodes there are, who is alive, and how nobody is taken for dead who can still do harm.

The head gives every *life* of a node a number: 1, 2, 3 ... A node that was declared dead and comes
back joins as a new one. Processes carry their node's number in their ids (`core.ids`), so whatever
belonged to a dead life is known by its name, for ever, without a table.

*Fencing.* A node says that it lives a few times a second, and when; the head's answer repeats that
time. The lease of a node runs from the time that the last answer repeats. When it is over, the node
shuts its door: nothing leaves it for other nodes, and nothing is let in. The head waits longer than
the lease, from a moment that cannot be earlier, before it declares the node dead. So whatever
happens to messages in between, a node has shut its door before anybody acts upon its death. What
counts is the rate of two clocks, not what they show.

A node whose door is shut does not end its workers: the head may only be down, or away for a moment.
When the head says that it knows the node still, the door opens and everything goes on; when it says
that the number is dead, the node ends its workers and joins anew. One that finds no head for very
long ends its workers, too.

The volatile half (who was heard when) is here; who has joined and who was declared dead is told to
`core.cluster`, which journals it.

Pure: time is an argument.
"""

from __future__ import annotations

from engine.config import Config

__all__ = ["Detector", "Door"]


class Detector:
    """The head's half: when each living node was heard last."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._heard: dict[int, float] = {}

    def watch(self, number: int, now: float) -> None:
        """A node has joined, or the head has just been started and knows of it."""
        self._heard[number] = now

    def forget(self, number: int) -> None:
        """A node was declared dead, for whatever reason."""
        self._heard.pop(number, None)

    def on_heartbeat(self, number: int, now: float) -> bool:
        """A node says that it lives. False when it was declared dead: tell it so."""
        if number not in self._heard:
            return False
        self._heard[number] = now
        return True

    def suspected(self, number: int, now: float) -> bool:
        """Whether it has been silent for so long that nothing new is given to it."""
        return now - self._heard[number] >= self._config.node_suspected_seconds

    def dead(self, now: float) -> list[int]:
        """Nodes that have been silent for too long; they are not watched any more."""
        limit = self._config.node_dead_seconds
        found = [number for number, heard in self._heard.items() if heard + limit <= now]
        for number in found:
            del self._heard[number]
        return found

    def next_look(self) -> float | None:
        """When the next one may be found dead."""
        first = min(self._heard.values(), default=None)
        return None if first is None else first + self._config.node_dead_seconds


class Door:
    """A node's half: its number, and whether anything may go in and out."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.number = 0  # 0: has not joined
        self._leased = 0.0  # when the heartbeat left that was answered last
        self._next_beat = 0.0

    def joined(self, number: int, sent: float) -> None:
        """The head has given this node a number, in answer to a wish that left at `sent`."""
        self.number = number
        self._leased = sent
        self._next_beat = sent

    def fenced(self) -> None:
        """The head has declared this life dead."""
        self.number = 0
        self._next_beat = 0.0

    def on_answer(self, number: int, sent: float) -> None:
        """The head has answered the heartbeat (of this life) that left at `sent`."""
        if number == self.number:
            self._leased = max(self._leased, sent)

    def open(self, now: float) -> bool:
        """Whether anything may pass. Ask before each turn: this process may have been stopped."""
        return bool(self.number) and now - self._leased < self._config.node_lease_seconds

    def orphaned(self, now: float) -> bool:
        """Whether the head has been out of reach for so long that this life is to end."""
        return bool(self.number) and now - self._leased >= self._config.node_orphan_seconds

    def beat(self, now: float) -> bool:
        """Whether a heartbeat (or the wish to join) is due; if so it is about to leave."""
        if now < self._next_beat:
            return False
        self._next_beat = now + self._config.heartbeat_seconds
        return True

    def next_look(self) -> float:
        """When the next heartbeat is due."""
        return self._next_beat
