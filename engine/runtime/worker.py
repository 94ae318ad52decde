"""The worker process: takes calls from its sockets, runs them, answers.

The main thread does all of it, so nothing is handed between threads on the path of a call. While
user code runs long, the service thread of the reactor hears what cannot wait: calls to be given
back, cancellation, the end.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import socket
import sys
from collections import deque
from threading import current_thread, main_thread
from time import perf_counter
from typing import Any

import msgspec

from engine.config import Config
from engine.core.control import (
    ActorChanged,
    Assigned,
    CheckpointKept,
    CreateActor,
    Hello,
    Kept,
    KillActor,
    Leaving,
    Retire,
    Stop,
    Welcome,
)
from engine.core.ids import owner_of
from engine.core.messages import (
    ActorCall,
    Call,
    Cancel,
    ChannelFrame,
    Consumed,
    Define,
    Dependencies,
    Holding,
    Recall,
    ReplayOffer,
    Returned,
    Settled,
)
from engine.runtime import client
from engine.runtime.cancelling import Cancelling
from engine.runtime.client import Runtime
from engine.runtime.concurrency import Groups, concurrency_of
from engine.runtime.environments import set_up
from engine.runtime.events import describe
from engine.runtime.execution import Execution
from engine.runtime.notebook import Notebook
from engine.runtime.replay import Replay
from engine.wire.connection import Connection, ConnectionClosed

__all__ = ["Worker", "current_worker", "main"]

# Messages that wait for their turn between calls.
_QUEUED = {KillActor, Retire, ReplayOffer}
# Replies wait for company at most this long while more calls are queued.
_REPLY_SECONDS = 200e-6
_worker: Worker | None = None


def current_worker() -> Worker | None:
    """The worker of this process; None in a driver."""
    return _worker


class Worker:
    """Queue and loop of one worker process."""

    def __init__(self, runtime: Runtime, notebook: Notebook) -> None:
        self.runtime = runtime
        self.notebook = notebook
        self.queue: deque[tuple[bytes, Any]] = deque()
        self.execution = Execution(runtime)
        self.stopping: str | None = None
        self.channel: Any = None  # a topology's member, when this worker runs one
        self.replay: Replay | None = None
        self.cancelling = Cancelling(self)
        self.concurrent: Groups | None = None  # of an actor that runs several calls at a time
        self.running: tuple[bytes, Any] | None = None  # on the main thread
        self._seen_running: tuple[bytes, Any] | None = None  # what ran at the last tick
        self._leaving = False  # has run as many calls as it may
        self._lingering = False  # ends as soon as nobody needs what it owns
        runtime.unclaimed = self.on_message
        runtime.before_block = self._give_back_all
        runtime.on_peer_gone = self._on_peer_gone
        self.execution.describe = notebook.describe
        runtime.views.executing = self._executing
        runtime.views.name_of = self.execution.name_of

    # ------------------------------------------------------------------ messages (locked)

    def on_message(self, peer: bytes, message: Any) -> None:
        """A message for an executor, under the lock, on whichever thread serves."""
        kind = type(message)
        if kind is Call or kind is CreateActor:
            self.queue.append((peer, message))
        elif kind is ActorCall:
            if message.caller:
                self.runtime.owner.callers.on_received(message)
                if self.replay is not None and self.replay.on_repeated(peer, message):
                    return
            if message.details is not None and message.details.group:
                self._on_group_call(peer, message)
            else:
                self.queue.append((peer, message))
        elif kind is Dependencies:
            self.execution.parts.setdefault(message.id, []).extend(message.deps)
        elif kind is ChannelFrame:
            if self.channel is not None:
                self.channel.receive(peer, message)
        elif kind is Define:
            self.execution.blobs[message.key] = message.blob
        elif kind is Recall:
            self._give_back(peer, message.count)
        elif kind is Cancel:
            self.cancelling.on_cancel(message)
        elif kind is Consumed:
            self._on_consumed(message)
            if self.concurrent is not None:
                self.concurrent.on_consumed()
        elif kind is Settled:
            self.execution.on_settled(message.id)
        elif kind is Assigned:
            self.execution.assign(message)
        elif kind in _QUEUED:
            self.queue.append((peer, message))
        elif kind is Holding or kind is CheckpointKept:
            if self.replay is not None:
                self.replay.on_progress(message)
                self.queue.append((peer, message))
        elif kind is Stop:
            self.stopping = message.reason
            if self.running is not None or current_thread() is not main_thread():
                # User code runs and there is nobody to wait for: the node is going away.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        else:
            raise AssertionError(f"a worker cannot handle {message!r}")

    def _on_group_call(self, peer: bytes, call: ActorCall) -> None:
        pools = self.concurrent
        if pools is not None and pools.loop is not None and not call.caller:
            pools.start(peer, call)  # its own loop takes it, also while the main one is blocked
        else:
            self.queue.append((peer, call))

    def _on_consumed(self, message: Consumed) -> None:
        if message.id in self.execution.consumed:
            self.execution.consumed[message.id] = message.count
            return
        calls = [call for _, call in self.queue]
        if self.running is not None:
            calls.append(self.running[1])
        for call in calls:  # else the generator has ended: there is nothing to tell it
            if getattr(call, "id", None) == message.id and call.details is not None:
                call.details.window = 0  # it has yet to yield: its consumer waits for the end only

    def _give_back(self, peer: bytes, count: int) -> None:
        ids, kept = [], []
        while self.queue and count > 0:
            item = self.queue.pop()
            if item[0] == peer and type(item[1]) is Call:
                ids.append(item[1].id)
                self.execution.parts.pop(item[1].id, None)
                count -= 1
            else:
                kept.append(item)
        self.queue.extend(reversed(kept))
        ids.reverse()
        connection = self.runtime.connections.get(peer)
        if connection is not None:
            self.runtime.reactor.send(connection, Returned(ids), True)

    def _give_back_all(self) -> None:
        """Before this worker blocks: nobody else's task may wait behind the one that waits."""
        for peer in {peer for peer, message in self.queue if type(message) is Call}:
            self._give_back(peer, len(self.queue))

    def _on_tick(self) -> None:
        """Every few milliseconds, on the service thread."""
        self.cancelling.on_tick()
        running = self.running
        if running is not None and running is self._seen_running and self.queue:
            with self.runtime.lock:  # nobody's task may wait behind one that takes so long
                self._give_back_all()
        self._seen_running = running

    def _on_peer_gone(self, peer: bytes) -> None:
        self.execution.on_peer_gone(peer)
        if self.channel is not None:
            self.channel.on_peer_gone(peer)
        if self.runtime.aside is not None:
            _without(self.runtime.aside.items, peer)
        _without(self.queue, peer)

    # ------------------------------------------------------------------ loop

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        reactor = self.runtime.reactor
        signal.signal(signal.SIGINT, self.cancelling.on_signal)
        reactor.on_service_tick = self._on_tick
        reactor.start_service()
        queue = self.queue
        last_flush = perf_counter()
        while self.stopping is None:
            if queue:
                self._next()
                now = perf_counter()
                if not queue or now - last_flush > _REPLY_SECONDS:
                    last_flush = now
                    with reactor.lock:
                        reactor.flush()
                continue
            # What a call that failed has held dies with its error, after the answer was sent.
            self.runtime.settle()
            channel = self.channel
            if channel is not None and channel.step():
                continue
            concurrent = self.concurrent
            if channel is not None:
                reactor.wait_until(self._has_work, channel.next_wake())
            elif self.replay is not None and self.replay.wakes and concurrent is None:
                if not reactor.wait_until(self._has_work, self.replay.next_wake()):
                    self.replay.on_time()
            elif concurrent is not None:
                reactor.wait_until(self._has_work, concurrent.next_wake())
                concurrent.look()
            else:
                reactor.wait_until(self._has_work)
            last_flush = perf_counter()
        return 0

    def _has_work(self) -> bool:
        if self.queue or self.stopping is not None:
            return True
        if self._lingering and not self._is_needed():
            self.stopping = "ran as many calls as it may"
            return True
        return self.channel is not None and self.channel.has_work()

    def _next(self) -> None:
        try:
            item = self.queue.popleft()
        except IndexError:  # given back by the service thread meanwhile
            return
        peer, message = item
        if type(message) is CreateActor:
            self._create(message)
        elif type(message) is KillActor:
            atexit._run_exitfuncs()
            self.execution.leave_records()
            self.stopping = message.cause
        elif type(message) is Retire:
            self._retire()
        elif type(message) is Leaving:
            self._leave()
        elif type(message) is ActorCall:
            if self.replay is None and message.caller:  # an actor that may repeat its calls
                self.replay = self.execution.replay = Replay(self, message.actor, None)
            if self.replay is not None:
                self.replay.take(peer, message)
            else:
                self.run_call(peer, message)
        elif type(message) is Call:
            self.run_call(peer, message)
        elif self.replay is not None:
            self.replay.on_message(peer, message)

    def run_call(self, peer: bytes, call: Call | ActorCall) -> None:
        """Run a call, or start it when several run at a time."""
        if self.concurrent is not None:
            self.concurrent.start(peer, call)
            return
        self.running = peer, call
        self.notebook.start(call.id)
        try:
            self.execution.run(peer, call)
        finally:
            self.notebook.stop()
            self.running = None
            if self.runtime.cancelled:
                self.runtime.cancelled.discard(call.id)

    def _executing(self) -> list[tuple[bytes, str, float]]:
        """What runs or waits here, for `engine.state`: (call, state, when it began or 0)."""
        calls: list[tuple[bytes, float]] = []
        if self.running is not None:
            calls.append((self.running[1].id, self.execution.begun))
        if self.concurrent is not None:
            calls += self.concurrent.calls()
        calls += [(one.id, 0.0) for _peer, one in list(self.queue) if type(one) is ActorCall]
        inside, found = self.runtime.waits.inside, []
        for call_id, begun in calls:
            verb = inside.get(call_id)
            state = f"RUNNING_IN_RAY_{verb.upper()}" if verb else "RUNNING"
            if not begun:
                state = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
            found.append((call_id, state, begun))
        return found

    def _retire(self) -> None:
        """End, unless objects that this process owns or borrows are still held."""
        runtime = self.runtime
        runtime.settle()
        with runtime.lock:
            if self._is_needed():
                runtime.send(runtime.node, Kept())
                self._lingering = self._leaving
                return
        self.execution.leave_records()
        self.stopping = "idle for long"

    def _is_needed(self) -> bool:
        owner = self.runtime.owner
        if owner.unfinished or self.execution.unsettled or owner.objects.unsettled:
            return True
        if owner.dispatch.leases or owner.callers.retains():
            return True
        if not self._leaving:
            return bool(owner.objects.entries)
        # What only this process refers to (a function's closure) nobody will ask for any more.
        me = self.runtime.id
        return any(
            entry.borrowers and owner_of(one) == me for one, entry in owner.objects.entries.items()
        )

    # ------------------------------------------------------------------ leaving

    def leave_soon(self) -> None:
        """After the call that runs, this worker takes no more of them, and ends."""
        self.queue.appendleft((self.runtime.id, Leaving()))

    def _leave(self) -> None:
        """Give back what has not started, and say so: the lease ends, then this process.

        The replies are out by then: the owner gives the lease back when it has all of them.
        """
        runtime = self.runtime
        with runtime.lock:
            self._leaving = True
            self._give_back_all()
            runtime.owner.dispatch.tick(math.inf)  # leases of its own: their holder must not die
            runtime.unclaimed = self._on_message_leaving
            runtime.send(runtime.node, Leaving())
            runtime.reactor.flush()

    def _on_message_leaving(self, peer: bytes, message: Any) -> None:
        self.on_message(peer, message)
        if type(message) is Call:
            self._give_back(peer, 1)

    def _create(self, create: CreateActor) -> None:
        execution = self.execution
        self.running = (b"", create)
        self.runtime.views.actor_id = create.id
        execution.begun = perf_counter()
        try:
            self._make(create)
        except SystemExit as error:
            execution.leave(error)
        except BaseException as error:  # the user's constructor: its error is the actor's death
            execution.note_created(create, describe(error))
            title = f"{create.options.get('class', 'actor')}.__init__"
            changed = ActorChanged(
                create.id, "dead", cause="its constructor raised",
                failure=execution.error_value(error, title),
            )
        else:
            execution.note_created(create, "")
            changed = ActorChanged(create.id, "alive", self.runtime.id)
            self.concurrent = concurrency_of(self, create.options)
        self.running = None
        with self.runtime.lock:
            if self.replay is not None and self.replay.checkpoints is not None:
                # Nobody may call it before it has something to be restored from.
                self.replay.checkpoints.send_behind(changed)
            else:
                self.runtime.send(self.runtime.node, changed)
            self.runtime.reactor.flush()
        if self.concurrent is not None and self.concurrent.loop is not None:
            self.concurrent.loop.run()

    def _make(self, create: CreateActor) -> None:
        every = create.options.get("checkpoint_every")
        if every is None:
            self.execution.construct(create)
            return
        self.replay = self.execution.replay = Replay(self, create.id, every)
        if create.options.get("replayable"):
            self.runtime.event = self.replay.event
        if self.runtime.restoring is None:
            self.execution.construct(create)
            self.replay.write()  # so the constructor never runs twice
        else:
            self.execution.restore(create, *self.runtime.restoring)


def _without(items: deque[tuple[bytes, Any]], peer: bytes) -> None:
    """Take out what is of a peer that is gone."""
    kept = [item for item in items if item[0] != peer]
    if len(kept) < len(items):
        items.clear()
        items.extend(kept)


def main(sock: socket.socket, process: bytes, environment: bytes = b"") -> int:
    """Join the node over `sock` and serve; returns the exit code."""
    global _worker
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hello = Connection(sock, b"", frame_max=64 << 20, passing=True)
    notebook = Notebook.create()
    problem = ""
    try:
        set_up(environment)
    except OSError as error:  # the user's paths: whoever waits for this worker is told
        problem = str(error)
    hello.send_fd(Hello(process, os.getpid(), "worker", problem), notebook.duplicate())
    sock.setblocking(True)
    hello.flush()
    if problem:
        return 1
    messages: list[Any] = []
    try:
        while not messages:
            messages = hello.receive_some()
    except ConnectionClosed:  # the node is gone before this worker has begun
        return 0
    welcome = messages[0]
    if isinstance(welcome, Stop):  # the engine ends before this worker has begun
        return 0
    assert isinstance(welcome, Welcome)
    config = msgspec.convert(welcome.info["config"], Config)
    sock.setblocking(False)
    hello.peer = welcome.node
    runtime = Runtime(process, config, welcome.node, welcome.info, environment)
    client.set_current(runtime)
    _worker = worker = Worker(runtime, notebook)
    runtime.attach(hello)
    with runtime.lock:
        runtime._on_messages(hello, messages[1:])
    return worker.run()
