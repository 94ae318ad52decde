"""Pool against multiprocessing's: the same calls, the same results or exception classes."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.exceptions import ActorDiedError, TaskCancelledError
from engine.util import Pool
from tests.util import functions as f

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]
SECONDS = 20.0


@pytest.fixture(scope="module")
def pool(two_cpus: None) -> Iterator[Pool]:
    made = Pool(2)
    yield made
    made.close()
    made.join()


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    with ThreadPool(2) as made:
        yield made


CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda p: p.apply(f.square, (4,)),
    "apply with keywords": lambda p: p.apply(f.add, (1,), {"y": 5}),
    "apply raises": lambda p: p.apply(f.inverse, (0,)),
    "apply with too few arguments": lambda p: p.apply(f.square),
    "apply, an exception of two arguments": lambda p: p.apply(f.odd, (5,)),
    "apply_async": lambda p: p.apply_async(f.add, (1,)).get(SECONDS),
    "successful": lambda p: (r := p.apply_async(f.add, (1,)), r.wait(SECONDS), r.successful())[1:],
    "not successful": lambda p: (r := p.apply_async(f.odd, (1,)), r.wait(), r.successful())[2],
    "map": lambda p: p.map(f.square, range(100)),
    "map of nothing": lambda p: p.map(f.square, []),
    "map of a generator": lambda p: p.map(f.square, (i for i in range(9))),
    "map by 1": lambda p: p.map(f.square, range(300), chunksize=1),
    "map by 7": lambda p: p.map(f.square, range(100), chunksize=7),
    "map by more than there are": lambda p: p.map(f.square, range(10), 1000),
    "map raises": lambda p: p.map(f.fails_at_three, range(10)),
    "map raises in a chunk": lambda p: p.map(f.fails_at_three, range(10), 4),
    "map over a failing iterable": lambda p: p.map(f.square, f.failing_iterable()),
    "map over no iterable": lambda p: p.map(f.square, 3),
    "map_async": lambda p: p.map_async(f.square, range(50)).get(SECONDS),
    "starmap": lambda p: p.starmap(f.add, [(1, 2), (3, 4), (5,)]),
    "starmap by 2": lambda p: p.starmap(f.add, [(1, 2), (3, 4), (5,)], 2),
    "starmap_async": lambda p: p.starmap_async(f.add, [(1, 2)] * 9).get(SECONDS),
    "imap": lambda p: list(p.imap(f.square, range(500))),
    "imap by 9": lambda p: list(p.imap(f.square, range(500), 9)),
    "imap raises": lambda p: list(p.imap(f.fails_at_three, range(10))),
    "imap goes on after an error": lambda p: _errors_in_place(p.imap(f.fails_at_three, range(6))),
    "imap over a failing iterable": lambda p: list(p.imap(f.square, f.failing_iterable())),
    "imap up to the failure": lambda p: _errors_in_place(p.imap(f.square, f.failing_iterable())),
    "imap by 0": lambda p: p.imap(f.square, [1], 0),
    "imap over no iterable": lambda p: list(p.imap(f.square, 3)),
    "imap_unordered": lambda p: sorted(p.imap_unordered(f.square, range(500))),
    "imap_unordered by 8": lambda p: sorted(p.imap_unordered(f.square, range(500), 8)),
    "imap_unordered by 0": lambda p: p.imap_unordered(f.square, [1], 0),
    "next": lambda p: p.imap(f.square, [3]).next(SECONDS),
    "next past the end": lambda p: p.imap(f.square, []).next(SECONDS),
}


def _errors_in_place(results: Any) -> list[Any]:
    found = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except Exception as error:
            found.append((type(error), error.args))


def outcome(call: Callable[[Any], Any], pool: Any) -> Any:
    try:
        return call(pool)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", CALLS)
def test_the_same_as_the_standard_library(name: str, pool: Pool, reference: Any) -> None:
    assert outcome(CALLS[name], pool) == outcome(CALLS[name], reference)


MAKING: dict[str, dict[str, Any]] = {
    "no processes": {"processes": 0},
    "negative": {"processes": -2},
    "initializer": {"initializer": 3},
    "maxtasksperchild 0": {"maxtasksperchild": 0},
    "maxtasksperchild 1.5": {"maxtasksperchild": 1.5},
}


@pytest.mark.parametrize("name", MAKING)
def test_bad_arguments_are_refused_like_there(name: str) -> None:
    def theirs(_: Any) -> Any:
        return multiprocessing.Pool(**MAKING[name])

    ours = outcome(lambda _: Pool(**MAKING[name]), None)
    assert ours is outcome(theirs, None)
    assert issubclass(ours, Exception)


def test_more_processes_than_cpus_are_refused() -> None:
    with pytest.raises(ValueError, match="a pool of 3 processes on a cluster with 2 CPUs"):
        Pool(3)


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_states(kind: Any) -> None:
    made = kind(1)
    with pytest.raises(ValueError, match="still running"):
        made.join()
    late = made.imap(f.square, range(1000))
    made.close()
    for call in (made.apply_async, made.map_async, made.imap, made.imap_unordered):
        with pytest.raises(ValueError, match="Pool not running"):
            call(f.square, [1])
    with pytest.raises(ValueError, match="Pool not running"):
        made.__enter__()
    made.join()
    assert list(late) == [n * n for n in range(1000)]
    made.terminate()
    made.join()


def test_lambdas_and_closures_work_as_they_are_at_the_call(pool: Pool) -> None:
    factor = 2
    assert pool.map(lambda x: x * factor, [1, 2]) == [2, 4]
    function = lambda: factor  # noqa: E731
    first = pool.apply(function)
    factor = 3
    assert (first, pool.apply(function)) == (2, 3)


def test_the_error_is_the_functions_own_with_the_remote_traceback_as_cause(pool: Pool) -> None:
    with pytest.raises(f.Odd) as caught:
        pool.apply(f.odd, (5,))
    assert type(caught.value) is f.Odd
    assert (caught.value.code, str(caught.value)) == (5, "5: detail")
    assert "in odd" in str(caught.value.__cause__)


def test_one_result_that_cannot_be_pickled_fails_alone(pool: Pool) -> None:
    list(pool.imap(f.square, range(200)))
    results = pool.imap(lambda x: threading.Lock() if x == 150 else [x], range(300))
    found = _errors_in_place(results)
    assert len(found) == 300
    assert found[150][0] is engine.exceptions.SerializationError
    assert [one for at, one in enumerate(found) if at != 150] == [
        [n] for n in range(300) if n != 150
    ]


def test_one_argument_that_cannot_be_pickled_fails_alone(pool: Pool) -> None:
    pool.map(_identity, range(300))  # so that large batches are used
    values: list[Any] = list(range(300))
    values[150] = threading.Lock()
    found = _errors_in_place(pool.imap(_identity, values))
    assert issubclass(found.pop(150)[0], TypeError)
    assert found == [n for n in range(300) if n != 150]


def _identity(x: Any) -> Any:
    return x


def test_timeouts(pool: Pool, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    one = pool.apply_async(f.wait_for, (gate,))
    many = pool.imap(f.wait_for, [gate])
    with pytest.raises(multiprocessing.TimeoutError):
        one.get(0.01)
    with pytest.raises(multiprocessing.TimeoutError):
        many.next(0.01)
    assert not one.ready()
    with pytest.raises(ValueError, match="not ready"):
        one.successful()
    one.wait(0.01)
    f.touch(gate)
    assert one.get(SECONDS) == gate
    assert many.next(SECONDS) == gate


def test_callbacks_run_before_the_result_is_ready_and_may_use_the_pool(pool: Pool) -> None:
    seen: list[Any] = []
    result = pool.map_async(
        f.square, [1, 2], callback=lambda v: seen.append(pool.apply(f.add, (sum(v),)))
    )
    assert (result.get(SECONDS), seen) == ([1, 4], [15])
    failed = pool.apply_async(f.inverse, (0,), error_callback=seen.append)
    with pytest.raises(ZeroDivisionError) as caught:
        failed.get(SECONDS)
    assert seen[1] is caught.value


def test_imap_consumes_its_iterable_lazily(pool: Pool) -> None:
    seen: list[int] = []
    results = pool.imap(f.square, f.counted(100_000, seen))
    assert list(itertools.islice(results, 500)) == [n * n for n in range(500)]
    assert 500 <= len(seen) < 1500
    forever = pool.imap_unordered(f.square, itertools.count(), 5)
    assert len({next(forever) for _ in range(1000)}) == 1000


def test_a_slow_item_keeps_none_behind_it(tmp_path: Path) -> None:
    """In one batch an item waits for one behind it; with chunksize=1 that must not matter."""
    gate = str(tmp_path / "gate")
    quick = [(str(n), "") for n in range(20_000)]
    with Pool(2) as made:
        jobs = [*quick, ("wait", gate), *quick[:50], ("touch", gate), *quick[:50]]
        found = made.map_async(f.touch_or_wait, jobs, chunksize=1).get(SECONDS)
    assert len(found) == len(jobs)
    assert found[20_000] == gate
    assert found[20_001:20_051] == [str(n) for n in range(50)]


def test_every_item_runs_once(tmp_path: Path) -> None:
    """Also those that a slow batch gives back."""
    log = tmp_path / "log"
    log.touch()

    def note(x: int) -> int:
        with open(log, "a") as file:
            file.write(f"{x}\n")
        if x % 97 == 0:
            time.sleep(0.02)
        return x

    with Pool(2) as made:
        assert made.map(note, range(1000), 1) == list(range(1000))
    assert sorted(map(int, log.read_text().split())) == list(range(1000))


def test_the_initializer_runs_in_every_worker_and_in_its_main_thread(tmp_path: Path) -> None:
    def start(value: int) -> None:
        f.remember("value", (value, threading.current_thread() is threading.main_thread()))

    with Pool(2, start, (5,)) as made:
        gate = str(tmp_path / "gate")
        both = made.map_async(lambda _: (f.wait_for(gate), f.recall("value"), f.pid()), [1, 2], 1)
        f.touch(gate)
        found = both.get(SECONDS)
    assert [value for _, value, _ in found] == [(5, True)] * 2


def test_a_failing_initializer_fails_the_calls() -> None:
    with Pool(1, f.broken_initializer) as made:
        for _ in range(2):
            with pytest.raises(OSError, match="no such device"):
                made.apply_async(f.square, (1,)).get(SECONDS)


def test_maxtasksperchild_replaces_workers() -> None:
    with Pool(1, maxtasksperchild=3) as made:
        pids = made.map(f.pid, range(9), chunksize=1)
        by_chunk = made.map(f.pid, range(12), chunksize=2)
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]
    assert [len(list(group)) for _, group in itertools.groupby(by_chunk)] == [6, 6]


def test_a_dead_worker_fails_its_call_and_is_replaced() -> None:
    with Pool(1) as made:
        before = made.apply(f.pid)
        with pytest.raises(ActorDiedError):
            made.apply_async(f.die).get(SECONDS)
        assert made.apply_async(f.pid).get(SECONDS) != before


def test_terminate_ends_pending_calls(tmp_path: Path) -> None:
    made = Pool(1)
    running = made.apply_async(f.wait_for, (str(tmp_path / "never"),))
    queued = made.apply_async(f.square, (1,))
    made.terminate()
    made.join()
    for result in (running, queued):
        with pytest.raises((TaskCancelledError, ActorDiedError)):
            result.get(SECONDS)


def test_terminate_ends_callbacks_too(tmp_path: Path) -> None:
    made, other = Pool(1), threading.Event()
    started, seen = threading.Event(), list[str]()

    def slow(_: Any) -> None:
        started.set()
        other.wait(SECONDS)
        seen.append("slow")

    made.apply_async(f.square, (1,), callback=slow)
    waiting = made.apply_async(
        f.wait_for, (str(tmp_path / "never"),), error_callback=lambda _: seen.append("late")
    )
    assert started.wait(SECONDS)
    threading.Timer(0.05, other.set).start()
    made.terminate()
    assert seen == ["slow"]
    waiting.wait(SECONDS)
    assert (waiting.ready(), seen) == (True, ["slow"])


def test_large_values_and_many_threads(pool: Pool) -> None:
    big = pool.map(lambda n: np.full(100_000, n), range(4), 1)
    assert [int(one.sum()) for one in big] == [0, 100_000, 200_000, 300_000]
    found: dict[int, Any] = {}

    def use(number: int) -> None:
        found[number] = pool.map(f.square, range(number, number + 200), 1)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == {n: [i * i for i in range(n, n + 200)] for n in range(4)}


def test_a_pool_inside_a_task() -> None:
    @engine.remote
    def inner() -> list[int]:
        with Pool(2) as made:
            return made.map(f.square, range(20))

    assert engine.get(inner.remote(), timeout=SECONDS) == [n * n for n in range(20)]


def test_a_pool_does_not_travel(pool: Pool) -> None:
    with pytest.raises(TypeError, match="cannot be passed"):
        pickle.dumps(pool)
