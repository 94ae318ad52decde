"""The head of several nodes as a process of its own, its journal, and the disk that has it.

What the edge does: datagrams that have come are handled together, the events are written as one
batch and synced, then everything leaves. While a sync is under way, what comes waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from engine.core.batches import batch, read
from engine.core.between import Datagram
from engine.core.cluster import Cluster, Event
from tests.sim.member import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Disk", "Head"]


class Disk:
    """One file: what is safe, and what was written since and is not."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.safe = b""
        self.loose = b""

    def write(self, data: bytes) -> None:
        """Append; it may be lost until it is synced."""
        self.loose += data

    def sync(self) -> None:
        """What was written is safe."""
        self.safe += self.loose
        self.loose = b""

    def replace(self, data: bytes) -> None:
        """As writing another file, syncing it and renaming it over this one."""
        self.safe, self.loose = data, b""

    def crash(self) -> None:
        """The writer dies: what was not safe is there, or not, or in part, or garbled."""
        draw, loose = self._world.draw, self.loose
        self.loose = b""
        if not loose or not self._world.faults.on["lost writes"]:
            self.safe += loose
            return
        self._world.mark("fault: lost writes")
        kept = draw.choice([0, len(loose), draw.randrange(len(loose))])
        rest = bytearray(loose[:kept])
        if rest and draw.random() < 0.5:
            self._world.mark("a torn batch")
            rest[draw.randrange(len(rest))] ^= 1 << draw.randrange(8)
        self.safe += bytes(rest)


class Head:
    """The process at the address ""."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.disk = Disk(world)
        self.alive = True
        self.frozen_until = 0.0
        self.batches = 0
        self.busy = False  # a sync is under way
        self._came: deque[tuple[str, Datagram]] = deque()
        self._life = 0  # numbers the lives: what was under way in an earlier one is nothing
        self._next_look = 0.0
        self._compact_bytes = world.draw.choice([3_000, 1 << 20])
        self.cluster = Cluster(world.config, self._transmit)

    def _transmit(self, where: str, message: Datagram) -> None:
        self.world.hosts.wires.send("", where, message)  # type: ignore[union-attr]

    def on_wire(self, sender: str, message: Datagram) -> None:
        """A datagram has come."""
        self._came.append((sender, message))
        self._turn()

    def _turn(self) -> None:
        """Handle what has come, write it down, and let go what follows once it is safe."""
        if self.busy or not self.alive or self._frozen():
            return
        now = self.world.clock.now
        while self._came:
            self.cluster.on_datagram(*self._came.popleft(), now)
        self._commit(now)

    def _frozen(self) -> bool:
        return self.frozen_until > self.world.clock.now

    def thaw(self) -> None:
        """Go on after a stop."""
        self._turn()

    def commit_at_once(self) -> None:
        """Before the world begins."""
        self.disk.write(self._batch(self.cluster.take()))
        self.disk.sync()
        self.cluster.flush(0.0)

    def _batch(self, events: list[Event]) -> bytes:
        self.batches += 1
        return batch(self.batches - 1, events)

    def _commit(self, now: float) -> None:
        events = self.cluster.take()
        if not events:
            self.cluster.flush(now)
            self._look_later(self.cluster.tick(now))
            events = self.cluster.take()  # a node is dead since this very moment
        if events:
            self.busy = True
            self.disk.write(self._batch(events))
            seconds = self.world.faults.disk_seconds()
            self.world.clock.after(seconds, self._synced, self._life)
            if self.world.faults.at_head_point():
                self.crash()

    def _synced(self, life: int) -> None:
        if life != self._life:
            return
        if self._frozen():
            self.world.clock.at(self.frozen_until, self._synced, life)
            return
        self.disk.sync()
        self.busy = False
        if len(self.disk.safe) > self._compact_bytes:
            self.world.mark("a journal begins anew")
            self.disk.replace(batch(0, [self.cluster.snapshot()]))
            self.batches = 1
            self._compact_bytes = max(self._compact_bytes, 2 * len(self.disk.safe))
        self.cluster.flush(self.world.clock.now)
        self._turn()

    def _look_later(self, when: float | None) -> None:
        if when is not None and (not self._next_look or when < self._next_look):
            self._next_look = max(when, self.world.clock.now)
            self.world.clock.at(self._next_look, self._look, self._next_look, self._life)

    def _look(self, when: float, life: int) -> None:
        if life != self._life or when != self._next_look:
            return
        self._next_look = 0.0
        if self.busy or not self.alive:
            return  # the turn after it looks
        if self._frozen():
            self.world.clock.at(self.frozen_until, self._turn)
            return
        now = self.world.clock.now
        following = self.cluster.tick(now)
        self._look_later(following)
        self._commit(now)

    # ------------------------------------------------------------------ death and replay

    def crash(self) -> None:
        """SIGKILL. It comes back after a while."""
        if not self.busy:
            self.check_journal()
        self.alive = False
        self._life += 1
        self.busy = False
        self._came.clear()
        self._next_look = 0.0
        self.disk.crash()
        dead = self.world.config.node_dead_seconds
        seconds = self.world.draw.choice([0.001, 0.03, dead]) * self.world.draw.random()
        self.world.clock.after(seconds, self._restart)

    def _restart(self) -> None:
        self.world.mark("the head is back")
        found = read(self.disk.safe, Event)
        if len(self.disk.safe) > found.good:
            self.world.mark("the end of a journal was cut off")
        self.disk.safe = self.disk.safe[: found.good]
        self.batches = found.next
        self.alive = True
        self.cluster = Cluster(self.world.config, self._transmit)
        self.cluster.replay(found.records, self.world.clock.now)
        self._turn()

    def check_journal(self) -> None:
        """A replay of what is safe must come to what is live."""
        again = Cluster(self.world.config, lambda where, message: None)
        again.replay(read(self.disk.safe, Event).records, self.world.clock.now)
        if again.state() != self.cluster.state():
            raise Violation("a replay of the journal does not come to the state of the live head")

    def left(self) -> dict[str, Any]:
        """What must not be there at the end."""
        head = self.cluster.head
        return {
            "actors": {a.hex(): r.state for a, r in head.actors.items() if r.state != "dead"},
            "early lookups": head._early,
            "places of actors": head._by_process,
            "names": head.names,
            "checkpoints": self.cluster.checkpoints,
            "homes of actors": self.cluster._homes or self.cluster._homeless,
            "promised to actors": [
                one.committed for one in self.cluster.nodes.values() if any(one.committed.values())
            ],
            "unsaid": [n for n, one in self.cluster.nodes.items() if not one.session.idle],
        }
