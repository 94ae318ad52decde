"""Recovery under pressure: no place, no calls, no leases left, and the budget of lineage."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.config import Config
from engine.exceptions import ObjectReconstructionFailedError, ObjectStoreFullError
from tests.engine.losses import damage, lose, move_to_disk
from tests.engine.support import eventually, home

MIB = 1 << 20
STORE = 32 * MIB
SIZE = 200_000
SECONDS = 20

pytestmark = pytest.mark.processes


@pytest.fixture
def start(leak_check: None, tmp_path: Path) -> Iterator[Any]:
    """A way to start an engine with 32 MiB, two CPUs and some limits."""

    def begin(**limits: Any) -> Any:
        engine.init(
            num_cpus=2,
            resources={"licence": 1},
            object_store_memory=STORE,
            object_spilling_directory=str(tmp_path),
            config=Config(**{"store_patience_seconds": 0.05, "store_wait_seconds": 0.4, **limits}),
        )
        return engine

    assert not engine.is_initialized()
    yield begin
    gc.collect()
    engine.shutdown()


@engine.remote
def make(number: int, size: int = SIZE) -> np.ndarray:
    return np.full(size, number, np.uint8)


@engine.remote
def first(array: np.ndarray) -> int:
    return int(array[0])


def test_the_store_is_full_of_what_is_looked_at(start: Any) -> None:
    """New work finds no room; what was lost has a reserve."""
    small = start(spilled_bytes_max=MIB + 4096)
    lost = make.remote(3, MIB - 4096)
    small.wait([lost])
    move_to_disk(lost)
    looked_at = []

    def fill_up() -> None:
        while True:
            looked_at.append(small.get(small.put(np.zeros(MIB // 4, np.uint8))))

    with pytest.raises(ObjectStoreFullError):
        fill_up()
    damage(lost)
    start_time = time.monotonic()
    array = small.get(lost, timeout=SECONDS)
    assert bool((array == 3).all())
    assert home().locate(lost).block.segment > 0, "in memory beyond the limit"
    assert time.monotonic() - start_time < 2
    looked_at.clear()
    del array


def test_arguments_that_are_only_kept_make_room(start: Any) -> None:
    """Memory and disk are full of what only lineage holds: nobody is refused for that."""
    small = start(spilled_bytes_max=8 * MIB)

    @small.remote
    def shrink(array: np.ndarray) -> np.ndarray:
        return array[: len(array) // 8].copy()

    results = [shrink.remote(np.full(2 * MIB, number, np.uint8)) for number in range(40)]
    for number, array in enumerate(small.get(results, timeout=60)):
        assert bool((array == number).all())
    assert home().owner.objects.lineage.evicted > 0
    del results, array


def test_as_many_calls_as_may_be_wait_for_it(start: Any) -> None:
    """All calls in flight, and all leases of the shape, are those of readers."""
    small = start(in_flight_calls_max=3, leases_per_shape_max=2)
    ref = make.remote(7)
    small.wait([ref])
    lose(ref)
    readers = [first.options(scheduling_strategy="SPREAD").remote(ref) for _ in range(8)]
    assert small.get(readers, timeout=SECONDS) == [7] * 8
    lose(ref)
    assert small.get([first.remote(ref) for _ in range(8)], timeout=SECONDS) == [7] * 8


def test_a_chain_longer_than_there_are_leases(start: Any) -> None:
    """Each link waits inside of a worker for the one before it."""
    small = start(leases_per_shape_max=2)

    @small.remote
    def add(array: np.ndarray) -> np.ndarray:
        return array + np.uint8(1)

    refs = [make.remote(0)]
    for _ in range(5):
        refs.append(add.remote(refs[-1]))
    small.wait(refs, num_returns=len(refs))
    for ref in refs:
        move_to_disk(ref)
    for ref in refs:
        damage(ref)
    assert int(small.get(refs[-1], timeout=SECONDS)[0]) == 5


def test_the_reader_has_what_the_maker_needs(start: Any) -> None:
    """There is one licence: who has it and cannot begin gives it back."""
    small = start()

    @small.remote(num_cpus=0, resources={"licence": 1})
    def licensed(array: np.ndarray) -> np.ndarray:
        return array + np.uint8(1)

    made = licensed.remote(np.zeros(SIZE, np.uint8))
    small.wait([made])
    lose(made)
    assert int(small.get(licensed.remote(made), timeout=SECONDS)[0]) == 2
    del made


@pytest.mark.parametrize(
    ("limit", "text"), [(2000, "lineage_bytes_max .* is exceeded"), (0, "switches lineage off")]
)
def test_the_budget(start: Any, limit: int, text: str) -> None:
    small = start(lineage_bytes_max=limit)
    refs = []
    for number in range(3):  # one after the other: the last to end is the youngest
        refs.append(make.remote(number))
        small.wait(refs[-1:])
    lose(refs[0])
    with pytest.raises(ObjectReconstructionFailedError, match=text):
        small.get(refs[0], timeout=SECONDS)
    if limit:
        lose(refs[2])
        assert int(small.get(refs[2], timeout=SECONDS)[0]) == 2


def test_a_function_that_may_run_twice(start: Any) -> None:
    """A rebuilt task is a plain one: it is compared with no siblings."""
    small = start(speculation_siblings_min=2)
    twice = make.options(speculative=2.0)
    refs = [twice.remote(number) for number in range(4)]
    small.wait(refs, num_returns=4)
    lose(refs[1])
    assert int(small.get(refs[1], timeout=SECONDS)[0]) == 1
    lose(refs[1])
    eventually(lambda: int(small.get(refs[1], timeout=SECONDS)[0]) == 1)
