"""Bounds: calls and bytes in flight, frames, functions. One engine with small limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.config import Config
from tests.engine.support import eventually, home

IN_FLIGHT_MAX = 16
FRAME_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def small() -> Iterator[Any]:
    assert not engine.is_initialized()
    config = Config(
        in_flight_calls_max=IN_FLIGHT_MAX,
        in_flight_bytes_max=1 << 20,
        frame_bytes_max=FRAME_BYTES,
        function_bytes_max=50_000,
        segment_bytes=1 << 20,
    )
    engine.init(num_cpus=2, config=config)
    yield engine
    engine.shutdown()


def test_submitting_waits_at_the_limit_and_goes_on(small: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    most = 0

    @small.remote(num_cpus=0)
    def hold(path: str) -> int:
        import os

        while not os.path.exists(path):
            time.sleep(0.001)
        return 1

    refs: list[Any] = []

    def submit() -> None:
        for _ in range(IN_FLIGHT_MAX + 10):
            refs.append(hold.remote(str(gate)))

    thread = threading.Thread(target=submit)
    thread.start()
    eventually(lambda: len(refs) == IN_FLIGHT_MAX)
    thread.join(0.1)
    most = len(refs)
    gate.touch()
    thread.join(20)
    assert not thread.is_alive()
    assert most == IN_FLIGHT_MAX
    assert small.get(refs, timeout=20) == [1] * (IN_FLIGHT_MAX + 10)


def test_many_more_tasks_than_the_limit(small: Any) -> None:
    @small.remote
    def echo(x: int) -> int:
        return x

    assert small.get([echo.remote(x) for x in range(1000)], timeout=30) == list(range(1000))
    assert home().owner.unfinished == 0
    assert home().owner.unfinished_bytes == 0


def test_many_more_calls_than_the_limit(small: Any) -> None:
    @small.remote
    class Echo:
        def echo(self, x: int) -> int:
            return x

    actor = Echo.remote()
    assert small.get([actor.echo.remote(x) for x in range(500)], timeout=30) == list(range(500))


def test_bytes_in_flight_are_bounded(small: Any) -> None:
    @small.remote
    def size(x: bytes) -> int:
        return len(x)

    refs = []
    for _ in range(60):
        refs.append(size.remote(bytes(90_000)))
        assert home().owner.unfinished_bytes <= 1 << 20
    assert small.get(refs, timeout=30) == [90_000] * 60


def test_one_argument_above_the_byte_limit_still_goes(small: Any) -> None:
    @small.remote
    def size(x: bytes) -> int:
        return len(x)

    assert small.get([size.remote(bytes(2 << 20)) for _ in range(3)], timeout=30) == [2 << 20] * 3


def test_nested_tasks_at_the_limit_do_not_deadlock(small: Any) -> None:
    @small.remote
    def child(x: int) -> int:
        return x

    @small.remote
    def parent() -> int:
        return sum(small.get([child.remote(1) for _ in range(3 * IN_FLIGHT_MAX)]))

    found = small.get([parent.remote() for _ in range(6)], timeout=40)
    assert found == [3 * IN_FLIGHT_MAX] * 6


def test_failing_and_cancelled_tasks_leave_the_budget(small: Any) -> None:
    @small.remote
    def fail(_x: Any = None) -> None:
        raise ValueError("no")

    for _ in range(3):
        refs = [fail.remote() for _ in range(IN_FLIGHT_MAX)]
        chained = [fail.remote(ref) for ref in refs[:5]]
        for ref in refs + chained:
            with pytest.raises(ValueError, match="no"):
                small.get(ref, timeout=20)
    assert home().owner.unfinished == 0


def test_a_call_with_many_large_dependencies_is_no_larger_than_a_frame(small: Any) -> None:
    """Inline dependencies together may exceed a frame; the task must run all the same."""
    refs = [small.put(bytes(90_000)) for _ in range(6)]

    @small.remote
    def total(*parts: bytes) -> int:
        return sum(map(len, parts))

    assert small.get(total.remote(*refs), timeout=20) == 6 * 90_000


def test_a_result_of_many_inline_values_is_no_larger_than_a_frame(small: Any) -> None:
    @small.remote(num_returns=6)
    def several() -> list[bytes]:
        return [bytes(90_000) for _ in range(6)]

    assert [len(one) for one in small.get(several.remote(), timeout=20)] == [90_000] * 6


def test_a_function_that_captures_data_is_refused(small: Any) -> None:
    data = bytes(100_000)

    @small.remote
    def big() -> int:
        return len(data)

    with pytest.raises(ValueError, match=r"above the limit.*engine\.put"):
        big.remote()


def test_the_engine_still_works(small: Any) -> None:
    assert small.get(small.put(bytes(500_000))) == bytes(500_000)
