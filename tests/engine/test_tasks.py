"""Tasks: submitting, options, results, retries by choice, cancelling."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine import exceptions
from tests.engine.support import attempts, eventually

CANCEL_SECONDS = 3.0


def _append(path: str) -> int:
    with open(path, "a") as file:
        file.write("x\n")
    with open(path) as file:
        return len(file.readlines())


def test_results_come_in_the_order_of_the_references(cluster: Any) -> None:
    @cluster.remote
    def square(x: int) -> int:
        return x * x

    assert cluster.get([square.remote(i) for i in range(200)]) == [i * i for i in range(200)]


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(10**30), 1.5, "\N{SNOWMAN}", b"bytes", (1, (2, 3)), [1, [2]], {"a": {1}}],
    ids=repr,
)
def test_values_come_back_as_they_went(cluster: Any, value: Any) -> None:
    @cluster.remote
    def echo(x: Any) -> Any:
        return x

    assert cluster.get(echo.remote(value)) == value
    assert cluster.get(cluster.put(value)) == value


def test_it_runs_in_another_process(cluster: Any) -> None:
    @cluster.remote
    def pid() -> int:
        return os.getpid()

    assert cluster.get(pid.remote()) != os.getpid()


def test_several_returns(cluster: Any) -> None:
    @cluster.remote(num_returns=3)
    def three() -> tuple[int, int, int]:
        return 1, 2, 3

    one, two, three_ = three.remote()
    assert cluster.get([three_, one, two]) == [3, 1, 2]
    assert cluster.get(three.options(num_returns=1).remote()) == (1, 2, 3)


def test_no_returns(cluster: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")

    @cluster.remote(num_returns=0)
    def nothing() -> None:
        _append(path)

    assert nothing.remote() is None
    eventually(lambda: attempts(tmp_path / "runs") == 1)


@pytest.mark.parametrize("made", [(1,), (1, 2, 3), 7, "ab", None], ids=repr)
def test_a_wrong_number_of_returns_names_both(cluster: Any, made: Any) -> None:
    @cluster.remote(num_returns=2)
    def wrong() -> Any:
        return made

    for ref in wrong.remote():
        with pytest.raises(ValueError, match="num_returns=2"):
            cluster.get(ref)


def test_defaults_keywords_and_variable_arguments(cluster: Any) -> None:
    @cluster.remote
    def f(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> Any:
        return a, b, rest, c, d, more

    assert cluster.get(f.remote(1, c=3)) == (1, 2, (), 3, 4, {})
    assert cluster.get(f.remote(1, 5, 6, 7, c=3, z=9)) == (1, 5, (6, 7), 3, 4, {"z": 9})


def test_a_redefinition_takes_effect(cluster: Any) -> None:
    found = []
    for number in range(3):

        @cluster.remote
        def f(number: int = number) -> int:
            return number

        found.append(f.remote())
    assert cluster.get(found) == [0, 1, 2]


def test_a_function_captures_what_it_uses(cluster: Any) -> None:
    data = {"k": [1, 2]}

    @cluster.remote
    def f() -> Any:
        return data

    assert cluster.get(f.remote()) == data


def test_the_name_option_shows_in_errors(cluster: Any) -> None:
    @cluster.remote(name="nightly", max_retries=0)
    def f() -> None:
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError, match="nightly"):
        cluster.get(f.remote())


@pytest.mark.parametrize("retry", [True, [KeyError], [ValueError, LookupError]], ids=repr)
def test_retry_exceptions_runs_again(cluster: Any, tmp_path: Path, retry: Any) -> None:
    path = str(tmp_path / "runs")

    @cluster.remote(max_retries=4, retry_exceptions=retry)
    def f() -> int:
        count = _append(path)
        if count < 3:
            raise KeyError(count)
        return count

    assert cluster.get(f.remote()) == 3


def test_retry_exceptions_gives_up_after_max_retries(cluster: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")

    @cluster.remote(max_retries=2, retry_exceptions=True)
    def f() -> None:
        raise ValueError(f"attempt {_append(path)}")

    with pytest.raises(ValueError, match="attempt 3"):
        cluster.get(f.remote())


def test_other_exceptions_are_not_retried(cluster: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")

    @cluster.remote(max_retries=3, retry_exceptions=[KeyError])
    def f() -> None:
        raise ValueError(f"attempt {_append(path)}")

    with pytest.raises(ValueError, match="attempt 1"):
        cluster.get(f.remote())


def test_resources_are_respected(cluster: Any, tmp_path: Path) -> None:
    """Tasks that ask for both CPUs never overlap."""
    inside = str(tmp_path / "inside")

    @cluster.remote(num_cpus=2)
    def alone() -> bool:
        fd = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails when another one is here
        os.close(fd)
        os.unlink(inside)
        return True

    assert all(cluster.get([alone.remote() for _ in range(30)]))


def test_all_resources_come_back(cluster: Any) -> None:
    @cluster.remote
    def f() -> None:
        return None

    cluster.get([f.remote() for _ in range(50)])
    total = cluster.cluster_resources()
    assert total["CPU"] == 2
    eventually(lambda: cluster.available_resources() == total)


def test_cancel_before_it_runs(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=2)
    def hold(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.001)

    @cluster.remote
    def mark(path: str) -> int:
        return _append(path)

    first = hold.remote(str(gate))
    queued = mark.remote(str(tmp_path / "runs"))
    cluster.cancel(queued)
    with pytest.raises(exceptions.TaskCancelledError, match="mark"):
        cluster.get(queued, timeout=CANCEL_SECONDS)
    gate.touch()
    cluster.get(first)
    assert attempts(tmp_path / "runs") == 0


def test_cancel_while_it_waits_for_an_argument(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote
    def hold(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.001)
        return 1

    @cluster.remote
    def mark(_value: int, path: str) -> int:
        return _append(path)

    first = hold.remote(str(gate))
    waiting = mark.remote(first, str(tmp_path / "runs"))
    cluster.cancel(waiting)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(waiting, timeout=CANCEL_SECONDS)
    gate.touch()
    assert cluster.get(first) == 1

    @cluster.remote
    def nothing() -> None:
        return None

    cluster.get([nothing.remote() for _ in range(20)])
    assert attempts(tmp_path / "runs") == 0


@pytest.mark.parametrize("busy", [True, False], ids=["computing", "sleeping"])
def test_cancel_while_it_runs(cluster: Any, tmp_path: Path, busy: bool) -> None:
    started = tmp_path / "started"

    @cluster.remote
    def forever(path: str) -> None:
        open(path, "w").close()
        while busy:
            pass
        time.sleep(600)

    ref = forever.remote(str(started))
    eventually(started.exists)
    cluster.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(ref, timeout=CANCEL_SECONDS)


def test_cancel_reaches_a_task_that_has_meanwhile_come_to_wait(
    cluster: Any, tmp_path: Path
) -> None:
    """The signal finds it inside the engine's own code, and later ones find it waiting there."""
    started = tmp_path / "started"

    @cluster.remote
    def never() -> None:
        time.sleep(600)

    @cluster.remote
    def waits(path: str, box: list[Any]) -> None:
        numbers = list(range(4_000_000))
        open(path, "w").close()
        cluster.put(numbers)  # pickled within one call of the engine, which no signal interrupts
        cluster.get(box[0])

    blocker = never.remote()
    ref = waits.remote(str(started), [blocker])
    eventually(started.exists)
    cluster.cancel(ref)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(ref, timeout=CANCEL_SECONDS)
    cluster.cancel(blocker, force=True)


def test_forced_cancel_ends_the_worker(cluster: Any, tmp_path: Path) -> None:
    started = tmp_path / "started"

    @cluster.remote
    def stubborn(path: str) -> None:
        open(path, "w").close()
        while True:
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                continue

    ref = stubborn.remote(str(started))
    eventually(started.exists)
    cluster.cancel(ref, force=True)
    with pytest.raises((exceptions.WorkerCrashedError, exceptions.TaskCancelledError)):
        cluster.get(ref, timeout=CANCEL_SECONDS)
    assert attempts(started) == 0


def test_cancel_of_a_finished_task_does_nothing(cluster: Any) -> None:
    @cluster.remote
    def f() -> int:
        return 1

    ref = f.remote()
    assert cluster.get(ref) == 1
    cluster.cancel(ref)
    assert cluster.get(ref) == 1


def test_eight_threads_at_once(cluster: Any) -> None:
    @cluster.remote
    def add(a: int, b: int) -> int:
        return a + b

    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(40):
                stored = cluster.put(bytes([number]) * (200_000 if i % 10 == 0 else 100))
                refs = [add.remote(number, j) for j in range(5)]
                ready, rest = cluster.wait(refs, num_returns=2)
                assert len(ready) == 2
                assert len(rest) == 3
                assert cluster.get(refs) == [number + j for j in range(5)]
                assert set(cluster.get(stored)) == {number}
        except BaseException as error:  # reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


def test_ten_thousand_small_tasks(cluster: Any) -> None:
    @cluster.remote
    def echo(x: int) -> int:
        return x

    refs = [echo.remote(i) for i in range(10_000)]
    assert sum(cluster.get(refs)) == sum(range(10_000))
