"""Callers of actors with checkpoints that end, die, or are such actors themselves."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engine
from engine.config import Config
from engine.core.callers import Callers
from engine.core.control import ActorChanged, Checkpoint, Connect, NodeLost
from engine.core.dispatch import Task
from engine.core.ids import process_id
from engine.core.ledger import KNOWN, SKIPPED
from engine.core.ledger import Caller as LedgerCaller
from engine.core.ledger import Ledger as LedgerMachine
from engine.core.lost_nodes import LostNodes
from engine.core.messages import (
    ActorCall,
    Cancel,
    Covered,
    Keep,
    Order,
    ReplayAsk,
    ReplayOffer,
)
from engine.core.node import NodeMachine
from engine.core.recovery import Recovery
from engine.core.retention import UNNUMBERED
from engine.runtime.checkpoints import Checkpoints
from tests.engine.support import eventually, gone, home, kill9
from tests.engine.test_node_machine import _Edge

SECONDS = 20.0


@engine.remote
class Ledger:
    """Appends what it is given; the answer is the position. Not there before `gate` is, if any."""

    def __init__(self, gate: str = "") -> None:
        while gate and not os.path.exists(gate):
            time.sleep(0.01)
        self.items: list[Any] = []

    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    @engine.method(read_only=True)
    def all(self) -> tuple[int, list[Any]]:
        return os.getpid(), self.items


def replayed() -> Any:
    return Ledger.options(max_restarts=-1, checkpoint_every=1000).remote()


def kill_actor(handle: Any) -> None:
    kill9(engine.get(handle.all.remote(), timeout=SECONDS)[0])


@engine.remote(num_cpus=0, max_calls=1)
def call_once(ledger: Any) -> int:
    assert engine.get(ledger.add.remote("task")) == 1
    return os.getpid()


def test_calls_of_a_worker_that_is_to_end_are_not_lost(cluster: Any) -> None:
    """It stays until a checkpoint covers them, or the actor is no more."""
    ledger = replayed()
    pid = engine.get(call_once.remote(ledger), timeout=SECONDS)
    eventually(lambda: "lease" not in uses(pid), what="the worker has nothing to do")
    kill_actor(ledger)
    assert engine.get(ledger.all.remote(), timeout=SECONDS)[1] == ["task"]
    del ledger
    home().settle()  # a driver that does nothing notices when it next does something
    eventually(
        lambda: home().reactor.poll() or not os.path.exists(f"/proc/{pid}"),
        what="the worker has ended",
    )


def uses(pid: int) -> list[str]:
    return [one["use"] for one in engine.state.list_workers() if one["pid"] == pid]


@engine.remote(num_cpus=0)
class Caller:
    def pid(self) -> int:
        return os.getpid()

    def call(self, ledger: Any) -> int:
        return engine.get(ledger.add.remote("actor"))  # type: ignore[no-any-return]


def test_calls_of_a_dead_caller_outlive_it(cluster: Any) -> None:
    """Nobody can have them applied again, so the actor takes a checkpoint when it hears of it."""
    ledger, caller = replayed(), Caller.remote()
    assert engine.get(caller.call.remote(ledger), timeout=SECONDS) == 1
    assert engine.get(ledger.add.remote("driver"), timeout=SECONDS) == 2  # now we know the order
    engine.kill(caller)
    retained = ledger._client.retained
    eventually(lambda: home().reactor.poll() or not retained.calls, what="a checkpoint")
    kill_actor(ledger)
    assert engine.get(ledger.all.remote(), timeout=SECONDS)[1] == ["actor", "driver"]


def test_calls_that_are_gone_with_their_caller_are_told(
    cluster: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, caller = replayed(), Caller.remote()
    assert engine.get(caller.call.remote(ledger), timeout=SECONDS) == 1
    assert engine.get(ledger.add.remote("driver"), timeout=SECONDS) == 2
    pid, _items = engine.get(ledger.all.remote(), timeout=SECONDS)
    os.kill(pid, signal.SIGSTOP)  # it does not hear of the death: there is no checkpoint
    dead = engine.get(caller.pid.remote(), timeout=SECONDS)
    kill9(dead)
    eventually(lambda: gone([dead]))
    kill9(pid)
    assert engine.get(ledger.all.remote(), timeout=SECONDS)[1] == ["driver"]
    said = ""

    def told() -> bool:
        nonlocal said
        home().reactor.poll()
        said += capsys.readouterr().err
        return "1 calls that this actor had applied are gone" in said

    eventually(told, SECONDS)


def test_a_caller_in_the_order_that_is_no_witness_is_gone() -> None:
    ledger = LedgerMachine(ordered=True)
    recovery = Recovery(ledger.log, {b"alive"}, 1e9)
    recovery.on_call(b"alive", 0, "mine")
    recovery.on_offer(b"alive", 1, [(b"dead", 0, 2), (b"alive", 0, 1)], 0, [])
    assert recovery.next() == "mine"
    assert recovery.lost == 2
    assert recovery.finished


def test_what_cannot_be_had_keeps_its_number_and_its_events() -> None:
    """Others know what came after it by these numbers."""
    ledger = LedgerMachine(ordered=True)
    recovery = Recovery(ledger.log, {b"alive"}, 1e9)
    recovery.on_call(b"alive", 0, "mine")
    events = [(1, b"told to the dead"), (3, b"told to me")]
    recovery.on_offer(b"alive", 1, [(b"dead", 0, 2), (b"alive", 0, 1)], 0, events)
    assert recovery.next() == "mine"
    ledger.callers[b"alive"] = LedgerCaller()
    ledger.begin(b"alive", 0)
    assert recovery.event() == b"told to me"
    ledger.log.note(b"told to me")
    assert recovery.event() is None
    assert ledger.log.known() == (1, [(b"dead", 0, 2), (b"alive", 0, 1)], 0, events)


def test_a_call_that_a_caller_sends_twice_is_not_taken_for_one_that_is_lost() -> None:
    """The caller is an actor that was restored meanwhile: it sends all of them once more."""
    recovery = Recovery(LedgerMachine(ordered=True).log, {b"actor", b"other"}, 1e9)
    for asker in ("first life", "second life"):
        recovery.on_call(b"actor", 0, (asker, 0))
    recovery.on_call(b"actor", 1, ("second life", 1))
    recovery.on_call(b"other", 0, "last")
    recovery.on_offer(b"actor", 1, [], 0, [])
    recovery.on_offer(b"other", 1, [(b"actor", 0, 2), (b"other", 0, 1)], 0, [])
    assert recovery.next() == ("first life", 0)
    assert recovery.in_order
    assert recovery.next() == ("second life", 0)
    assert recovery.behind  # the edge answers it from the ledger
    assert recovery.next() == ("second life", 1)
    assert recovery.next() == "last"
    assert recovery.in_order
    assert (recovery.lost, recovery.finished) == (0, True)


def test_a_call_cancelled_before_its_turn_is_not_answered_as_if_it_had_run() -> None:
    ledger = LedgerMachine(ordered=True)
    ledger.arrive(b"caller", 1, -1, (b"caller", b"second"))
    ledger.begin(b"caller", 1).answers[1] = "answer"
    assert ledger.arrive(b"caller", 0, -1, (b"caller", b"first")) == SKIPPED
    assert ledger.arrive(b"caller", 1, -1, (b"caller", b"second")) == KNOWN


def test_a_call_cancelled_behind_others_does_not_count_them_as_answered() -> None:
    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None, lambda task: None
    )
    client = callers.client(b"actor", "A", False, True)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    tasks = []
    for name in (b"call0", b"call1", b"call2"):
        task = Task(ActorCall(name, b"actor", "m", b"", UNNUMBERED), "A.m", [], 0, None)
        task.actor = client
        callers.submit(client, task)
        tasks.append(task)
    retained = client.retained
    assert retained is not None
    assert callers.on_done(b"actor", b"call1", applied=False) is tasks[1]
    assert retained.answered == -1
    assert retained.again("A") == []
    assert callers.on_done(b"actor", b"call0") is tasks[0]
    assert retained.answered == 1
    assert callers.on_done(b"actor", b"call2") is tasks[2]
    assert callers.known_orders() == {b"actor": (1, [(b"me", 0, 1), (b"me", 2, 1)], 0, [])}


def test_an_actor_hears_of_its_callers_deaths_with_their_node() -> None:
    """They own and run nothing of it, so only the ledger and the replay know them."""
    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None, lambda task: None
    )
    here, there = process_id(b"caller", 1), process_id(b"caller", 2)
    callers.concerned = lambda: [here, there]
    nobody: Any = SimpleNamespace(leases={}, processes=list)
    lost = LostNodes(nobody, nobody, callers)
    assert [died.process for died in lost.add(NodeLost(2, "was silent"))] == [there]


def test_a_witness_answers_when_it_has_heard_out_the_former_processes() -> None:
    """On several nodes their last words may come after the question of the next one."""
    sent: list[Any] = []
    dead: set[bytes] = set()
    callers = Callers(
        b"me", b"node", lambda to, message: sent.append((to, message)),
        lambda task, value: None, lambda task: None,
    )  # fmt: skip
    callers.is_dead = dead.__contains__
    ask = ReplayAsk(Covered(b"actor", 0, 0, -1), [b"first", b"second"])
    callers.on_replay_ask(b"third", ask)
    assert sent == [(b"node", Connect(b"first")), (b"node", Connect(b"second"))]
    dead.add(b"second")
    callers.on_process_died(b"second")
    callers.on_order(Order(b"actor", 1, [(b"other", 0, 2)], 0, []))  # the last words of the first
    sent.clear()
    dead.add(b"first")
    callers.on_process_died(b"first")
    offer = ReplayOffer(Order(b"actor", 1, [(b"other", 0, 2)], 0, []), b"")
    assert sent == [(b"third", offer)]
    assert not callers.waits_for()


def test_last_words_of_an_actor_that_has_ended_leave_nothing() -> None:
    """The head's word of its end may come first, on several nodes."""
    dead: set[bytes] = set()
    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None, lambda task: None
    )
    callers.is_dead = dead.__contains__
    callers.client(b"actor", "A", False, True)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    callers.on_changed(ActorChanged(b"actor", "dead", b"first"))
    assert callers.waits_for() == [b"first"]
    callers.on_order(Order(b"actor", 1, [(b"other", 0, 2)], 0, []))
    callers.on_covered(Covered(b"actor", 2, 0, -1))
    dead.add(b"first")
    callers.on_process_died(b"first")
    assert not callers.waits_for()
    callers.on_replay_ask(b"second", ReplayAsk(Covered(b"actor", 0, 0, -1), [b"first"]))
    assert callers.logs == {}


class Announces:
    """Calls another one as soon as it is made."""

    def __init__(self, other: Any) -> None:
        for number in range(3):
            other.add.remote(number)

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()


def test_what_a_constructor_calls_outlives_it(cluster: Any, tmp_path: Path) -> None:
    """The called actor is not there before the caller is dead, and restored."""
    options = {"max_restarts": -1, "checkpoint_every": 1000, "num_cpus": 0}
    slow = Ledger.options(**options).remote(str(tmp_path / "go"))
    actor = engine.remote(Announces).options(**options).remote(slow)
    first = engine.get(actor.pid.remote(), timeout=SECONDS)
    kill9(first)
    assert engine.get(actor.pid.remote(), timeout=SECONDS) != first
    (tmp_path / "go").touch()
    eventually(lambda: engine.get(slow.all.remote(), timeout=SECONDS)[1] == [0, 1, 2], SECONDS)


def test_last_words_leave_nothing_with_a_caller_that_keeps_nothing_for_a_replay() -> None:
    """An actor with checkpoints that is not restarted tells its order all the same."""
    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None, lambda task: None
    )
    client = callers.client(b"actor", "A", False)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    task = Task(ActorCall(b"call", b"actor", "m", b"", UNNUMBERED), "A.m", [], 0, None)
    task.actor = client
    callers.submit(client, task)
    callers.on_changed(ActorChanged(b"actor", "dead", b"first"))
    callers.on_order(Order(b"actor", 1, [(b"other", 0, 2)], 0, []))
    assert callers.waits_for() == [b"first"]
    assert callers.logs == {}


def test_an_answer_from_a_checkpoint_does_not_count_although_a_death_is_not_known_yet() -> None:
    """The witness says later what it knows, but hears at once what is covered."""
    sent: list[Any] = []
    dead: set[bytes] = set()
    callers = Callers(
        b"me", b"node", lambda to, message: sent.append(message),
        lambda task, value: None, lambda task: None,
    )  # fmt: skip
    callers.is_dead = dead.__contains__
    client = callers.client(b"actor", "A", False, True)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    task = Task(ActorCall(b"call", b"actor", "m", b"", UNNUMBERED), "A.m", [], 0, None)
    task.actor = client
    callers.submit(client, task)
    callers.on_changed(ActorChanged(b"actor", "restarting"))
    callers.on_changed(ActorChanged(b"actor", "alive", b"second"))
    callers.on_replay_ask(b"second", ReplayAsk(Covered(b"actor", 1, 0, 0), [b"first"]))
    callers.on_order(Order(b"actor", 2, [], 0, []))
    assert callers.on_done(b"actor", b"call") is task
    dead.add(b"first")
    callers.on_process_died(b"first")
    assert sent[-1] == ReplayOffer(Order(b"actor", 2, [], 0, []), b"")


class Tip:
    """The last of three actors."""

    def __init__(self) -> None:
        self.items: list[str] = []

    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    def add_and_die_once(self, item: str, once: str, other: int) -> int:
        """Take the first of them along."""
        self.items.append(item)
        if not os.path.exists(once):
            with open(once, "w"):
                kill9(other)
                os.kill(os.getpid(), signal.SIGKILL)
        return len(self.items)

    @engine.method(read_only=True)
    def all(self) -> list[str]:
        return self.items


class Middle:
    """Is called by the first, and calls the last."""

    def __init__(self, tip: Any) -> None:
        self.tip = tip

    def nothing(self) -> None:
        pass

    def through(self, once: str, other: int) -> int:
        engine.get(self.tip.add.remote("middle"))  # whose answer tells the order up to there
        return engine.get(  # type: ignore[no-any-return]
            self.tip.add_and_die_once.remote("middle, at last", once, other)
        )


class First:
    """Calls both."""

    def __init__(self, tip: Any, middle: Any) -> None:
        self.tip = tip
        self.middle = middle

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()

    def call(self, once: str, me: int) -> int:
        engine.get(self.middle.nothing.remote())
        engine.get(self.tip.add.remote("first"))
        return engine.get(self.middle.through.remote(once, me))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kept", [True, False])
def test_a_repeated_call_is_answered_while_another_one_waits(
    cluster: Any, tmp_path: Path, kept: bool
) -> None:
    """The first and the last die. The last waits for the first, in the order that the one in the
    middle knows; the first asks the middle again what it had asked before; and the middle waits for
    the last.
    """
    options = {"max_restarts": -1, "checkpoint_every": 1000}
    tip = engine.remote(Tip).options(**options).remote()
    middle = engine.remote(Middle).options(**(options if kept else {})).remote(tip)
    first = engine.remote(First).options(**options).remote(tip, middle)
    pid = engine.get(first.pid.remote(), timeout=SECONDS)
    ref = first.call.remote(str(tmp_path / "once"), pid)
    assert engine.get(ref, timeout=SECONDS) == 3
    assert engine.get(tip.all.remote(), timeout=SECONDS) == ["first", "middle", "middle, at last"]


@pytest.mark.parametrize("answer", ["Holding", "death"])
def test_an_actor_lives_when_it_has_something_to_be_restored_from(answer: str) -> None:
    """Its first checkpoint holds references, so it waits for the creator; or for its death."""
    told: list[Any] = []
    creator = process_id(b"maker-", 1)
    line = SimpleNamespace(send_fd=lambda message, fd: (told.append(message), os.close(fd)))
    runtime: Any = SimpleNamespace(
        node=b"node", connections={b"node": line}, lock=nullcontext(),
        send=lambda to, message: told.append(message),
        reactor=SimpleNamespace(mark=lambda line: None, flush=lambda: None),
        owner=SimpleNamespace(is_dead=lambda process: False),
    )  # fmt: skip
    checkpoints = Checkpoints(runtime, creator + bytes(8))
    ref: Any = SimpleNamespace(binary=lambda: b"object")
    alive = ActorChanged(creator + bytes(8), "alive", b"me")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.runtime.checkpoints._CheckpointRefs", lambda runtime: [ref])
        checkpoints.write("state")
    checkpoints.send_behind(alive)
    assert [type(one) for one in told] == [Keep]
    if answer == "Holding":
        checkpoints.on_holding(1)
    else:
        checkpoints.on_death(creator)
    assert [type(one) for one in told] == [Keep, Checkpoint, ActorChanged]
    checkpoints.on_holding(1)
    assert len(told) == 3


def test_a_caller_that_was_restored_does_not_count_covered_calls_again() -> None:
    """The actor tells its new process, which repeats them, what a checkpoint covers."""
    ledger = LedgerMachine(ordered=True)
    ledger.arrive(b"actor", 0, -1, (b"first life", b"call"))
    assert ledger.covered_of(b"actor") == -1
    for seq in (0, 1, 2):
        ledger.begin(b"actor", seq)
    assert ledger.covered_of(b"actor") == -1
    ledger.covered(2, 0)
    assert ledger.covered_of(b"actor") == 1
    ledger.covered(3, 0)
    assert ledger.covered_of(b"actor") == 2

    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None, lambda task: None
    )
    callers.identity = b"actor"
    client = callers.client(b"ledger", "A", False, True)
    callers.on_changed(ActorChanged(b"ledger", "alive", b"there"))
    task = Task(ActorCall(b"call", b"ledger", "m", b"", UNNUMBERED), "A.m", [], 0, None)
    task.actor = client
    callers.submit(client, task)
    callers.on_covered(Covered(b"ledger", 3, 0, 2))
    callers.on_order(Order(b"ledger", 4, [], 0, []))
    assert callers.on_done(b"ledger", b"call") is task
    assert callers.known_orders() == {b"ledger": (4, [], 0, [])}


def test_who_learns_what_a_call_was_told_learns_its_place_too() -> None:
    """Else, should the answer be lost, the number of that call may become another one's."""
    ledger = LedgerMachine(ordered=True)
    ledger.arrive(b"caller", 0, -1, (b"caller", b"call"))
    ledger.begin(b"caller", 0)
    ledger.log.note(b"noon")
    assert ledger.before_answer(b"caller") == (1, [(b"caller", 0, 1)], 0, [(1, b"noon")])


def test_an_actor_with_checkpoints_gets_a_process_that_has_had_no_work() -> None:
    edge = _Edge()
    machine = NodeMachine({"CPU": 2.0}, Config(), edge)
    machine.on_worker_ready(b"used", 1, 0.0)
    machine.want_actor(b"plain", {}, b"", -1, 0.0)
    assert edge.placements == [(b"plain", b"used")]
    machine.on_worker_ready(b"leased", 2, 0.0)
    machine.roster.workers[b"leased"].used = True
    machine.want_actor(b"replayed", {}, b"", -1, 0.0, unused=True)
    assert len(edge.placements) == 1
    assert edge.started == 1
    machine.on_worker_ready(b"new", 3, 0.0)
    assert edge.placements[1:] == [(b"replayed", b"new")]


@engine.remote(num_cpus=0)
def gate(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@engine.remote
class Starts:
    """Has a task under way while nobody calls it."""

    def start(self, path: str) -> None:
        self.ref = gate.remote(path)

    @engine.method(read_only=True)
    def seconds(self) -> float:
        return time.process_time()

    def __checkpoint__(self) -> None:
        return None

    def __restore__(self, _saved: None) -> None:
        self.ref = None


def test_a_checkpoint_that_cannot_be_taken_yet_costs_nothing(cluster: Any, tmp_path: Any) -> None:
    actor = Starts.options(max_restarts=-1, checkpoint_every=0.02).remote()
    engine.get(actor.start.remote(str(tmp_path / "go")), timeout=SECONDS)
    before = engine.get(actor.seconds.remote(), timeout=SECONDS)
    end = time.monotonic() + 0.4
    while time.monotonic() < end:  # the time is what is tested: nobody calls meanwhile
        time.sleep(0.05)
    assert engine.get(actor.seconds.remote(), timeout=SECONDS) - before < 0.1
    (tmp_path / "go").touch()


def test_a_call_sent_again_to_an_actor_that_dies_holds_nothing() -> None:
    """What a call carries stays where it is; when its actor is no more that is over."""
    loaded: list[Any] = []

    def load(task: Any) -> None:
        loaded.append(task)

    def unload(task: Any) -> None:
        if task in loaded:
            loaded.remove(task)

    callers = Callers(
        b"me", b"node", lambda to, message: None, lambda task, value: None,
        lambda task: None, load, unload,
    )  # fmt: skip
    client = callers.client(b"actor", "A", False, True)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    task = Task(ActorCall(b"call", b"actor", "m", b"", UNNUMBERED), "A.m", [], 0, None)
    task.brings, task.keep, task.actor = True, ["a reference"], client
    callers.submit(client, task)
    assert callers.on_done(b"actor", b"call") is task
    unload(task)  # as the owner does with an answered call
    callers.on_changed(ActorChanged(b"actor", "restarting"))
    callers.on_changed(ActorChanged(b"actor", "alive", b"second"))
    assert loaded == [task]
    callers.on_changed(ActorChanged(b"actor", "dead"))
    assert loaded == []


def test_a_cancelled_call_that_was_sent_goes_with_its_cancel() -> None:
    """It may be part of the history, so its actor says what becomes of it."""
    sent: list[Any] = []
    callers = Callers(
        b"me", b"node", lambda to, message: sent.append((to, message)),
        lambda task, value: None, lambda task: None,
    )  # fmt: skip
    client = callers.client(b"actor", "A", False, True)
    task = Task(ActorCall(b"call", b"actor", "m", b"", UNNUMBERED), "A.m", [], 0, None)
    task.actor = client
    assert not callers.must_go(task)
    callers.on_changed(ActorChanged(b"actor", "alive", b"first"))
    callers.submit(client, task)
    callers.on_changed(ActorChanged(b"actor", "restarting"))
    assert callers.must_go(task)
    task.cancelled = True
    sent.clear()
    callers.on_changed(ActorChanged(b"actor", "alive", b"second"))
    assert sent == [(b"second", task.call), (b"second", Cancel(b"call"))]


def test_recovery_tells_what_was_applied_before() -> None:
    recovery = Recovery(LedgerMachine(ordered=True).log, {b"caller"}, 1e9)
    recovery.on_call(b"caller", 0, ("caller", "first"))
    recovery.on_call(b"caller", 1, ("caller", "second"))
    assert recovery.held() == ["first", "second"]
    recovery.on_offer(b"caller", 1, [(b"caller", 0, 1)], 0, [])
    assert recovery.next() == ("caller", "first")
    assert recovery.in_order
    assert recovery.next() == ("caller", "second")
    assert not recovery.in_order
