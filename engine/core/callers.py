"""The caller's half of actors: per-caller order, and what happens when the actor dies.

A handle's calls are numbered and sent in order over one connection. While the actor is being placed
(or restarted) they queue here; a call whose arguments are pending holds back those behind it, since
order is part of the contract. The head tells every caller when the actor moves or dies.

Pure: effects leave through `send` and `fail`/`finish` of the owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from engine.core.control import ActorChanged, LookupActor
from engine.core.dispatch import Task
from engine.core.ids import short
from engine.core.values import Value, decode_failure, encode_failure

__all__ = ["ActorClient", "Callers"]


class ActorClient:
    """One actor as seen by this process."""

    __slots__ = (
        "cause",
        "failure",
        "id",
        "in_flight",
        "name",
        "process",
        "queue",
        "seq",
        "state",
    )

    def __init__(self, actor_id: bytes, name: str) -> None:
        self.id = actor_id
        self.name = name
        self.state = "pending"
        self.process = b""
        self.queue: deque[Task] = deque()
        self.in_flight: dict[bytes, Task] = {}
        self.seq = 0
        self.cause = ""
        self.failure: Value | None = None


class Callers:
    """All actors that this process calls."""

    def __init__(
        self,
        node: bytes,
        send: Callable[[bytes, Any], None],
        fail: Callable[[Task, Value], None],
    ) -> None:
        self._node = node
        self._send = send
        self._fail = fail
        self.actors: dict[bytes, ActorClient] = {}

    def client(self, actor_id: bytes, name: str, lookup: bool) -> ActorClient:
        """The record of an actor; `lookup` asks the head for it at first sight."""
        client = self.actors.get(actor_id)
        if client is None:
            client = self.actors[actor_id] = ActorClient(actor_id, name)
            if lookup:
                self._send(self._node, LookupActor(actor_id))
        return client

    def submit(self, client: ActorClient, task: Task) -> None:
        """Send a call, or queue it in order."""
        if client.state == "alive" and not client.queue and not task.missing:
            self._push(client, task)
        elif client.state == "dead":
            self._fail(task, self._death(client, task))
        else:
            client.queue.append(task)

    def advance(self, client: ActorClient) -> None:
        """Send what has become sendable (arguments arrived, actor placed)."""
        queue = client.queue
        while queue and client.state == "alive" and not queue[0].missing:
            self._push(client, queue.popleft())

    def _push(self, client: ActorClient, task: Task) -> None:
        task.call.seq = client.seq
        client.seq += 1
        client.in_flight[task.id] = task
        task.worker = client.process
        for part in task.parts:
            self._send(client.process, part)
        self._send(client.process, task.call)

    def on_changed(self, message: ActorChanged) -> None:
        """The head reports a new state."""
        client = self.actors.get(message.id)
        if client is None:
            return
        client.cause = message.cause
        if message.state == "alive":
            client.state, client.process = "alive", message.process
            client.seq = 0
            self.advance(client)
        elif message.state == "dead":
            client.state, client.failure = "dead", message.failure
            tasks = [*client.in_flight.values(), *client.queue]
            client.in_flight.clear()
            client.queue.clear()
            for task in tasks:
                self._fail(task, self._death(client, task))
            del self.actors[message.id]  # handles still have the record; others ask the head
        elif message.state == "restarting":
            self._restarting(client)

    def _restarting(self, client: ActorClient) -> None:
        client.state = "restarting"
        again = []
        for task in client.in_flight.values():
            if task.retries != 0:
                task.retries -= task.retries > 0
                again.append(task)
            else:
                text = (
                    f"{task.name} may or may not have run: its actor {client.cause} and is being "
                    "restarted. Set max_task_retries to run such calls again."
                )
                self._fail(task, encode_failure("ActorUnavailableError", text))
        client.in_flight.clear()
        client.queue.extendleft(reversed(again))

    def on_process_died(self, process: bytes) -> None:
        """The worker is gone. What follows (restart or death) is for the head to say."""
        for client in self.actors.values():
            if client.process == process and client.state == "alive":
                client.state = "lost"

    def killed(self, client: ActorClient) -> None:
        """This process has asked for the actor's end: later calls wait for what the head says."""
        if client.state == "alive":
            client.state = "lost"

    def on_done(self, actor_id: bytes, task_id: bytes) -> Task | None:
        """A reply has come; the task it answers."""
        client = self.actors.get(actor_id)
        return client.in_flight.pop(task_id, None) if client is not None else None

    def _death(self, client: ActorClient, task: Task) -> Value:
        failure = client.failure
        if failure is None:
            text = f"actor {client.name} ({short(client.id)}) is dead: {client.cause}"
            return encode_failure("ActorDiedError", f"{text}. Call: {task.name}")
        if failure.error != 2:
            return failure  # its constructor raised: every call raises the same
        made = decode_failure(failure)
        return encode_failure(made.kind, f"{made.text}. Last call from here: {task.name}")
