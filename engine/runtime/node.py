"""The node process: worker pool, leases, segments, deaths; in the first node also the head.

The pure machines decide (`core.node`, `core.head`); here their effects meet processes, descriptors
and memfds. A node has no listening socket in embedded mode: its driver starts it with one end of
a socket pair, and two processes that want to talk get the ends of another, by descriptor passing.
A standing node, which several drivers share (`jobs`), has one, in a directory of its user's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from time import perf_counter, time
from typing import Any

import msgspec

from engine.config import Config
from engine.core.control import (
    ActorChanged,
    Assigned,
    Blocked,
    CensusReply,
    Checkpoint,
    Connect,
    CreateActor,
    Fork,
    Forked,
    Gathered,
    Hello,
    History,
    Join,
    Kept,
    KillActor,
    KillWorker,
    LeaseRequest,
    LeaseReturn,
    Leaving,
    LogShown,
    LookupActor,
    Noted,
    Peer,
    Preload,
    Preloaded,
    Reply,
    Request,
    Restore,
    SegmentsReturned,
    Stop,
    Welcome,
    WorkerDied,
)
from engine.core.gather import Gatherings
from engine.core.head import ActorRecord, HeadMachine
from engine.core.messages import FreeBlock
from engine.core.node import NodeMachine
from engine.runtime import zygote
from engine.runtime.checkpoint_memory import CheckpointFiles
from engine.runtime.ending import end_all
from engine.runtime.jobs import Jobs
from engine.runtime.keeping import Keeping
from engine.runtime.logs import WorkerLogs
from engine.runtime.memory_watch import MemoryWatch, private_bytes
from engine.runtime.node_store import NodeStore
from engine.runtime.notebook import Notebook
from engine.runtime.process import exit_cause
from engine.runtime.reactor import Reactor
from engine.runtime.record import Process
from engine.runtime.services import Services
from engine.wire.connection import Connection
from engine.wire.descriptors import OUT_OF_DESCRIPTORS, descriptors_left, reserve

__all__ = ["Node"]

# Dead processes whose pid and cause can still be told to those who ask late.
_DEAD_KEPT = 10_000
# The node has for each worker its line, its output, its pidfd and its page; some more for a moment.
_WORKER_DESCRIPTORS = 8


class Node:
    """One node of a cluster. Implements the edges of both machines."""

    def __init__(self, line: socket.socket, start: dict[str, Any]) -> None:
        self.id = secrets.token_bytes(8)
        self.config = msgspec.convert(start["config"], Config)
        self.start = start
        self.reactor = Reactor(
            self._on_messages, self._on_closed, self._on_tick,
            spin_seconds=0.0, tick_seconds=1.0,
        )
        self.machine = NodeMachine(
            start["resources"], self.config, self,
            devices=start["devices"], environment=start["environment"],
        )
        self.head = HeadMachine(self, self.config)
        self.checkpoints = CheckpointFiles()
        self.journal = Keeping(self)
        self.store = NodeStore(self, start["object_store_memory"], start["spill_directory"])
        self.gatherings = Gatherings(self.send)
        self.services = Services(self)
        self.logs = WorkerLogs(self.reactor, self.config, self.send)
        self.jobs = Jobs(self)
        self.memory = MemoryWatch(self, start["memory_limit"])
        self._processes: dict[bytes, Process] = {}
        self._dead: dict[bytes, tuple[int, str]] = {}
        self.started = time()
        self.stopping = ""
        self._ending = False
        self._zygote = b"zygote--"
        self._successor = b""
        self._preloads: list[str] = []
        self._handlers = self._routes()
        self._start_zygote(line)
        self.jobs.begin(line)

    def _routes(self) -> dict[type, Callable[[bytes, Any], None]]:
        return {
            Hello: self._on_hello,
            Forked: self._on_forked,
            Preloaded: self._on_preloaded,
            LeaseRequest: lambda peer, message: self.machine.on_lease_request(
                peer, message, perf_counter()
            ),
            LeaseReturn: lambda peer, message: self.machine.on_lease_return(
                message.worker, perf_counter()
            ),
            Blocked: lambda peer, message: self.machine.on_blocked(
                peer, message.blocked, perf_counter()
            ),
            Connect: lambda peer, message: self.connect(peer, message.process),
            CreateActor: self.journal.on_create,
            Noted: self.journal.on_noted,
            Checkpoint: self._on_checkpoint,
            ActorChanged: self.head.on_reported,
            LookupActor: lambda peer, message: self.head.on_lookup(peer, message.id),
            KillActor: self._on_kill_actor,
            KillWorker: lambda peer, message: self.kill(message.process, message.cause),
            Request: self.services.on_request,
            Join: self.jobs.on_join,
            Stop: self.jobs.on_stop,
            FreeBlock: self.store.on_free,
            SegmentsReturned: self.store.on_returned,
            CensusReply: self.store.on_census,
            Gathered: self.gatherings.on_gathered,
            History: lambda peer, message: self.services.inventory.keep(message),
            Kept: lambda peer, message: self.machine.on_kept(peer, perf_counter()),
            Leaving: lambda peer, message: self.machine.on_leaving(peer, perf_counter()),
            LogShown: self._on_log_shown,
        }

    # ------------------------------------------------------------------ life

    def run(self) -> None:
        """Serve until told to stop, or until its own driver is gone; then end every process."""
        self.reactor.wait_until(lambda: bool(self.stopping))
        self._ending = True
        self.jobs.close()
        end_all(
            self.stopping, self._processes.values(), self.reactor, self.logs,
            self.config.stop_timeout_seconds / 4,
        )  # fmt: skip

    # ------------------------------------------------------------------ processes

    def _start_zygote(self, line: socket.socket) -> None:
        mine, theirs = socket.socketpair()
        node_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            line.close()  # so that its end is the node's end, whoever else lives on
            zygote.serve(theirs, node_pid, self.config.frame_bytes_max)
        theirs.close()
        self.add(self._zygote, "zygote", mine, pid)
        self.watch_pid(self._zygote)

    def add(self, process: bytes, kind: str, sock: socket.socket, pid: int) -> None:
        """Serve a process of this node."""
        connection = Connection(
            sock, process, frame_max=self.config.frame_bytes_max, passing=True
        )
        connection.pid = pid
        self._processes[process] = Process(kind, connection, pid)
        self.reactor.add(connection)

    def admit(self, sock: socket.socket, pid: int) -> None:
        """Somebody has come in by the door; it says next what it is (Join)."""
        guest = secrets.token_bytes(8)
        self.add(guest, "guest", sock, pid)
        self.watch_pid(guest)

    def become(self, process: bytes, kind: str) -> Process:
        """A process is something else from now on."""
        record = self._processes[process]
        record.kind = kind
        return record

    def start_worker(self, environment: bytes) -> None:
        """Ask the zygote for a worker (an effect of the node machine)."""
        if descriptors_left() < _WORKER_DESCRIPTORS * self.machine.roster.starting:
            text = f"the node can start no further worker process: its {OUT_OF_DESCRIPTORS}"
            self.machine.on_no_room(environment, text)
            return
        self._fork("worker", environment)

    def _fork(self, kind: str, environment: bytes = b"") -> bytes:
        process = secrets.token_bytes(8)
        mine, theirs = socket.socketpair()
        self.add(process, kind, mine, 0)
        self._processes[process].environment = environment
        self._processes[process].zygote = self._zygote
        line = self._processes[self._zygote].connection
        if line is None:  # it has just died, and so will this node
            theirs.close()
            return process
        driver = self.jobs.of_environment(environment)
        streams = self.logs.open(process, driver) if kind == "worker" else ()
        fork = Fork(process, kind == "zygote", environment)
        line.send_fd(fork, theirs.detach(), *streams)
        self.reactor.flush_one(line)
        return process

    def preload(self, what: list[str]) -> None:
        """Have a second zygote load these, and take over when it is warm."""
        self._preloads += [one for one in what if one not in self._preloads]
        if self._preloads and not self._successor:
            self._successor = self._fork("zygote")
            self.send(self._successor, Preload(list(self._preloads)))

    def _on_preloaded(self, peer: bytes, message: Preloaded) -> None:
        successor, self._successor = self._successor, b""
        if message.error:
            sys.stderr.write(f"penstock: preloading {self._preloads} failed: {message.error}\n")
            self.kill(successor, message.error)
            return
        old, self._zygote = self._zygote, successor
        if not self._processes[successor].pid:  # who forked it died before it could say
            self._processes[successor].pid = message.pid
            self.watch_pid(successor)
        self.send(old, Stop("its successor is warm"))  # it still forks what it was asked to
        self.machine.fresh_is_warm = True

    def _on_forked(self, peer: bytes, message: Forked) -> None:
        process = self._processes.get(message.process)
        if process is None:
            return
        process.pid = message.pid or process.pid  # it may have said so itself
        if not process.pid:  # whatever was forked ends when its line does
            self._gone(message.process)
            return
        if process.kind == "worker":
            self.logs.met(message.process, process.pid, None)
            zygote = self._processes.get(peer)
            process.shared = private_bytes(zygote.pid) if zygote is not None else 0
        self.watch_pid(message.process)

    def watch_pid(self, process: bytes) -> None:
        """Hear of a process's death."""
        record = self._processes[process]
        try:
            with reserve:
                record.pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:  # dead and reaped already
            self._gone(process)
            return
        self.reactor.watch(record.pidfd, lambda: self._on_exit(process))

    def _on_exit(self, process: bytes) -> None:
        self._unwatch(self._processes[process])
        self._gone(process)

    def _unwatch(self, record: Process) -> None:
        if record.pidfd >= 0:
            self.reactor.unwatch(record.pidfd)
            os.close(record.pidfd)
            record.pidfd = -1

    def _gone(self, process: bytes, cause: str = "died") -> None:
        record = self._processes.get(process)
        if record is None:
            return
        if record.connection is not None and process != self._successor:
            # What it still managed to say comes before its death, while everybody knows it. (But
            # not that it is warm.)
            self.reactor.drain_and_remove(record.connection)
        if self._processes.pop(process, None) is None:
            return  # its end was the last that it said
        if record.kind not in ("worker", "zygote"):
            self._unwatch(record)
            self.jobs.on_gone(process, cause)
            return
        cause = self._cause(record.pid)
        if record.kind == "zygote":
            if process == self._zygote:
                self.stopping = f"the zygote {cause}"
            elif process == self._successor:
                self._successor = b""
            else:
                self._drop_unborn()
            return
        words = self.logs.on_died(process)
        if self._ending:
            return
        running = record.notebook.close() if record.notebook is not None else b""
        now = perf_counter()
        words = [] if record.expected else words  # they are no reason then
        cause = record.expected or cause
        died = WorkerDied(process, record.pid, cause, running, record.error, words)
        worker = self.machine.on_died(process, now)
        if worker is None and not self.machine.on_start_failed(now, record.environment, cause):
            self.stopping = f"its workers die before they begin: the last (pid {died.pid}) {cause}"
            sys.stderr.write(f"penstock: the node ends: {self.stopping}\n")
        self.services.inventory.on_died(died, worker, bool(record.expected))
        self.mourn(died, now, record.peers)
        self.jobs.look()

    def mourn(self, died: WorkerDied, now: float, peers: Iterable[bytes] = ()) -> None:
        """A process is dead that others know: tell them, and end what hung on it."""
        process, cause = died.process, died.cause
        self._dead[process] = (died.pid, cause)
        if len(self._dead) > _DEAD_KEPT:
            del self._dead[next(iter(self._dead))]
        for peer in peers:
            self.send(peer, died)
            self.send(peer, Peer(process, died.pid, False))  # it may have asked for a new line
        for driver in self.jobs.all:
            self.send(driver, died)
        self.head.on_process_died(
            process, died.pid, cause, peers, now=now, memory=bool(died.kind), words=died.words
        )
        self.reactor.look_at(now)
        self.store.on_died(process, now)
        self.gatherings.on_died(process)
        for orphan in self.machine.workers.values():
            if orphan.owner == process and orphan.use == "lease":
                self.kill(orphan.process, f"its owner (pid {died.pid}) {cause}")

    def _drop_unborn(self) -> None:
        """Their zygote died, or ended, before it did or told what it was asked for."""
        for one, record in list(self._processes.items()):
            lost = record.zygote and record.zygote not in self._processes
            if lost and record.is_unborn() and not self.stopping:
                self._gone(one)

    @staticmethod
    def _cause(pid: int) -> str:
        if not pid:
            return "died before it was forked"
        _pid, status = os.waitpid(pid, os.WNOHANG)
        return exit_cause(status) if _pid else "is gone"

    def kill(self, process: bytes, cause: str, error: str = "") -> None:
        """SIGKILL a worker; `cause` is what its owners are told, by an exception `error`."""
        record = self._processes.get(process)
        if record is not None and record.kind in ("worker", "zygote") and record.pid:
            record.expected, record.error = cause, error
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)

    # ------------------------------------------------------------------ messages

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process of this node; nothing when it is gone."""
        record = self._processes.get(process)
        if record is not None and record.connection is not None and not record.connection.closed:
            self.reactor.send(record.connection, message, False)

    def send_fd(self, process: bytes, message: Any, fd: int) -> None:
        """Send a message with a descriptor, which is closed once sent."""
        record = self._processes.get(process)
        if record is None or record.connection is None or record.connection.closed:
            os.close(fd)
            return
        record.connection.send_fd(message, fd)
        self.reactor.mark(record.connection)

    def connect(self, one: bytes, other: bytes) -> None:
        """See to it that two processes have a direct connection."""
        first, second = self._processes.get(one), self._processes.get(other)
        if first is None:
            return
        if second is None:
            pid, cause = self._dead.get(other, (0, "is gone"))
            self.send(one, WorkerDied(other, pid, cause))
            self.send(one, Peer(other, pid, False))
            return
        if other in first.peers or one == other:
            return
        first.peers.add(other)
        second.peers.add(one)
        with reserve:
            mine, theirs = socket.socketpair()
        self.send_fd(one, Peer(other, second.pid), mine.detach())
        self.send_fd(other, Peer(one, first.pid), theirs.detach())

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        if self._ending:  # nothing is begun any more
            messages = [one for one in messages if isinstance(one, Forked | LogShown)]
        elif self.jobs.is_leaving(connection.peer):
            messages = [one for one in messages if isinstance(one, LogShown)]
        for message in messages:
            handler = self._handlers.get(type(message))
            if handler is None:
                raise AssertionError(f"the node cannot handle {message!r}")
            handler(connection.peer, message)
        self.reactor.look_at(perf_counter() + self.config.lease_quantum_seconds)

    def _on_closed(self, connection: Connection) -> None:
        process = self._processes.get(connection.peer)
        if process is not None:
            process.connection = None
            if process.kind not in ("worker", "zygote"):
                self._gone(connection.peer, "closed the connection")
            self._drop_unborn()

    def _on_hello(self, peer: bytes, message: Hello) -> None:
        record = self._processes[peer]
        if record.kind == "worker" and record.connection is not None:
            with reserve:  # a mapping has a descriptor of its own
                record.notebook = Notebook(record.connection.take_descriptor())
            self.logs.met(peer, message.pid, record.notebook)
        if message.error:  # it ends by itself, which is when its start has failed
            self.machine.on_setup_failed(record.environment, message.error)
            return
        self.send(peer, Welcome(self.id, self.welcome(record.environment)))
        if record.kind == "driver":
            self.logs.listen(peer, self.start["log_to_driver"])
        if record.kind == "worker":
            record.pid = message.pid
            self.machine.on_worker_ready(
                peer, message.pid, perf_counter(), record.environment
            )
            if not self.machine.roster.starting and self.start["preload"]:
                wanted, self.start["preload"] = self.start["preload"], []
                self.preload(wanted)  # not before the first workers: they are waited for

    def labels(self) -> dict[str, str]:
        """What this node may be asked for by label; the names are Ray's."""
        return {"ray.io/node-id": self.id.hex(), **self.start["labels"]}

    def welcome(self, environment: bytes) -> dict[str, Any]:
        """What a process that works in this environment is told when it joins."""
        return {
            "resources": self.start["resources"],
            "labels": self.labels(),
            **self.jobs.facts(environment),
            **self.store.facts(),
            "embedded": True,
        }

    def _on_tick(self, now: float) -> float | None:
        if self._ending:
            return self.logs.tick(now)
        looks = [
            *(self.machine.tick(now), self.store.tick(now), self.gatherings.tick(now)),
            *(self.head.tick(now), self.logs.tick(now), self.memory.tick(now)),
            *(self.jobs.tick(now), self.journal.tick(now)),
        ]
        return min(look for look in looks if look is not None)

    # ------------------------------------------------------------------ head's edge

    def place(self, record: ActorRecord) -> None:
        """Find a worker for an actor."""
        options = record.create.options
        self.machine.want_actor(
            record.create.id,
            options.get("resources", {}),
            options.get("group", b""),
            options.get("bundle", -1),
            perf_counter(),
            fresh=options.get("fresh", False),
            unused=options.get("checkpoint_every") is not None,
            environment=options.get("environment", b""),
            title=f"actor {options.get('class', '')}",
        )

    def unplace(self, record: ActorRecord) -> None:
        """Forget the wish for a worker."""
        self.machine.drop_actor_demand(record.create.id)

    def placed(self, actor: bytes, worker: bytes) -> None:
        """The node machine found a worker for an actor."""
        pid = self._processes[worker].pid
        facts = self.head.actors[actor].create.options
        devices = self.machine.workers[worker].devices
        group, capture = facts.get("group", b""), facts.get("capture", False)
        self.send(worker, Assigned(facts.get("resources", {}), list(devices), group, capture))
        if not self.head.on_placed(actor, worker, pid):
            self.kill(worker, "its actor was ended before it started")

    def unplaceable(self, actor: bytes, kind: str, text: str) -> None:
        """The node machine has no place for an actor, or not any more."""
        self.head.fail(actor, kind, text)

    def group_placed(self, group: bytes) -> None:
        """The node machine reserved a placement group."""
        self.services.groups.settle(group)

    def group_removed(self, group: bytes) -> None:
        """A placement group is no more."""
        self.services.groups.settle(group)

    def _on_checkpoint(self, peer: bytes, message: Checkpoint) -> None:
        connection = self._processes[peer].connection
        assert connection is not None
        fd = connection.take_descriptor()
        journaled = self.journal.keeps(message.actor)
        if self.head.on_checkpoint(peer, message, looks=not journaled):
            self.checkpoints.keep(message, fd)
            if journaled:
                self.journal.on_checkpoint(message, fd)
        else:
            os.close(fd)

    def restore(self, process: bytes, message: Restore) -> None:
        """Send a worker the checkpoint of the actor that it is about to make."""
        message.checkpoint, fd = self.checkpoints.newest(message.checkpoint.actor)
        self.send_fd(process, message, fd)

    def drop_checkpoint(self, actor: bytes) -> None:
        """Give up the memory of an actor's checkpoint."""
        self.checkpoints.drop(actor)

    def _on_kill_actor(self, peer: bytes, message: KillActor) -> None:
        if message.graceful:
            self.head.end(message.id, message.cause)
        else:
            self.head.kill(message.id, message.no_restart, message.cause)

    def reply(self, peer: bytes, number: int, result: Any, error: str = "") -> None:
        """Answer a request."""
        self.send(peer, Reply(number, result, error))

    def _on_log_shown(self, peer: bytes, message: LogShown) -> None:
        self.logs.on_shown(peer, message)
        self.jobs.look()

    # ------------------------------------------------------------------ processes, for others

    def has(self, process: bytes) -> bool:
        """Whether a process lives."""
        return process in self._processes

    def part(self, driver: bytes) -> None:
        """Close the line of a driver that has left."""
        connection = self._processes[driver].connection
        assert connection is not None
        self.reactor.flush_one(connection)
        self.reactor.remove(connection)
        self._on_closed(connection)

    def environment_of(self, process: bytes) -> bytes:
        """What a live process works in."""
        record = self._processes.get(process)
        return b"" if record is None else record.environment

    def members(self) -> list[bytes]:
        """The processes that may own objects or hold segments: driver and ready workers."""
        return [
            one for one, record in self._processes.items()
            if record.kind == "driver" or one in self.machine.workers
        ]

    def title(self, process: bytes) -> str:
        """What to call a process in messages to people."""
        record = self._processes.get(process)
        if record is None:
            pid, cause = self._dead.get(process, (0, "is gone"))
            return f"the process {pid} that {cause}"
        return f"the {record.kind} (pid {record.pid})"

    # ------------------------------------------------------------------ watching workers

    def notes(self, process: bytes) -> tuple[Notebook, int]:
        """The page of a worker, and the bytes of memory it had from its zygote."""
        record = self._processes[process]
        assert record.notebook is not None  # it came with the worker's hello
        return record.notebook, record.shared

    def processes(self) -> list[tuple[bytes, str, int, float]]:
        """Id, kind, pid and start (wall clock) of every process."""
        return [
            (one, record.kind, record.pid, record.started)
            for one, record in self._processes.items()
        ]
