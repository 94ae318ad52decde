"""The edge of the node: forks, deaths, lines, segments; around the four real machines.

Mirrors `runtime.node` and `runtime.services`. The node looks at its sockets all the time; it is
never killed by a drawn fault but by "the node dies", which ends a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.core.control import (
    ActorChanged,
    Assigned,
    Attach,
    Blocked,
    CensusReply,
    Checkpoint,
    Connect,
    CreateActor,
    Gathered,
    Hello,
    Kept,
    KillActor,
    LeaseRequest,
    LeaseReturn,
    LookupActor,
    Peer,
    Reply,
    Request,
    Restore,
    SegmentDropped,
    SegmentsReturned,
    Welcome,
    WorkerDied,
)
from engine.core.gather import Gatherings
from engine.core.groups import Group
from engine.core.head import ActorRecord, HeadMachine
from engine.core.messages import FreeBlock
from engine.core.node import NodeMachine
from engine.core.pressure import Pressure
from engine.core.store import SegmentBook
from tests.sim.member import Member, Violation
from tests.sim.network import End

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Node"]


class _Record:
    """As `runtime.node._Process`."""

    __slots__ = ("expected", "kind", "member", "peers", "pid")

    def __init__(self, kind: str, pid: int) -> None:
        self.kind = kind
        self.pid = pid
        self.member: Any = None  # the simulated process, to kill it and read its notebook
        self.peers: dict[bytes, None] = {}
        self.expected = ""


class Node(Member):
    """One node, with the head in it. Implements the edges of the machines."""

    number = 0  # where there are several: of this life of the node

    def __init__(self, world: World, process: bytes, resources: dict[str, float]) -> None:
        super().__init__(world, process, 1)
        self.config = world.config
        self.machine = NodeMachine(resources, world.config, self)
        self.head = HeadMachine(self, world.config)
        reserve = int(world.store_bytes * world.config.recovery_store_share)
        self.store = SegmentBook(world.store_bytes, self, reserve=reserve)
        self.disk = SegmentBook(world.disk_bytes, self, sign=-1)
        self.pressure = Pressure(self.store, self, world.config)
        self.gatherings = Gatherings(self.send)
        self.segments: dict[int, int] = {}
        self.records: dict[bytes, _Record] = {}
        self.dead: dict[bytes, tuple[int, str]] = {}
        self.checkpoints: dict[bytes, list[Any]] = {}  # as `CheckpointFiles`
        self.waiting_groups: dict[bytes, list[tuple[bytes, int]]] = {}
        self.driver = b""
        self._next_look = 0.0
        now = world.clock
        self._handlers: dict[type, Callable[[bytes, Any], None]] = {
            Hello: self._on_hello,
            LeaseRequest: lambda peer, m: self.machine.on_lease_request(peer, m, now.now),
            LeaseReturn: lambda peer, m: self.machine.on_lease_return(m.worker, now.now),
            Blocked: lambda peer, m: self.machine.on_blocked(peer, m.blocked, now.now),
            Connect: lambda peer, m: self.connect(peer, m.process),
            CreateActor: self.head.on_create,
            ActorChanged: self.head.on_reported,
            LookupActor: lambda peer, m: self.head.on_lookup(peer, m.id),
            KillActor: self._on_kill_actor,
            Request: self._on_request,
            FreeBlock: self._on_free_block,
            SegmentsReturned: self._on_segments_returned,
            CensusReply: self._on_census,
            Gathered: self.gatherings.on_gathered,
            Kept: lambda peer, m: self.machine.on_kept(peer, now.now),
            Checkpoint: self._on_checkpoint,
        }

    # ------------------------------------------------------------------ processes

    def adopt(self, member: Member, kind: str, pid: int) -> None:
        """A process of this node, whose line exists already."""
        record = self.records[member.id] = _Record(kind, pid)
        record.member = member
        if kind == "driver":
            self.driver = member.id
        self.open(self.world.network.ends[self.id, member.id])

    def start_worker(self, environment: bytes) -> None:
        """As `Node.start_worker`."""
        process = self.new_process()
        self.records[process] = _Record("worker", 0)
        self.world.fork(self, process)

    def new_process(self) -> bytes:
        """The id of a process to be."""
        return self.world.draw.randbytes(8)

    def forked(self, process: bytes, member: Any) -> None:
        """As `Node._on_forked`: the zygote says which pid it is."""
        record = self.records[process]
        record.pid, record.member = member.pid, member

    def gone(self, process: bytes, cause: str) -> None:
        """As `Node._gone`: the kernel reports an exit."""
        if not self.alive:
            return
        end = self.connections.get(process)
        if end is not None:
            self.world.network.hurry(end.other)
            messages = self.world.network.read(end)
            if messages:
                self.world.mark("the last words of a dead process")
                self.on_messages(end, messages)
            end.closed = True
            self.on_closed(end)
        record = self.records.pop(process)
        running = record.member.notebook
        now = self.world.clock.now
        died = WorkerDied(process, record.pid, record.expected or cause, running)
        if self.machine.on_died(process, now) is None:
            self.world.mark("died before its hello")
            self.machine.on_start_failed(now, b"", cause)
        self.dead[process] = (record.pid, died.cause)
        for peer in record.peers:
            self.send(peer, died)
            self.send(peer, Peer(process, record.pid, False))
        self.send(self.driver, died)
        self.tell_head(died, list(record.peers))
        self.store.on_died(process)
        self.disk.on_died(process)
        self.pressure.on_died(process, now)
        self.gatherings.on_died(process)
        self.kill_orphans(process, f"its owner (pid {record.pid}) {cause}")
        self._after_turn()

    def tell_head(self, died: WorkerDied, peers: list[bytes]) -> None:
        """A process is dead: its actor, and those that it has made, are the head's business."""
        now = self.world.clock.now
        self.head.on_process_died(died.process, died.pid, died.cause, peers, now=now)

    def kill_orphans(self, owner: bytes, cause: str) -> None:
        """Workers leased to a dead process may still run its tasks."""
        for orphan in list(self.machine.workers.values()):
            if orphan.owner == owner and orphan.use == "lease":
                self.world.mark("killed with its owner")
                self.kill(orphan.process, cause)

    def kill(self, process: bytes, cause: str) -> None:
        """As `Node.kill`."""
        record = self.records.get(process)
        if record is not None and record.kind != "driver" and record.pid:
            record.expected = cause
            if record.member.alive:
                self.world.end(record.member, cause)

    # ------------------------------------------------------------------ messages

    def send(self, process: bytes, message: Any) -> None:
        """As `Node.send`."""
        end = self.connections.get(process)
        if end is not None and not end.closed:
            self.post(end, message)

    def connect(self, one: bytes, other: bytes) -> None:
        """As `Node.connect`."""
        first, second = self.records.get(one), self.records.get(other)
        if first is None:
            return
        if second is None:
            pid, cause = self.dead.get(other, (0, "is gone"))
            self.world.mark("a line to the dead is refused")
            self.send(one, WorkerDied(other, pid, cause))
            self.send(one, Peer(other, pid, False))
            return
        if other in first.peers or one == other:
            return
        first.peers[other] = None
        second.peers[one] = None
        self.world.network.line(first.member, second.member)
        self.send(one, Peer(other, second.pid))
        self.send(other, Peer(one, first.pid))

    def poke(self) -> None:
        """One turn: the node always looks."""
        if self.frozen():
            return
        self.serve()
        self._after_turn()

    def _after_turn(self) -> None:
        if not self._next_look:
            self._look_at(self.world.clock.now + self.config.lease_quantum_seconds)
        self.flush()

    def on_messages(self, end: End, messages: list[Any]) -> None:
        """As `Node._on_messages`."""
        for message in messages:
            handler = self._handlers.get(type(message))
            if handler is None:
                raise Violation(f"the node cannot handle {message!r}")
            handler(end.peer, message)

    def on_closed(self, end: End) -> None:
        """As `Node._on_closed`: its exit follows."""
        self.connections.pop(end.peer, None)
        self.dirty.pop(end, None)

    def thaw(self) -> None:
        """Go on after a stop."""
        if self.alive and not self.frozen() and self.noted:
            self.poke()

    def _on_hello(self, peer: bytes, message: Hello) -> None:
        record = self.records[peer]
        self.send(peer, Welcome(self.id, {}))
        if record.kind == "worker":
            record.pid = message.pid
            self.machine.on_worker_ready(peer, message.pid, self.world.clock.now)

    def _on_kill_actor(self, peer: bytes, message: KillActor) -> None:
        if message.graceful:
            self.head.end(message.id, message.cause)
        else:
            self.head.kill(message.id, message.no_restart, message.cause)

    def reply(self, peer: bytes, number: int, result: Any, error: str = "") -> None:
        """Answer a request."""
        self.send(peer, Reply(number, result, error))

    # ------------------------------------------------------------------ time

    def _look_at(self, when: float | None) -> None:
        if when is not None and (not self._next_look or when < self._next_look):
            self._next_look = when
            self.world.clock.at(max(when, self.world.clock.now), self._look, when)

    def _look(self, when: float) -> None:
        if not self.alive or when != self._next_look:
            return
        if self.frozen():
            self.world.clock.at(self.frozen_until, self._look, when)
            return
        now = self.world.clock.now
        looks = [self.machine.tick(now), self.pressure.tick(now), self.gatherings.tick(now)]
        looks.append(self.tick(now))
        self._next_look = 0.0
        self._look_at(min((look for look in looks if look is not None), default=None))
        self.flush()

    def tick(self, now: float) -> float | None:
        """What else looks at the clock: the head, where it lives in the node."""
        return self.head.tick(now)

    # ------------------------------------------------------------------ head's edge

    def place(self, record: ActorRecord) -> None:
        """As `Node.place`."""
        options = record.create.options
        resources, now = options.get("resources", {}), self.world.clock.now
        unused = options.get("checkpoint_every") is not None
        self.machine.want_actor(record.create.id, resources, b"", -1, now, unused=unused)

    def unplace(self, record: ActorRecord) -> None:
        """As `Node.unplace`."""
        self.machine.drop_actor_demand(record.create.id)

    def placed(self, actor: bytes, worker: bytes) -> None:
        """As `Node.placed`."""
        facts = self.head.actors[actor].create.options
        self.send(worker, Assigned(facts["resources"], []))
        if not self.head.on_placed(actor, worker, self.records[worker].pid):
            self.kill(worker, "its actor was ended before it started")

    def _on_checkpoint(self, peer: bytes, message: Checkpoint) -> None:
        memory = self.world.descriptors.pop((peer, message.number))
        if self.head.on_checkpoint(peer, message, looks=True):
            self.checkpoints.setdefault(message.actor, [None, None])[message.number % 2] = memory

    def restore(self, process: bytes, message: Restore) -> None:
        """As `Node.restore`."""
        memories = self.checkpoints[message.checkpoint.actor]
        whole = [one for one in memories if one is not None and one.header is not None]
        newest = max(whole, key=lambda one: one.header.number)
        message.checkpoint, self.world.descriptors[process, -1] = newest.header, newest
        self.send(process, message)

    def drop_checkpoint(self, actor: bytes) -> None:
        """As `Node.drop_checkpoint`."""
        self.checkpoints.pop(actor, None)

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        """As `Node.unplaceable`."""
        self.head.fail(actor, kind, text)

    def group_placed(self, group: bytes) -> None:
        """As `Node.group_placed`."""
        self._settle_group(group)

    def group_removed(self, group: bytes) -> None:
        """As `Node.group_removed`."""
        self._settle_group(group)

    def _settle_group(self, group: bytes) -> None:
        """As `GroupServices.settle`."""
        found = self.machine.groups.all.get(group)
        if found is not None and not found.pools:
            return
        kind = "" if found is not None else "TaskPlacementGroupRemoved"
        for peer, number in self.waiting_groups.pop(group, ()):
            self.reply(peer, number, {"kind": kind} if kind else True, kind and "was removed")

    # ------------------------------------------------------------------ store's edge

    def members(self) -> list[bytes]:
        """As `Node.members`."""
        return [
            one
            for one, record in self.records.items()
            if record.kind == "driver" or one in self.machine.workers
        ]

    def owners(self, process: bytes) -> list[bytes]:
        """As `NodeStore.owners`."""
        return self.members()

    def kept(self, segment: int) -> list[int]:
        """Nothing is kept beyond its owner."""
        return []

    def title(self, process: bytes) -> str:
        """As `Node.title`."""
        return self.world.name(process)

    def book(self, segment: int) -> SegmentBook:
        """As `Node.book`."""
        return self.store if segment > 0 else self.disk

    def _on_segments_returned(self, peer: bytes, message: SegmentsReturned) -> None:
        self.disk.give_back(message.segments, [])
        self.pressure.on_report(peer, message, self.world.clock.now)

    def _on_census(self, peer: bytes, message: CensusReply) -> None:
        self.store.on_census(peer, message)
        self.disk.on_census(peer, message)

    def _on_free_block(self, peer: bytes, message: FreeBlock) -> None:
        self.world.memory.wipe(message.block)
        self.book(message.block.segment).on_free(message.block)

    def create_segment(self, segment: int, size: int) -> None:
        """As `SegmentFiles.create`."""
        if segment < 0 and self.world.faults.disk_fails():
            raise OSError("the directory is gone")
        self.segments[segment] = size

    def drop_segment(self, segment: int) -> None:
        """As `Node.drop_segment`."""
        del self.segments[segment]
        for process in self.members():
            self.send(process, SegmentDropped([segment]))

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        """As `Node.attach`."""
        assert segment in self.segments, "a segment is handed out that is gone"
        self.send(process, Attach(number, segment, size))

    def refuse(self, process: bytes, number: int, text: str) -> None:
        """As `Node.refuse`."""
        if text != "withdrawn":
            self.world.mark("fault: little memory")
        self.reply(process, number, {"kind": "ObjectStoreFullError"}, text)

    # ------------------------------------------------------------------ services

    def _on_request(self, peer: bytes, message: Request) -> None:
        """As `Services.on_request`."""
        getattr(self, "_serve_" + message.what)(peer, message.number, **message.args)

    def _serve_segment(
        self, peer: bytes, number: int, size: int, wish: int, hurry: int, recovery: bool
    ) -> None:
        now = self.world.clock.now
        self.pressure.on_request(peer, number, size, wish, hurry, now, recovery)
        self._look_at(self.pressure.tick(now))

    def _serve_withdraw(self, peer: bytes, number: int, which: int) -> None:
        self.pressure.on_withdrawn(peer, which, self.world.clock.now)

    def _serve_disk(self, peer: bytes, number: int, size: int, wish: int) -> None:
        room = self.disk.limit - self.disk.used
        if size > room:
            self.world.mark("fault: little disk")
            self.reply(peer, number, {"kind": "ObjectStoreFullError"}, "the disk is full")
            return
        granted = max(size, min(wish, room))
        try:
            segment = self.disk.lease(peer, granted)
        except OSError as error:  # told to the asker: it knows what needed the space
            self.reply(peer, number, {"kind": "OutOfDiskError"}, str(error))
            return
        self.attach(peer, number, segment, granted)

    def _serve_map(self, peer: bytes, number: int, segment: int) -> None:
        size = self.book(segment).size(segment)
        if size:
            self.attach(peer, number, segment, size)
        else:
            text = f"segment {segment} is gone, and the object in it with it"
            self.reply(peer, number, {"kind": "ObjectLostError"}, text)

    def _serve_create_group(
        self, peer: bytes, number: int, group: bytes, bundles: list[dict[str, float]]
    ) -> None:
        now = self.world.clock.now
        assert self.machine.want_group(Group(group, peer, bundles, since=now), now) is None
        self.reply(peer, number, None)

    def _serve_group_ready(self, peer: bytes, number: int, group: bytes) -> None:
        self.waiting_groups.setdefault(group, []).append((peer, number))
        self._settle_group(group)

    def _serve_remove_group(self, peer: bytes, number: int, group: bytes) -> None:
        self.machine.remove_group(group, self.world.clock.now)
        self.reply(peer, number, None)

    def _serve_gather(self, peer: bytes, number: int, about: str) -> None:
        now = self.world.clock.now
        others = [one for one in self.members() if one != peer]
        self.gatherings.ask(
            about, others, now, lambda found, _silent: self.reply(peer, number, found)
        )
        self._look_at(self.gatherings.tick(now))

    def _serve_resources(self, peer: bytes, number: int) -> None:
        self.reply(peer, number, self.machine.pool.statistics())
