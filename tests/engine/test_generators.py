"""Generator tasks: items arrive while the task runs, never far ahead of the consumer."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import exceptions
from engine.core.ids import IdSource
from engine.core.messages import Consumed, Item
from engine.core.objects import ObjectTable
from engine.core.streams import ItemStreams
from engine.core.values import Value
from tests.engine.support import eventually

SECONDS = 20


def test_items_arrive_in_order_small_and_large(cluster: Any) -> None:
    @cluster.remote
    def numbers(n: int) -> Any:
        for number in range(n):
            yield np.full(60_000, number) if number % 5 == 0 else number

    found = [cluster.get(ref, timeout=SECONDS) for ref in numbers.remote(40)]
    for number, value in enumerate(found):
        assert int(np.max(value)) == number


def test_the_last_reference_carries_the_error(cluster: Any) -> None:
    @cluster.remote
    def broken() -> Any:
        yield 1
        raise LookupError("after one")

    refs = list(broken.remote())
    assert cluster.get(refs[0]) == 1
    with pytest.raises(LookupError, match="after one"):
        cluster.get(refs[1])
    assert len(refs) == 2


def test_the_producer_waits_for_its_consumer(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "produced"

    @cluster.remote(_generator_backpressure_num_objects=8)
    def numbers(path: str) -> Any:
        for number in range(1000):
            with open(path, "a") as file:
                file.write("x")
            yield number

    items = numbers.remote(str(mark))
    assert cluster.get(next(items)) == 0
    eventually(lambda: mark.exists() and mark.stat().st_size >= 8, what="the window is full")
    assert mark.stat().st_size <= 8 + 2
    for expected in range(1, 500):
        assert cluster.get(next(items)) == expected
    assert mark.stat().st_size <= 500 + 10
    assert cluster.get(items.completed(), timeout=SECONDS) == 1000  # asking lifts the window
    assert len(list(items)) == 500


def test_dropping_the_generator_stops_the_producer(cluster: Any) -> None:
    @cluster.remote
    class Source:
        def __init__(self) -> None:
            self.made = 0

        def items(self) -> Any:
            while True:
                self.made += 1
                yield self.made

        def count(self) -> int:
            return self.made

    source = Source.remote()
    items = source.items.remote()
    assert cluster.get(next(items), timeout=SECONDS) == 1
    del items
    assert cluster.get(source.count.remote(), timeout=SECONDS) < 200


def test_a_crash_replays_and_yields_each_item_once(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "died"

    @cluster.remote(max_retries=1)
    def numbers(path: str) -> Any:
        for number in range(20):
            if number == 10 and not os.path.exists(path):
                open(path, "w").close()
                os._exit(1)
            yield number

    assert [cluster.get(ref) for ref in numbers.remote(str(mark))] == list(range(20))
    assert mark.exists()


def test_in_an_event_loop_and_from_an_async_actor(cluster: Any) -> None:
    @cluster.remote
    class Source:
        async def items(self, n: int) -> Any:
            for number in range(n):
                await asyncio.sleep(0)
                yield number

    async def collect() -> list[int]:
        return [await ref async for ref in Source.remote().items.remote(300)]

    assert asyncio.run(asyncio.wait_for(collect(), SECONDS)) == list(range(300))


def test_a_generator_is_not_picklable(cluster: Any) -> None:
    @cluster.remote
    def numbers() -> Any:
        yield 1

    with pytest.raises(TypeError, match="cannot be pickled"):
        cluster.put(numbers.remote())


def test_next_ready_and_is_finished(cluster: Any) -> None:
    @cluster.remote
    def numbers() -> Any:
        yield 1

    items = numbers.remote()
    eventually(items.next_ready, what="the first item")
    next(items)
    eventually(items.is_finished, what="the end")
    with pytest.raises(StopIteration):
        next(items)


def test_references_inside_items_stay_alive(cluster: Any) -> None:
    @cluster.remote
    def boxes() -> Any:
        for number in range(5):
            yield [cluster.put(np.full(50_000, number))]

    for number, ref in enumerate(boxes.remote()):
        (inner,) = cluster.get(ref)
        assert cluster.get(inner, timeout=SECONDS)[-1] == number


class _Task:
    def __init__(self, task_id: bytes) -> None:
        self.id = task_id
        self.name = "numbers"
        self.worker = b"executor"
        self.attempts = 0


def test_a_replayed_item_is_dropped_and_its_block_freed() -> None:
    ids = IdSource(b"caller00")
    sent: list[tuple[bytes, Any]] = []
    freed: list[Any] = []
    table = ObjectTable(b"caller00", lambda *m: sent.append(m), freed.append, lambda ids: ids)
    streams = ItemStreams(ids, table, lambda *m: sent.append(m))
    task = _Task(ids.new())
    table.add(task.id)
    stream = streams.open(task, 4)
    for index in (0, 1, 0, 1, 2):
        streams.on_item(b"executor", Item(task.id, index, Value(bytes([index]))))
    assert stream.received == 3
    assert [table.entries[one].value.data for one in stream.ready] == [b"\0", b"\1", b"\2"]
    for _ in range(3):
        streams.take(stream)
    told = [one.count for _peer, one in sent if isinstance(one, Consumed)]
    assert told == [1, 2, 3]


@pytest.mark.parametrize("again", [0, 3, 25])
def test_a_replay_with_another_count_fails_by_name(
    cluster: Any, tmp_path: Path, again: int
) -> None:
    """Ten items, a crash, and then fewer: the task is not what a replay needs. More is not seen."""
    mark = tmp_path / "died"

    @cluster.remote(max_retries=1)
    def numbers(path: str) -> Any:
        if os.path.exists(path):
            yield from range(again)
            return
        yield from range(10)
        open(path, "w").close()
        os._exit(1)

    items = numbers.remote(str(mark))
    found = [cluster.get(next(items), timeout=SECONDS) for _ in range(10)]
    assert found == list(range(10))
    rest = list(items)
    if again == 25:
        assert [cluster.get(ref) for ref in rest] == list(range(10, 25))
        return
    with pytest.raises(
        exceptions.StreamingGeneratorReplayInconsistentError,
        match=f"yielded {again} items; 10 had come",
    ):
        cluster.get(rest[0], timeout=SECONDS)
    assert len(rest) == 1


def test_wait_takes_generators(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def slow(path: str) -> Any:
        while not os.path.exists(path):
            time.sleep(0.001)
        yield 1

    @cluster.remote(num_cpus=0)
    def quick() -> Any:
        yield 2

    first, second, ref = slow.remote(str(gate)), quick.remote(), cluster.put(3)
    ready, rest = cluster.wait([first, second, ref], num_returns=2, timeout=SECONDS)
    assert ready == [second, ref]
    assert rest == [first]
    assert cluster.wait([first], timeout=0.01) == ([], [first])
    gate.touch()
    assert cluster.wait([first], timeout=SECONDS) == ([first], [])
    assert cluster.get(next(first)) == 1
    eventually(first.next_ready, what="the end is known")
    assert cluster.wait([first, second], timeout=SECONDS)[0] == [first], "its end is ready as well"
    assert list(first) == []


def test_a_consumer_of_several_generators(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    def numbers(start: int, n: int) -> Any:
        yield from range(start, start + n)

    waiting = [numbers.remote(100 * k, 20 * k) for k in range(4)]
    found = []
    while waiting:
        ready, waiting = cluster.wait(waiting, timeout=SECONDS)
        (items,) = ready
        try:
            found.append(cluster.get(next(items)))
            waiting.append(items)
        except StopIteration:
            assert items.is_finished()
    assert sorted(found) == [100 * k + i for k in range(4) for i in range(20 * k)]


def test_get_returns_a_generator_as_it_is(cluster: Any) -> None:
    @cluster.remote
    def numbers() -> Any:
        yield 1

    items = numbers.remote()
    assert cluster.get(items) is items
    with pytest.raises(TypeError, match="element 0 is a ObjectRefGenerator"):
        cluster.get([items])
    assert cluster.get(list(items)) == [1]


@pytest.mark.parametrize(
    ("actor", "method", "call", "window"),
    [(4, None, None, 4), (None, 4, None, 4), (8, 4, None, 4), (4, 8, None, 4), (8, -1, 4, 4),
     (4, None, -1, 4), (-1, -1, 4, 4)],
)  # fmt: skip
def test_the_tighter_window_of_actor_method_and_call_wins(
    cluster: Any, actor: int | None, method: int | None, call: int | None, window: int
) -> None:
    name = "_generator_backpressure_num_objects"

    class Source:
        def __init__(self) -> None:
            self.made = 0

        @cluster.method(**{name: method})
        def items(self) -> Any:
            while True:
                self.made += 1
                yield self.made

        @cluster.method(concurrency_group="looking")
        def count(self) -> int:
            return self.made

    made = cluster.remote(num_cpus=0, concurrency_groups={"looking": 1}, **{name: actor})(Source)
    source = made.remote()
    items = source.items.options(**{name: call}).remote()
    assert cluster.get(next(items), timeout=SECONDS) == 1
    count = eventually(lambda: _stable(lambda: cluster.get(source.count.remote())))
    assert window <= count <= window + 2


def _stable(look: Any) -> Any:
    """A value that does not change while it is looked at a few times."""
    first = look()
    return first if all(look() == first for _ in range(20)) and first > 1 else None


def test_a_generator_task_is_cancelled_when_its_handle_is_gone_before_it_began(
    cluster: Any, tmp_path: Path
) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"

    @cluster.remote(num_cpus=2)
    def hold(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.001)

    @cluster.remote(num_cpus=2)
    def numbers(path: str) -> Any:
        open(path, "w").close()
        yield 1

    holding = hold.remote(str(gate))
    numbers.remote(str(mark))
    cluster.put(None)  # tells the engine of the generator that died
    gate.touch()
    cluster.get(holding, timeout=SECONDS)

    @cluster.remote(num_cpus=2)
    def after() -> int:
        return 1

    assert cluster.get(after.remote(), timeout=SECONDS) == 1
    assert not mark.exists()


def test_whoever_waits_for_the_end_of_one_that_has_yet_to_begin_gets_it(cluster: Any) -> None:
    @cluster.remote(_generator_backpressure_num_objects=1)
    def numbers(first: int) -> Any:
        yield from range(first, 10)

    @cluster.remote
    def late() -> int:
        time.sleep(0.05)
        return 0

    items = numbers.remote(late.remote())
    assert cluster.get(items.completed(), timeout=SECONDS) == 10
    assert [cluster.get(ref) for ref in items] == list(range(10))
