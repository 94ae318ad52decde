"""`wait`: who is ready, in which order, and how long."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from engine import exceptions


@pytest.fixture
def gated(cluster: Any, tmp_path: Path) -> Any:
    """A task that ends when its gate, a file, is opened."""

    @cluster.remote(num_cpus=0)
    def gated(name: str) -> str:
        while not os.path.exists(name):
            time.sleep(0.001)
        return os.path.basename(name)

    class Gates:
        def start(self, name: str) -> Any:
            return gated.remote(str(tmp_path / name))

        def open(self, name: str) -> None:
            (tmp_path / name).touch()

    return Gates()


def test_ready_ones_come_in_the_order_given(cluster: Any, gated: Any) -> None:
    refs = [gated.start(name) for name in "abc"]
    gated.open("c")
    assert cluster.wait(refs) == ([refs[2]], refs[:2])
    gated.open("a")
    assert cluster.wait(refs, num_returns=2) == ([refs[0], refs[2]], [refs[1]])
    gated.open("b")
    assert cluster.wait(refs, num_returns=3) == (refs, [])


def test_at_most_num_returns_are_ready(cluster: Any) -> None:
    refs = [cluster.put(number) for number in range(5)]
    assert cluster.wait(refs, num_returns=2) == (refs[:2], refs[2:])


def test_a_timeout_returns_what_there_is(cluster: Any, gated: Any) -> None:
    refs = [gated.start(name) for name in "ab"]
    start = time.monotonic()
    assert cluster.wait(refs, timeout=0.05) == ([], refs)
    assert 0.05 <= time.monotonic() - start < 2
    gated.open("a")
    assert cluster.wait(refs, num_returns=2, timeout=0.5) == ([refs[0]], [refs[1]])
    assert cluster.wait(refs, num_returns=2, timeout=0) == ([refs[0]], [refs[1]])
    gated.open("b")
    cluster.get(refs)


def test_an_empty_list_is_ready_at_once(cluster: Any) -> None:
    assert cluster.wait([]) == ([], [])
    assert cluster.wait([], timeout=5) == ([], [])


def test_a_failure_is_ready(cluster: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise ValueError("no")

    ref = fail.remote()
    assert cluster.wait([ref], timeout=10) == ([ref], [])
    with pytest.raises(ValueError, match="no"):
        cluster.get(ref)


def test_the_death_of_an_actor_makes_its_calls_ready(cluster: Any) -> None:
    @cluster.remote
    class Sleeper:
        def ready(self) -> None:
            return None

        def sleep(self) -> None:
            time.sleep(600)

    sleeper = Sleeper.remote()
    cluster.get(sleeper.ready.remote())
    ref = sleeper.sleep.remote()
    assert cluster.wait([ref], timeout=0.02) == ([], [ref])
    cluster.kill(sleeper)
    assert cluster.wait([ref], timeout=10) == ([ref], [])
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(ref)


def test_get_with_timeout_says_why_it_is_pending(cluster: Any, gated: Any) -> None:
    ref = gated.start("a")
    with pytest.raises(exceptions.GetTimeoutError, match="gated") as caught:
        cluster.get(ref, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(TimeoutError):
        cluster.get(ref, timeout=0)
    gated.open("a")
    assert cluster.get(ref, timeout=10) == "a"
    assert cluster.get(ref, timeout=0) == "a"


def test_get_raises_at_the_first_error_without_waiting(cluster: Any, gated: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise ValueError("early")

    refs = [gated.start("a"), fail.remote()]
    cluster.wait([refs[1]], timeout=10)
    with pytest.raises(ValueError, match="early"):
        cluster.get(refs, timeout=5)
    gated.open("a")
    assert cluster.get(refs[0]) == "a"
