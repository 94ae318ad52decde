"""A memory hog is stopped in time, alone, and its owners learn why; for real, under a low limit."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import exceptions
from engine.config import Config
from engine.core.node import NodeMachine
from engine.runtime.memory_watch import MemoryWatch
from engine.runtime.notebook import Notebook
from tests.engine.support import alive, attempts, eventually, node_pid

SECONDS = 20.0
MB = 1 << 20
LIMIT = 150 * MB


@pytest.fixture
def tight(leak_check: None) -> Iterator[Any]:
    """An engine whose workers may hold 150 MB, and which tries stopped tasks again soon."""
    assert not engine.is_initialized()
    # Those that fit only one after the other may be unlucky more often than the default allows.
    config = Config(memory_backoff_seconds=0.05, restart_deaths_max=20)
    engine.init(num_cpus=4, memory_limit=LIMIT, config=config)
    yield engine
    engine.shutdown()


def fill(path: str = "", megabytes: int = 10_000) -> int:
    """Take memory, and note when the limit is near."""
    held = []
    for number in range(megabytes // 5):
        held.append(b"x" * (5 * MB))
        if path and number * 5 * MB == LIMIT - 50 * MB:  # what the others hold comes on top
            Path(path).write_text(str(time.monotonic()))
        time.sleep(0.002)
    return len(held)


def test_a_hog_is_stopped_within_a_second_and_nobody_else(tight: Any, tmp_path: Path) -> None:
    @tight.remote(max_retries=0)
    def hog(path: str) -> int:
        return fill(path)

    @tight.remote(max_retries=0)
    def bystander(path: str) -> int:
        eventually(lambda: os.path.exists(path), SECONDS)
        return os.getpid()

    @tight.remote
    class Keeper:
        def __init__(self) -> None:
            self.state = b"x" * (5 * MB)

        def size(self) -> int:
            return len(self.state)

    keeper = Keeper.remote()
    assert tight.get(keeper.size.remote(), timeout=SECONDS) == 5 * MB
    stop = tmp_path / "stop"
    others = [bystander.remote(str(stop)) for _ in range(2)]
    kept = tight.put(np.zeros(3 * MB, dtype=np.uint8))
    with pytest.raises(exceptions.OutOfMemoryError) as caught:
        tight.get(hog.remote(str(tmp_path / "passed")), timeout=SECONDS)
    took = time.monotonic() - float((tmp_path / "passed").read_text())
    stop.touch()
    assert len(set(tight.get(others, timeout=SECONDS))) == 2
    assert tight.get(keeper.size.remote(), timeout=SECONDS) == 5 * MB
    assert took < 1.0
    text = str(caught.value)
    assert "init(memory_limit=)" in text
    assert f"of at most {LIMIT:,} bytes" in text
    (held,) = re.findall(r"memory watch: hog held ([\d,]+) bytes", text)
    assert 100 * MB < int(held.replace(",", "")) < 2 * LIMIT
    assert re.search(r"Top holders: hog \(pid \d+\) [\d,]+, Keeper \(pid \d+\) [5-9],", text)
    (store,) = re.findall(r"the object store: ([\d,]+)", text)
    assert int(store.replace(",", "")) >= 3 * MB
    assert alive(node_pid())
    del kept


def test_a_retriable_hog_is_tried_again_with_a_pause(tight: Any, tmp_path: Path) -> None:
    @tight.remote(max_retries=2)
    def sometimes(path: str) -> str:
        with open(path, "a") as file:
            file.write(f"{time.monotonic()}\n")
        if attempts(Path(path)) <= 2:
            fill()
        return "fits"

    path = tmp_path / "runs"
    assert tight.get(sometimes.remote(str(path)), timeout=SECONDS) == "fits"
    first, second, third = map(float, path.read_text().split())
    assert second - first > 0.05
    assert third - second > 0.1


def test_a_hog_that_never_fits_tells_of_every_try(tight: Any) -> None:
    @tight.remote(max_retries=1)
    def hog() -> int:
        return fill()

    with pytest.raises(exceptions.OutOfMemoryError, match=r"attempt 2 .*died 2 times within") as e:
        tight.get(hog.remote(), timeout=SECONDS)
    assert len(re.findall(r"\+\d+\.\d+ s \(pid \d+\) was stopped by the memory", str(e.value))) == 2


def test_a_hog_that_waits_for_its_next_try_can_be_cancelled(leak_check: None) -> None:
    engine.init(num_cpus=1, memory_limit=LIMIT, config=Config(memory_backoff_seconds=30.0))
    try:

        @engine.remote
        def hog() -> int:
            return fill()

        ref = hog.remote()
        eventually(lambda: "stopped for its memory" in engine.state.why_pending(ref), SECONDS)
        engine.cancel(ref)
        with pytest.raises(exceptions.TaskCancelledError):
            engine.get(ref, timeout=SECONDS)
    finally:
        engine.shutdown()


def test_a_hog_in_an_actor(tight: Any) -> None:
    @tight.remote(max_restarts=1)
    class Hoarder:
        def pid(self) -> int:
            return os.getpid()

        def hoard(self) -> int:
            return fill()

    hoarder = Hoarder.remote()
    first = tight.get(hoarder.pid.remote(), timeout=SECONDS)
    with pytest.raises(exceptions.ActorUnavailableError, match="memory watch"):
        tight.get(hoarder.hoard.remote(), timeout=SECONDS)
    assert tight.get(hoarder.pid.remote(), timeout=SECONDS) != first
    for kind in (exceptions.OutOfMemoryError, exceptions.ActorDiedError):  # it is both
        with pytest.raises(kind, match=r"Hoarder.*held [\d,]+ bytes"):
            tight.get(hoarder.hoard.remote(), timeout=SECONDS)
    with pytest.raises(exceptions.ActorDiedError):
        tight.get(hoarder.pid.remote(), timeout=SECONDS)


def test_a_task_that_can_be_tried_again_goes_before_an_actor(tight: Any) -> None:
    @tight.remote
    class Keeper:
        def keep(self) -> int:
            self.state = b"x" * (90 * MB)
            return os.getpid()

        def pid(self) -> int:
            return os.getpid()

    @tight.remote(max_retries=0)
    def grow() -> int:
        return fill()

    keeper = Keeper.remote()
    pid = tight.get(keeper.keep.remote(), timeout=SECONDS)
    with pytest.raises(exceptions.OutOfMemoryError, match="grow held"):
        tight.get(grow.remote(), timeout=SECONDS)
    assert tight.get(keeper.pid.remote(), timeout=SECONDS) == pid


def test_many_hogs_one_after_the_other_leave_a_working_engine(tight: Any) -> None:
    @tight.remote(max_retries=0)
    def hog() -> int:
        return fill()

    @tight.remote
    def fine(x: int) -> int:
        return x

    node = node_pid()
    for _ in range(5):
        with pytest.raises(exceptions.OutOfMemoryError):
            tight.get(hog.remote(), timeout=SECONDS)
        assert tight.get([fine.remote(x) for x in range(20)], timeout=SECONDS) == list(range(20))
    assert node_pid() == node
    eventually(lambda: tight.available_resources() == tight.cluster_resources())


def test_hogs_together_are_stopped_until_the_others_fit(tight: Any) -> None:
    @tight.remote(max_retries=-1)
    def half() -> int:
        return fill(megabytes=70)

    assert tight.get([half.remote() for _ in range(4)], timeout=SECONDS) == [14] * 4


@pytest.mark.parametrize("limit", [0, -1, 1.5e9, True, "1G"])
def test_a_limit_is_a_number_of_bytes(no_engine: Any, limit: Any) -> None:
    with pytest.raises(ValueError, match="memory_limit"):
        no_engine.init(memory_limit=limit)


# ------------------------------------------------------------------------- the watch by itself


class _Node:
    """A node of which only the watch's view is there: this process is its one worker."""

    def __init__(self) -> None:
        # Not recycled for its size: that is whatever earlier tests have made of this process.
        self.config = Config(worker_recycle_bytes=1 << 50)
        self.machine = NodeMachine({"CPU": 1.0}, self.config, self)  # type: ignore[arg-type]
        self.machine.on_worker_ready(b"worker", os.getpid(), 0.0)
        self.killed: list[tuple[bytes, str, str]] = []
        self.notebook = Notebook.create()
        self.notebook.describe("f", True)
        self.store = self

    def touched(self) -> int:
        """Of the store: nothing lies there."""
        return 0

    def send(self, process: bytes, message: Any) -> None:
        raise AssertionError(f"{message!r} to {process!r}")

    def notes(self, process: bytes) -> tuple[Notebook, int]:
        return self.notebook, MB

    def kill(self, process: bytes, cause: str, error: str) -> None:
        self.killed.append((process, cause, error))


def _watch(node: _Node, *gauges: tuple[str, int, int]) -> MemoryWatch:
    watch = MemoryWatch(node, None)  # type: ignore[arg-type]
    watch._gauges = [lambda gauge=gauge: gauge for gauge in gauges]
    return watch


def test_the_tightest_of_machine_and_cgroups_counts() -> None:
    node = _Node()
    watch = _watch(node, ("this machine", 10 * MB, 1000 * MB), ("the cgroup x", 96 * MB, 100 * MB))
    watch.tick(1.0)
    ((process, cause, error),) = node.killed
    assert (process, error) == (b"worker", "OutOfMemoryError")
    assert cause.startswith("was stopped by the memory watch: f held ")
    assert "the cgroup x used 100,663,296 of at most 99,614,720 bytes" in cause
    node.notebook.close()


def test_one_victim_at_a_time() -> None:
    node = _Node()
    watch = _watch(node, ("this machine", 99 * MB, 100 * MB))
    now = 1.0
    while now < 2.9:
        now = watch.tick(now)
    assert len(node.killed) == 1, "it is given time to die"
    while now < 4.0:
        now = watch.tick(now)
    assert len(node.killed) == 2
    node.machine.on_died(b"worker", now)
    watch.tick(now)
    assert len(node.killed) == 2, "nobody is left"
    node.notebook.close()


def test_with_room_it_looks_seldom() -> None:
    node = _Node()
    watch = _watch(node, ("this machine", 1 * MB, 1 << 40))
    assert watch.tick(1.0) == 2.0
    assert watch.tick(1.5) == 2.0
    assert node.killed == []
    node.notebook.close()
