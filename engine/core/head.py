"""The head machine: the registry of actors, names and placement groups.

It decides lifecycles (pending -> starting -> alive -> restarting -> dead) and tells everyone who
has asked about an actor. It is not on the path of a call. Pure: effects leave through the
`HeadEdge`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from engine.config import Config
from engine.core.control import (
    ActorChanged,
    Checkpoint,
    CheckpointKept,
    CreateActor,
    KillActor,
    Restore,
)
from engine.core.ids import node_of, owner_of, short
from engine.core.intensity import Deaths, backoff
from engine.core.logs import quote
from engine.core.values import ERROR_NONE, Value, encode_failure

__all__ = ["ActorRecord", "HeadEdge", "HeadMachine"]

# Dead actors whose story can still be asked for, and those known only to be dead.
_DEAD_KEPT = 1_000
_TOMBS_KEPT = 100_000


class HeadEdge(Protocol):
    """What the head has done for it."""

    def send(self, process: bytes, message: Any) -> None:
        """Send a message to a process."""

    def connect(self, one: bytes, other: bytes) -> None:
        """See to it that two processes have a direct connection."""

    def place(self, record: ActorRecord) -> None:
        """Find a worker for the actor; `on_placed` follows."""

    def unplace(self, record: ActorRecord) -> None:
        """Forget the wish for a worker."""

    def kill(self, process: bytes, cause: str) -> None:
        """Kill a worker process at once."""

    def restore(self, process: bytes, message: Restore) -> None:
        """Send a worker the checkpoint of the actor that it is about to make."""

    def drop_checkpoint(self, actor: bytes) -> None:
        """Give up the memory of an actor's checkpoint."""


class ActorRecord:
    """One actor: how to make it, where it is, who asked for it."""

    __slots__ = (
        *("cause", "checkpoint", "create", "deaths", "failure", "former", "name", "pid", "process"),
        *("restarts_left", "state", "watchers", "why_killed", "witnesses"),
    )

    def __init__(self, create: CreateActor) -> None:
        self.create = create
        self.state = "pending"
        self.process = b""
        self.pid = 0
        self.watchers: dict[bytes, None] = {}  # told in this order
        self.restarts_left: int = create.options.get("max_restarts", 0)
        self.name: tuple[str, str] | None = None
        self.failure: Value | None = None
        self.cause = ""
        self.why_killed = ""
        self.deaths: Deaths | None = None
        self.checkpoint: Checkpoint | None = None
        # Processes that may have seen effects of it since that checkpoint.
        self.witnesses: dict[bytes, None] = {}
        self.former: list[bytes] = []  # the processes that it has had since

    @property
    def title(self) -> str:
        """Class and id, for messages to people."""
        return f"{self.create.options.get('class', 'actor')} ({short(self.create.id)})"


class HeadMachine:
    """Actors and names of a cluster."""

    def __init__(self, edge: HeadEdge, config: Config | None = None) -> None:
        self._edge = edge
        self._config = config or Config()
        self.actors: dict[bytes, ActorRecord] = {}
        self.names: dict[tuple[str, str], bytes] = {}
        self._reserved: dict[bytes, dict[str, Any]] = {}  # named, and not created yet
        self._by_process: dict[bytes, bytes] = {}
        self._hosts: dict[bytes, bytes] = {}  # the same of replayed actors, dead processes too
        self._dead: deque[bytes] = deque()
        self._tombs: dict[bytes, str] = {}  # actors known only to be dead, and why
        self._dead_processes: dict[bytes, str] = {}
        self._early: dict[bytes, dict[bytes, None]] = {}  # lookups that overtook the creation
        self._delayed: list[tuple[float, ActorRecord]] = []  # to be placed again then
        self.on_dead: Callable[[ActorRecord], None] = lambda record: None

    # ------------------------------------------------------------------ names

    def reserve(self, namespace: str, name: str, actor: bytes, options: dict[str, Any]) -> bytes:
        """Give a name to an actor about to be created; the id that has it now.

        `options` are what a handle has to know: it is found from now on.
        """
        taken = self.names.get((namespace, name))
        if taken is not None:
            return taken
        self.names[namespace, name] = actor
        self._reserved[actor] = options
        return actor

    def find(self, namespace: str, name: str) -> tuple[bytes, dict[str, Any]] | None:
        """Id and options of a named actor that is not dead."""
        actor = self.names.get((namespace, name))
        if actor in self._reserved:
            return actor, self._reserved[actor]
        record = self.actors.get(actor) if actor is not None else None
        if actor is None or record is None or record.state == "dead":
            return None
        return actor, record.create.options

    # ------------------------------------------------------------------ lifecycle

    def on_create(self, creator: bytes, message: CreateActor) -> None:
        """A process wants an actor."""
        if message.id in self._tombs:  # its last handle is gone, or it was killed, before it came
            self._tell_dead(creator, message.id, self._tombs[message.id])
            return
        record = self.actors[message.id] = ActorRecord(message)
        self._reserved.pop(message.id, None)
        record.watchers = {creator: None} | self._early.pop(message.id, {})
        name = message.options.get("name")
        if name:
            record.name = (message.options.get("namespace", ""), name)
        self._edge.place(record)

    def on_placed(self, actor: bytes, process: bytes, pid: int) -> bool:
        """A worker for the actor. False when the actor died meanwhile."""
        record = self.actors[actor]
        if record.state == "dead":
            return False
        record.state, record.process, record.pid = "starting", process, pid
        self._by_process[process] = actor
        if record.checkpoint is not None:
            self._edge.restore(process, self._restoring(record, record.checkpoint))
        if record.create.options.get("checkpoint_every") is not None:
            self._hosts[process] = actor
            if len(self._hosts) > _TOMBS_KEPT:
                del self._hosts[next(iter(self._hosts))]
        self._edge.send(process, record.create)
        return True

    def _restoring(self, record: ActorRecord, checkpoint: Checkpoint) -> Restore:
        witnesses, actors = [], []
        for process in sorted(record.witnesses.keys() | record.watchers):
            host = self.actors.get(self._hosts.get(process, b""))
            if host is None or host is record:
                if process not in self._dead_processes:
                    witnesses.append(process)
            elif host.state != "dead" and host.create.id not in actors:
                actors.append(host.create.id)
        return Restore(checkpoint, witnesses, actors, list(record.former))

    def _note_witness(self, process: bytes, peers: Iterable[bytes]) -> None:
        """What the replayed actors it had lines to have told it, its next process knows."""
        if process in self._hosts:
            for peer in peers:
                other = self.actors.get(self._hosts.get(peer, b""))
                if other is not None:
                    other.witnesses[process] = None

    def on_checkpoint(self, process: bytes, message: Checkpoint, looks: bool = False) -> bool:
        """An actor has written a checkpoint; whether it is to be kept.

        Not when it comes from a process that is not the actor's any more. `looks`: later ones in
        this memory need not be told, since `restore` finds them.
        """
        record = self.actors.get(message.actor)
        if record is None or record.process != process or record.state == "dead":
            return False
        record.checkpoint, record.former = message, []
        self._edge.send(process, CheckpointKept(message.actor, message.number, looks))
        return True

    def on_reported(self, process: bytes, message: ActorChanged) -> None:
        """The worker says that the constructor returned, or raised."""
        record = self.actors.get(message.id)
        if record is None or record.process != process:
            return
        if message.state == "alive":
            record.state = "alive"
            self._tell(record)
        else:
            record.failure = message.failure
            record.cause = message.cause or "its constructor raised"
            self._die(record)

    def on_process_died(
        self,
        process: bytes,
        pid: int,
        cause: str,
        peers: Iterable[bytes] = (),
        *,
        now: float = 0.0,
        memory: bool = False,
        words: list[str] | None = None,
    ) -> None:
        """A process is gone: the actor in it dies or is restarted; actors it created die.

        `peers` are the processes that had a line to it. `memory`: the memory watch stopped it.
        `words` are its last lines on stderr.
        """
        actor = self._by_process.pop(process, None)
        if actor is not None:
            record = self.actors[actor]
            record.witnesses.update(dict.fromkeys(peers))
            self._note_witness(process, record.witnesses)
            if process in self._hosts:
                record.former.append(process)
            self._actor_process_died(record, pid, cause, now, memory, words or [])
        self._dead_processes[process] = f"its creator (pid {pid}) {cause}"
        if len(self._dead_processes) > _TOMBS_KEPT:
            del self._dead_processes[next(iter(self._dead_processes))]
        for early in [one for one in self._early if owner_of(one) == process]:
            for watcher in self._early.pop(early):
                self._tell_dead(watcher, early, self._dead_processes[process])
        goes_on = process in self._hosts  # its actor does, elsewhere, with what it knows of others
        for record in list(self.actors.values()):
            watched = record.watchers.pop(process, True) is None
            if not goes_on:
                record.witnesses.pop(process, None)
            elif watched:
                record.witnesses[process] = None
            detached = record.create.options.get("lifetime") == "detached"
            if owner_of(record.create.id) == process and not detached:
                self.kill(record.create.id, True, f"its creator (pid {pid}) {cause}")

        self._release_names(
            lambda named: owner_of(named) == process and named not in self.actors
        )

    def _release_names(self, which: Callable[[bytes], bool]) -> None:
        """Give up names that were reserved for actors which will never come."""
        for key in [key for key, actor in self.names.items() if which(actor)]:
            self._reserved.pop(self.names.pop(key), None)

    def _actor_process_died(
        self, record: ActorRecord, pid: int, cause: str, now: float, memory: bool, words: list[str]
    ) -> None:
        if record.state == "dead":
            return
        config, deaths = self._config, record.deaths
        if deaths is None:
            deaths = Deaths(config.restart_deaths_max, config.restart_window_seconds)
            record.deaths = deaths
        if not record.why_killed:  # somebody's `kill` says nothing against the actor
            deaths.add(now, pid, cause)
        record.cause = f"{record.why_killed or cause} (pid {pid})"
        poison = record.restarts_left != 0 and not record.why_killed and deaths.too_many(now)
        if record.restarts_left == 0 or poison:
            text = f"actor {record.title} {record.cause}"
            if poison:
                text += f"; {deaths.limit_text()}"
            if deaths.count > 1:
                text += f". It {deaths.story()}"
            kind = "ActorOutOfMemoryError" if memory else "ActorDiedError"
            record.failure = encode_failure(kind, text, quote(words))
            self._die(record)
            return
        record.restarts_left -= record.restarts_left > 0
        record.create.restarts += 1
        record.state, record.process, record.why_killed = "restarting", b"", ""
        self._tell(record)
        if memory:  # it is short: not at once
            deaths.by_memory += 1
            first, longest = config.memory_backoff_seconds, config.memory_backoff_seconds_max
            self._delayed.append((now + backoff(deaths.by_memory, first, longest), record))
        else:
            self._edge.place(record)

    def on_node_died(self, number: int, cause: str, now: float) -> None:
        """All processes of a node are gone, and nobody can say to whom these had lines.

        Who called an actor there has asked for it, so it is a watcher; and whom it has called it
        has asked for itself.
        """
        lost = self.processes_of(number)
        last = {actor: process for process, actor in self._hosts.items()}
        called: dict[bytes, list[bytes]] = {one: [] for one in lost if one in self._by_process}
        for actor, record in self.actors.items():
            host = record.process or last.get(actor, b"")
            for process in record.watchers if host else ():
                if process in called:
                    called[process].append(host)
        for process in lost:
            self.on_process_died(process, 0, cause, called.get(process, ()), now=now)

    def processes_of(self, number: int) -> list[bytes]:
        """All processes of a node that matter here, in order of their ids."""
        found = {*self._by_process, *self._hosts, *map(owner_of, self._early)}
        found.update(map(owner_of, self._reserved))
        for record in self.actors.values():
            if record.state != "dead":
                found.update(record.watchers, record.witnesses)
                found.add(owner_of(record.create.id))
        return sorted(one for one in found if node_of(one) == number)

    def tick(self, now: float) -> float | None:
        """Place actors that have waited for long enough; returns the time of the next look."""
        due = [record for when, record in self._delayed if when <= now]
        self._delayed = [one for one in self._delayed if one[0] > now]
        for record in due:
            if record.state == "restarting":
                self._edge.place(record)
        return min((when for when, _record in self._delayed), default=None)

    def _die(self, record: ActorRecord) -> None:
        if record.state in ("pending", "restarting"):
            self._edge.unplace(record)
        process = record.process
        record.state = "dead"
        record.create.blob = record.create.args = b""
        record.create.buffers = record.create.deps = record.create.large = None
        if record.checkpoint is not None:
            record.checkpoint = None
            self._edge.drop_checkpoint(record.create.id)
        self._free_name(record)
        self._tell(record)
        if process and process in self._by_process:
            del self._by_process[process]
            self._edge.kill(process, record.cause)
        self.on_dead(record)
        self._bury(record.create.id)

    def _free_name(self, record: ActorRecord) -> None:
        if record.name is not None and self.names.get(record.name) == record.create.id:
            del self.names[record.name]

    def _bury(self, actor: bytes) -> None:
        """Keep the last dead actors in full and of older ones the fact that they are dead."""
        self._dead.append(actor)
        if len(self._dead) > _DEAD_KEPT:
            oldest = self._dead.popleft()
            del self.actors[oldest]
            self._entomb(oldest, "died long ago")

    def _entomb(self, actor: bytes, cause: str) -> None:
        self._tombs[actor] = cause
        if len(self._tombs) > _TOMBS_KEPT:
            del self._tombs[next(iter(self._tombs))]

    def _never(self, actor: bytes, cause: str) -> None:
        """An actor ends before its creation has come, if that ever comes."""
        if actor not in self._tombs:
            self._entomb(actor, cause)
            self._release_names(lambda named: named == actor)
            for watcher in self._early.pop(actor, ()):
                self._tell_dead(watcher, actor, cause)

    def kill(self, actor: bytes, no_restart: bool, cause: str) -> None:
        """End an actor at once."""
        record = self.actors.get(actor)
        if record is None:
            if no_restart:
                self._never(actor, cause)
            return
        if record.state == "dead":
            return
        if no_restart:
            record.restarts_left = 0
            self._free_name(record)  # at once: who asks next may want it for another
        record.why_killed = cause
        if record.process:
            self._edge.kill(record.process, cause)
        elif no_restart:
            record.cause = cause
            record.failure = encode_failure("ActorDiedError", f"actor {record.title} {cause}")
            self._die(record)

    def fail(self, actor: bytes, kind: str, text: str) -> None:
        """An actor cannot be, or not remain, where it was to run: it is dead, with this error."""
        record = self.actors.get(actor)
        if record is None or record.state == "dead":
            return
        record.restarts_left = 0
        record.cause = text
        record.failure = encode_failure(kind, f"actor {record.title}: {text}")
        self._die(record)

    def end(self, actor: bytes, cause: str) -> None:
        """End an actor after what it has queued; nobody holds a handle any more."""
        record = self.actors.get(actor)
        if record is None:
            self._never(actor, cause)
            return
        if record.state == "dead":
            return
        record.restarts_left = 0
        record.why_killed = cause
        if record.state == "alive":
            self._edge.send(record.process, KillActor(actor, True, True, cause))
        else:
            self.kill(actor, True, cause)

    # ------------------------------------------------------------------ watching

    def on_lookup(self, process: bytes, actor: bytes) -> None:
        """A process wants to know the state of an actor, now and whenever it changes."""
        record = self.actors.get(actor)
        if record is None and actor in self._tombs:
            self._tell_dead(process, actor, self._tombs[actor])
            return
        if record is None and owner_of(actor) in self._dead_processes:
            self._tell_dead(process, actor, self._dead_processes[owner_of(actor)])
            return
        if record is None:
            # A handle can overtake the creation when it travels through a third process.
            self._early.setdefault(actor, {})[process] = None
            return
        record.watchers[process] = None
        if record.state in ("alive", "dead"):
            self._tell_one(record, process)

    def _tell_dead(self, process: bytes, actor: bytes, cause: str) -> None:
        failure = encode_failure("ActorDiedError", f"actor {short(actor)}: {cause}")
        self._edge.send(process, ActorChanged(actor, "dead", b"", cause, failure))

    def _tell(self, record: ActorRecord) -> None:
        for process in record.watchers:
            self._tell_one(record, process)

    def _tell_one(self, record: ActorRecord, process: bytes) -> None:
        if record.state == "alive":
            self._edge.connect(process, record.process)
        failure = record.failure if record.state == "dead" else None
        assert failure is None or failure.error != ERROR_NONE
        changed = ActorChanged(
            record.create.id, record.state, record.process, record.cause, failure
        )
        self._edge.send(process, changed)
