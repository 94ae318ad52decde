"""The owner machine: each test is an order of news in which it once did the wrong thing."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from engine.config import Config
from engine.core.callers import ActorClient
from engine.core.control import ActorChanged, CreateActor, LeaseGrant, LeaseRequest, WorkerDied
from engine.core.dispatch import Task
from engine.core.ids import IdSource
from engine.core.messages import (
    ActorCall,
    AddBorrower,
    BorrowAck,
    Call,
    Cancel,
    Consumed,
    Details,
    Done,
    DoneMany,
    Holding,
    Item,
    Keep,
    Order,
    Returned,
    Settled,
)
from engine.core.owner import Owner
from engine.core.placing import Placing
from engine.core.values import ELSEWHERE, STREAMING, Block, Value, decode_failure, encode_failure

ME, NODE, WORKER, OTHER, THIRD = b"driver--", b"node----", b"worker--", b"other---", b"third---"
ERROR = encode_failure("X", "y")


class Desk:
    """An owner, and what it has sent."""

    def __init__(self, **config: Any) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.freed: list[Block] = []
        self.owner = Owner(
            IdSource(ME),
            NODE,
            Config(**config),
            send=lambda peer, message: self.sent.append((peer, message)),
            free=self.freed.append,
            make_refs=list,
            definition=lambda key: b"",
            retry=lambda task, value: False,
        )
        self.shape = self.owner.dispatch.shape(Placing({}))
        self.count = 0

    def take(self, kind: type) -> list[tuple[bytes, Any]]:
        found = [item for item in self.sent if isinstance(item[1], kind)]
        self.sent = [item for item in self.sent if not isinstance(item[1], kind)]
        return found

    def two_at_a_worker(self) -> tuple[Task, Task]:
        """Two tasks, sent to one worker."""
        first, second = self.submit(), self.submit()
        self.grant()
        self.shape.depth, self.shape.requested = 2, 0
        self.owner.dispatch._fill(self.shape.leases[WORKER])
        assert len(self.take(Call)) == 2
        return first, second

    def grant(self, worker: bytes = WORKER) -> None:
        self.owner.handle(NODE, LeaseGrant(self.shape.key, worker, 1), 0.0)

    def submit(self, deps: list[bytes] | None = None, retries: int = 3) -> Task:
        call = Call(self.new(), b"k", b"")
        task = Task(call, "f", [call.id], retries, self.shape)
        task.deps = deps
        self.owner.submit(task)
        return task

    def new(self) -> bytes:
        self.count += 1
        return ME + self.count.to_bytes(8)

    def actor(self) -> ActorClient:
        return self.owner.callers.client(self.new(), "A", lookup=False)

    def call(self, client: ActorClient, deps: list[bytes] | None = None) -> Task:
        call = ActorCall(self.new(), client.id, "f", b"", -2)
        task = Task(call, "A.f", [call.id], 0, None)
        task.deps = deps
        self.owner.call(client, task)
        return task

    def stream(self, window: int) -> Any:
        call = Call(self.new(), b"k", b"", STREAMING, details=Details(window))
        task = Task(call, "g", [call.id], 3, self.shape)
        return self.owner.submit_stream(task, window, None)

    def outcome(self, object_id: bytes) -> str:
        value = self.owner.objects.entries[object_id].value
        return "pending" if value is None else decode_failure(value).kind if value.error else "ok"

    def died(self, worker: bytes = WORKER, running: bytes = b"") -> None:
        self.owner.handle(NODE, WorkerDied(worker, 1, "was killed", running), 0.0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ----------------------------------------------------------------------------- cancelling


def test_a_task_cancelled_while_it_waits_for_arguments_never_runs(desk: Desk) -> None:
    first = desk.submit()
    second = desk.submit([first.id])
    desk.owner.cancel(second.id, False, True)
    desk.grant()
    desk.owner.handle(WORKER, Done(first.id, b"x"), 0.0)
    assert [one.id for _, one in desk.take(Call)] == [first.id]
    assert desk.outcome(second.id) == "TaskCancelledError"
    assert desk.owner.unfinished == 0


def test_a_task_cancelled_on_its_way_back_from_a_worker_never_runs(desk: Desk) -> None:
    first, second = desk.two_at_a_worker()
    desk.owner.cancel(second.id, False, True)
    assert desk.take(Cancel)
    desk.owner.handle(WORKER, Returned([second.id]), 0.0)
    desk.owner.handle(WORKER, Done(first.id, b"x"), 0.0)
    desk.grant(OTHER)
    assert not desk.take(Call)
    assert desk.outcome(second.id) == "TaskCancelledError"


def test_a_cancelled_task_that_its_worker_had_not_begun_does_not_run_elsewhere(desk: Desk) -> None:
    first, second = desk.two_at_a_worker()
    desk.owner.cancel(second.id, False, True)
    assert desk.take(Cancel)
    desk.died(running=first.id)
    desk.grant(OTHER)
    desk.grant(THIRD)
    assert [one.id for _, one in desk.take(Call)] == [first.id]
    assert desk.outcome(second.id) == "TaskCancelledError"


def test_a_task_in_the_queue_again_is_cancelled_in_the_queue(desk: Desk) -> None:
    """Not by a message to the worker that it was once sent to."""
    task = desk.submit()
    desk.grant()
    desk.died(running=task.id)
    desk.owner.cancel(task.id, False, True)
    assert not desk.take(Cancel)
    assert desk.outcome(task.id) == "TaskCancelledError"


# -------------------------------------------------------------------------------- actors


def test_the_arguments_of_a_constructor_go_in_one_message() -> None:
    desk = Desk(frame_bytes_max=400)
    given = [desk.new(), desk.new()]
    for one in given:
        desk.owner.objects.add(one, Value(bytes(80)))
    client = desk.actor()
    task = Task(CreateActor(client.id, b"k", b"", b"", {}), "A.__init__", [], 0, None)
    task.deps, task.nbytes, task.brings = given, 10, True
    desk.owner.objects.add(client.id, Value())
    desk.owner.create(client, task)
    ((_node, create),) = desk.take(CreateActor)
    assert [one.value.block for one in create.deps] == [None, ELSEWHERE], "to be asked for"
    assert (desk.owner.unfinished, desk.owner.unfinished_bytes) == (0, 0)


def test_a_constructor_is_counted_while_it_waits_and_not_after(desk: Desk) -> None:
    waiting = desk.submit()
    client = desk.actor()
    task = Task(CreateActor(client.id, b"k", b"", b"", {}), "A.__init__", [], 0, None)
    task.deps, task.nbytes = [waiting.id], 10
    desk.owner.create(client, task)
    assert desk.owner.unfinished_bytes == 10
    desk.grant()
    desk.owner.handle(WORKER, DoneMany(waiting.id, [ERROR]), 0.0)
    assert (desk.owner.unfinished, desk.owner.unfinished_bytes) == (0, 0)


def test_a_constructor_has_its_arguments_although_the_last_handle_is_gone(desk: Desk) -> None:
    """Detached, it is to live; if not, it may still be running, or about to."""
    client = desk.actor()
    task = Task(CreateActor(client.id, b"k", b"", b"", {}), "A.__init__", [], 0, None)
    argument = task.keep = frozenset((1, 2))
    alive = weakref.ref(argument)
    desk.owner.objects.add(client.id, Value())
    desk.owner.create(client, task)
    del argument, task
    desk.owner.objects.release(client.id)
    assert alive() is not None
    desk.owner.handle(NODE, ActorChanged(client.id, "dead", cause="ended"), 0.0)
    assert alive() is None


def test_calls_that_wait_for_one_another_fail_once_each_when_their_actor_dies(desk: Desk) -> None:
    client = desk.actor()
    first = desk.call(client)
    second = desk.call(client, [first.id])
    desk.owner.handle(NODE, ActorChanged(client.id, "dead", cause="was killed"), 0.0)
    assert desk.outcome(first.id) == desk.outcome(second.id) == "ActorDiedError"
    assert desk.owner.unfinished == 0


def test_a_call_whose_argument_failed_is_not_sent_with_those_behind_it(desk: Desk) -> None:
    """Its failure wakes a call that waits for it, which looks what can be sent now."""
    client = desk.actor()
    pending = desk.submit()
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", OTHER), 0.0)
    first = desk.call(client, [pending.id])
    desk.call(client, [first.id])
    last = desk.call(client)
    desk.grant()
    desk.owner.handle(WORKER, DoneMany(pending.id, [ERROR]), 0.0)
    assert [one.id for _, one in desk.take(ActorCall)] == [last.id]


# -------------------------------------------------------------------------------- deaths


def test_the_last_words_of_the_dead_register_nobody(desk: Desk) -> None:
    """They come over another line than the news of the death, perhaps later."""
    object_id = desk.new()
    desk.owner.objects.add(object_id, Value(b"x"))
    desk.died()
    desk.owner.handle(WORKER, AddBorrower(object_id), 0.0)
    assert not desk.take(BorrowAck)
    desk.owner.objects.release(object_id)
    assert not desk.owner.objects.entries


def test_tasks_beyond_the_most_leases_are_asked_for_when_one_is_lost() -> None:
    desk = Desk(leases_per_shape_max=1)
    first, second = desk.submit(retries=0), desk.submit()
    desk.grant()
    desk.take(LeaseRequest)
    desk.died(running=first.id)
    assert [one.wanted for _, one in desk.take(LeaseRequest)] == [1]
    desk.grant(OTHER)
    assert desk.take(Call)[-1][1].id == second.id


# ------------------------------------------------------------------------------- streams


def _item(stream: Any, index: int, contains: list[bytes] | None = None) -> Item:
    return Item(stream.task.id, index, Value(b"x", None, contains))


def test_a_replay_is_told_how_far_its_consumer_is(desk: Desk) -> None:
    """Or it would stop after one window of items that are here already."""
    stream = desk.stream(2)
    desk.grant()
    desk.owner.handle(WORKER, _item(stream, 0), 0.0)
    desk.owner.handle(WORKER, _item(stream, 1), 0.0)
    for _ in range(2):
        desk.owner.streams.take(stream)
    desk.died(running=stream.task.id)
    desk.grant(OTHER)
    desk.take(Consumed)
    desk.owner.handle(OTHER, _item(stream, 0), 0.0)
    assert desk.take(Consumed) == [(OTHER, Consumed(stream.task.id, 2))]


def test_the_last_words_of_a_former_executor_do_not_turn_the_consumer_to_it(desk: Desk) -> None:
    stream = desk.stream(1)
    desk.grant()
    desk.died(running=stream.task.id)
    desk.grant(OTHER)
    desk.owner.handle(OTHER, _item(stream, 0), 0.0)
    desk.owner.handle(WORKER, _item(stream, 0), 0.0)
    desk.owner.streams.take(stream)
    assert desk.take(Consumed) == [(OTHER, Consumed(stream.task.id, 1))]


def test_a_window_lifted_before_the_call_is_sent_stays_lifted(desk: Desk) -> None:
    stream = desk.stream(1)
    desk.owner.streams.lift(stream)
    desk.grant()
    assert [one.details for _, one in desk.take(Call)] == [Details(0)]


def test_items_that_come_after_the_end_are_dropped(desk: Desk) -> None:
    """An actor's caller may hear of its death before it has read its last items."""
    stream = desk.stream(0)
    desk.grant()
    desk.owner.handle(WORKER, DoneMany(stream.task.id, [ERROR]), 0.0)
    desk.owner.handle(WORKER, _item(stream, 0), 0.0)
    assert len(stream.ready) == 1
    assert desk.outcome(stream.ready[0]) == "X"


def test_a_dropped_stream_leaves_nothing_behind(desk: Desk) -> None:
    stream = desk.stream(0)
    desk.grant()
    desk.owner.drop_stream(stream.task.id)
    inner = OTHER + bytes(8)
    desk.owner.handle(WORKER, _item(stream, 0, [inner]), 0.0)
    assert len(desk.take(Settled)) == 1, "the executor holds on to what the item contains"
    desk.owner.objects.release(stream.task.id)
    desk.owner.handle(WORKER, DoneMany(stream.task.id, [ERROR]), 0.0)
    assert not desk.owner.objects.entries


@pytest.mark.parametrize("replayed", [False, True])
def test_a_late_answer_leaves_alone_what_the_call_carries(desk: Desk, replayed: bool) -> None:
    """It was sent again, and the next process of its actor reads its arguments.

    The answer of a replayed actor counts, since the order of what comes behind it counts on that.
    """
    unloaded: list[Task] = []
    desk.owner._unload = unloaded.append  # type: ignore[method-assign]
    client = desk.owner.callers.client(desk.new(), "A", False, replayed)
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", WORKER), 0.0)
    task = desk.call(client)
    task.brings, task.retries = True, 1
    for state, process in (("restarting", b""), ("alive", OTHER)):
        desk.owner.handle(NODE, ActorChanged(client.id, state, process), 0.0)
    unloaded.clear()
    desk.owner.handle(WORKER, Done(task.id, b"early"), 0.0)
    assert desk.outcome(task.id) == ("ok" if replayed else "pending")
    assert not unloaded
    desk.owner.handle(OTHER, Done(task.id, b"answer"), 0.0)
    assert desk.outcome(task.id) == "ok"
    if not replayed:
        assert unloaded == [task]
    assert not client.in_flight


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_a_call_carries_may_move_when_its_actor_is_made_again_without_it(
    desk: Desk, cancelled: bool
) -> None:
    unloaded: list[Task] = []
    desk.owner._unload = unloaded.append  # type: ignore[method-assign]
    client = desk.actor()
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", WORKER), 0.0)
    task = desk.call(client)
    task.brings, task.cancelled = True, cancelled
    desk.owner.handle(NODE, ActorChanged(client.id, "restarting", b""), 0.0)
    kind = "TaskCancelledError" if cancelled else "ActorUnavailableError"
    assert desk.outcome(task.id) == kind
    assert unloaded == [task]


def test_the_last_words_of_an_actor_that_has_ended_hold_nothing(desk: Desk) -> None:
    client = desk.actor()
    desk.owner.handle(WORKER, Keep(client.id, 1, [desk.new()]), 0.0)
    assert desk.take(Holding)
    desk.owner.handle(NODE, ActorChanged(client.id, "dead"), 0.0)
    desk.owner.handle(WORKER, Keep(client.id, 2, [desk.new()]), 0.0)
    assert not desk.take(Holding)
    assert not desk.owner._checkpoint_refs


def test_a_call_that_fails_with_its_actors_process_lets_go_of_what_it_carried(desk: Desk) -> None:
    unloaded: list[Task] = []
    desk.owner._unload = unloaded.append  # type: ignore[method-assign]
    client = desk.actor()
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", WORKER), 0.0)
    task = desk.call(client)
    task.brings = True
    desk.owner.handle(NODE, ActorChanged(client.id, "restarting"), 0.0)
    assert desk.outcome(task.id) == "ActorUnavailableError"
    assert unloaded == [task]


def test_an_answer_counts_that_comes_when_the_call_waits_for_the_next_process(desk: Desk) -> None:
    """What the actor tells of its order behind it is numbered after it."""
    client = desk.owner.callers.client(desk.new(), "A", False, True)
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", WORKER), 0.0)
    task = desk.call(client)
    desk.owner.handle(NODE, ActorChanged(client.id, "restarting"), 0.0)
    desk.owner.handle(WORKER, Done(task.id, b"answer"), 0.0)
    desk.owner.handle(WORKER, Order(client.id, 2, [(OTHER, 0, 1)], 0, []), 0.0)
    assert desk.outcome(task.id) == "ok"
    known = desk.owner.callers.known_orders()[client.id]
    assert known == (1, [(ME, 0, 1), (OTHER, 0, 1)], 0, [])
    desk.take(ActorCall)
    desk.owner.handle(NODE, ActorChanged(client.id, "alive", THIRD), 0.0)
    assert [(peer, call.id) for peer, call in desk.take(ActorCall)] == [(THIRD, task.id)]
