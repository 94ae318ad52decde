"""ActorPool: order, eagerness, errors, time limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engine
from engine.util import ActorPool
from tests.util import functions as f

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]
SECONDS = 20.0


@engine.remote
class Worker:
    """Does what the tests need."""

    def double(self, x: int) -> int:
        if x < 0:
            raise ValueError(f"negative: {x}")
        return 2 * x

    def wait_for(self, path: str) -> str:
        return f.wait_for(path) if path else ""

    def touch(self, path: str) -> str:
        return f.touch(path)

    @engine.method(num_returns=2)
    def pair(self, x: int) -> tuple[int, int]:
        return x, -x


def double(actor: Any, x: int) -> Any:
    return actor.double.remote(x)


def wait_for(actor: Any, path: str) -> Any:
    return actor.wait_for.remote(path)


@pytest.fixture
def pool() -> ActorPool:
    return ActorPool([Worker.remote(), Worker.remote()])


def test_map_keeps_the_order_and_unordered_has_all(pool: ActorPool) -> None:
    assert list(pool.map(double, range(50))) == [2 * n for n in range(50)]
    assert sorted(pool.map_unordered(double, range(50))) == [2 * n for n in range(50)]
    assert list(pool.map(double, [])) == []
    assert list(pool.map(lambda a, x: a.pair.remote(x), [1, 2])) == [[1, -1], [2, -2]]


def test_map_submits_before_the_first_result_is_asked_for(pool: ActorPool, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    pool.map(lambda a, path: a.touch.remote(path), [gate])
    assert f.wait_for(gate) == gate


def test_map_drops_what_nobody_took(pool: ActorPool) -> None:
    for n in range(5):
        pool.submit(double, n)
    assert list(pool.map(double, [10, 11])) == [20, 22]


def test_unordered_gives_what_is_ready(pool: ActorPool, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    pool.submit(wait_for, gate)
    pool.submit(wait_for, "")
    assert pool.get_next_unordered(timeout=SECONDS) == ""
    with pytest.raises(ValueError, match="not allowed to call get_next"):
        pool.get_next()
    f.touch(gate)
    assert pool.get_next_unordered(timeout=SECONDS) == gate
    pool.submit(double, 1)  # nothing is left of the unordered ones: there is an order again
    assert pool.get_next() == 2


@pytest.mark.parametrize("take", ["get_next", "get_next_unordered"])
def test_nothing_left_is_stop_iteration(pool: ActorPool, take: str) -> None:
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        getattr(pool, take)()


@pytest.mark.parametrize("take", ["get_next", "get_next_unordered"])
def test_time_limits(pool: ActorPool, take: str, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    pool.submit(wait_for, gate)
    with pytest.raises(TimeoutError, match="Timed out"):
        getattr(pool, take)(timeout=0.01)
    assert pool.has_next()
    with pytest.raises(TimeoutError, match="has been ignored"):
        getattr(pool, take)(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    f.touch(gate)
    assert list(pool.map(double, range(4))) == [0, 2, 4, 6]


@pytest.mark.parametrize("take", ["get_next", "get_next_unordered"])
def test_an_error_does_not_lose_the_actor(take: str) -> None:
    pool = ActorPool([Worker.remote()])
    for n in (-1, 5, -2, 6):
        pool.submit(double, n)
    found: list[Any] = []
    while pool.has_next():
        try:
            found.append(getattr(pool, take)(timeout=SECONDS))
        except ValueError as error:
            found.append(str(error).splitlines()[-1])
    expected = ["ValueError: negative: -1", 10, "ValueError: negative: -2", 12]
    assert found == expected
    assert pool.has_free()


def test_a_call_that_cannot_be_made_changes_nothing(pool: ActorPool) -> None:
    with pytest.raises(AttributeError):
        pool.submit(lambda actor, x: actor.missing.remote(x), 1)
    assert not pool.has_next()
    assert list(pool.map(double, [1, 2, 3])) == [2, 4, 6]


def test_actors_come_and_go(pool: ActorPool, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    assert pool.has_free()
    one, two = pool.pop_idle(), pool.pop_idle()
    assert one != two
    assert pool.pop_idle() is None
    assert not pool.has_free()
    pool.submit(wait_for, gate)  # waits for an actor
    pool.push(one)
    assert not pool.has_free()
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(one)  # busy
    pool.push(two)
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(two)
    f.touch(gate)
    assert pool.get_next(timeout=SECONDS) == gate
