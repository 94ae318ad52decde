"""Objects that were lost are there again: real processes, real damage on a real disk."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    TaskCancelledError,
)
from tests.engine.losses import damage, lose, lose_all, move_to_disk
from tests.engine.support import eventually, home, kill9

SIZE = 200_000
SECONDS = 20

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lineage, objects and space are gone with the last references."""
    yield
    if "small" in request.fixturenames:

        def clean() -> bool:
            gc.collect()  # the errors that were expected refer to frames with references
            engine.put(0)
            lineage = home().owner.objects.lineage
            return not (lineage.known or lineage._records or lineage._held or lineage.nbytes)

        eventually(clean, what="nothing is remembered of what nobody refers to")
        eventually(lambda: engine.nodes()[0]["disk_used"] == 0, what="space is given back")


class Runs:
    """Counts how often tasks ran, in files that every process can write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def note(self, name: str) -> None:
        """From a task: it runs."""
        with open(os.path.join(self.folder, name), "a") as file:
            file.write(f"{os.getpid()}\n")

    def pids(self, name: str) -> list[int]:
        """Where it ran."""
        path = Path(self.folder, name)
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def __getitem__(self, name: str) -> int:
        return len(self.pids(name))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@engine.remote
def make(runs: Runs, name: str, number: int) -> np.ndarray:
    runs.note(name)
    return np.full(SIZE, number % 251, np.uint8)


@engine.remote
def add(runs: Runs, name: str, array: np.ndarray, more: int) -> np.ndarray:
    runs.note(name)
    return array + np.uint8(more)


@engine.remote
def first(array: np.ndarray) -> int:
    return int(array[0])


def is_full(array: np.ndarray, number: int) -> bool:
    return len(array) == SIZE and bool((array == number % 251).all())


# ---------------------------------------------------------------------- readers


def test_a_lost_result_is_computed_again(small: Any, runs: Runs) -> None:
    ref = make.remote(runs, "a", 7)
    assert is_full(small.get(ref), 7)
    lose(ref)
    assert is_full(small.get(ref), 7)
    assert runs["a"] == 2
    assert is_full(small.get(ref), 7)
    assert runs["a"] == 2
    lose(ref)
    assert is_full(small.get(ref), 7), "a second time"
    assert runs["a"] == 3


def test_some_of_many_are_lost(small: Any, runs: Runs) -> None:
    refs = [make.remote(runs, str(number), number) for number in range(8)]
    small.get(refs)
    lose_all(refs[2:5])
    for number, array in enumerate(small.get(refs, timeout=SECONDS)):
        assert is_full(array, number)
    assert [runs[str(number)] for number in range(8)] == [1, 1, 2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("how", ["await", "future", "share"])
def test_other_ways_to_read(small: Any, runs: Runs, how: str) -> None:
    ref = make.remote(runs, "a", 5)
    small.wait([ref])
    lose(ref)
    if how == "await":

        async def read() -> Any:
            return await ref

        assert is_full(asyncio.run(read()), 5)
    elif how == "future":
        assert is_full(ref.future().result(SECONDS), 5)
    else:
        from engine.util import share_arrow

        with share_arrow(ref) as shared:
            found = np.memmap(shared.path, shared.dtype, "r", shared.offset, shared.shape)
            assert is_full(found, 5)
    assert runs["a"] == 2


def test_a_lost_argument_of_a_task(small: Any, runs: Runs) -> None:
    ref = make.remote(runs, "a", 3)
    small.wait([ref])
    lose(ref)
    result = add.remote(runs, "b", ref, 1)
    assert is_full(small.get(result, timeout=SECONDS), 4)
    assert (runs["a"], runs["b"]) == (2, 1)


def test_many_readers_at_once_have_it_computed_once(small: Any, runs: Runs) -> None:
    """More readers than CPUs: all of them wait, and what they wait for runs."""
    ref = make.remote(runs, "a", 9)
    small.wait([ref])
    lose(ref)
    found = [first.options(num_cpus=1, scheduling_strategy="SPREAD").remote(ref) for _ in range(6)]
    assert small.get(found, timeout=SECONDS) == [9] * 6
    assert runs["a"] == 2


def test_a_lost_argument_of_an_actor(small: Any, runs: Runs) -> None:
    @small.remote
    class Reader:
        def read(self, array: np.ndarray) -> int:
            return int(array.sum())

    ref = make.remote(runs, "a", 1)
    small.wait([ref])
    lose(ref)
    reader = Reader.remote()
    assert small.get(reader.read.remote(ref), timeout=SECONDS) == SIZE
    assert runs["a"] == 2

    @small.remote
    class Made:
        def __init__(self, array: np.ndarray) -> None:
            self.sum = int(array.sum())

        async def sums(self, array: Any) -> int:
            return self.sum + int(np.sum(array))

    lose(ref)
    made = Made.remote(ref)
    assert small.get(made.sums.remote(0), timeout=SECONDS) == SIZE
    lose(ref)
    assert small.get(made.sums.remote(ref), timeout=SECONDS) == 2 * SIZE
    assert runs["a"] == 4


def test_a_lost_object_inside_another(small: Any, runs: Runs) -> None:
    @small.remote
    def look(refs: list[Any]) -> int:
        return int(engine.get(refs[0])[0])

    ref = make.remote(runs, "a", 11)
    small.wait([ref])
    box = small.put([ref])
    lose(ref)
    assert small.get(look.remote([ref]), timeout=SECONDS) == 11
    lose(ref)
    assert small.get(look.remote(box), timeout=SECONDS) == 11
    assert runs["a"] == 3


def test_a_borrower_that_knew_where_it_was(small: Any, runs: Runs) -> None:
    @small.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> int:
            self.ref = refs[0]
            return int(engine.get(self.ref)[0])

        def look(self) -> int:
            return int(engine.get(self.ref)[0])

    ref = make.remote(runs, "a", 2)
    small.wait([ref])
    move_to_disk(ref)
    keepers = [Keeper.options(num_cpus=0).remote() for _ in range(3)]
    assert small.get([keeper.keep.remote([ref]) for keeper in keepers]) == [2] * 3
    damage(ref)
    assert small.get([keeper.look.remote() for keeper in keepers], timeout=SECONDS) == [2] * 3
    assert is_full(small.get(ref), 2)
    assert runs["a"] == 2, "told three times, computed once"


def test_a_worker_owns_it_and_a_third_process_reads(small: Any, runs: Runs) -> None:
    @small.remote
    class Owner:
        def submit(self) -> list[Any]:
            self.ref = make.remote(runs, "a", 6)
            engine.wait([self.ref])
            return [self.ref]

        def lose(self) -> None:
            lose(self.ref)

    owner = Owner.options(num_cpus=0).remote()
    (ref,) = small.get(owner.submit.remote())
    small.get(owner.lose.remote())
    assert small.get(first.remote(ref), timeout=SECONDS) == 6
    assert runs["a"] == 2
    small.get(owner.lose.remote())
    assert is_full(small.get(ref, timeout=SECONDS), 6)
    assert runs["a"] == 3
    del ref
    small.kill(owner)


# ---------------------------------------------------------------------- what is needed for it


def test_a_chain_whose_links_are_gone(small: Any, runs: Runs) -> None:
    ref = make.remote(runs, "0", 0)
    for step in range(1, 6):
        ref = add.remote(runs, str(step), ref, 1)
    assert is_full(small.get(ref), 5)
    eventually(lambda: len(home().owner.spill.held) == 1, what="the links hold no memory")
    lose(ref)
    assert is_full(small.get(ref, timeout=SECONDS), 5)
    assert [runs[str(step)] for step in range(6)] == [2] * 6
    eventually(lambda: len(home().owner.spill.held) == 1, what="they are released again")


def test_a_chain_whose_links_are_lost(small: Any, runs: Runs) -> None:
    """Each is there as far as its owner knows; that it is lost shows when it is read."""
    refs = [make.remote(runs, "0", 0)]
    for step in range(1, 6):
        refs.append(add.remote(runs, str(step), refs[-1], 1))
    small.get(refs)
    lose_all(refs)
    assert is_full(small.get(refs[-1], timeout=SECONDS), 5)
    assert [runs[str(step)] for step in range(6)] == [2] * 6
    for number, array in enumerate(small.get(refs)):
        assert is_full(array, number)


def test_a_long_loop_keeps_no_old_values(small: Any, runs: Runs) -> None:
    ref = make.remote(runs, "loop", 0)
    for _ in range(300):
        ref = add.remote(runs, "loop", ref, 1)
    small.wait([ref])
    eventually(lambda: len(home().owner.spill.held) == 1, what="one value is left")
    assert len(home().owner.objects.lineage._records) == 301
    del ref


def test_arguments_that_were_given_away_are_kept(small: Any, runs: Runs) -> None:
    """Large arguments, and values that were put."""

    @small.remote
    def total(large: np.ndarray, put: np.ndarray) -> np.ndarray:
        runs.note("total")
        return np.full(SIZE, large[0] + put[0], np.uint8)

    ref = total.remote(np.full(SIZE, 1, np.uint8), small.put(np.full(SIZE, 2, np.uint8)))
    small.wait([ref])
    lose(ref)
    assert is_full(small.get(ref, timeout=SECONDS), 3)
    assert runs["total"] == 2


def test_references_inside_of_arguments_can_be_made_again(small: Any, runs: Runs) -> None:
    @small.remote
    def look(inside: list[Any]) -> np.ndarray:
        return np.full(SIZE, engine.get(inside[0])[0], np.uint8)

    inside = make.remote(runs, "inside", 4)
    ref = look.remote([inside])
    small.wait([ref])
    one = inside.binary()
    del inside
    eventually(lambda: one not in home().owner.objects.entries, what="it is released")
    lose(ref)
    assert is_full(small.get(ref, timeout=SECONDS), 4)
    assert runs["inside"] == 2


def test_other_results_of_the_task_stay_as_they_are(small: Any, runs: Runs) -> None:
    @small.remote(num_returns=3)
    def three() -> Any:
        runs.note("three")
        return [np.full(SIZE, 1, np.uint8), np.full(SIZE, runs["three"], np.uint8), 5]

    one, two, five = three.remote()
    array = small.get(two)
    lose(one)
    assert is_full(small.get(one), 1)
    assert runs["three"] == 2
    assert is_full(array, 1)
    assert is_full(small.get(two), 1), "the value of the first run"
    assert small.get(five) == 5
    del array
    lose_all([one, two])
    assert is_full(small.get(one), 1)
    assert is_full(small.get(two), 4), "that it was lost too was noticed only now"
    assert runs["three"] == 4


def test_an_actor_among_the_arguments_is_not_kept_alive(small: Any, runs: Runs) -> None:
    @small.remote
    class Counter:
        def pid(self) -> int:
            return os.getpid()

    @small.remote
    def ask(counter: Any) -> np.ndarray:
        return np.full(SIZE, engine.get(counter.pid.remote()) % 251, np.uint8)

    counter = Counter.options(num_cpus=0).remote()
    pid = small.get(counter.pid.remote())
    ref = ask.remote(counter)
    assert is_full(small.get(ref), pid)
    lose(ref)
    assert is_full(small.get(ref, timeout=SECONDS), pid), "as long as there is the actor"
    del counter
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="the actor ends")
    lose(ref)
    with pytest.raises(ObjectReconstructionFailedError, match="an argument of the task"):
        small.get(ref, timeout=SECONDS)


# ---------------------------------------------------------------------- while it goes on


def test_the_process_that_made_it_is_killed(small: Any, runs: Runs) -> None:
    """The node keeps the memory: nothing is lost, and nothing runs again."""
    ref = make.remote(runs, "a", 8)
    small.wait([ref])
    (pid,) = runs.pids("a")
    kill9(pid)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    assert is_full(small.get(ref, timeout=SECONDS), 8)
    assert small.get(first.remote(ref), timeout=SECONDS) == 8
    assert runs["a"] == 1


def test_the_process_that_makes_it_again_is_killed(small: Any, runs: Runs) -> None:
    @small.remote
    def once_slow() -> np.ndarray:
        runs.note("a")
        if runs["a"] == 2:
            time.sleep(60)
        return np.full(SIZE, 3, np.uint8)

    ref = once_slow.remote()
    small.wait([ref])
    lose(ref)
    result = first.remote(ref)
    eventually(lambda: runs["a"] == 2, SECONDS)
    kill9(runs.pids("a")[1])
    assert small.get(result, timeout=SECONDS) == 3
    assert runs["a"] == 3


def test_a_timeout_and_a_cancel_meanwhile(small: Any, runs: Runs) -> None:
    @small.remote
    def once_fast() -> np.ndarray:
        runs.note("a")
        if runs["a"] > 1:
            time.sleep(60)
        return np.full(SIZE, 3, np.uint8)

    ref = once_fast.remote()
    small.wait([ref])
    lose(ref)
    assert small.wait([ref], timeout=0)[0], "nobody has noticed yet"
    with pytest.raises(GetTimeoutError, match="once_fast"):
        small.get(ref, timeout=0.3)
    assert not small.wait([ref], timeout=0)[0]
    eventually(lambda: runs["a"] == 2, SECONDS)
    small.cancel(ref)
    with pytest.raises(TaskCancelledError):
        small.get(ref, timeout=SECONDS)


def test_it_is_released_meanwhile(small: Any, runs: Runs) -> None:
    ref = make.remote(runs, "a", 3)
    small.wait([ref])
    lose(ref)
    with contextlib.suppress(GetTimeoutError):  # it may be there at once
        small.get(ref, timeout=0)
    del ref
    eventually(lambda: not home().owner.unfinished, SECONDS)


# ---------------------------------------------------------------------- reasons


def _reason(ref: Any) -> str:
    lose(ref)
    with pytest.raises(ObjectReconstructionFailedError) as raised:
        engine.get(ref, timeout=SECONDS)
    with pytest.raises(ObjectLostError, match="damaged there"):
        engine.get(first.remote(ref), timeout=SECONDS)
    return str(raised.value)


def test_each_way_to_fail_has_its_reason(small: Any, runs: Runs) -> None:
    @small.remote
    class Maker:
        def make(self) -> np.ndarray:
            return np.zeros(SIZE, np.uint8)

    @small.remote
    def items() -> Iterator[np.ndarray]:
        yield np.zeros(SIZE, np.uint8)

    maker = Maker.options(num_cpus=0).remote()
    results = {
        "it was put, not computed": small.put(np.zeros(SIZE, np.uint8)),
        "it is the result of an actor's method": maker.make.remote(),
        "it is an item of a generator": next(items.remote()),
        "has max_retries=0": make.options(max_retries=0).remote(runs, "a", 1),
    }
    for text, ref in results.items():
        small.wait([ref])
        assert text in _reason(ref)
    assert runs["a"] == 1
    del results, ref
    ref = make.options(max_retries=1).remote(runs, "b", 1)
    small.get(ref)
    lose(ref)
    small.get(ref)
    assert "has used up its max_retries" in _reason(ref)
    assert runs["b"] == 2


def test_an_error_of_the_second_run_is_the_result(small: Any, runs: Runs) -> None:
    @small.remote
    def once() -> np.ndarray:
        runs.note("a")
        if runs["a"] > 1:
            raise ValueError("only once")
        return np.zeros(SIZE, np.uint8)

    ref = once.remote()
    small.wait([ref])
    lose(ref)
    with pytest.raises(ValueError, match="only once"):
        small.get(ref, timeout=SECONDS)
    with pytest.raises(ValueError, match="only once"):
        small.get(first.remote(ref), timeout=SECONDS)
