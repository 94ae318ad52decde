"""Executor against ProcessPoolExecutor: the same calls, the same results or exception classes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from engine.util import Executor
from tests.util import functions as f

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]
SECONDS = 20.0


@pytest.fixture(scope="module")
def executor(two_cpus: None) -> Iterator[Executor]:
    with Executor(2) as made:
        yield made


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    with ProcessPoolExecutor(2) as made:
        yield made


CALLS: dict[str, Callable[[Any], Any]] = {
    "submit": lambda e: e.submit(f.square, 4).result(SECONDS),
    "submit with keywords": lambda e: e.submit(f.add, 1, y=5).result(SECONDS),
    "submit raises": lambda e: e.submit(f.inverse, 0).result(SECONDS),
    "exception": lambda e: type(e.submit(f.inverse, 0).exception(SECONDS)),
    "no exception": lambda e: e.submit(f.square, 0).exception(SECONDS),
    "result that cannot be pickled": lambda e: e.submit(f.lock, 0).result(SECONDS) and None,
    "map": lambda e: list(e.map(f.square, range(300))),
    "map of two": lambda e: list(e.map(f.add, range(5), range(9))),
    "map by 7": lambda e: list(e.map(f.square, range(300), chunksize=7)),
    "map of nothing": lambda e: list(e.map(f.square, [])),
    "map by 0": lambda e: e.map(f.square, [1], chunksize=0),
    "map raises": lambda e: list(e.map(f.fails_at_three, range(9))),
    "map up to the error": lambda e: _until_error(e.map(f.fails_at_three, range(9))),
    "map up to the error by 2": lambda e: _until_error(
        e.map(f.fails_at_three, range(9), chunksize=2)
    ),
    "map in time": lambda e: list(e.map(f.square, range(9), timeout=SECONDS)),
    "wait": lambda e: len(concurrent.futures.wait([e.submit(f.square, 1)] * 1, SECONDS).done),
    "as_completed": lambda e: sorted(
        one.result()
        for one in concurrent.futures.as_completed(
            [e.submit(f.square, n) for n in range(20)], SECONDS
        )
    ),
}


def _until_error(results: Iterator[Any]) -> list[Any]:
    found = []
    try:
        for one in results:
            found.append(one)
    except LookupError as error:
        found.append(error.args)
    return found


def outcome(call: Callable[[Any], Any], executor: Any) -> Any:
    try:
        return call(executor)
    except Exception as error:
        return error


@pytest.mark.parametrize("name", CALLS)
def test_the_same_as_the_standard_library(
    name: str, executor: Executor, reference: Any
) -> None:
    ours, theirs = outcome(CALLS[name], executor), outcome(CALLS[name], reference)
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs))
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"max_tasks_per_child": 0}, ValueError),
        ({"max_tasks_per_child": 1.5}, TypeError),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Executor(**options)
    with pytest.raises(error):
        ProcessPoolExecutor(mp_context=None, **options)


def test_lambdas_work(executor: Executor) -> None:
    factor = 3
    assert executor.submit(lambda x: x * factor, 5).result(SECONDS) == 15
    assert list(executor.map(lambda x: x + factor, range(3))) == [3, 4, 5]


def test_a_waiting_call_can_be_cancelled_and_a_running_one_cannot(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with Executor(1) as made:
        running = made.submit(f.wait_for, gate)
        waiting = [made.submit(f.square, n) for n in range(3)]
        assert running.running()
        assert not running.cancel()
        assert waiting[1].cancel()
        assert waiting[1].cancelled()
        f.touch(gate)
        assert [waiting[0].result(SECONDS), waiting[2].result(SECONDS)] == [0, 4]
        with pytest.raises(concurrent.futures.CancelledError):
            waiting[1].result(SECONDS)


def test_timeouts(executor: Executor, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    future = executor.submit(f.wait_for, gate)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    with pytest.raises(TimeoutError):
        list(executor.map(f.wait_for, [gate], timeout=0.01))
    f.touch(gate)
    assert future.result(SECONDS) == gate


def test_map_yields_before_all_is_done(executor: Executor, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    results = executor.map(f.touch_or_wait, [("one", ""), ("wait", gate)])
    assert next(results) == "one"
    f.touch(gate)
    assert list(results) == [gate]


def test_callbacks_may_wait_for_other_calls(executor: Executor) -> None:
    found: list[int] = []
    done = threading.Event()

    def follow(future: Any) -> None:
        found.append(executor.submit(f.add, future.result()).result(SECONDS))
        done.set()

    future = executor.submit(f.square, 5)
    future.add_done_callback(follow)
    assert future.result(SECONDS) == 25
    assert done.wait(SECONDS)
    assert found == [35]


def test_it_serves_an_asyncio_loop(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, f.square, n) for n in range(20)]
        return await asyncio.wait_for(asyncio.gather(*calls), SECONDS)

    assert asyncio.run(main()) == [n * n for n in range(20)]


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_lets_calls_end(wait: bool) -> None:
    made = Executor(2)
    futures = [made.submit(f.square, n) for n in range(50)]
    made.shutdown(wait=wait)
    if wait:
        assert all(one.done() for one in futures)
    assert [one.result(SECONDS) for one in futures] == [n * n for n in range(50)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        made.submit(f.square, 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        made.map(f.square, [1])
    made.shutdown()


def test_shutdown_with_cancel_futures(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    made = Executor(1)
    running = made.submit(f.wait_for, gate)
    waiting = [made.submit(f.square, n) for n in range(5)]
    mapped = made.map(f.square, range(5))
    made.shutdown(wait=False, cancel_futures=True)
    assert all(one.cancelled() for one in waiting)
    f.touch(gate)
    assert running.result(SECONDS) == gate
    with pytest.raises(concurrent.futures.CancelledError):
        next(mapped)


def test_the_initializer_runs_first() -> None:
    with Executor(1, initializer=f.remember, initargs=("key", 7)) as made:
        assert made.submit(f.recall, "key").result(SECONDS) == 7


def test_workers_are_replaced_after_so_many_calls() -> None:
    with Executor(1, max_tasks_per_child=2) as made:
        pids = [made.submit(f.pid).result(SECONDS) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def break_by_death(made: Any) -> Any:
    return made.submit(f.die)


def break_by_initializer(made: Any) -> Any:
    return made.submit(f.square, 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Executor, ProcessPoolExecutor])
@pytest.mark.parametrize("how", [break_by_death, break_by_initializer])
def test_what_breaks_it_breaks_all_later_calls(kind: Any, how: Any, caplog: Any) -> None:
    options = {"initializer": f.broken_initializer} if how is break_by_initializer else {}
    with kind(1, **options) as made:
        with pytest.raises(BrokenProcessPool):
            how(made).result(SECONDS)
        with pytest.raises(BrokenProcessPool):
            made.submit(f.square, 1).result(SECONDS)
