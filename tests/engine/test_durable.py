"""`put(durable=True)`: two copies, and an owner that does not die with who put the value."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine.config import Config
from engine.exceptions import (
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    OwnerDiedError,
    TaskCancelledError,
)
from tests.engine.losses import damage, lose, move_to_disk
from tests.engine.support import eventually, family, home, kill9

SIZE = 200_000
SECONDS = 20

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def nothing_stays(small: Any) -> Iterator[None]:
    """Both copies are gone with the last reference."""
    yield

    def clean() -> bool:
        gc.collect()
        engine.put(0)
        return engine.nodes()[0]["disk_used"] == 0 and not home().owner.objects.lineage.known

    eventually(clean, what="space on disk is given back")


@engine.remote(num_cpus=0)
class Putter:
    """A process that puts, and dies."""

    def put(self, number: int, size: int = SIZE, durable: bool = True) -> list[Any]:
        return [engine.put(np.full(size, number, np.uint8), durable=durable)]

    def pid(self) -> int:
        return os.getpid()


@engine.remote
def first(array: np.ndarray) -> int:
    return int(array[0])


def is_full(array: np.ndarray, number: int) -> bool:
    return len(array) == SIZE and bool((array == number).all())


def spare_of(ref: Any) -> Any:
    held = home().owner.spill.held.get(ref.binary())
    return None if held is None else held.spare


def damage_spare(ref: Any) -> None:
    block = spare_of(ref)
    fd = home().values.disk.duplicate(block)
    os.pwrite(fd, b"damage", block.offset + block.size // 2)
    os.close(fd)


def test_it_survives_who_put_it(small: Any) -> None:
    """kill -9 of the process: readers that had seen it and those that had not."""
    putter = Putter.remote()
    (ref,) = small.get(putter.put.remote(7))
    (other,) = small.get(putter.put.remote(8))
    (lost,) = small.get(putter.put.remote(9, SIZE, False))
    (little,) = small.get(putter.put.remote(3, 10))
    assert is_full(small.get(ref), 7)
    pid = small.get(putter.pid.remote())
    kill9(pid)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert is_full(small.get(ref, timeout=SECONDS), 7)
    assert is_full(small.get(other, timeout=SECONDS), 8)
    assert small.get(first.remote(other), timeout=SECONDS) == 8
    assert list(small.get(little, timeout=SECONDS)) == [3] * 10
    with pytest.raises(OwnerDiedError):
        small.get(lost, timeout=SECONDS)


def test_it_survives_that_and_the_loss_of_one_copy(small: Any) -> None:
    putter = Putter.remote()
    (ref,) = small.get(putter.put.remote(7))
    pid = small.get(putter.pid.remote())
    kill9(pid)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    lose(ref)
    assert is_full(small.get(ref, timeout=SECONDS), 7)


@pytest.mark.parametrize("reader", ["driver", "worker"])
def test_a_lost_copy_is_replaced(small: Any, reader: str) -> None:
    ref = small.put(np.full(SIZE, 5, np.uint8), durable=True)
    for _ in range(3):
        eventually(lambda: spare_of(ref), what="there are two copies")
        lose(ref)
        if reader == "driver":
            assert is_full(small.get(ref), 5)
        else:
            assert small.get(first.remote(ref), timeout=SECONDS) == 5


def test_the_copies_lie_in_different_files(small: Any) -> None:
    ref = small.put(np.full(SIZE, 5, np.uint8), durable=True)
    move_to_disk(ref)
    assert spare_of(ref).segment != home().locate(ref).block.segment
    fd = home().values.disk.duplicate(home().locate(ref).block)
    os.truncate(fd, 0)
    os.close(fd)
    assert is_full(small.get(ref), 5)


def test_both_copies_are_lost(small: Any) -> None:
    ref = small.put(np.full(SIZE, 5, np.uint8), durable=True)
    move_to_disk(ref)
    damage_spare(ref)
    damage(ref)
    with pytest.raises(ObjectReconstructionFailedError, match="both copies of it are lost"):
        small.get(ref)
    with pytest.raises(ObjectLostError, match="both copies"):
        small.get(first.remote(ref), timeout=SECONDS)


def test_a_second_copy_that_cannot_be_made(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The disk takes nothing when the lost copy is to be replaced: the other one serves."""
    ref = small.put(np.full(SIZE, 5, np.uint8), durable=True)
    lose(ref)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with caplog.at_level(logging.WARNING, "engine"):
            assert is_full(small.get(ref), 5)
            eventually(lambda: caplog.records, what="it is said that there is one copy only")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no other could be made" in caplog.text
    assert "File too large" in caplog.text
    assert spare_of(ref) is None
    assert is_full(small.get(ref), 5)


def test_a_task_that_is_cancelled_while_it_hands_over(small: Any) -> None:
    """The driver's answer waits for an owner that is stopped; the cancelled task does not."""

    @small.remote
    def hand_over() -> Any:
        holder = Putter.remote()
        inner = engine.get(holder.put.remote(7, SIZE, False))
        os.kill(engine.get(holder.pid.remote()), signal.SIGSTOP)
        return engine.put([inner, np.full(SIZE, 6, np.uint8)], durable=True)

    ref = hand_over.remote()
    eventually(lambda: home().owner.spill.held, what="the driver has the value")
    try:
        small.cancel(ref)
        with pytest.raises(TaskCancelledError):
            small.get(ref, timeout=SECONDS)
    finally:
        for process in family():
            process.send_signal(signal.SIGCONT)


def test_references_inside_are_kept(small: Any) -> None:
    @small.remote(num_cpus=0)
    class Nester:
        def nest(self, refs: list[Any]) -> list[Any]:
            return [engine.put([*refs, engine.put(4)], durable=True)]

    inner = small.put(np.full(SIZE, 6, np.uint8))
    nester = Nester.remote()
    (ref,) = small.get(nester.nest.remote([inner]))
    del inner
    first_one, second = small.get(ref)
    assert is_full(small.get(first_one), 6)
    assert small.get(second) == 4
    del nester


def test_small_values_and_arguments(small: Any) -> None:
    ref = small.put({"a": 1}, durable=True)
    assert small.get(ref) == {"a": 1}
    assert spare_of(ref) is None
    with pytest.raises(TypeError, match="reference already"):
        small.put(ref, durable=True)


def test_without_room_on_disk_it_is_refused() -> None:
    engine.shutdown()
    config = Config(spilled_bytes_max=0)
    engine.init(num_cpus=1, object_store_memory=32 << 20, config=config)
    before = home().values.bytes_live()
    with pytest.raises(ObjectStoreFullError, match="do not fit on disk"):
        engine.put(np.zeros(SIZE, np.uint8), durable=True)
    assert home().values.bytes_live() == before, "nor is the first copy kept"
