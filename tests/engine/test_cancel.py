"""Cancelling: tasks, calls of every kind of actor, generators, children; and every race with it."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from tests.engine.support import attempts, eventually, home

SECONDS = 15.0


def append(path: str) -> None:
    """A line in a file: something has run."""
    with open(path, "a") as file:
        file.write("x\n")


def hold(path: str) -> None:
    """Wait for a file."""
    while not os.path.exists(path):
        time.sleep(0.001)


def is_cancelled(ref: Any) -> bool:
    """Whether a reference ends in TaskCancelledError."""
    try:
        engine.get(ref, timeout=SECONDS)
    except exceptions.TaskCancelledError:
        return True
    return False


@engine.remote(num_cpus=0)
def sleeper(mark: str) -> None:
    append(mark)
    time.sleep(600)


@engine.remote(num_cpus=0)
def parent(mark: str, depth: int) -> None:
    if depth == 0:
        append(mark)
        time.sleep(600)
    engine.get([parent.remote(mark, depth - 1) for _ in range(2)])


def test_children_are_cancelled_down_to_the_last(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "leaves"
    ref = parent.remote(str(mark), 2)
    eventually(lambda: attempts(mark) == 4, what="four leaves run")
    cluster.cancel(ref)
    assert is_cancelled(ref)
    eventually(lambda: not busy(), what="no worker runs a leaf any more")


def busy() -> list[Any]:
    """Workers that are neither idle nor an actor's."""
    return [one for one in engine.state.list_workers() if one["use"] == "lease"]


def test_children_whose_references_nobody_holds(cluster: Any, tmp_path: Path) -> None:
    mark, waits = tmp_path / "children", tmp_path / "waits"

    @cluster.remote(num_cpus=0)
    def forgetful(mark: str, waits: str) -> None:
        sleeper.remote(mark)
        sleeper.options(num_returns=0).remote(mark)
        append(waits)
        time.sleep(600)

    ref = forgetful.remote(str(mark), str(waits))
    eventually(lambda: attempts(mark) == 2 and attempts(waits) == 1)
    cluster.cancel(ref)
    assert is_cancelled(ref)
    eventually(lambda: not busy(), what="the children ended")


def test_without_recursive_the_children_go_on(cluster: Any, tmp_path: Path) -> None:
    mark, gate, done = tmp_path / "mark", tmp_path / "gate", tmp_path / "done"

    @cluster.remote(num_cpus=0)
    def child(mark: str, gate: str, done: str) -> None:
        append(mark)
        hold(gate)
        append(done)

    @cluster.remote(num_cpus=0)
    def elder(*paths: str) -> None:
        engine.get(child.remote(*paths))

    ref = elder.remote(str(mark), str(gate), str(done))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref, recursive=False)
    assert is_cancelled(ref)
    gate.touch()
    eventually(lambda: attempts(done) == 1, what="the child came to its end")


def test_finished_children_and_other_tasks_are_left_alone(cluster: Any, tmp_path: Path) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def child(x: int) -> int:
        return x

    @cluster.remote(num_cpus=0)
    class Box:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def give(self) -> list[Any]:
            return self.refs

    @cluster.remote(num_cpus=0)
    def elder(box: Any, mark: str) -> None:
        finished = child.remote(7)
        engine.get(finished)
        engine.get(box.keep.remote([finished]))
        append(mark)
        time.sleep(600)

    @cluster.remote(num_cpus=0)
    def other(gate: str) -> str:
        hold(gate)
        return "other"

    box, beside = Box.remote(), other.remote(str(gate))
    ref = elder.remote(box, str(mark))
    eventually(lambda: attempts(mark) == 1)
    (kept,) = cluster.get(box.give.remote(), timeout=SECONDS)
    cluster.cancel(ref)
    assert is_cancelled(ref)
    assert cluster.get(kept, timeout=SECONDS) == 7
    gate.touch()
    assert cluster.get(beside, timeout=SECONDS) == "other"


def test_a_cancelled_task_is_never_retried(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "runs"

    @cluster.remote(max_retries=5, retry_exceptions=True)
    def stubborn(path: str) -> None:
        append(path)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            raise ValueError("instead") from None

    ref = stubborn.remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref)
    with pytest.raises((ValueError, exceptions.TaskCancelledError)):
        cluster.get(ref, timeout=SECONDS)
    assert attempts(mark) == 1


def test_a_task_that_swallows_the_interrupt_has_no_value(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @cluster.remote
    def swallow(path: str) -> int:
        append(path)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            return 1
        return 0

    ref = swallow.remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref)
    assert is_cancelled(ref)


def test_force_ends_the_worker_and_nobody_else(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    ref = sleeper.options(max_retries=3).remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref, force=True)
    with pytest.raises(exceptions.WorkerCrashedError, match="it was cancelled"):
        cluster.get(ref, timeout=SECONDS)
    assert attempts(mark) == 1


@engine.remote(num_cpus=0)
class Worker:
    """Methods that look whether they are cancelled."""

    def until_cancelled(self, mark: str) -> str:
        append(mark)
        context = engine.get_runtime_context()
        before = context.is_canceled()
        while not context.is_canceled():
            time.sleep(0.001)
        append(mark)
        return f"{before}"

    def with_child(self, mark: str) -> None:
        engine.get(sleeper.remote(mark))

    def items(self, mark: str) -> Any:
        for number in range(10_000):
            append(mark)
            yield number

    def hold(self, gate: str) -> str:
        hold(gate)
        return "held"

    def hello(self) -> str:
        return "hello" if not engine.get_runtime_context().is_canceled() else "cancelled"


@pytest.mark.parametrize("threads", [1, 3])
def test_a_running_method_is_told_and_its_value_dropped(
    cluster: Any, tmp_path: Path, threads: int
) -> None:
    mark = tmp_path / "mark"
    worker = Worker.options(max_concurrency=threads).remote()
    ref = worker.until_cancelled.remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref)
    assert is_cancelled(ref)
    assert attempts(mark) == 2, "it came to its own end"
    assert cluster.get(worker.hello.remote(), timeout=SECONDS) == "hello"


@pytest.mark.parametrize("threads", [1, 3])
def test_children_of_an_actors_call(cluster: Any, tmp_path: Path, threads: int) -> None:
    mark = tmp_path / "mark"
    worker = Worker.options(max_concurrency=threads).remote()
    ref = worker.with_child.remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(ref)
    assert is_cancelled(ref)
    assert cluster.get(worker.hello.remote(), timeout=SECONDS) == "hello"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_waiting_call_of_an_actor_never_runs(
    cluster: Any, tmp_path: Path, threads: int
) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    worker = Worker.options(max_concurrency=threads).remote()
    holding = [worker.hold.remote(str(gate)) for _ in range(threads)]
    waiting = worker.until_cancelled.remote(str(mark))
    behind = worker.hello.remote()
    cluster.cancel(waiting)
    assert is_cancelled(waiting)
    gate.touch()
    assert cluster.get([*holding, behind], timeout=SECONDS) == ["held"] * threads + ["hello"]
    assert attempts(mark) == 0


def test_a_call_whose_actor_is_not_there_yet(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    class Slow:
        def __init__(self, path: str) -> None:
            hold(path)

        def f(self, x: int) -> int:
            return x

    slow = Slow.remote(str(gate))
    first, second = slow.f.remote(1), slow.f.remote(2)
    cluster.cancel(first)
    assert is_cancelled(first)
    gate.touch()
    assert cluster.get(second, timeout=SECONDS) == 2


def test_force_is_refused_for_actors_calls(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    worker = Worker.remote()
    ref = worker.hold.remote(str(gate))
    with pytest.raises(ValueError, match=r"engine\.kill\(handle\)"):
        cluster.cancel(ref, force=True)
    items = worker.items.remote(str(tmp_path / "mark"))
    with pytest.raises(ValueError, match=r"engine\.kill\(handle\)"):
        cluster.cancel(items, force=True)
    gate.touch()
    assert cluster.get(ref, timeout=SECONDS) == "held"


@engine.remote(num_cpus=0, _generator_backpressure_num_objects=4)
def numbers(mark: str) -> Any:
    for number in range(10_000):
        append(mark)
        yield number


@pytest.mark.parametrize("kind", ["task", "actor", "threaded"])
def test_a_generator_is_cancelled_by_its_handle(
    cluster: Any, tmp_path: Path, kind: str
) -> None:
    mark = tmp_path / "mark"
    if kind == "task":
        items = numbers.remote(str(mark))
    else:
        threads = 1 if kind == "actor" else 3
        worker = Worker.options(max_concurrency=threads).remote()
        items = worker.items.options(_generator_backpressure_num_objects=4).remote(str(mark))
    assert cluster.get(next(items), timeout=SECONDS) == 0
    eventually(lambda: attempts(mark) >= 4, what="it waits for its consumer")
    cluster.cancel(items)
    refs = list(items)
    assert [cluster.get(ref) for ref in refs[:-1]] == list(range(1, len(refs)))
    assert is_cancelled(refs[-1])
    assert len(refs) <= 6
    assert items.is_finished()


def test_an_asynchronous_generator_is_cancelled(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    class Source:
        def __init__(self) -> None:
            self.closed = False

        async def items(self) -> Any:
            try:
                for number in range(10):
                    yield number
                await asyncio.Event().wait()
            finally:
                self.closed = True

        async def was_closed(self) -> bool:
            return self.closed

    source = Source.remote()
    items = source.items.remote()
    for number in range(10):
        assert cluster.get(next(items), timeout=SECONDS) == number
    cluster.cancel(items)
    assert is_cancelled(next(items))
    with pytest.raises(StopIteration):
        next(items)
    assert cluster.get(source.was_closed.remote(), timeout=SECONDS)


def test_a_generator_that_has_not_started(cluster: Any, tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"

    @cluster.remote(num_cpus=0)
    def late(path: str) -> str:
        hold(path)
        return str(mark)

    items = numbers.remote(late.remote(str(gate)))
    cluster.cancel(items)
    assert is_cancelled(next(items))
    gate.touch()
    assert items.is_finished()
    assert attempts(mark) == 0


def test_a_borrower_may_cancel(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @cluster.remote(num_cpus=0)
    def stop(box: list[Any]) -> None:
        engine.cancel(box[0])

    ref = sleeper.remote(str(mark))
    eventually(lambda: attempts(mark) == 1)
    cluster.get(stop.remote([ref]), timeout=SECONDS)
    assert is_cancelled(ref)


def test_a_task_that_waits_behind_a_thread_of_its_own(cluster: Any, tmp_path: Path) -> None:
    """Its main thread waits for a value while another one of its threads serves the sockets."""
    mark, gate = tmp_path / "mark", tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def child(gate: str) -> None:
        hold(gate)

    @cluster.remote(num_cpus=0)
    def waits(mark: str, gate: str) -> None:
        refs = [child.remote(gate) for _ in range(2)]
        other = threading.Thread(target=engine.get, args=(refs[:1],), daemon=True)
        other.start()
        hold(mark)
        engine.get(refs)

    ref = waits.remote(str(mark), str(gate))
    mark.touch()
    cluster.wait([ref], timeout=0.1)
    cluster.cancel(ref, recursive=False)
    assert is_cancelled(ref)
    gate.touch()


def test_is_canceled_outside_of_a_call(cluster: Any) -> None:
    with pytest.raises(RuntimeError, match="code of tasks"):
        cluster.get_runtime_context().is_canceled()


def test_dependents_of_a_cancelled_task_fail_with_it(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def first(path: str) -> int:
        hold(path)
        return 1

    @cluster.remote(num_cpus=0)
    def second(x: int) -> int:
        return x

    one = first.remote(str(gate))
    two = second.remote(one)
    cluster.cancel(one)
    assert is_cancelled(one)
    assert is_cancelled(two)


@engine.remote(num_cpus=0, checkpoint_every=1000, max_restarts=-1)
class Kept:
    """Counts, and waits to be cancelled."""

    def __init__(self) -> None:
        self.n = 0

    def until_cancelled(self, mark: str) -> None:
        self.n += 1
        append(mark)
        while not engine.get_runtime_context().is_canceled():
            time.sleep(0.001)

    def add(self, k: int) -> int:
        self.n += k
        return self.n

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()


def test_a_cancelled_call_of_a_replayed_actor_was_applied_all_the_same(
    cluster: Any, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    actor = Kept.options(replayable=True).remote()
    assert cluster.get(actor.add.remote(10), timeout=SECONDS) == 10
    ref = actor.until_cancelled.remote(str(mark))
    dropped = actor.add.remote(1000)
    eventually(lambda: attempts(mark) == 1)
    cluster.cancel(dropped)
    assert is_cancelled(dropped)
    cluster.cancel(ref)
    assert is_cancelled(ref)
    assert cluster.get(actor.add.remote(100), timeout=SECONDS) == 111
    os.kill(cluster.get(actor.pid.remote(), timeout=SECONDS), signal.SIGKILL)
    assert cluster.get(actor.add.remote(0), timeout=SECONDS) == 111
    assert attempts(mark) == 2, "it was applied again"


def test_is_canceled_needs_a_note_where_calls_are_replayed(cluster: Any, tmp_path: Path) -> None:
    ref = Kept.remote().until_cancelled.remote(str(tmp_path / "mark"))
    with pytest.raises(RuntimeError, match="replayable=True"):
        cluster.get(ref, timeout=SECONDS)


@engine.remote(num_cpus=0, max_concurrency=3)
class Threads:
    """Short calls that submit work of their own."""

    def work(self, seconds: float) -> int:
        return engine.get(nested.remote(seconds))

    def notes(self) -> int:
        return len(home().cancelled)


@engine.remote(num_cpus=0)
class Loop:
    """The same with coroutines."""

    async def work(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return int(await nested.remote(0.0))

    async def notes(self) -> int:
        return len(home().cancelled)


@engine.remote(num_cpus=0)
class Plain:
    """The same, one after the other."""

    def work(self, seconds: float) -> int:
        time.sleep(seconds)
        return 1

    def notes(self) -> int:
        return len(home().cancelled)


@engine.remote(num_cpus=0.1)
def nested(seconds: float) -> int:
    time.sleep(seconds)
    return 1


@engine.remote(num_cpus=0.1)
def outer(seconds: float) -> int:
    return sum(engine.get([nested.remote(seconds), nested.remote(0.0)])) - 1


@pytest.mark.parametrize("seed", range(4))
def test_cancellation_at_any_moment_is_clean(cluster: Any, seed: int) -> None:
    """Each call ends with its value or as cancelled; nothing is left of it anywhere."""
    draw = random.Random(seed)
    actors = [Threads.remote(), Loop.remote(), Plain.remote()]
    cluster.get([actor.work.remote(0.0) for actor in actors], timeout=SECONDS)
    calls = [nested.remote, outer.remote, *(actor.work.remote for actor in actors)]
    pending: list[Any] = []
    counts = {"value": 0, "cancelled": 0}
    for _ in range(150):
        pending.append(draw.choice(calls)(draw.choice([0.0, 0.0, 0.001, 0.004])))
        if draw.random() < 0.5:
            time.sleep(draw.choice([0.0, 0.0002, 0.001]))
        if draw.random() < 0.6:
            cluster.cancel(draw.choice(pending))
        if len(pending) > 12:
            ref = pending.pop(draw.randrange(len(pending)))
            counts["cancelled" if is_cancelled(ref) else "value"] += 1
    for ref in pending:
        counts["cancelled" if is_cancelled(ref) else "value"] += 1
    assert counts["value"] + counts["cancelled"] == 150
    assert min(counts.values()) > 0, counts
    assert cluster.get([actor.work.remote(0.0) for actor in actors], timeout=SECONDS) == [1] * 3
    assert cluster.get([actor.notes.remote() for actor in actors], timeout=SECONDS) == [0] * 3
    assert cluster.get([nested.remote(0.0) for _ in range(20)], timeout=SECONDS) == [1] * 20
    del pending, ref
    gc.collect()
    eventually(lambda: (cluster.put(None), home().owner.unfinished == 0)[1])
    assert home().owner.unfinished_bytes == 0
