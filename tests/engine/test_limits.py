"""Bounds: calls and bytes in flight, frames, functions. One engine with small limits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from engine.config import Config
from tests.engine.support import eventually, finished_script, home

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


def test_raising_instead_of_waiting(small: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @small.remote(num_cpus=0)
    def hold(path: str, _data: bytes = b"") -> int:
        while not os.path.exists(path):
            time.sleep(0.001)
        return 1

    @small.remote(num_cpus=0, max_concurrency=IN_FLIGHT_MAX)
    class Holder:
        def hold(self, path: str) -> int:
            while not os.path.exists(path):
                time.sleep(0.001)
            return 1

        def items(self) -> Any:
            yield 1

    holder = Holder.remote()
    raising = hold.options(on_full="raise")
    refs = [raising.remote(str(gate)) for _ in range(IN_FLIGHT_MAX - 1)]
    refs.append(holder.hold.options(on_full="raise").remote(str(gate)))
    submissions = [
        lambda: raising.remote(str(gate)),
        lambda: holder.hold.options(on_full="raise").remote(str(gate)),
        lambda: holder.items.options(on_full="raise").remote(),
    ]
    for submit in submissions:
        with pytest.raises(exceptions.SubmissionLimitExceeded, match=r"16 calls.*1048576 bytes"):
            submit()
        with pytest.raises(exceptions.PendingCallsLimitExceeded, match=r"engine\.wait"):
            submit()
    gate.touch()
    assert small.get(refs, timeout=20) == [1] * IN_FLIGHT_MAX
    assert small.get(raising.remote(str(gate)), timeout=20) == 1
    assert home().owner.unfinished == 0


def test_raising_for_bytes(small: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @small.remote(num_cpus=0, on_full="raise")
    def hold(path: str, data: bytes) -> int:
        while not os.path.exists(path):
            time.sleep(0.001)
        return len(data)

    refs = [hold.remote(str(gate), bytes(600_000))]
    with pytest.raises(exceptions.SubmissionLimitExceeded, match=r"this one has 600\d\d\d bytes"):
        hold.remote(str(gate), bytes(600_000))
    gate.touch()
    assert small.get(refs, timeout=20) == [600_000]
    assert small.get(hold.remote(str(gate), bytes(2 << 20)), timeout=20) == 2 << 20


def test_an_answer_that_has_arrived_makes_room(small: Any) -> None:
    @small.remote(on_full="raise")
    def echo(x: int) -> int:
        return x

    total = 0
    for _ in range(20):
        refs = [echo.remote(x) for x in range(IN_FLIGHT_MAX)]
        total += len(small.wait(refs, num_returns=IN_FLIGHT_MAX, timeout=20)[0])
    assert total == 20 * IN_FLIGHT_MAX


def test_submitters_three_deep_at_the_limit_do_not_deadlock(small: Any) -> None:
    @small.remote
    def descend(depth: int) -> int:
        if not depth:
            return 1
        count = IN_FLIGHT_MAX + 2 if depth == 1 else 3
        return sum(small.get([descend.remote(depth - 1) for _ in range(count)]))

    found = small.get([descend.remote(3) for _ in range(2)], timeout=40)
    assert found == [9 * (IN_FLIGHT_MAX + 2)] * 2


def test_actors_and_coroutines_at_the_limit_do_not_deadlock(small: Any) -> None:
    @small.remote
    def child(x: int) -> int:
        return x

    class Base:
        def work(self) -> int:
            return sum(small.get([child.remote(1) for _ in range(3 * IN_FLIGHT_MAX)]))

    class Loop:
        async def work(self) -> int:
            return sum([await ref for ref in [child.remote(1) for _ in range(3 * IN_FLIGHT_MAX)]])

    plain = small.remote(Base).options(num_cpus=1).remote()
    threaded = small.remote(Base).options(max_concurrency=4).remote()
    loop = small.remote(Loop).remote()
    refs = [one.work.remote() for one in (plain, threaded, loop) for _ in range(4)]
    assert small.get(refs, timeout=40) == [3 * IN_FLIGHT_MAX] * 12


def test_the_whole_engine_may_raise(tmp_path: Path) -> None:
    out = finished_script(
        """
import engine
from engine.config import Config
from engine.exceptions import SubmissionLimitExceeded
import threading

@engine.remote(num_cpus=0)
def hold():
    threading.Event().wait(0.3)
    return 1

@engine.remote(num_cpus=0)
def nested():
    try:
        refs = [hold.remote() for _ in range(5)]
    except SubmissionLimitExceeded:
        return "refused"

engine.init(num_cpus=1, on_full="raise", config=Config(in_flight_calls_max=4))
refs = [hold.remote() for _ in range(4)]
try:
    hold.remote()
except SubmissionLimitExceeded as error:
    print("refused")
print(engine.get(hold.options(on_full="block").remote()))
print(engine.get(nested.remote()))
""",
        tmp_path,
    )
    assert out.splitlines() == ["refused", "1", "refused"]


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


_MANY = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import engine

@engine.remote(num_cpus=0)
class Small:
    def answer(self):
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 50

engine.init(num_cpus=2)
actors = [Small.remote() for _ in range(40)]
assert all(engine.get([actor.answer.remote() for actor in actors], timeout=40))
engine.shutdown()
print("all answered")
"""


def test_more_actors_than_the_usual_limit_of_descriptors_has_room_for(tmp_path: Path) -> None:
    """Forty actors take more than fifty descriptors, in the node and in the driver."""
    assert "all answered" in finished_script(_MANY, tmp_path)
