"""One world: driver, node, workers and lines under one clock, and one run of it from one seed."""

from __future__ import annotations

import gc
from collections import Counter
from random import Random
from typing import Any

from msgspec.structs import replace

from engine.config import Config
from engine.core.control import NodeLost, WorkerDied
from engine.core.ids import node_of, process_id
from engine.core.messages import Call
from tests.sim import checks
from tests.sim.actors import Actors
from tests.sim.clock import Clock
from tests.sim.cluster import Hosts
from tests.sim.damage import Damage
from tests.sim.faults import Faults
from tests.sim.keepers import Keepers
from tests.sim.member import Killed, Member, Violation
from tests.sim.memory import Memory
from tests.sim.network import Network
from tests.sim.node import Node
from tests.sim.tasks import Tasks
from tests.sim.topologies import run_topology
from tests.sim.user import User
from tests.sim.worker import Worker
from tests.sim.workload import Workload

__all__ = ["Failed", "Outcome", "World", "run"]

# Virtual seconds within which everything finishes after the last fault. Nothing takes longer than
# the node's patience with a process that does not answer (2 s), one after another.
LIVENESS_SECONDS = 30.0
# Nothing that is going on needs so many steps; what goes round in circles does.
_STEPS_MAX = 300_000
# One seed in so many has a topology too.
_TOPOLOGIES = 20


class Definitions(dict[bytes, bytes]):
    """Blobs of functions and classes: any process knows the code of any."""

    def __missing__(self, key: bytes) -> bytes:
        return b"code of " + key


class Outcome:
    """What a run tells: its trace in one number, what it hit, how long it took."""

    def __init__(self, world: World, topology: str) -> None:
        self.digest = f"{world.network.digest()}{topology}"
        self.marks = world.marks
        self.frames = world.network.frames
        self.seconds = world.clock.now


class Failed(AssertionError):
    """A seed that failed, with the tail of its trace."""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = draw = Random(seed)
        self.clock = Clock()
        self.marks: Counter[str] = Counter()
        self.faults = Faults(self, draw)
        self.damage = Damage(self, seed)
        # One host with the head in its node, as most people have it; or a head and several nodes.
        self.several = draw.random() < 0.25
        scale = draw.choice([0.01, 0.03, 0.1, 1.0])
        self.config = Config(
            heartbeat_seconds=0.25 * scale,
            node_suspected_seconds=1.5 * scale,
            node_lease_seconds=3.0 * scale,
            node_dead_seconds=4.5 * scale,
            node_orphan_seconds=6.0,
            session_resend_seconds=draw.choice([0.005, 0.05]),
            session_resend_seconds_max=0.2,
            session_window_bytes=draw.choice([500, 100_000]),
            pull_bytes=draw.choice([5_000, 50_000]),
            spillback_seconds=draw.choice([0.0, 0.01]),
            inline_bytes_max=1000,
            frame_bytes_max=draw.choice([400, 64 << 20]),
            in_flight_calls_max=draw.choice([3, 20, 20_000]),
            flush_messages=draw.choice([1, 4, 32]),
            pipeline_depth_max=draw.choice([1, 4, 256]),
            lease_idle_seconds=draw.choice([0.005, 0.2]),
            worker_idle_seconds=draw.choice([0.01, 5.0]),
            waiting_warning_seconds=draw.choice([0.02, 10.0]),
            replay_patience_seconds=10.0,
            restart_deaths_max=draw.choice([2, 16]),
            spill_batch_bytes=draw.choice([1, 200_000]),
            spill_retry_seconds=draw.choice([0.002, 0.1]),
            store_patience_seconds=draw.choice([0.001, 0.02]),
            store_wait_seconds=draw.choice([0.01, 0.1]),
        )
        on = self.faults.on
        if on["little memory"] and on["little disk"]:
            # Call after call may wait so long, and fail: that is slow, and not stuck.
            self.config = replace(self.config, store_wait_seconds=0.01)
        self.store_bytes = draw.choice([256 << 10, 1 << 20]) if on["little memory"] else 1 << 30
        self.disk_bytes = draw.choice([0, 200 << 10]) if on["little disk"] else 1 << 30
        self.segment_bytes = min(256 << 10, self.store_bytes // 16)  # as `Node` does
        self.disk_segment_bytes = min(256 << 10, self.disk_bytes // 16)
        self.definitions = Definitions()
        self.memory = Memory()
        self.network = Network(self)
        self.tasks = Tasks(self)
        self.actors = Actors(self)
        self.keepers = Keepers(self)
        self.descriptors: dict[tuple[bytes, int], Any] = {}  # sent and not received
        self.starts: Counter[bytes] = Counter()  # executions begun, by task
        self.retries: dict[bytes, int] = {}
        self.paid: Counter[bytes] = Counter()  # executions of a task that cost it a retry
        self.raised: Counter[bytes] = Counter()
        self.exposed: Counter[bytes] = Counter()  # deaths of workers that had it
        self.cancelled: dict[bytes, bytes] = {}  # calls -> worker at which they were cancelled
        self.deaths = 0
        self.actors_ended = 0  # also when that is all right: what they owned is lost
        self.damaged: dict[str, None] = {}  # objects that somebody could not read for damage
        self.bound = 0.0  # when everything must have come to an end
        self.retired: dict[bytes, None] = {}  # processes that have ended in good order
        self._pid = 100
        self._processes: dict[bytes, Member] = {}
        self.cpus = draw.choice([1, 2, 2, 3, 4])
        self.hosts = Hosts(self) if self.several else None
        if self.hosts is None:
            self.node = Node(self, draw.randbytes(8), {"CPU": float(self.cpus)})
            driver = draw.randbytes(8)
            self._processes[self.node.id] = self.node
        else:
            self.node = self.hosts.begin(self.cpus)
            driver = process_id(draw.randbytes(6), self.node.number)
        self.driver = User(self, driver, self._new_pid(), self.node.id)
        self._processes[self.driver.id] = self.driver
        self.network.line(self.node, self.driver)
        self.node.adopt(self.driver, "driver", self.driver.pid)
        self.driver.open(self.network.ends[self.driver.id, self.node.id])
        self.keeping = (self.apart("keepers") if self.several else draw).random() < 0.4
        self.workload = Workload(self)
        self.finished = False

    def apart(self, what: str) -> Random:
        """For what came later: seeds that do not have it are what they were."""
        return Random(f"{what} of {self.seed}")

    def _new_pid(self) -> int:
        self._pid += 1
        return self._pid

    def mark(self, what: str) -> None:
        """Count that something was hit."""
        self.marks[what] += 1

    def number_of(self, process: bytes) -> int | None:
        """The number of a process's node; None where there is only one."""
        return node_of(process) if self.several else None

    def nodes(self) -> list[Node]:
        """All nodes that live."""
        return [one for one in self._processes.values() if isinstance(one, Node) and one.alive]

    def node_at(self, process: bytes) -> Node:
        """The node of a process, alive or not."""
        found = self._processes[self._processes[process].node]
        assert isinstance(found, Node)
        return found

    def add_node(self, node: Node) -> None:
        """A node has joined."""
        self._processes[node.id] = node

    def name(self, process: bytes) -> str:
        """A process in words."""
        member = self._processes.get(process)
        if isinstance(member, Node):
            return f"node {node_of(process)}" if self.several else "node"
        if process == self.driver.id:
            return "driver"
        where = f" of node {node_of(process)}" if self.several else ""
        return f"worker {member.pid if member is not None else '?'} {process.hex()[:6]}{where}"

    def is_alive(self, process: bytes) -> bool:
        """Whether a process lives."""
        return process in self._processes and self._processes[process].alive

    def is_reachable(self, process: bytes) -> bool:
        """Whether a process lives, and its node does."""
        return self.is_alive(process) and self.node_at(process).alive

    def is_well(self, process: bytes) -> bool:
        """Whether a process lives, or has ended in good order.

        What runs on a node that was declared dead is dead to all others.
        """
        if process in self.retired:
            return True
        down = self.hosts is not None and self.hosts.is_down(node_of(process))
        return self.is_alive(process) and not down

    def values_lost(self) -> bool:
        """Whether values may have been lost without their owner: on disk, or with a node."""
        return self.damage.happened() or self.marks["a node is told that another is dead"] > 0

    def workers(self) -> list[Worker]:
        """Living workers, in order of birth."""
        return [
            one for one in self._processes.values() if type(one) is Worker and one.alive
        ]

    # ------------------------------------------------------------------ births and deaths

    def fork(self, node: Node, process: bytes) -> None:
        """The zygote was asked for a worker."""
        self.clock.after(self.draw.uniform(0.2e-3, 4e-3), self._forked, node, process)

    def _forked(self, node: Node, process: bytes) -> None:
        if not node.alive:
            return
        worker = Worker(self, process, self._new_pid(), node.id)
        self._processes[process] = worker
        self.network.line(node, worker)
        node.records[process].member = worker
        node.open(self.network.ends[node.id, process])
        self.clock.after(self.draw.random() * 1e-3, self._known, worker)
        if self.faults.dies_in_fork():
            self.end(worker, "was killed by SIGKILL")
        else:
            worker.begin()

    def _known(self, worker: Worker) -> None:
        """The node hears of the new worker's pid, and watches it from now on."""
        node = self.node_at(worker.id)
        if node.alive:
            node.forked(worker.id, worker)
            worker.watched = True
            if not worker.alive:
                self._announce(worker)

    def _announce(self, worker: Worker) -> None:
        delay = self.draw.random() * self.draw.choice([1e-4, 1e-3, 1e-2])
        self.clock.after(delay, self._bury, worker)

    def _bury(self, worker: Worker) -> None:
        node = self.node_at(worker.id)
        if node.frozen():
            self.clock.at(node.frozen_until, self._bury, worker)
        else:
            node.gone(worker.id, worker.cause)

    def die(self, process: Member, cause: str) -> None:
        """The process whose code runs dies here."""
        self.end(process, cause)
        raise Killed

    def end(self, process: Any, cause: str) -> None:
        """A process dies: nothing of it runs again, its lines break."""
        if not process.alive:
            return
        process.alive = False
        process.cause = cause
        if process.kind == "worker":
            self._count_death(process, cause)
        main, process.main = process.main, None
        if main is not None:
            main.close()
        self.network.close_all(process)
        process.forget()
        if process.watched:
            self._announce(process)

    def _count_death(self, worker: Worker, cause: str) -> None:
        if cause != "exited with code 0" or worker.running is not None:
            self.deaths += 1
        self.actors_ended += worker.actor is not None
        self.keepers.on_end(worker)
        if worker.notebook:
            self.paid[worker.notebook] += 1

    def node_dies(self, node: Node) -> None:
        """A node dies; its workers go with it (the kernel sees to that)."""
        node.alive = False
        self.network.close_all(node)
        for worker in self.workers():
            if worker.node == node.id:
                worker.watched = False
                self.end(worker, "lost its node")

    def holder_is_gone(self, process: bytes, segment: int) -> bool:
        """Whether nobody could give this segment back."""
        holder = self._processes[process]
        assert isinstance(holder, User)
        values = holder.values
        held = segment in values.memory.segments or segment in values.disk.segments
        return not (holder.alive and held)

    # ------------------------------------------------------------------ oracles under way

    def on_submitted(self, task_id: bytes, retries: int) -> None:
        """A task that may run `1 + retries` times."""
        self.retries[task_id] = retries

    def on_started(self, worker: Worker, call: Any) -> None:
        """A worker begins to run a call."""
        self.starts[call.id] += 1
        at = self.cancelled.get(call.id)
        again = type(call) is Call and call.details is not None and call.details.recovery
        if at is not None and at != worker.id and not again:
            raise Violation(f"{call!r} began to run in {worker.pid} after it was cancelled")
        if type(call) is not Call:
            return
        retries = self.retries[call.id]
        if self.paid[call.id] > retries >= 0:
            raise Violation(
                f"{call!r} runs again: {self.paid[call.id]} attempts failed, it has "
                f"max_retries={retries}"
            )

    def on_raised(self, task_id: bytes) -> None:
        """A task that raised is to run again; the retry is paid for."""
        self.paid[task_id] += 1
        self.raised[task_id] += 1

    def on_told_of_death(self, owner: Any, message: WorkerDied | NodeLost) -> None:
        """An owner is about to hear that a worker is dead, or a node with all its workers."""
        for worker, lease in owner.dispatch.leases.items():
            if type(message) is NodeLost:
                dead = node_of(worker) == message.number
            else:
                dead = worker == message.process
            if dead:
                self.exposed.update(lease.in_flight.keys())

    def on_freed_early(self, object_id: bytes) -> None:
        """A process holds a reference whose owner has released the object."""
        if not self.deaths and not self.actors_ended:
            raise Violation(f"{object_id.hex()} was freed while somebody holds it")
        self.mark("freed by a death while somebody holds it")

    def on_cancel(self, process: Any, object_id: bytes) -> None:
        """A process cancels the call that makes an object."""
        entry = process.owner.objects.entries.get(object_id)
        self.mark("fault: cancels")
        if entry is None or entry.task is None or entry.value is not None:
            return
        task = entry.task
        if task.actor is not None and task.actor.retained is not None:
            return  # it may be part of the actor's history, and then it is applied again
        where = task.worker
        member = self._processes.get(where)
        if member is not None and not member.alive:
            return  # it may have begun there: the news of the death is on its way
        if type(member) is Worker:
            running = member.running
            started = running is not None and running[1].id == task.id
            if started or any(getattr(one, "id", None) == task.id for _, one in member.queue):
                self.cancelled[task.id] = where
                return
            if self.starts[task.id]:
                return  # its answer is on the way
        self.cancelled[task.id] = where

    # ------------------------------------------------------------------ running

    def _program(self) -> Any:
        yield from self.workload.run(self.driver)
        self.finished = True
        self.driver.drain()
        yield (lambda: False), None  # serves its sockets for as long as anything comes

    def go(self) -> None:
        """Faults, healing, liveness, and the census of what is left."""
        self.driver.start(self._program())
        self.faults.begin()
        self.damage.begin()
        clock = self.clock
        self.bound = self.faults.until + LIVENESS_SECONDS
        for _ in range(_STEPS_MAX):
            if clock.next() is None or clock.now > self.bound or (self.several and self.finished):
                break
            clock.step()
        else:
            raise Violation(f"{_STEPS_MAX} steps at {clock.now:.3f} s: it goes round in circles")
        if not self.finished:
            raise Violation(f"stuck at {clock.now:.3f} s: {self.workload.where()}")
        if self.hosts is not None:
            self.hosts.calm_down(self.bound)
            return
        if clock.next() is not None:
            raise Violation(f"still ticking at {clock.now:.3f} s, all is done")
        checks.nothing_is_left(self)


def run(seed: int) -> Outcome:
    """Run one seed; raises Failed with everything that there is to say."""
    gc.disable()  # whether references in cycles die now or later must not depend on other seeds
    try:
        world = World(seed)
        try:
            world.go()
            # It costs as much as a few worlds, so not every seed has one.
            topology = run_topology(seed, world.marks) if seed % _TOPOLOGIES == 0 else ""
        except Exception as error:  # whatever a machine raises is a finding
            raise Failed(checks.story(world, seed, error)) from error
        return Outcome(world, topology)
    finally:
        gc.enable()
