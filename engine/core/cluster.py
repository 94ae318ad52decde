"""The head of several nodes: a pure function of its journal.

Who has joined, who is dead, which actor is where: all of it is the outcome of a list of events, and
so are the messages that follow. An event is written to the journal first; its answers and
acknowledgements leave with `flush`, which the edge calls once what `take` gave it is safe on disk.
So a crash of the head loses nothing that anybody has seen:

- what a node had said and the journal lacks was not acknowledged: its session says it again;
- what the head had said before it died comes of the replay once more, under the same numbers, and
  the sessions of those who have it drop it.

What is not an event is volatile: heartbeats, loads. A head that has just started gives every node
the full time before it takes it for dead. Decisions that hang on such things are events themselves
(`_Chosen`, `_Died`).

The price is one write and sync before an actor is made, shared by all that come in meanwhile; no
call and no task passes through here.

Checkpoints of actors are in the journal too. They must outlive the actor's node, and whoever makes
the actor again must have the one that its callers were told of: here "kept" is one event, and no
node that dies between two messages leaves a checkpoint that somebody counts on and nobody has. The
price is that each one passes through the head, whole.

Pure: datagrams leave through `transmit(where, datagram)`; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from engine.config import Config
from engine.core.between import (
    HEAD,
    Answer,
    Bring,
    Datagram,
    Fenced,
    Gone,
    Heartbeat,
    Join,
    Joined,
    Kill,
    NodeDown,
    NodeUp,
    NotPlaced,
    Place,
    Placed,
    Saved,
    ToNode,
    ToProcess,
    Unplace,
    View,
    decode_body,
    encode_body,
)
from engine.core.control import ActorChanged, CreateActor, KillActor, LookupActor, Restore
from engine.core.head import ActorRecord, HeadMachine
from engine.core.headstate import HeadState, dump, load
from engine.core.ids import node_of, owner_of
from engine.core.membership import Detector
from engine.core.resources import fits, to_units
from engine.core.session import Packet, Session

__all__ = ["Cluster", "Event"]


class _Entered(msgspec.Struct, array_like=True, tag=1):
    """A node has joined."""

    nonce: bytes
    where: str
    total: dict[str, int]


class _Died(msgspec.Struct, array_like=True, tag=2):
    """A node was silent for too long."""

    number: int
    cause: str
    now: float


class _Heard(msgspec.Struct, array_like=True, tag=3):
    """The next body of a node's session."""

    number: int
    body: bytes
    now: float


class _Chosen(msgspec.Struct, array_like=True, tag=4):
    """An actor is to run on this node."""

    actor: bytes
    number: int


class _Looked(msgspec.Struct, array_like=True, tag=5):
    """Time has passed: what has waited for it may go on."""

    now: float


class _Snapshot(msgspec.Struct, array_like=True, tag=6):
    """Everything so far: what came before it need not be kept."""

    count: int
    nodes: list[tuple[int, bytes, str, dict[str, int], int, int, list[bytes]]]
    homeless: list[bytes]
    homes: list[tuple[bytes, int]]
    head: HeadState
    checkpoints: list[tuple[bytes, bytes]] = []


Event = _Entered | _Died | _Heard | _Chosen | _Looked | _Snapshot


class _Node:
    __slots__ = ("committed", "nonce", "session", "total", "view", "where")

    def __init__(self, nonce: bytes, where: str, total: dict[str, int], session: Session) -> None:
        self.nonce = nonce
        self.where = where
        self.total = total
        self.session = session
        self.committed: dict[str, int] = {}  # to actors
        self.view: View | None = None


class Cluster:
    """Nodes, and through `head` actors and names, of a cluster."""

    def __init__(self, config: Config, transmit: Callable[[str, Datagram], None]) -> None:
        self._config = config
        self._transmit = transmit
        self.head = HeadMachine(self, config)
        self.head.on_dead = lambda record: self._leave(record.create.id)
        self.detector = Detector(config)
        self.nodes: dict[int, _Node] = {}  # that live
        self._count = 0  # numbers given out
        self._homeless: dict[bytes, None] = {}  # actors for which a node is to be chosen
        self._homes: dict[bytes, int] = {}  # actors -> where they are, or are being placed
        self.checkpoints: dict[bytes, bytes] = {}  # actors -> what the last one of each says
        self._fresh: list[Event] = []  # to be written
        self._answers: list[tuple[str, Datagram]] = []  # leave with `flush`

    # ------------------------------------------------------------------ the edge

    def on_datagram(self, where: str, message: Datagram, now: float) -> None:
        """Something has come from a node at `where`."""
        if isinstance(message, Packet):
            self._on_packet(where, message, now)
        elif isinstance(message, Heartbeat):
            self._on_heartbeat(where, message, now)
        elif isinstance(message, Join):
            self._on_join(where, message, now)
        self._choose(now)

    def tick(self, now: float) -> float | None:
        """Time has passed; returns when to look again."""
        limit = self._config.node_dead_seconds
        for number in self.detector.dead(now):
            self._do(_Died(number, f"was silent for {limit:g} s", now))
        if any(when <= now for when, _record in self.head._delayed):
            self._do(_Looked(now))
        self._choose(now)
        looks = [self.detector.next_look(), *(when for when, _record in self.head._delayed)]
        looks += [node.session.tick(now) for node in self.nodes.values()] if not self._fresh else []
        return min((look for look in looks if look is not None), default=None)

    def take(self) -> list[Event]:
        """What has happened since the last time, to be written and synced before `flush`."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def flush(self, now: float) -> None:
        """All that was taken is safe: what follows from it may leave."""
        answers, self._answers = self._answers, []
        for where, message in answers:
            self._transmit(where, message)
        for node in self.nodes.values():
            node.session.flush(now)

    def replay(self, events: list[Event], now: float) -> None:
        """Become what these events have made of an earlier head; then go on from there."""
        for event in events:
            self._apply(event)
        for number, node in self.nodes.items():
            self.detector.watch(number, now)
            node.session.reconnected(now)

    def snapshot(self) -> Event:
        """All of it as one event, to begin a new journal with."""
        nodes = [
            (number, one.nonce, one.where, one.total, one.session.received,
             *one.session.unacknowledged())
            for number, one in self.nodes.items()
        ]  # fmt: skip
        homeless, homes = list(self._homeless), list(self._homes.items())
        checkpoints = list(self.checkpoints.items())
        return _Snapshot(self._count, nodes, homeless, homes, dump(self.head), checkpoints)

    def state(self) -> bytes:
        """What a replay of the journal has to come to, in one piece to compare."""
        snapshot = self.snapshot()
        assert isinstance(snapshot, _Snapshot)
        # How much of what was said has been acknowledged is not written down.
        nodes = [(*one[:5], one[5] + len(one[6])) for one in snapshot.nodes]
        snapshot.nodes = nodes  # type: ignore[assignment]
        return msgspec.msgpack.encode(snapshot)

    # ------------------------------------------------------------------ what comes in

    def _on_join(self, where: str, message: Join, now: float) -> None:
        known = [number for number, one in self.nodes.items() if one.nonce == message.nonce]
        if not known:
            self._do(_Entered(message.nonce, where, message.total))
            known = [self._count]
            self.detector.watch(self._count, now)
        others = [(number, one.where) for number, one in self.nodes.items() if number != known[0]]
        self._answers.append((where, Joined(message.nonce, known[0], message.sent, others)))

    def _on_heartbeat(self, where: str, message: Heartbeat, now: float) -> None:
        if not self.detector.on_heartbeat(message.number, now):
            self._answers.append((where, Fenced(message.number)))
            return
        self.nodes[message.number].view = message.view
        views = [
            one.view
            for number, one in self.nodes.items()
            if one.view is not None and not self.detector.suspected(number, now)
        ]
        self._answers.append((where, Answer(message.number, message.sent, views)))

    def _on_packet(self, where: str, message: Packet, now: float) -> None:
        node = self.nodes.get(message.source)
        if node is None:
            self._answers.append((where, Fenced(message.source)))
            return
        before = node.session.received
        bodies = node.session.on_packet(message, now)
        node.session.received = before  # each is counted where it is applied, as in a replay
        for body in bodies:
            self._do(_Heard(message.source, body, now))

    # ------------------------------------------------------------------ events

    def _do(self, event: Event) -> None:
        self._fresh.append(event)
        self._apply(event)

    def _apply(self, event: Event) -> None:
        if isinstance(event, _Heard):
            self.nodes[event.number].session.repeat()
            self._on_body(event.number, decode_body(event.body), event.now)
        elif isinstance(event, _Chosen):
            self._settle(event.actor, event.number)
        elif isinstance(event, _Entered):
            self._count += 1
            self._enter(self._count, event.nonce, event.where, event.total)
            self._tell_all(NodeUp(self._count, event.where), but=self._count)
        elif isinstance(event, _Died):
            self._on_died(event)
        elif isinstance(event, _Looked):
            self.head.tick(event.now)
        else:
            self._restore(event)

    def _enter(self, number: int, nonce: bytes, where: str, total: dict[str, int]) -> _Node:
        def transmit(packet: Packet) -> None:
            self._transmit(where, packet)

        session = Session(HEAD, number, self._config, transmit)
        node = self.nodes[number] = _Node(nonce, where, total, session)
        return node

    def _restore(self, event: _Snapshot) -> None:
        self._count = event.count
        for number, nonce, where, total, received, acked, bodies in event.nodes:
            self._enter(number, nonce, where, total).session.resume(received, acked, bodies)
        load(self.head, event.head, self._config)
        self.checkpoints = dict(event.checkpoints)
        self._homeless = dict.fromkeys(event.homeless)
        for actor, number in event.homes:
            self._move_in(actor, number)

    def _on_died(self, event: _Died) -> None:
        del self.nodes[event.number]
        self.detector.forget(event.number)
        self._tell_all(NodeDown(event.number, event.cause))
        cause = f"was lost with its node {event.number}, which {event.cause}"
        self.head.on_node_died(event.number, cause, event.now)
        for actor in [one for one, number in self._homes.items() if number == event.number]:
            del self._homes[actor]  # it was not placed yet
            self._homeless[actor] = None

    def _on_body(self, number: int, body: Any, now: float) -> None:
        kind, head = type(body), self.head
        if kind is ToNode:
            self._on_message(body.process, body.message)
        elif kind is Gone:
            died = body.died
            head.on_process_died(
                died.process, died.pid, died.cause, body.peers, now=now,
                memory=bool(died.kind), words=died.words,
            )  # fmt: skip
        elif kind is Placed:
            if body.actor not in head.actors or not head.on_placed(
                body.actor, body.process, body.pid
            ):
                self.kill(body.process, "its actor was ended before it started")
        elif kind is Saved:
            if head.on_checkpoint(body.process, body.checkpoint):
                self.checkpoints[body.checkpoint.actor] = body.data
        elif kind is NotPlaced:
            head.fail(body.actor, body.kind, body.text)

    def _on_message(self, process: bytes, message: Any) -> None:
        kind, head = type(message), self.head
        if kind is CreateActor:
            head.on_create(process, message)
        elif kind is ActorChanged:
            head.on_reported(process, message)
        elif kind is LookupActor:
            owner = owner_of(message.id)
            if message.id not in head.actors and node_of(owner) not in self.nodes:
                head.on_process_died(owner, 0, "was lost with its node")
            head.on_lookup(process, message.id)
        elif kind is KillActor and message.graceful:
            head.end(message.id, message.cause)
        elif kind is KillActor:
            head.kill(message.id, message.no_restart, message.cause)

    # ------------------------------------------------------------------ where actors run

    def _choose(self, now: float) -> None:
        for actor in list(self._homeless):
            need = to_units(self.head.actors[actor].create.options.get("resources", {}))
            number = self._best(need, now)
            if number:
                self._do(_Chosen(actor, number))

    def _best(self, need: dict[str, int], now: float) -> int:
        """The node that has the largest share left of those that can hold one more actor; or 0.

        What actors have been promised counts, not only what a node says is free: that is old, and
        two actors that were sent to the same last place would wait for each other for ever. Tasks
        give way to actors.
        """
        able: list[tuple[bool, float, int]] = []
        for number, node in self.nodes.items():
            left = {
                name: amount - node.committed.get(name, 0) for name, amount in node.total.items()
            }
            if not fits(need, left) or self.detector.suspected(number, now):
                continue
            free = node.view is not None and fits(need, node.view.free)
            share = min(((left[name] - need[name]) / node.total[name] for name in need), default=0)
            if not need:
                share = -sum(1.0 for home in self._homes.values() if home == number)
            able.append((free, share, -number))
        return -max(able)[2] if able else 0

    def _settle(self, actor: bytes, number: int) -> None:
        del self._homeless[actor]
        self._move_in(actor, number)
        options = self.head.actors[actor].create.options
        title = f"actor {options.get('class', '')}"
        environment = options.get("environment", b"")
        unused = options.get("checkpoint_every") is not None
        need = options.get("resources", {})
        self._tell(number, Place(actor, need, environment, title, unused))

    def _move_in(self, actor: bytes, number: int) -> None:
        self._homes[actor] = number
        committed = self.nodes[number].committed
        for name, amount in self._need(actor).items():
            committed[name] = committed.get(name, 0) + amount

    def _leave(self, actor: bytes) -> None:
        """An actor is not, or no longer, where it was to run."""
        self._homeless.pop(actor, None)
        node = self.nodes.get(self._homes.pop(actor, 0))
        if node is not None:
            for name, amount in self._need(actor).items():
                node.committed[name] -= amount

    def _need(self, actor: bytes) -> dict[str, int]:
        return to_units(self.head.actors[actor].create.options.get("resources", {}))

    # ------------------------------------------------------------------ the registry's edge

    def _tell(self, number: int, body: Any) -> None:
        node = self.nodes.get(number)
        if node is not None:  # else it is dead, and whoever asks hears that
            node.session.send(encode_body(body))

    def _tell_all(self, body: Any, but: int = 0) -> None:
        for number in self.nodes:
            if number != but:
                self._tell(number, body)

    def send(self, process: bytes, message: Any) -> None:
        """A message for a process."""
        self._tell(node_of(process), ToProcess(process, message))

    def connect(self, one: bytes, other: bytes) -> None:
        """Nodes connect a caller when they pass on that its actor is alive."""

    def place(self, record: ActorRecord) -> None:
        """Choose a node for the actor."""
        self._leave(record.create.id)
        self._homeless[record.create.id] = None

    def unplace(self, record: ActorRecord) -> None:
        """The actor is dead before it had a worker."""
        number = self._homes.get(record.create.id, 0)
        self._tell(number, Unplace(record.create.id))

    def kill(self, process: bytes, cause: str) -> None:
        """Kill a worker."""
        self._tell(node_of(process), Kill(process, cause))

    def restore(self, process: bytes, message: Restore) -> None:
        """Send a worker the checkpoint of the actor that it is about to make."""
        data = self.checkpoints[message.checkpoint.actor]
        self._tell(node_of(process), Bring(process, message, data))

    def drop_checkpoint(self, actor: bytes) -> None:
        """The actor is dead."""
        del self.checkpoints[actor]
