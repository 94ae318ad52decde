"""What every process that submits work does: the owner machine.

It composes the object table, the dispatcher and the actors' callers behind one door,
`handle(peer, message, now)`, and the verbs `submit`, `call`, `put`. Pure: it decides, and what it
decides leaves as messages through `send`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from engine.config import Config
from engine.core.callers import ActorClient, Callers
from engine.core.control import (
    ActorChanged,
    CreateActor,
    KillActor,
    LeaseGrant,
    LeaseReclaim,
    NodeLost,
    Unplaceable,
    WorkerDied,
)
from engine.core.dispatch import Dispatcher, Task
from engine.core.ids import IdSource, node_of, owner_of, short
from engine.core.intensity import Deaths, backoff
from engine.core.loading import Loader
from engine.core.logs import quote
from engine.core.lost_nodes import LostNodes
from engine.core.messages import (
    ActorCall,
    AddBorrower,
    BorrowAck,
    Cancel,
    CancelRequest,
    Covered,
    Done,
    DoneMany,
    DropBorrower,
    Entrust,
    Entrusted,
    Evict,
    Evicted,
    Fetch,
    FreeBlock,
    Holding,
    Item,
    Keep,
    Lost,
    Order,
    ReplayAsk,
    Returned,
    Settled,
)
from engine.core.objects import ObjectTable
from engine.core.rebuild import Rebuild
from engine.core.retention import note_error
from engine.core.streams import ItemStream, ItemStreams
from engine.core.trust import Trusts
from engine.core.values import (
    ERROR_NONE,
    ERROR_SYSTEM,
    ERROR_USER,
    Block,
    ObjectValue,
    Value,
    decode_failure,
    encode_failure,
)

__all__ = ["Owner"]


class Owner:
    """Tasks, objects and actor calls of one process.

    `make_refs(ids)` makes the references that a value contains and returns what keeps them;
    `free(block)` frees a block that this process allocated; `definition(key)` is the blob of a
    function; `retry(task, value)` says whether a task that raised is to run again;
    `note(task, kind, text)` hears of attempts that failed without an answer; `refs_of(keep)`
    are the references that a task keeps, by id.
    """

    def __init__(
        self,
        ids: IdSource,
        node: bytes,
        config: Config,
        *,
        send: Callable[[bytes, Any], None],
        free: Callable[[Block], None],
        make_refs: Callable[[list[bytes]], Any],
        definition: Callable[[bytes], bytes],
        retry: Callable[[Task, Value], bool],
        note: Callable[[Task, str, str], None] = lambda task, kind, text: None,
        refs_of: Callable[[Any], dict[bytes, Any]] | None = None,
    ) -> None:
        self.me = me = ids.process
        self._node = node
        self._config = config
        self._send = send
        self._free_here = free
        self._retry = retry
        self._note = note
        self.objects = ObjectTable(me, send, self._free, make_refs, config.lineage_bytes_max)
        self.spill = self.objects.spill
        loader = Loader(self.objects, config)
        self._load, self._unload = both = loader.load, loader.unload
        self.dispatch = Dispatcher(node, config, send, definition, *both)
        self.dispatch.aside = self._wait_again
        self.callers = Callers(me, node, send, self._fail, self._prepare_again, *both)
        self.streams = ItemStreams(ids, self.objects, send)
        self.trusts = Trusts(ids, self.objects, send)
        self.rebuild = Rebuild(
            self.objects, self.dispatch, self._start_again, refs_of or _by_id, self._is_actor, note
        )
        # References in the last two checkpoints of actors that this process has made.
        self._checkpoint_refs: dict[bytes, deque[Any]] = {}
        self._dead: dict[bytes, str] = {}  # processes known to be dead, and why
        self._lost = LostNodes(self.objects, self.dispatch, self.callers)
        self.callers.is_dead = self.is_dead
        self._waiting: dict[bytes, Task] = {}  # tasks and calls whose arguments are pending
        self.delayed: list[tuple[float, Task]] = []  # to be tried again then
        self.unfinished = 0
        self.unfinished_bytes = 0
        self._handlers = self._make_handlers()

    def _make_handlers(self) -> dict[type, Callable[[bytes, Any, float], None]]:
        return {
            Done: self._on_done,
            DoneMany: self._on_done_many,
            LeaseGrant: lambda peer, message, now: self.dispatch.on_grant(message, now),
            LeaseReclaim: lambda peer, message, now: self.dispatch.on_reclaim(message),
            CancelRequest: lambda peer, message, now: self.cancel(
                message.id, message.force, message.recursive
            ),
            Item: lambda peer, message, now: self.streams.on_item(peer, message),
            Returned: self._on_returned,
            ActorChanged: self._on_changed,
            AddBorrower: self._on_add_borrower,
            BorrowAck: lambda peer, message, now: self.objects.on_borrow_ack(message),
            DropBorrower: lambda peer, message, now: self.objects.on_drop_borrower(peer, message),
            Fetch: lambda peer, message, now: self.rebuild.on_fetch(peer, message),
            ObjectValue: lambda peer, message, now: self.objects.on_value(message),
            Evict: lambda peer, message, now: self.objects.on_evict(peer, message),
            Evicted: lambda peer, message, now: self.spill.on_evicted(peer, message),
            Entrust: self._on_entrust,
            Entrusted: lambda peer, message, now: self.trusts.on_entrusted(message),
            Lost: lambda peer, message, now: self.rebuild.on_lost(peer, message),
            FreeBlock: lambda peer, message, now: self._free_here(message.block),
            Unplaceable: lambda peer, message, now: self._on_unplaceable(message),
            WorkerDied: lambda peer, message, now: self._on_worker_died(message, now),
            NodeLost: lambda peer, message, now: self._on_node_lost(message, now),
            Order: lambda peer, message, now: self.callers.on_order(message),
            Covered: lambda peer, message, now: self.callers.on_covered(message),
            Keep: self._on_keep,
            ReplayAsk: lambda peer, message, now: self.callers.on_replay_ask(peer, message),
        }

    def handle(self, peer: bytes, message: Any, now: float) -> bool:
        """One message from `peer`. False when it is none of the owner's business."""
        handler = self._handlers.get(type(message))
        if handler is None:
            return False
        handler(peer, message, now)
        return True

    # ------------------------------------------------------------------ submitting

    def submit(self, task: Task) -> None:
        """A task: its returns become pending objects of ours, each with one reference."""
        self._register(task)
        if task.deps is not None and self._wait_for_deps(task, self._start):
            return
        self.dispatch.enqueue(task)

    def call(self, client: ActorClient, task: Task) -> None:
        """An actor call, in order of submission."""
        self._register(task)
        task.actor = client
        self._call(client, task)

    def _call(self, client: ActorClient, task: Task) -> None:
        if task.deps is not None:
            waits = self._wait_for_deps(task, lambda one: self.callers.on_arguments(client, one))
            if waits and not task.missing:
                return  # an argument is an error: it has failed already
        self.callers.submit(client, task)

    def submit_stream(self, task: Task, window: int, client: ActorClient | None) -> ItemStream:
        """A generator call; its own object stands for its end."""
        self._register(task)
        stream = self.streams.open(task, window)
        if client is not None:
            task.actor = client
            self._call(client, task)
        elif task.deps is None or not self._wait_for_deps(task, self._start):
            self.dispatch.enqueue(task)
        return stream

    def drop_stream(self, task_id: bytes) -> None:
        """Nobody will take further items of a generator call: it is cancelled."""
        stream = self.streams.drop(task_id)
        if stream is not None and not stream.finished:
            self.cancel(task_id, False, True)

    def create(self, client: ActorClient, task: Task) -> None:
        """An actor: ask the head for it once the constructor's arguments are there."""
        task.actor = client
        client.keep = task.keep
        self._register(task)
        if task.deps is None or not self._wait_for_deps(task, self._send_create):
            self._send_create(task)

    def _send_create(self, task: Task) -> None:
        if task.brings:
            self._load(task, lasting=True)
        self._close(task)
        detached = task.call.options.get("lifetime") == "detached"
        if detached or task.id in self.objects.entries:
            self._send(self._node, task.call)
        else:  # its last handle is gone already
            self.callers.on_changed(ActorChanged(task.id, "dead", cause="ended before it began"))

    def cancel(self, object_id: bytes, force: bool, recursive: bool) -> None:
        """Cancel the call that makes an object, wherever it is."""
        entry = self.objects.entries.get(object_id)
        if entry is None or entry.value is not None:
            return
        task: Task | None = entry.task
        if task is not None:
            self._cancel(task, force, recursive)
        elif owner_of(object_id) != self.me:
            self._send(owner_of(object_id), CancelRequest(object_id, force, recursive))

    def is_actor_call(self, object_id: bytes) -> bool:
        """Whether a pending object is to come from an actor, as far as is known here."""
        entry = self.objects.entries.get(object_id)
        return entry is not None and entry.task is not None and entry.task.actor is not None

    def cancel_children(self, call_id: bytes, force: bool) -> None:
        """Cancel what a call that runs here has submitted and is not answered yet."""
        # A scan of everything that is pending: cancelling is rare, and submitting stays cheap.
        for task in self.open_tasks():
            if task.parent is not None and task.parent.id == call_id:
                self._cancel(task, force, True)

    def _cancel(self, task: Task, force: bool, recursive: bool) -> None:
        task.cancelled = True
        task.retries = 0
        if task.worker:
            # An actor is never killed for one of its calls.
            self._send(task.worker, Cancel(task.id, force and task.actor is None, recursive))
            if task.actor is None and task.shape.watch is not None:
                for other in task.shape.watch.others(task):
                    self._send(other, Cancel(task.id, force, recursive))
            return
        if task.actor is not None:
            if type(task.call) is ActorCall and self.callers.must_go(task):
                return  # its actor, once replayed, says whether it was applied
            self.callers.remove(task.actor, task)
        elif not task.missing and not self.dispatch.remove(task):
            self.delayed = [one for one in self.delayed if one[1] is not task]
        self._fail(task, _cancelled(task))

    def _register(self, task: Task) -> None:
        add, gone = self.objects.add, self.objects.gone
        for object_id in task.returns:
            add(object_id, gone).task = task
        self.unfinished += 1
        self.unfinished_bytes += task.nbytes

    def _wait_for_deps(self, task: Task, start: Callable[[Task], None]) -> bool:
        """Wait for the reference arguments; True while some are pending, or when one has failed."""
        deps = task.deps
        assert deps is not None
        task.missing = 1  # counts as one until the loop is through, so that nothing starts early

        def arrived(_value: Value) -> None:
            task.missing -= 1
            if task.missing or self._waiting.pop(task.id, None) is None:
                return  # others are missing still, or it was cancelled
            if self._check_deps(task):
                start(task)

        for object_id in deps:
            task.missing += 1
            if self.objects.when_ready(object_id, arrived):
                task.missing -= 1
        task.missing -= 1
        if task.missing:
            self._waiting[task.id] = task
            return True
        return not self._check_deps(task)

    def _check_deps(self, task: Task) -> bool:
        """All values have come. False when one is an error, which becomes the task's own.

        One may be lost again: then the executor asks for it, and waits. A call that was answered
        goes whatever has become of them: its actor has to know that it cannot be had.
        """
        if task.answered:
            return True
        entries = self.objects.entries
        for object_id in task.deps or ():
            value = entries[object_id].value
            if value is not None and value.error != ERROR_NONE:
                if task.actor is not None:  # out of the queue before anybody can send it
                    self.callers.remove(task.actor, task)
                self._fail(task, value)
                return False
        return True

    def _start(self, task: Task) -> None:
        self.dispatch.enqueue(task)

    def _start_again(self, task: Task) -> None:
        """A task whose result is lost: its returns exist, and it does not wait to be admitted."""
        self.unfinished += 1
        self.unfinished_bytes += task.nbytes
        if task.deps is None or not self._wait_for_deps(task, self.dispatch.enqueue_first):
            self.dispatch.enqueue_first(task)

    def _wait_again(self, task: Task) -> bool:
        """A task was given back. True when its arguments have to be made again, or cannot be."""
        if any(self.objects.entries[one].value is None for one in task.deps or ()):
            self._wait_for_deps(task, self.dispatch.enqueue_first)
            return True
        return not self._check_deps(task)

    def _is_actor(self, object_id: bytes) -> bool:
        return object_id in self.callers.actors or object_id in self.objects.farewells

    def _prepare_again(self, task: Task) -> None:
        """A call of long ago is to be sent again: its arguments may lie elsewhere by now."""
        if task.deps is not None:
            self._wait_for_deps(task, lambda _task: self.callers.advance(task.actor))

    # ------------------------------------------------------------------ results

    def _on_done(self, worker: bytes, message: Done, now: float) -> None:
        task = self._finished(worker, message.id, message.us, now)
        if task is not None:
            self._close(task)
            self.objects.resolve(task.id, Value(message.data))

    def _on_done_many(self, worker: bytes, message: DoneMany, now: float) -> None:
        values = message.values
        us, failed = message.us, bool(values) and values[0].error == ERROR_USER
        task = self._finished(worker, message.id, max(0, us), now, us >= 0, failed)
        if task is None:
            for value in values:
                if value.block is not None:
                    self._free(value.block)
            if any(value.contains for value in values):
                self._send(worker, Settled(message.id))
            return
        keep, deps, in_block = task.keep, task.deps, False
        if values and values[0].error != ERROR_NONE:
            if self._retry(task, values[0]):
                self._run_again(task)
                return
            if task.answered:
                note_error(task.call, values[0])
            values = [values[0]] * max(1, len(task.returns))
        self._close(task)
        contained: list[bytes] = []
        for object_id, value in zip(task.returns, values, strict=False):
            self.objects.resolve(object_id, value)
            in_block |= value.block is not None
            if value.contains:
                contained += value.contains
        if in_block:
            self.rebuild.keep(task, keep, deps)
        if any(value.contains for value in values):
            settled = Settled(message.id)
            if not self.objects.after_settled(contained, worker, settled):
                self._send(worker, settled)

    def _finished(
        self,
        worker: bytes,
        task_id: bytes,
        us: int,
        now: float,
        applied: bool = True,
        failed: bool = False,
    ) -> Task | None:
        entry = self.objects.entries.get(task_id)
        task = entry.task if entry is not None else None
        if task is not None and task.actor is not None:
            late = task.worker != worker
            return self.callers.on_done(task.actor.id, task_id, applied, late)
        task = self.dispatch.on_done(worker, task_id, us, now, failed)
        if task is None:  # a call whose references are all gone already
            for client in self.callers.actors.values():
                if client.process == worker and task_id in client.in_flight:
                    return self.callers.on_done(client.id, task_id, applied)
        return task

    def _run_again(self, task: Task) -> None:
        task.retries -= task.retries > 0
        task.attempts += 1
        if task.brings:
            self._unload(task)
        if task.actor is not None:
            self.callers.submit_again(task.actor, task)
        else:
            self.dispatch.enqueue(task)

    def _close(self, task: Task) -> None:
        if task.brings and not (task.answered and task.id in task.actor.in_flight):
            self._unload(task)
        if task.answered:
            task.actor_ref = None
        else:
            task.release()
        self.unfinished -= 1
        self.unfinished_bytes -= task.nbytes

    def _fail(self, task: Task, value: Value) -> None:
        if task.answered:
            return  # it is kept for a replay only: nobody waits for it
        if value.error == ERROR_SYSTEM:
            failure = decode_failure(value)
            self._note(task, failure.kind, failure.text)
        else:
            self._note(task, "TaskError", "an argument is the error of another call")
        self._close(task)
        self._waiting.pop(task.id, None)
        task.parent = None  # it is over: `cancel_children` leaves it alone
        if type(task.call) is CreateActor:
            cause = "an argument of its constructor is an error"
            self._send(self._node, KillActor(task.id, True, False, cause))
            self.callers.on_changed(ActorChanged(task.id, "dead", cause=cause, failure=value))
        for object_id in task.returns:
            self.objects.resolve(object_id, value)

    def _on_keep(self, actor: bytes, message: Keep, now: float) -> None:
        """The next checkpoint of an actor of ours contains these references."""
        if message.actor not in self.callers.actors:
            return  # the last words of one that has ended
        kept = self._checkpoint_refs.setdefault(message.actor, deque(maxlen=2))
        kept.append(self.objects.make_refs(message.ids))
        holding = Holding(message.actor, message.number)
        if not self.objects.after_settled(message.ids, actor, holding):
            self._send(actor, holding)

    def _on_changed(self, peer: bytes, message: ActorChanged, now: float) -> None:
        if message.state == "dead":
            self._checkpoint_refs.pop(message.id, None)
        self.callers.on_changed(message)

    def _on_unplaceable(self, message: Unplaceable) -> None:
        for task in self.dispatch.on_unplaceable(message):
            self._fail(task, encode_failure(message.kind, f"{task.name}: {message.text}"))

    def _on_returned(self, worker: bytes, message: Returned, now: float) -> None:
        for task in self.dispatch.on_returned(worker, message.ids):
            self._fail(task, _cancelled(task))

    # ------------------------------------------------------------------ deaths

    def _on_worker_died(self, message: WorkerDied, now: float, *, unseen: bool = False) -> None:
        """`unseen`: nobody could look which call it ran, so any of them may have run."""
        process = message.process
        if process in self._dead:
            return
        self._dead[process] = cause = f"(pid {message.pid}) {message.cause}"
        self.callers.on_process_died(process)
        tasks = self.dispatch.on_process_died(process)
        running = message.running
        if running not in {task.id for task in tasks}:
            # It died between two calls. Somebody must pay, or a worker that dies of reading a call
            # would be given it for ever.
            running = tasks[0].id if tasks else b""
        for task in tasks:
            if self.dispatch.survives(task, process):
                continue
            if task.brings:
                self._unload(task)
            if task.id == running or unseen:
                self._charge(task, message, now)
            elif task.cancelled:
                self._fail(task, _cancelled(task))
            else:  # not started, or finished and the answer was lost: innocent
                self.dispatch.enqueue(task)
        self.objects.on_process_died(process, cause)

    def _on_add_borrower(self, peer: bytes, message: AddBorrower, now: float) -> None:
        # The last words of a process may be read after the node's word that it is dead.
        if not self.is_dead(peer):
            self.objects.on_add_borrower(peer, message)

    def _on_entrust(self, peer: bytes, message: Entrust, now: float) -> None:
        if not self.is_dead(peer):
            self.trusts.on_entrust(peer, message)
            return
        for block in (message.value.block, message.spare):  # nobody has a reference
            if block is not None:
                self._free(block)

    def died_before(self, process: bytes) -> None:
        """Something of a process that is known to be dead came up later."""
        cause = self._dead.get(process) or self._lost.causes[node_of(process)]
        self.objects.on_process_died(process, cause)

    def _on_node_lost(self, message: NodeLost, now: float) -> None:
        """Another node is dead: all its processes are, and what lay in its memory is lost."""
        for died in self._lost.add(message):
            self._on_worker_died(died, now, unseen=True)

    def _charge(self, task: Task, message: WorkerDied, now: float) -> None:
        """A task's worker died while it ran: once more, after a while, or not any more."""
        config, deaths = self._config, task.deaths
        if deaths is None:
            deaths = Deaths(config.restart_deaths_max, config.restart_window_seconds)
            task.deaths = deaths
        task.attempts += 1
        deaths.add(now, message.pid, message.cause)
        poison = deaths.too_many(now)
        if task.retries != 0 and not poison:
            self._note(task, "WorkerCrashedError", f"worker (pid {message.pid}) {message.cause}")
            task.retries -= task.retries > 0
            task.worker = b""
            if message.kind:  # memory is short: not at once
                deaths.by_memory += 1
                first, longest = config.memory_backoff_seconds, config.memory_backoff_seconds_max
                self.delayed.append((now + backoff(deaths.by_memory, first, longest), task))
            else:
                self.dispatch.enqueue(task)
            return
        over = deaths.limit_text() if poison and task.retries else "no retries are left"
        if task.cancelled:
            over = "it was cancelled"
        text = (
            f"the worker (pid {message.pid}) that ran {task.name} ({short(task.id)}) "
            f"{message.cause}; this was attempt {task.attempts} and {over}"
        )
        if deaths.count > 1:
            text += f". It {deaths.story()}"
        kind = message.kind or "WorkerCrashedError"
        self._fail(task, encode_failure(kind, text, quote(message.words)))

    def node_died(self, cause: str) -> None:
        """The node is gone: everything pending fails, and what is submitted later; nobody waits.

        The news may come while a call that was begun before it is on its way here.
        """
        failure = self.objects.gone = encode_failure("NodeDiedError", f"the node process {cause}")
        self.delayed.clear()
        for object_id, entry in list(self.objects.entries.items()):
            if entry.value is None:
                self.objects.resolve(object_id, failure)

    def is_dead(self, process: bytes) -> bool:
        """Whether the death of the process, or of its node, has been reported."""
        return process in self._dead or self._lost.has(process)

    # ------------------------------------------------------------------ blocks, time

    def _free(self, block: Block) -> None:
        if block.holder == self.me:
            self._free_here(block)
        elif self._lost.has(block.holder):
            pass  # the memory is gone with its node
        elif block.holder in self._dead:
            self._send(self._node, FreeBlock(block))
        else:
            self._send(block.holder, FreeBlock(block))

    def tick(self, now: float) -> float | None:
        """Time has passed; returns when to look again."""
        following = self.dispatch.tick(now)
        if self.delayed:
            due = [task for when, task in self.delayed if when <= now]
            self.delayed = [one for one in self.delayed if one[0] > now]
            for task in due:
                self.dispatch.enqueue(task)
            looks = [when for when, _task in self.delayed]
            following = min(looks if following is None else [*looks, following], default=None)
        return following

    def open_tasks(self) -> list[Task]:
        """Calls submitted here and not answered yet; an actor's creation until its head has it."""
        found = [*self._waiting.values(), *self.dispatch.tasks(), *self.callers.tasks()]
        found += [task for _when, task in self.delayed]
        return list({task.id: task for task in found}.values())


def _by_id(keep: Any) -> dict[bytes, Any]:
    return {one.id: one for one in keep}


def _cancelled(task: Task) -> Value:
    return encode_failure("TaskCancelledError", f"{task.name} was cancelled before it ran")
