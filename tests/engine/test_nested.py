"""Tasks that wait for tasks: no depth, order or number of CPUs may stop them."""

from __future__ import annotations

from typing import Any

import pytest

DEADLINE_SECONDS = 30.0
DEPTH = 30


def test_a_chain_thirty_deep_on_two_cpus(cluster: Any) -> None:
    @cluster.remote
    def descend(depth: int) -> int:
        return 0 if depth == 0 else 1 + cluster.get(descend.remote(depth - 1))

    assert cluster.get(descend.remote(DEPTH), timeout=DEADLINE_SECONDS) == DEPTH


def test_fibonacci(cluster: Any) -> None:
    @cluster.remote
    def fib(n: int) -> int:
        if n < 2:
            return n
        return sum(cluster.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert cluster.get(fib.remote(9), timeout=DEADLINE_SECONDS) == 34


def test_a_task_that_waits_for_a_sibling_queued_behind_it(cluster: Any) -> None:
    @cluster.remote
    def wait_for(refs: list[Any]) -> int:
        return cluster.get(refs[0]) + 1

    @cluster.remote
    def late(x: int) -> int:
        return x

    @cluster.remote
    class Box:
        """Passes a reference on before it exists for the one who waits for it."""

        def __init__(self) -> None:
            self.refs: list[Any] = []

        def fill(self, refs: list[Any]) -> None:
            self.refs += refs

        def take(self, at: int) -> Any:
            return self.refs[at] if at < len(self.refs) else None

    @cluster.remote
    def wait_in(box: Any, at: int) -> int:
        while (ref := cluster.get(box.take.remote(at))) is None:
            pass
        return cluster.get(ref) + 1

    assert cluster.get(wait_for.remote([late.remote(1)]), timeout=DEADLINE_SECONDS) == 2
    box = Box.remote()
    first = [wait_in.remote(box, at) for at in range(4)]  # more than there are CPUs
    cluster.get(box.fill.remote([late.remote(at) for at in range(4)]))
    assert cluster.get(first, timeout=DEADLINE_SECONDS) == [1, 2, 3, 4]


def test_many_parents_with_many_children(cluster: Any) -> None:
    @cluster.remote
    def child(x: int) -> int:
        return x

    @cluster.remote
    def parent(x: int) -> int:
        return sum(cluster.get([child.remote(x) for _ in range(10)]))

    found = cluster.get([parent.remote(x) for x in range(20)], timeout=DEADLINE_SECONDS)
    assert found == [10 * x for x in range(20)]


@pytest.mark.parametrize("cpus", [0, 0.5, 2])
def test_nesting_with_other_resources(cluster: Any, cpus: float) -> None:
    @cluster.remote(num_cpus=cpus)
    def descend(depth: int) -> int:
        return 0 if depth == 0 else 1 + cluster.get(descend.remote(depth - 1))

    assert cluster.get(descend.remote(6), timeout=DEADLINE_SECONDS) == 6


def test_wait_inside_a_task(cluster: Any) -> None:
    @cluster.remote
    def child(x: int) -> int:
        return x

    @cluster.remote
    def parent() -> int:
        refs = [child.remote(x) for x in range(6)]
        total = 0
        while refs:
            ready, refs = cluster.wait(refs, num_returns=min(2, len(refs)))
            total += sum(cluster.get(ready))
        return total

    assert cluster.get([parent.remote() for _ in range(4)], timeout=DEADLINE_SECONDS) == [15] * 4


def test_a_task_returns_references_of_its_children(cluster: Any) -> None:
    @cluster.remote
    def leaf(x: int) -> bytes:
        return bytes([x]) * 150_000

    @cluster.remote
    def tree() -> list[Any]:
        return [leaf.remote(x) for x in range(4)]

    leaves = cluster.get(tree.remote(), timeout=DEADLINE_SECONDS)
    assert [value[0] for value in cluster.get(leaves, timeout=DEADLINE_SECONDS)] == [0, 1, 2, 3]


def test_an_actor_made_in_a_task_dies_with_its_last_handle(cluster: Any) -> None:
    @cluster.remote
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

    @cluster.remote
    def use() -> int:
        counter = Counter.remote()
        return [cluster.get(counter.add.remote()) for _ in range(3)][-1]

    assert cluster.get([use.remote() for _ in range(3)], timeout=DEADLINE_SECONDS) == [3] * 3


def test_actors_that_call_each_other_through_tasks(cluster: Any) -> None:
    @cluster.remote
    def double(x: int) -> int:
        return 2 * x

    @cluster.remote
    class Inner:
        def work(self, x: int) -> int:
            return cluster.get(double.remote(x)) + 1

    @cluster.remote
    class Outer:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def work(self, x: int) -> int:
            return cluster.get(self.inner.work.remote(x)) + 1

    outer = Outer.remote(Inner.remote())
    found = cluster.get([outer.work.remote(x) for x in range(10)], timeout=DEADLINE_SECONDS)
    assert found == [2 * x + 2 for x in range(10)]
