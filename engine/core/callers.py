"""The caller's half of actors: per-caller order, and what happens when the actor dies.

A handle's calls are numbered and sent in order over one connection. While the actor is being placed
(or restarted) they queue here; a call whose arguments are pending holds back those behind it, since
order is part of the contract, unless the actor runs several calls at a time anyway (`overtaking`):
then it stands aside until they are there. The head tells every caller when the actor moves or dies.

An actor with checkpoints is *replayed* when its process dies: its callers keep their calls until a
checkpoint covers them (`Retained`), send them again to its next process, and tell that process what
they know of the order in which they were applied (`core.order`, `core.ledger`).

Pure: effects leave through `send` and `fail`/`finish` of the owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from engine.core.control import ActorChanged, Connect, LookupActor
from engine.core.dispatch import Task
from engine.core.ids import short
from engine.core.messages import ActorCall, Cancel, Covered, Order, ReplayAsk, ReplayOffer
from engine.core.numbering import Received, Taken
from engine.core.order import OrderLog
from engine.core.retention import UNNUMBERED, Retained
from engine.core.values import Value, decode_failure, encode_failure

__all__ = ["ActorClient", "Callers"]


class ActorClient:
    """One actor as seen by this process."""

    __slots__ = (
        "aside",
        "cause",
        "failure",
        "id",
        "in_flight",
        "keep",
        "name",
        "overtaking",
        "process",
        "queue",
        "retained",
        "seq",
        "state",
    )

    def __init__(
        self, actor_id: bytes, name: str, replayed: bool = False, overtaking: bool = False
    ) -> None:
        self.retained: Retained | None = Retained() if replayed else None
        self.id = actor_id
        self.name = name
        self.overtaking = overtaking  # calls do not wait for the arguments of earlier ones
        self.state = "pending"
        self.process = b""
        self.queue: deque[Task] = deque()
        self.aside: dict[bytes, Task] = {}  # calls whose arguments are pending, if overtaking
        self.in_flight: dict[bytes, Task] = {}
        self.seq = 0
        self.cause = ""
        self.failure: Value | None = None
        self.keep: Any = None  # arguments of its constructor, which may run until it is dead

    @property
    def pending(self) -> int:
        """Calls that are not answered yet."""
        return len(self.in_flight) + len(self.queue) + len(self.aside)


class Callers:
    """All actors that this process calls."""

    def __init__(
        self,
        me: bytes,
        node: bytes,
        send: Callable[[bytes, Any], None],
        fail: Callable[[Task, Value], None],
        prepare: Callable[[Task], None],
        load: Callable[[Task], None] = lambda task: None,
        unload: Callable[[Task], None] = lambda task: None,
    ) -> None:
        self._me = me
        self._node = node
        self._send = send
        self._fail = fail
        self._prepare = prepare
        self._load = load
        self._unload = unload
        self.actors: dict[bytes, ActorClient] = {}
        # What this process knows of the order in which replayed actors have applied calls.
        self.logs: dict[bytes, OrderLog] = {}
        # Set when this process runs an actor that is replayed itself.
        self.identity = b""
        self.acked: dict[bytes, int] = {}  # by actor: answers that our own checkpoint covers
        self.numbers: dict[bytes, int] = {}  # by actor: next number, from our own checkpoint
        self.taken = Taken()  # numbers of our calls in earlier lives
        # For `ActorCall.order`; negative outside of a replay, when no call is made again.
        self.next_order: Callable[[], int] = lambda: 0
        # Set when an actor that is replayed calls the one that this process runs.
        self.received: Received | None = None
        self.is_dead: Callable[[bytes], bool] = lambda process: False  # known to this process
        self._asks: list[tuple[bytes, ReplayAsk]] = []  # wait for deaths to become known
        # Processes of actors that have ended, until their deaths are known: last words may come.
        self._ended: dict[bytes, bytes] = {}
        self.before_effect: Callable[[bytes], None] | None = None
        self.on_death: Callable[[bytes], None] | None = None
        # Processes of whose death that actor has to hear, besides those that matter here anyway.
        self.concerned: Callable[[], Iterable[bytes]] | None = None
        self.on_move: Callable[[ActorChanged], None] | None = None

    def client(
        self,
        actor_id: bytes,
        name: str,
        lookup: bool,
        replayed: bool = False,
        overtaking: bool = False,
    ) -> ActorClient:
        """The record of an actor; `lookup` asks the head for it at first sight."""
        client = self.actors.get(actor_id)
        if client is None:
            client = self.actors[actor_id] = ActorClient(actor_id, name, replayed, overtaking)
            self._count_from(client, self.numbers.pop(actor_id, 0))
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
            if self.identity:
                task.call.order = self.next_order()
            if task.missing and client.overtaking:
                client.aside[task.id] = task
            else:
                client.queue.append(task)

    def submit_again(self, client: ActorClient, task: Task) -> None:
        """A call that raised is to run again: before those behind it, which may depend on it."""
        task.worker = b""
        client.queue.appendleft(task)
        self.advance(client)

    def advance(self, client: ActorClient) -> None:
        """Send what has become sendable (arguments arrived, actor placed)."""
        queue = client.queue
        while queue and client.state == "alive" and not queue[0].missing:
            task = queue.popleft()
            self._push(client, task)
            if task.cancelled and not task.answered:  # sent again: it may have been applied before
                self._send(client.process, Cancel(task.id))

    def on_arguments(self, client: ActorClient, task: Task) -> None:
        """The arguments of a call are there."""
        if client.aside.pop(task.id, None) is not None:
            self.submit(client, task)
        else:
            self.advance(client)

    def must_go(self, task: Task) -> bool:
        """Whether a call that is not with its actor now was, and may be part of its history."""
        client: ActorClient = task.actor
        return client.retained is not None and task.call.seq >= 0

    def remove(self, client: ActorClient, task: Task) -> None:
        """A call that has not been sent is not to be; those behind it may go."""
        if client.aside.pop(task.id, None) is None and task in client.queue:
            client.queue.remove(task)
            self.advance(client)

    def _push(self, client: ActorClient, task: Task) -> None:
        if task.brings:
            self._load(task)
        call, retained = task.call, client.retained
        if self.identity or (retained is not None and call.seq != UNNUMBERED):
            self._number(client, task)
        else:  # nearly always, and worth a short way
            call.seq = client.seq
            client.seq += 1
            if retained is not None:
                retained.on_sent(task)
                call.acked = retained.answered
        client.in_flight[task.id] = task
        task.worker = client.process
        for part in task.parts:
            self._send(client.process, part)
        self._send(client.process, call)

    def _number(self, client: ActorClient, task: Task) -> None:
        """A call's number stays the same however often it is sent."""
        call, retained = task.call, client.retained
        if call.seq == UNNUMBERED:
            self._give_number(client, task)
        if self.identity:
            call.caller = self.identity
            call.acked = self.acked.get(client.id, -1)
            if self.before_effect is not None:
                self.before_effect(client.process)
        elif retained is not None:
            call.acked = retained.answered

    def _give_number(self, client: ActorClient, task: Task) -> None:
        if self.identity:
            self._place(client, task.call)
        task.call.seq = client.seq
        client.seq += 1
        if client.retained is not None:
            client.retained.on_sent(task)

    def _number_queued(self) -> None:
        """Calls that wait for their actor get their numbers, and are retained. Not behind one whose
        arguments are not there yet: the checkpoint would have to wait for these, and they may come
        of a call to us.
        """
        for client in self.actors.values():
            if client.retained is not None:
                for task in client.queue:
                    if task.missing:
                        break
                    if task.call.seq == UNNUMBERED:
                        self._give_number(client, task)

    def _place(self, client: ActorClient, call: ActorCall) -> None:
        """Say within which of our own calls it is made; its number is not one that is taken."""
        if not call.order:
            call.order = self.next_order()
        if self.taken:
            again = call.order > 0
            number = self.taken.first(client.id, call.order) if again else self.taken.end(client.id)
            self._step_over(client, number)
        call.order = abs(call.order)

    def _step_over(self, client: ActorClient, number: int) -> None:
        """Our next call has at least this number: those before it are of calls that are lost."""
        retained = client.retained
        if retained is not None and number > client.seq:
            retained.skipped.update(range(client.seq, number))
            retained.pass_over(self._log(client.id), self.identity)
        client.seq = max(client.seq, number)

    def _step_over_taken(self) -> None:
        """No call to come is one of those that are known: none of ours is left to be numbered."""
        for actor, number in self.taken.pass_all().items():
            client = self.actors.get(actor)
            if client is None:
                self.numbers[actor] = max(self.numbers.get(actor, 0), number)
            else:
                self._step_over(client, number)

    def on_received(self, call: ActorCall) -> None:
        """A replayed actor calls the one that this process runs."""
        if self.received is None:
            self.received = Received()
        if call.seq >= 0:
            self.received.note(call.actor, call.caller, call.order, call.seq, call.acked)

    def on_changed(self, message: ActorChanged) -> None:
        """The head reports a new state."""
        client = self.actors.get(message.id)
        if client is None:
            return
        client.cause = message.cause
        if message.state == "alive":
            client.state, client.process = "alive", message.process
            if client.retained is None and not self.identity:
                client.seq = 0
            self.advance(client)
        elif message.state == "dead":
            client.state, client.failure = "dead", message.failure
            client.keep = None
            tells = client.retained is not None or bool(client.in_flight)
            client.queue.extendleft(reversed(client.in_flight.values()))
            client.queue.extend(client.aside.values())
            client.in_flight.clear()
            client.aside.clear()
            while client.queue:  # the failure of one may fail others that wait for it
                task = client.queue.popleft()
                if not task.answered:
                    self._fail(task, self._death(client, task))
                elif task.brings:
                    self._unload(task)
            self.logs.pop(message.id, None)
            if client.retained is not None:
                client.retained.calls.clear()
                client.retained.tasks.clear()
            if tells and client.process and not self.is_dead(client.process):
                self._ended[client.process] = message.id
            del self.actors[message.id]  # handles still have the record; others ask the head
        elif message.state == "restarting":
            self._restarting(client)
        if self.on_move is not None:
            self.on_move(message)

    def _restarting(self, client: ActorClient) -> None:
        client.state = "restarting"
        if client.retained is not None:
            self._resend(client, client.retained)
            return
        in_flight, again = list(client.in_flight.values()), []
        client.in_flight.clear()  # what is failed here is over, and so is what it carried
        for task in in_flight:
            if task.cancelled:
                text = f"{task.name} was cancelled; its actor {client.cause} meanwhile"
                self._fail(task, encode_failure("TaskCancelledError", text))
            elif task.retries != 0:
                task.retries -= task.retries > 0
                task.attempts += 1
                task.worker = b""
                if task.brings:
                    self._unload(task)
                again.append(task)
            else:
                text = (
                    f"{task.name} may or may not have run: its actor {client.cause} and is being "
                    "restarted. Set max_task_retries to run such calls again."
                )
                self._fail(task, encode_failure("ActorUnavailableError", text))
        client.queue.extendleft(reversed(again))

    def _resend(self, client: ActorClient, retained: Retained) -> None:
        """Everything since the last checkpoint is sent again, in order."""
        pending = [*client.in_flight.values(), *client.queue]
        for task in pending:
            task.worker = b""
            if task.brings:
                self._unload(task)
        client.in_flight.clear()
        client.queue.clear()
        for task in retained.again(client.name):
            task.actor = client
            self._prepare(task)
            client.queue.append(task)
        client.queue.extend(task for task in pending if not task.answered)

    def on_process_died(self, process: bytes) -> None:
        """The worker is gone. What follows (restart or death) is for the head to say."""
        for client in self.actors.values():
            if client.process == process and client.state == "alive":
                client.state = "lost"
        if self.on_death is not None:
            self.on_death(process)
        self._ended.pop(process, None)
        asks, self._asks = self._asks, []
        for peer, message in asks:
            if not self.is_dead(peer):
                self.on_replay_ask(peer, message)

    def killed(self, client: ActorClient) -> None:
        """This process has asked for the actor's end: later calls wait for what the head says."""
        if client.state == "alive":
            client.state = "lost"

    def on_done(
        self, actor_id: bytes, task_id: bytes, applied: bool = True, late: bool = False
    ) -> Task | None:
        """A reply has come; the task it answers, unless that was answered before.

        `applied` is False for a call that was cancelled before it ran. `late`: it comes from a
        former process of the actor, and the call is with the next one, which will answer too.
        """
        client = self.actors.get(actor_id)
        if late and client is not None:
            return self._on_late(client, task_id, applied)
        task = client.in_flight.pop(task_id, None) if client is not None else None
        if task is None or client is None or client.retained is None:
            return task
        if task.answered:
            if task.brings:
                self._unload(task)
            return None
        if task.call.seq >= 0:
            retained = client.retained
            if applied:
                task.answered = True
                retained.answered = task.call.seq
            else:
                retained.on_not_applied(task)
            if retained.skipped:
                retained.pass_over(self._log(actor_id), self.identity or self._me)
        return task

    def _on_late(self, client: ActorClient, task_id: bytes, applied: bool) -> Task | None:
        """Only what is part of an order counts: it will be told of to the next process, and what
        comes behind it is numbered after it. What it carries is still read there.
        """
        retained, task = client.retained, client.in_flight.get(task_id)
        if retained is None or not applied:
            return None
        if task is None:  # it waits for the next process
            task = next((one for one in client.queue if one.id == task_id), None)
        if task is None or task.answered or task.call.seq < 0:
            return None
        task.answered = True
        retained.answered = task.call.seq
        if retained.skipped:
            retained.pass_over(self._log(client.id), self.identity or self._me)
        return task

    # ------------------------------------------------------------------ replay

    @staticmethod
    def _count_from(client: ActorClient, number: int) -> None:
        client.seq = number
        if client.retained is not None:
            client.retained.answered = client.retained.logged = number - 1

    def restore(self, numbers: dict[bytes, int], logs: dict[bytes, Any]) -> None:
        """Our calls go on with these numbers: what came before is in our checkpoint."""
        self.acked = {actor: number - 1 for actor, number in numbers.items()}
        self.numbers = dict(numbers)
        for client in self.actors.values():
            self._count_from(client, self.numbers.pop(client.id, 0))
        for actor, known in logs.items():
            self._log(actor).extend(*known)

    def retained_calls(self) -> list[tuple[ActorClient, list[tuple[ActorCall, Any]]]]:
        """Our calls that no checkpoint of the actor called covers, for our own checkpoint, each
        with the ids of its arguments that are references, or None.
        """
        found = []
        for client in self.actors.values():
            if client.retained is not None and client.retained.calls:
                tasks = client.retained.tasks
                calls = [
                    (call, tasks[call.seq].deps if call.seq in tasks else None)
                    for call in client.retained.calls
                ]
                found.append((client, calls))
        return found

    def restore_call(self, client: ActorClient, task: Task) -> None:
        """A call of ours from before our checkpoint, which the actor called may want again."""
        task.actor = client
        task.answered = True
        task.call.caller = self.identity
        assert client.retained is not None
        client.retained.on_sent(task)
        client.queue.append(task)  # it may be on the point of asking

    def numbering(self) -> dict[bytes, int]:
        """The next number of our calls to each actor, for our own checkpoint.

        No call of ours is under way, but for those that a constructor has made.
        """
        self._number_queued()
        self._step_over_taken()
        return self.numbers | {one: client.seq for one, client in self.actors.items()}

    def known_orders(self) -> dict[bytes, Any]:
        """What we know of other actors' orders, for our own checkpoint."""
        return {actor: self._log(actor).known() for actor in self.logs}

    def _log(self, actor: bytes) -> OrderLog:
        log = self.logs.get(actor)
        if log is None:
            log = self.logs[actor] = OrderLog()
        client = self.actors.get(actor)
        if client is not None and client.retained is not None:
            client.retained.log_own(log, self.identity or self._me)
        return log

    def on_order(self, message: Order) -> None:
        """An actor tells of its order, before we see what came of it."""
        if message.actor in self._ended.values():
            return
        log = self._log(message.actor)
        log.extend(message.first, message.runs, message.event, message.events)
        client = self.actors.get(message.actor)
        if client is not None and client.retained is not None:
            client.retained.on_runs(self.identity or self._me, message.runs)

    def on_covered(self, message: Covered) -> None:
        """A checkpoint of an actor covers some of our calls."""
        client = self.actors.get(message.actor)
        if client is None and message.actor not in self.logs:
            return  # it has ended, or has never told us anything
        self._log(message.actor).trim(message.order, message.event)
        if client is not None and client.retained is not None:
            client.retained.on_covered(message.seq)
            if client.queue:  # those that were to be sent again need not be, and hold nothing now
                left = [
                    task for task in client.queue
                    if not task.answered or task.call.seq > message.seq
                ]  # fmt: skip
                client.queue = deque(left)

    def on_replay_ask(self, peer: bytes, message: ReplayAsk) -> None:
        """An actor that was restored wants to know what we know.

        What its former processes have said may still be on its way, on another line. The news of
        their deaths comes behind it; from then on what we know cannot become more. What is covered
        counts at once: an answer from the checkpoint may be next, which is no part of the order.
        """
        covered = message.covered
        self.on_covered(covered)
        unknown = [one for one in message.former if not self.is_dead(one)]
        if unknown:
            self._asks.append((peer, message))
            for one in unknown:
                self._send(self._node, Connect(one))
            return
        actor, log = covered.actor, OrderLog(covered.order, covered.event)
        if actor in self.actors or actor in self.logs:
            log = self._log(actor)
        known, received = Order(actor, *log.known()), self.received
        if received is None:
            self._send(peer, ReplayOffer(known, self.identity))
        else:
            offer = ReplayOffer(known, self.identity, received.actor, received.of(actor))
            self._send(peer, offer)

    def waits_for(self) -> list[bytes]:
        """Processes whose deaths have to become known here: somebody waits for that."""
        former = (one for _peer, message in self._asks for one in message.former)
        return [*former, *self._ended]

    def retains(self) -> bool:
        """Whether calls of ours may be wanted again by actors that are replayed."""
        return any(
            client.retained is not None and client.retained.calls
            for client in self.actors.values()
        )

    def tasks(self) -> Iterator[Task]:
        """All calls that wait for their actor or are with it."""
        for client in self.actors.values():
            yield from client.queue
            yield from client.aside.values()
            yield from client.in_flight.values()

    def _death(self, client: ActorClient, task: Task) -> Value:
        failure = client.failure
        if failure is None:
            text = f"actor {client.name} ({short(client.id)}) is dead: {client.cause}"
            return encode_failure("ActorDiedError", f"{text}. Call: {task.name}")
        if failure.error != 2:
            return failure  # its constructor raised: every call raises the same
        made = decode_failure(failure)
        text = f"{made.text}. Last call from here: {task.name}"
        return encode_failure(made.kind, text, made.detail)
