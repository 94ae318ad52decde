"""Pools and queues in rare trouble: interrupted, or with a worker that dies while it is asked."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.exceptions import ActorDiedError
from engine.util import Pool, Queue
from engine.util.helper import HELPER
from tests.engine.support import eventually, interrupt_in, kill9

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]
SECONDS = 20.0


def test_an_interrupted_get_takes_nothing() -> None:
    shared = Queue()
    with interrupt_in("get"), pytest.raises(KeyboardInterrupt):
        shared.get()
    shared.put(1)
    assert shared.get(timeout=SECONDS) == 1
    shared.shutdown()


def test_an_interrupted_put_adds_nothing() -> None:
    shared = Queue(maxsize=1)
    shared.put(1)
    with interrupt_in("put"), pytest.raises(KeyboardInterrupt):
        shared.put(2)
    assert shared.get(timeout=SECONDS) == 1
    shared.put(3)
    assert shared.get(timeout=SECONDS) == 3
    shared.shutdown()


class OnlyThere:
    """Cannot be made in the process that asks for it."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _make, (self.home,)


def _make(home: int) -> OnlyThere:
    if os.getpid() == home:
        raise LookupError("not here")
    return OnlyThere(home)


def test_a_result_that_cannot_be_rebuilt_here_is_told() -> None:
    with Pool(1) as made, pytest.raises(Exception, match="not here"):
        made.apply(OnlyThere, (os.getpid(),))


def test_a_worker_that_dies_while_it_is_asked_for_its_work(tmp_path: Path) -> None:
    """It is stopped, so the pool asks it to give back what it has not begun."""

    def stop_at_first(number: int) -> int:
        if number == 1500:  # in the midst of a batch
            (tmp_path / "writing").write_text(str(os.getpid()))
            (tmp_path / "writing").rename(tmp_path / "pid")
            os.kill(os.getpid(), signal.SIGSTOP)
        return number

    def asked() -> bool:
        return any(slot.batch is not None and slot.batch.asked for slot in made._crew._slots)

    with Pool(1) as made:
        made.map(stop_at_first, range(1000))  # so that large batches are used
        result = made.map_async(stop_at_first, range(1000, 2000))
        eventually(asked, SECONDS)
        eventually((tmp_path / "pid").exists, SECONDS)
        kill9(int((tmp_path / "pid").read_text()))
        with pytest.raises(ActorDiedError):
            result.get(SECONDS)
        assert made.map(stop_at_first, [1], 1) == [1]


def test_a_callback_that_raises_is_reported_and_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def broken() -> None:
        raise LookupError("the callback")

    ran = threading.Event()
    HELPER.call(broken)
    HELPER.call(ran.set)
    assert ran.wait(SECONDS)
    assert [one.exc_type for one in told] == [LookupError]
