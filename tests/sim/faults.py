"""Which faults a seed has, how strong they are, and when they end.

Swarm testing: each seed first draws which kinds are on at all. Faults happen until `until`; then
the world heals: nothing is killed, stopped or stalled any more, and everything has to finish.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.node import Node

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["KINDS", "Faults"]

# Kind -> what it does.
KINDS = {
    "kills": "SIGKILL of a worker at any time",
    "points": "SIGKILL of a worker at named points of its code",
    "stops": "SIGSTOP of any process for a while",
    "stalls": "a frame is held up for milliseconds",
    "slow lines": "some lines are 100 times slower than others, and some hosts 30 times",
    "splits": "what one process queued at once leaves in two frames",
    "cuts": "the last frames of a dead process were never written",
    "forks": "a worker dies before its first word",
    "exits": "user code ends its process",
    "raises": "user code raises, sometimes or always",
    "cancels": "calls are cancelled",
    "actor kills": "engine.kill, with and without restart",
    "little memory": "the object store is too small for all large values",
    "little disk": "and the disk is too small as well",
    "disk errors": "writing to disk fails, or making a file does",
    "node death": "the driver's node dies, and every worker with it",
    "loss": "datagrams between hosts are lost, up to 30 %",
    "repeats": "datagrams between hosts come twice",
    "reordering": "datagrams between hosts overtake each other",
    "link cuts": "a link between hosts is cut, one way or both",
    "node crashes": "a node dies with its workers, and comes back as another",
    "head crashes": "the head dies, and comes back from its journal",
    "lost writes": "what a dead head had not synced is lost, torn or garbled",
}
_DEADLY = {
    *("kills", "points", "forks", "exits", "actor kills", "node death", "link cuts"),
    "node crashes",
}
_BETWEEN_HOSTS = ("link cuts", "node crashes", "head crashes")
_SHARE = 0.45  # of seeds have a given kind on
_RARE = {"node death": 0.04, "little memory": 0.35}


class Faults:
    """The faults of one world."""

    def __init__(self, world: World, draw: Random) -> None:
        self._world = world
        self._draw = draw
        # Some seeds have no fault: then no error is excused at all. In others nothing dies, so that
        # it shows when something is freed too early.
        calm = draw.choices((set(KINDS), _DEADLY, set()), (0.1, 0.25, 0.65))[0]
        self.on = {
            kind: draw.random() < _RARE.get(kind, _SHARE) and kind not in calm for kind in KINDS
        }
        self.until = draw.uniform(0.02, 0.4)
        self._pause = draw.choice([0.002, 0.01, 0.05])  # mean seconds between two faults
        self._point_rate = draw.choice([0.002, 0.01, 0.05])
        self._stall_rate = draw.choice([0.005, 0.05])
        self._stall_ms = draw.choice([1.0, 10.0, 60.0])
        self._disk_rate = draw.choice([0.1, 0.7])
        self._latency = draw.choice([5e-6, 20e-6, 200e-6])
        self.deaths_left = draw.choice([1, 3, 10, 25])
        self._timed: list[str] = []

    def active(self) -> bool:
        """Whether faults still happen."""
        return self._world.clock.now < self.until

    def begin(self) -> None:
        """Have timed faults happen from now on."""
        kinds = ("kills", "stops", "node death")
        if self._world.several:
            kinds += _BETWEEN_HOSTS
        self._timed = [kind for kind in kinds if self.on[kind]]
        self._wait()

    def _wait(self) -> None:
        if self._timed:
            self._world.clock.after(self._draw.expovariate(1 / self._pause), self._strike)

    def _strike(self) -> None:
        if not self.active():
            return
        kind = self._draw.choice(self._timed)
        if kind == "node death":
            if self._draw.random() < 0.1:
                self._world.mark("fault: node death")
                self._world.node_dies(self._world.node)
                return
        elif kind == "stops":
            self._stop()
        elif kind in _BETWEEN_HOSTS:
            self._strike_hosts(kind)
        else:
            alive = self._world.workers()
            if alive and self.deaths_left > 0:
                self.deaths_left -= 1
                self._world.mark("fault: kills")
                self._world.end(self._draw.choice(alive), "was killed by SIGKILL")
        self._wait()

    def _strike_hosts(self, kind: str) -> None:
        hosts = self._world.hosts
        assert hosts is not None
        if kind == "link cuts":
            self._world.mark("fault: link cuts")
            hosts.wires.cut()
        elif self._draw.random() < 0.2:
            if kind == "head crashes":
                hosts.crash_head()
            else:
                hosts.crash_node()

    def _stop(self) -> None:
        world = self._world
        members: list[Any] = [*world.workers(), world.driver, *world.nodes()]
        if world.hosts is not None:
            members.append(world.hosts.head)
        member = self._draw.choice(members)
        if member.alive and member.frozen_until <= world.clock.now:
            world.mark("fault: stops")
            seconds = self._draw.expovariate(1 / 0.01)
            if world.several and isinstance(member, Node) and self._draw.random() < 0.2:
                seconds = 2 * world.config.node_dead_seconds * self._draw.random()
            member.frozen_until = world.clock.now + seconds
            world.clock.at(member.frozen_until, member.thaw)

    def at_point(self, process: Any, name: str, times: int = 1) -> None:
        """A named point of a worker's code: it may die here; `times` as often where few come."""
        if (
            self.on["points"]
            and self.deaths_left > 0
            and process.kind == "worker"
            and self.active()
            and self._draw.random() < self._point_rate * times
        ):
            self.deaths_left -= 1
            self._world.mark("fault: points")
            self._world.mark("killed " + name)
            self._world.die(process, "was killed by SIGKILL")

    def at_head_point(self) -> bool:
        """Whether the head dies between a write and its sync."""
        if self.on["head crashes"] and self.active() and self._draw.random() < 0.1:
            self._world.mark("fault: head crashes")
            return True
        return False

    def dies_in_fork(self) -> bool:
        """Whether a worker dies before it says hello."""
        possible = self.on["forks"] and self.deaths_left > 0 and self.active()
        if possible and self._draw.random() < 0.15:
            self.deaths_left -= 1
            self._world.mark("fault: forks")
            return True
        return False

    # ------------------------------------------------------------------ disk

    def disk_seconds(self) -> float:
        """How long the disk takes for one value."""
        return self._draw.uniform(20e-6, 200e-6) * self._draw.choice([1.0, 1.0, 20.0])

    def disk_fails(self) -> bool:
        """Whether a write, or making a file, fails."""
        if self.on["disk errors"] and self._draw.random() < self._disk_rate:
            self._world.mark("fault: disk errors")
            return True
        return False

    # ------------------------------------------------------------------ lines

    def latency(self) -> float:
        """Of one direction of a line, in seconds."""
        latency = self._draw.uniform(0.5, 2.0) * self._latency
        if self.on["slow lines"] and self._draw.random() < 0.3:
            self._world.mark("fault: slow lines")
            latency *= 100
        return latency

    def delay(self) -> float:
        """Of one frame, beyond its line's latency, in seconds."""
        if self.on["stalls"] and self._draw.random() < self._stall_rate and self.active():
            self._world.mark("fault: stalls")
            return self._draw.random() * self._stall_ms * 1e-3
        return self._draw.random() * self._latency

    def split(self, count: int) -> int:
        """After how many of `count` messages a frame ends early; 0 for not."""
        if count > 1 and self.on["splits"] and self._draw.random() < 0.4:
            self._world.mark("fault: splits")
            return self._draw.randrange(1, count)
        return 0

    def cut(self, count: int) -> int:
        """How many of the last `count` frames of a dead process were never written."""
        if count and self.on["cuts"] and self._draw.random() < 0.5:
            self._world.mark("fault: cuts")
            return self._draw.randrange(count + 1)
        return 0
