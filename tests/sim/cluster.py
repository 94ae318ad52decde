"""The hosts of a world with several nodes: lives of nodes, the head, and calm at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.between import Join, Joined
from engine.core.control import KillActor
from tests.sim import checks
from tests.sim.cluster_node import ClusterNode
from tests.sim.head import Head
from tests.sim.member import Violation
from tests.sim.wires import Wires

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Hosts"]

# Virtual seconds after which nothing may be left when all is done: time for leases and deaths.
_CALM_SECONDS = (0.3, 1.0, 3.0, 10.0, 20.0)


class Hosts:
    """The head at "", nodes at "a", "b", ..."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.wires = Wires(world)
        self.head = Head(world)
        self.wires.hosts[""] = self.head
        self._cpus: dict[str, int] = {}

    def begin(self, cpus: int) -> ClusterNode:
        """Nodes that have joined, one with `cpus` for the driver; that one."""
        draw = self._world.draw
        self._cpus = {"a": cpus}
        for name in "bcde"[: draw.choice([1, 2, 2, 3, 4])]:
            self._cpus[name] = draw.choice([1, 2, 4])
        nodes = [self._new_life(name) for name in self._cpus]
        for node in nodes:  # as if before the beginning, over good wires
            wish = Join(node.outside._nonce, node.where, node.machine.pool.total, 0.0)
            self.head.cluster.on_datagram(node.where, wish, 0.0)
        names = {number: one.where for number, one in self.head.cluster.nodes.items()}
        for number, node in enumerate(nodes, 1):
            others = [(one, where) for one, where in names.items() if one != number]
            node.outside.on_datagram(Joined(node.outside._nonce, number, 0.0, others), 0.0)
        self.head.cluster._answers.clear()
        self.head.commit_at_once()
        for node in nodes:
            node.begin()
        return nodes[0]

    def _new_life(self, where: str) -> ClusterNode:
        node = ClusterNode(self._world, where, {"CPU": float(self._cpus[where])})
        self.wires.hosts[where] = node
        return node

    def node_ends(self, node: ClusterNode) -> None:
        """A node's life is over, with all its processes. Another begins, but for the driver's."""
        self._world.node_dies(node)
        if node is not self._world.node:
            draw = self._world.draw
            dead = self._world.config.node_dead_seconds
            seconds = draw.choice([0.001, 0.05, 2 * dead]) * draw.random()
            self._world.clock.after(seconds, self._again, node.where)

    def _again(self, where: str) -> None:
        self._world.mark("a node comes back as another")
        self._new_life(where).begin()

    def is_down(self, number: int) -> bool:
        """Whether the head has declared this life of a node dead."""
        return number not in self.head.cluster.nodes

    def crash_node(self) -> None:
        """One of the nodes but the driver's dies."""
        nodes = [
            one for one in self.wires.hosts.values()
            if isinstance(one, ClusterNode) and one.alive and one is not self._world.node
        ]
        if nodes:
            self._world.mark("fault: node crashes")
            self.node_ends(self._world.draw.choice(nodes))

    def crash_head(self) -> None:
        """The head dies."""
        if self.head.alive:
            self._world.mark("fault: head crashes")
            self.head.crash()

    def calm_down(self, bound: float) -> None:
        """All is done: after some time nothing may be left but heartbeats."""
        clock = self._world.clock
        start = max(clock.now, self._world.faults.until)
        for seconds in _CALM_SECONDS:
            while clock.now < start + seconds:
                clock.step()
            if not self._world.node.alive:
                self._end_detached()
            try:
                self._check()
            except Violation:
                if seconds == _CALM_SECONDS[-1] or clock.now > bound + _CALM_SECONDS[-1]:
                    raise
            else:
                return

    def _end_detached(self) -> None:
        """Detached actors outlive a driver that dies with its node; somebody else ends them."""
        nodes = [one for one in self._world.nodes() if isinstance(one, ClusterNode)]
        for actor, record in self.head.cluster.head.actors.items():
            detached = record.create.options["lifetime"] == "detached"
            if detached and record.state != "dead" and nodes:
                kill = KillActor(actor, True, False, "was ended after its driver's node")
                nodes[0].outside.to_head(nodes[0].id, kill)

    def _check(self) -> None:
        checks.nothing_is_left(self._world)
        left: dict[str, Any] = {}
        if not (self.head.alive and not self.head.busy):
            raise Violation("the head is not there")
        self.head.check_journal()
        left["the head"] = self.head.left()
        for node in self._world.nodes():
            assert isinstance(node, ClusterNode)
            left[self._world.name(node.id)] = node.left()
        for name, tables in left.items():
            found = {key: table for key, table in tables.items() if table}
            if found:
                raise Violation(f"left in {name}: {found}")
