"""The edge of a process that submits work: around the real owner machine, in virtual time.

Mirrors `runtime.client`, `runtime.waiting` and what matters of `runtime.reactor` (`requests`,
`values` and `spilling` have the rest); names are the same, so that a change there finds its place
here.

User code is a generator on the process's one main thread. It yields a float (it computes so long
and looks at no socket) or a pair (ready, deadline): it waits, and serves the sockets meanwhile.
While it computes, the service thread looks at the sockets once it has been away for two ticks.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.core.control import (
    ActorChanged,
    Attach,
    Census,
    CensusReply,
    Connect,
    Gather,
    Gathered,
    MemoryEased,
    NodeLost,
    Peer,
    Piece,
    ReleaseSegments,
    Reply,
    Restore,
    SegmentDropped,
    Waiting,
    WorkerDied,
)
from engine.core.dispatch import Task
from engine.core.ids import IdSource, node_of
from engine.core.messages import BorrowAck, ReplayAsk
from engine.core.owner import Owner
from engine.core.values import ERROR_USER, Block, Value
from tests.sim.member import Killed, Steps, Violation
from tests.sim.network import End
from tests.sim.references import Handle, Ref, decoder_of
from tests.sim.requests import Requests
from tests.sim.spilling import Spilling
from tests.sim.values import Values

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Interrupted", "Process"]


class Interrupted(BaseException):
    """KeyboardInterrupt: the call that runs was cancelled."""


class Process(Requests):
    """A driver, or the part of a worker that is not about executing."""

    kind = "driver"

    def __init__(self, world: World, process: bytes, pid: int, node: bytes) -> None:
        super().__init__(world, process, pid)
        self.node = node
        self.config = world.config
        self.ids = IdSource(process)
        self.released: deque[bytes] = deque()
        self.dropped_streams: deque[bytes] = deque()
        self.escaped: dict[bytes, Any] = {}
        self.decode = decoder_of(self)
        self.unseen: deque[bytes] = deque()
        self.values = Values(self)
        self._connecting: dict[bytes, list[Any]] = {}
        self.after_turn: deque[Callable[[], None]] = deque()
        self.owner = Owner(
            self.ids, node, world.config,
            send=self.send,
            free=self.values.free,
            make_refs=lambda ids: [self.adopt(one) for one in ids],
            definition=world.definitions.__getitem__,
            retry=self._retry_exception,
        )  # fmt: skip
        self.owner.objects.spill.number = world.number_of(process)
        self.spilling = Spilling(self)
        self.inside_engine = 0  # code of the engine computes: no signal interrupts it
        self.running: tuple[bytes, Any] | None = None  # the call whose code runs here
        self.cancelled: dict[bytes, None] = {}  # calls that run and that nobody wants any more
        self.restoring: Restore | None = None
        self.cause = ""  # of its death
        self.watched = False  # the node will hear of its death
        self.main: Steps | None = None
        self.result: Any = None
        self._waiting: Callable[[], bool] | None = None
        self._busy = False
        self._serving = False
        self._thrown = False  # the main thread is to be interrupted
        self._alone = False  # the service thread serves
        self._ticks_busy = 0
        self._turn = 0  # numbers the yields of the main thread: later wake-ups are for nobody
        self._phase = world.draw.random() * world.config.service_tick_seconds
        self._tick_armed = False
        self._next_look = 0.0
        self._look_due = False

    # ------------------------------------------------------------------ main thread

    def start(self, main: Steps) -> None:
        """Begin to run."""
        self.main = main
        self._resume(None)

    def _resume(self, value: Any, error: type[BaseException] | None = None) -> None:
        """Run the main thread until it computes, or waits for what is not there yet."""
        self._waiting, self._busy, self._alone = None, False, False
        self._turn += 1
        main = self.main
        assert main is not None
        try:
            while True:
                self.main = None  # nobody may enter it while it runs
                wish = main.throw(error) if error is not None else main.send(value)
                error = None
                if type(wish) is float:
                    self.main = main
                    self._compute(wish)
                    return
                self.main = main  # a turn may kill this process
                value = self._wait_until(*wish)
                if value is None:
                    return
                if self._thrown:
                    self._thrown, error = False, Interrupted
        except StopIteration as end:
            self.result = end.value
            self.on_main_ended()
        except Killed:
            del main  # unwound; references die with nobody told

    def _compute(self, seconds: float) -> None:
        clock = self.world.clock
        self._busy, self._ticks_busy = True, 0
        clock.after(seconds, self._computed, self._turn)
        if clock.now + seconds > self._next_tick():
            self.arm_tick()

    def _computed(self, turn: int) -> None:
        if not self.alive or turn != self._turn:
            return
        if self.frozen():
            self.world.clock.at(self.frozen_until, self._computed, turn)
            return
        try:
            self.world.faults.at_point(self, "while running")
        except Killed:  # by the fault just drawn
            return
        self._resume(None)

    def _wait_until(self, ready: Callable[[], bool], deadline: float | None) -> bool | None:
        """As `Reactor.wait_until`. None when there is nothing to do but wait."""
        clock = self.world.clock
        while not ready():
            self.flush()
            if self.noted or self._look_due or self.after_turn:
                self.serve()
                if self._thrown:
                    return False
                continue
            if deadline is not None and deadline <= clock.now:
                return ready()
            self._waiting = ready
            if deadline is not None:
                clock.at(deadline, self._deadline, self._turn)
            return None
        return True

    def _deadline(self, turn: int) -> None:
        if not self.alive or turn != self._turn or self._waiting is None:
            return
        if self.frozen():
            self.world.clock.at(self.frozen_until, self._deadline, turn)
            return
        self._resume(self._waiting())

    def poke(self) -> None:
        """Take a turn at the sockets, if any thread waits there."""
        serves = self._waiting is not None or self._alone or self.spilling.waits()
        if self.frozen() or self._serving or not serves:
            return
        self._serving = True
        try:
            self.serve()
            while self.noted:  # a line was attached on which something had come already
                self.serve()
        except Killed:
            return
        finally:
            self._serving = False
        waiting = self._waiting
        if self._thrown and waiting is not None:
            self._thrown = False
            self._resume(None, Interrupted)
        elif waiting is not None and waiting():
            self._resume(True)
        else:
            self.flush()

    def serve(self) -> None:
        """One turn."""
        self.world.faults.at_point(self, "before reading")
        super().serve()
        if self._look_due:
            self._look()
        while self.after_turn:
            self.after_turn.popleft()()
        self.spilling.look()

    def interrupt(self) -> None:
        """Raise Interrupted in the user's code, where it waits or while it computes."""
        if self._busy:
            self.world.clock.after(0.0, self._interrupt_busy, self._turn)
        else:
            self._thrown = True

    def _interrupt_busy(self, turn: int) -> None:
        if self.alive and self._busy and turn == self._turn and not self.frozen():
            self._resume(None, Interrupted)

    def forget(self) -> None:
        """It is dead: what it held is nobody's business any more."""
        self.owner.objects.entries.clear()
        self.owner.streams.streams.clear()
        self.released.clear()
        self.spilling.stop()

    def on_main_ended(self) -> None:
        """The main thread has returned."""
        raise AssertionError("a driver serves for ever")

    def thaw(self) -> None:
        """Go on after a stop."""
        if self.alive and (self.noted or self._look_due or self.after_turn):
            self.poke()

    # ------------------------------------------------------------------ service thread

    def _next_tick(self) -> float:
        period = self.config.service_tick_seconds
        passed = int((self.world.clock.now + self._phase) / period + 1e-6)
        return (passed + 1) * period - self._phase

    def arm_tick(self) -> None:
        """See to it that the service thread looks at its next tick."""
        if not self._tick_armed:
            self._tick_armed = True
            self.world.clock.at(self._next_tick(), self._tick)

    def _tick(self) -> None:
        self._tick_armed = False
        if not self.alive:
            return
        if self.frozen():
            self.arm_tick()
            return
        self.flush()
        self.on_service_tick()
        if self._busy:
            self._ticks_busy += 1
            if self._ticks_busy >= 2 and not self._alone:
                self._alone = True
                self.poke()
        if self.alive and (self._busy or self.wants_tick()):
            self.arm_tick()

    def on_service_tick(self) -> None:
        """What a worker does at each tick."""

    def wants_tick(self) -> bool:
        """Whether a worker has something to look after while its main thread waits."""
        return False

    def look_at_leases(self) -> None:
        """As `Runtime._look_at_leases`."""
        if not self._next_look:
            self._look_at(self.world.clock.now + self.config.lease_idle_seconds)

    def _look_at(self, when: float) -> None:
        self._next_look = when
        self.world.clock.at(when, self._look_now, when)

    def _look_now(self, when: float) -> None:
        if self.alive and self._next_look == when:
            self._look_due = True
            self.poke()

    def _look(self) -> None:
        """As `Runtime._on_tick`."""
        self._look_due, self._next_look = False, 0.0
        self.drain()
        following = self.owner.tick(self.world.clock.now)
        if following is not None:
            self._look_at(following)

    # ------------------------------------------------------------------ messages

    def send(self, peer: bytes, message: Any) -> None:
        """As `Runtime.send`."""
        if not self.alive:
            return
        end = self.connections.get(peer)
        if end is not None:
            self.post(end, message)
        elif peer == self.id:
            self.after_turn.append(lambda: self._to_self(message))
            self.kick()
        elif self.owner.is_dead(peer):
            self.world.mark("heard of the dead again")
            self.after_turn.append(lambda: self._died_before(peer))
            self.kick()
        elif self.node_alive:
            waiting = self._connecting.get(peer)
            if waiting is None:
                self._connecting[peer] = [message]
                self.post(self.connections[self.node], Connect(peer))
            else:
                waiting.append(message)

    def _died_before(self, peer: bytes) -> None:
        self.owner.died_before(peer)
        self.drain()

    def _to_self(self, message: Any) -> None:
        self._handle(self.id, message)
        self.drain()

    def kick(self) -> None:
        """As `Reactor.kick`."""
        self.world.clock.after(0.0, self._kicked)

    def _kicked(self) -> None:
        if self.alive and self.after_turn:
            self.poke()

    def wake(self) -> None:
        """A thread that waits may go on, though nothing has come."""
        self.world.clock.after(0.0, lambda: self.alive and self.poke())

    def on_messages(self, end: End, messages: list[Any]) -> None:
        """As `Runtime._on_messages`."""
        at_node = end.peer == self.node
        for message in messages:
            if not (at_node and self._on_control(end, message)):
                self._handle(end.peer, message)
        if self.released:
            self.drain()
        if self.owner.dispatch.leases:
            self.look_at_leases()

    def _handle(self, peer: bytes, message: Any) -> None:
        if type(message) is BorrowAck and not message.known and message.id in self.escaped:
            self.world.on_freed_early(message.id)
        if type(message) is ReplayAsk:
            self.world.faults.at_point(self, "asked for the order", 10)
        if type(message) in (WorkerDied, NodeLost):
            self.world.on_told_of_death(self.owner, message)
        if not self.owner.handle(peer, message, self.world.clock.now):
            self.unclaimed(peer, message)

    def unclaimed(self, peer: bytes, message: Any) -> None:
        """A message that is none of the owner's business."""
        raise Violation(f"a {self.kind} cannot handle {message!r}")

    def _on_control(self, end: End, message: Any) -> bool:
        kind = type(message)
        if kind is Peer:
            self._on_peer(message)
        elif kind is Attach:
            self._on_answer(message)
        elif kind is Reply:
            self.values.pieces.pop(message.number, None)  # its node died before the last one
            self._on_reply(message)
        elif kind is SegmentDropped:
            self.values.drop_mappings(message.segments)
        elif kind is ReleaseSegments:
            self.spilling.on_release(message)
            self.world.network.flush(end)
        elif kind is Restore:
            self.restoring = message
        elif kind is MemoryEased:
            self.spilling.on_eased()
        elif kind is Waiting:
            self.world.mark("warned of a wait")
        elif kind is Gather:
            self.post(end, Gathered(message.number, [self.id.hex()]))
        elif kind is Census:
            blocks = self.owner.objects.blocks_in(set(message.segments), message.node)
            self.post(end, CensusReply(message.segments, blocks, message.node))
        elif kind is Piece:
            if (whole := self.values.on_piece(message)) is not None:
                self._on_answer(whole)
        else:
            if kind is WorkerDied:
                self._hear_out(message.process)
            elif kind is ActorChanged and message.state != "alive":
                client = self.owner.callers.actors.get(message.id)
                self._hear_out(b"" if client is None else client.process)
            elif kind is NodeLost:
                for peer in [*self.connections, *self._connecting]:
                    if node_of(peer) == message.number:
                        self._hear_out(peer)
                        self._connecting.pop(peer, None)
            return False
        return True

    def _hear_out(self, process: bytes) -> None:
        end = self.connections.get(process)
        if end is not None and end.other.closed:  # what it has written is here: it is dead
            self.world.network.hurry(end.other)
            self.on_messages(end, self.world.network.read(end))

    def _on_peer(self, message: Peer) -> None:
        waiting = self._connecting.pop(message.process, [])
        if not message.alive:
            return
        end = self.world.network.ends[self.id, message.process]
        self.open(end)
        for queued in waiting:
            self.post(end, queued)

    def on_closed(self, end: End) -> None:
        """As `Runtime._on_closed`."""
        if self.connections.get(end.peer) is end:
            del self.connections[end.peer]
        self.dirty.pop(end, None)
        if end.peer == self.node:
            self.node_alive = False
            self.owner.node_died("is gone")
            return
        if self.owner.is_dead(end.peer):
            self.owner.died_before(end.peer)
        self.on_peer_gone(end.peer)

    def on_peer_gone(self, peer: bytes) -> None:
        """What a worker does when a caller's line closes."""

    def drain(self) -> None:
        """As `Runtime.drain`."""
        self.note_unseen()
        while self.dropped_streams:
            self.owner.drop_stream(self.dropped_streams.popleft())
        while self.released:
            self.owner.objects.release(self.released.popleft())

    def settle(self) -> None:
        """As `Runtime.settle`."""
        if self.released:
            self.drain()

    def look(self, object_id: bytes, block: Block) -> Block:
        """As `Runtime._look`."""
        self.note_unseen()
        return self.owner.spill.look(object_id, block)

    def note_unseen(self) -> None:
        """As `Runtime._note_unseen`."""
        while self.unseen:
            self.owner.spill.unuse(self.unseen.popleft())

    def before_memory_wait(self) -> None:
        """As `Runtime._before_memory_wait`."""

    def inside(self, steps: Steps) -> Steps:
        """Code of the engine that computes on the main thread."""
        self.inside_engine += 1
        try:
            return (yield from steps)
        finally:
            self.inside_engine -= 1

    def _retry_exception(self, task: Task, value: Value) -> bool:
        if task.retry_exceptions and task.retries != 0 and value.error == ERROR_USER:
            self.world.on_raised(task.id)
            return True
        return False

    # ------------------------------------------------------------------ references

    def adopt(self, object_id: bytes) -> Ref:
        """As `engine.store.refs.adopt`."""
        note = self.escaped.get(object_id)
        ref = note() if note is not None else None
        if ref is None:
            self.owner.objects.hold(object_id)
            ref = Ref(self, object_id)
            ref.tracked = True
            self.escaped[object_id] = weakref.ref(ref)
        return ref

    def adopt_handle(self, actor: bytes, name: str, retries: int, replayed: bool) -> Handle:
        """As `engine.actor._rebuild`."""
        ref = self.adopt(actor)
        client = self.owner.callers.client(actor, name, True, replayed)
        return Handle(ref, client, retries)
