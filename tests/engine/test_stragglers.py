"""Stragglers in real processes: a second copy helps, and nothing of the first one is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.support import alive, attempts, eventually, gone, home

SECONDS = 20.0
FOREVER = 600


def _wait_for_cpus(cluster: Any) -> None:
    eventually(
        lambda: cluster.available_resources() == cluster.cluster_resources(), SECONDS, "all CPUs"
    )


def _first(path: str) -> bool:
    """Whether this is the first run of a task; each run leaves its pid."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return attempts(Path(path)) == 1


def _pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def _siblings(cluster: Any, function: Any) -> None:
    """Enough quick calls for a median."""
    cluster.get([function.remote("", n) for n in range(8)], timeout=SECONDS)


def test_a_slow_task_is_overtaken_by_its_copy(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(speculative=2.0, max_retries=0)
    def work(path: str, n: int) -> np.ndarray:
        if path and _first(path):
            time.sleep(FOREVER)
        return np.full(1 << 20, n, dtype=np.uint8)

    _siblings(cluster, work)
    path = tmp_path / "runs"
    unfinished = home().owner.unfinished  # other tests' calls, on the same engine
    argument = cluster.put(7)
    ref = work.remote(str(path), argument)
    del argument
    assert cluster.get(ref, timeout=SECONDS)[-1] == 7
    first, second = _pids(path)
    assert first != second
    _wait_for_cpus(cluster)
    assert alive(first), "an interrupt was enough"
    assert home().owner.unfinished == unfinished
    shapes = [one for one in home().owner.dispatch.shapes() if one.watch is not None]
    eventually(lambda: not any(shape.leases for shape in shapes))


@pytest.mark.parametrize("large", [False, True])
def test_a_stopped_worker_is_overcome(cluster: Any, tmp_path: Path, large: bool) -> None:
    @cluster.remote(speculative=2.0, max_retries=0)
    def work(path: str, n: int, data: Any = None) -> int:
        if path and _first(path):
            os.kill(os.getpid(), signal.SIGSTOP)
        return n if data is None else int(data.sum())

    _siblings(cluster, work)
    path = tmp_path / "runs"
    data = np.ones(1 << 20, dtype=np.uint8) if large else None
    refs = [work.remote(str(path), 5, data), *(work.remote("", 5) for _ in range(30))]
    assert cluster.get(refs, timeout=SECONDS) == [1 << 20 if large else 5, *[5] * 30]
    stopped = _pids(path)[0]
    eventually(lambda: gone([stopped]), SECONDS, "the stopped worker is killed")
    _wait_for_cpus(cluster)
    assert cluster.get(work.remote("", 1), timeout=SECONDS) == 1


def test_a_copy_that_does_not_hear_the_interrupt_is_killed(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(speculative=2.0, max_retries=0)
    def work(path: str, n: int) -> int:
        if path and _first(path):
            end = time.monotonic() + FOREVER
            while time.monotonic() < end:
                try:
                    time.sleep(FOREVER)
                except KeyboardInterrupt:  # what this test is about
                    continue
        return n

    _siblings(cluster, work)
    path = tmp_path / "runs"
    assert cluster.get(work.remote(str(path), 3), timeout=SECONDS) == 3
    eventually(lambda: gone(_pids(path)[:1]), SECONDS, "the first worker is killed")
    _wait_for_cpus(cluster)


def test_the_death_of_one_copy_is_no_failure(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(speculative=2.0, max_retries=0)
    def work(path: str, n: int) -> int:
        if path and _first(path):
            time.sleep(FOREVER)
        elif path:
            while not os.path.exists(path + ".go"):
                time.sleep(0.002)
        return n

    _siblings(cluster, work)
    path = tmp_path / "runs"
    ref = work.remote(str(path), 3)
    eventually(lambda: len(_pids(path)) == 2, SECONDS, "a second copy")
    os.kill(_pids(path)[0], signal.SIGKILL)
    eventually(lambda: gone(_pids(path)[:1]))
    (tmp_path / "runs.go").touch()
    assert cluster.get(ref, timeout=SECONDS) == 3


def test_both_copies_are_cancelled(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(speculative=2.0)
    def work(path: str, n: int) -> int:
        if path:
            _first(path)
            time.sleep(FOREVER)
        return n

    _siblings(cluster, work)
    path = tmp_path / "runs"
    ref = work.remote(str(path), 3)
    eventually(lambda: len(_pids(path)) == 2, SECONDS, "a second copy")
    cluster.cancel(ref)
    with pytest.raises(cluster.exceptions.TaskCancelledError):
        cluster.get(ref, timeout=SECONDS)
    _wait_for_cpus(cluster)


def test_a_task_that_did_not_ask_for_it_runs_once(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def work(path: str, n: int) -> int:
        if path:
            _first(path)
            time.sleep(1.0)
        return n

    _siblings(cluster, work)
    path = tmp_path / "runs"
    assert cluster.get(work.remote(str(path), 3), timeout=SECONDS) == 3
    assert attempts(path) == 1


@pytest.mark.parametrize("value", [0.5, 1, -2.0, float("nan"), float("inf"), "yes", [2]])
def test_what_is_no_factor_is_refused(cluster: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="how many times its siblings' median"):
        cluster.remote(speculative=value)(lambda: None)


def test_generators_have_no_copies(cluster: Any) -> None:
    def items() -> Any:
        yield 1

    with pytest.raises(ValueError, match="return a list"):
        cluster.remote(speculative=True)(items)
    with pytest.raises(ValueError, match="unknown option 'speculative' for an actor"):
        cluster.remote(speculative=True)(type("A", (), {}))
