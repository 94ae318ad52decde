"""Objects go to disk when memory is short, and come back as if nothing had happened."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine.exceptions import ObjectLostError, ObjectStoreFullError
from tests.engine.support import eventually, home, node_pid

MIB = 1 << 20
STORE = 32 * MIB
SECONDS = 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine with 32 MiB of memory for objects."""
    assert not engine.is_initialized()
    folder = tmp_path_factory.mktemp("spill")
    engine.init(
        num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(folder)
    )
    yield engine
    engine.shutdown()
    assert not list(folder.iterdir()), "files have no names, at no time"


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has spilled is gone from the disk when its references are."""
    yield
    if "small" in request.fixturenames:
        eventually(lambda: statistics()["disk_used"] == 0, what="space on disk is given back")


def statistics() -> dict[str, Any]:
    gc.collect()
    engine.put(0)
    record: dict[str, Any] = engine.nodes()[0]
    return record


def numbered(number: int, nbytes: int = MIB) -> np.ndarray:
    return np.full(nbytes, number % 251, np.uint8)


def is_numbered(array: np.ndarray, number: int, nbytes: int = MIB) -> bool:
    return len(array) == nbytes and bool((array == number % 251).all())


def on_disk(ref: Any) -> bool:
    return bool(home().locate(ref).block.segment < 0)


def fill(count: int = STORE // MIB) -> list[Any]:
    """As many objects as would fill the store; older ones leave it."""
    return [engine.put(numbered(number)) for number in range(count)]


# ---------------------------------------------------------------------- more than there is


def test_three_times_the_store_can_be_put_and_read(small: Any) -> None:
    refs = fill(3 * STORE // MIB)
    found = statistics()
    assert found["object_store_used"] <= found["object_store_limit"] == STORE
    assert found["spilled_bytes"] >= 2 * STORE
    assert found["spilled_objects"] >= 2 * STORE // MIB
    for order in (range(len(refs)), reversed(range(len(refs)))):
        for number in order:
            assert is_numbered(small.get(refs[number]), number)


def test_the_least_recently_used_go_first(small: Any) -> None:
    refs = fill(20)
    for ref in refs[:5]:
        small.get(ref)
    more = fill(20)
    gone = [on_disk(ref) for ref in refs]
    assert sum(gone[:5]) < sum(gone[5:10]) or not any(gone[:5])
    assert any(gone[5:])
    assert not on_disk(more[-1])


def test_three_times_the_store_of_results(small: Any) -> None:
    @small.remote
    def make(number: int) -> np.ndarray:
        return numbered(number)

    refs = [make.remote(number) for number in range(3 * STORE // MIB)]
    ready, _ = small.wait(refs, num_returns=len(refs), timeout=SECONDS)
    assert len(ready) == len(refs)
    for number, ref in enumerate(refs):
        assert is_numbered(small.get(ref, timeout=SECONDS), number)


def test_three_times_the_store_of_large_arguments(small: Any) -> None:
    @small.remote
    class Keeper:
        def __init__(self) -> None:
            self.sum = 0

        def add(self, array: np.ndarray) -> int:
            self.sum += int(array[0])
            return len(array)

        def total(self) -> int:
            return self.sum

    keeper = Keeper.remote()
    count = 3 * STORE // MIB
    lengths = [keeper.add.remote(numbered(number)) for number in range(count)]
    assert small.get(lengths, timeout=SECONDS) == [MIB] * count
    assert small.get(keeper.total.remote()) == sum(number % 251 for number in range(count))


def test_a_worker_spills_what_it_owns(small: Any) -> None:
    @small.remote
    def put_many(count: int) -> list[Any]:
        return [engine.put(numbered(number)) for number in range(count)]

    refs = small.get(put_many.remote(2 * STORE // MIB), timeout=SECONDS)
    for number, ref in enumerate(refs):
        assert is_numbered(small.get(ref, timeout=SECONDS), number)


def test_several_owners_share_the_memory(small: Any) -> None:
    @small.remote
    class Owner:
        def fill(self, count: int) -> None:
            self.refs = [engine.put(numbered(number)) for number in range(count)]

        def check(self) -> bool:
            return all(
                is_numbered(engine.get(ref), number) for number, ref in enumerate(self.refs)
            )

    owners = [Owner.remote() for _ in range(3)]
    refs = fill(STORE // MIB)
    small.get([owner.fill.remote(STORE // MIB) for owner in owners], timeout=SECONDS)
    assert all(small.get([owner.check.remote() for owner in owners], timeout=SECONDS))
    assert all(is_numbered(small.get(ref), number) for number, ref in enumerate(refs))


# ---------------------------------------------------------------------- used where it lies


def test_a_task_takes_arguments_from_disk(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    assert on_disk(refs[0])
    assert on_disk(refs[1])

    @small.remote
    def check(one: np.ndarray, other: np.ndarray) -> bool:
        return is_numbered(one, 0) and is_numbered(other, 1)

    assert small.get(check.remote(refs[0], other=refs[1]), timeout=SECONDS)


def test_what_is_borrowed_is_passed_on_from_disk(small: Any) -> None:
    """Only the owner knows where it lies: whoever gets it from another asks the owner."""
    refs = fill(2 * STORE // MIB)
    assert on_disk(refs[0])
    kept = small.put(numbered(5))

    @small.remote
    class Plain:
        def check(self, array: np.ndarray, number: int) -> bool:
            return is_numbered(array, number)

    @small.remote
    class Async:
        async def check(self, array: np.ndarray, number: int) -> bool:
            return is_numbered(array, number)

    @small.remote
    def check(array: np.ndarray, number: int) -> bool:
        return is_numbered(array, number)

    @small.remote
    def pass_on(box: list[Any], actors: list[Any]) -> list[bool]:
        found = []
        for ref, number in zip(box, (0, 5), strict=True):
            calls = [actor.check.remote(ref, number) for actor in actors]
            found += engine.get([*calls, check.remote(ref, number=number)])
        return found

    actors = [Plain.remote(), Plain.options(max_concurrency=2).remote(), Async.remote()]
    answer = pass_on.remote([refs[0], kept], actors)
    assert small.get(answer, timeout=SECONDS) == [True] * 8


def test_an_actor_is_made_from_an_argument_on_disk(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    assert on_disk(refs[0])

    @small.remote
    class Keeper:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def check(self) -> bool:
            return is_numbered(self.array, 0)

    assert small.get(Keeper.remote(refs[0]).check.remote(), timeout=SECONDS)


def test_an_actor_is_made_again_from_an_argument_that_has_moved(small: Any) -> None:
    @small.remote(max_restarts=1)
    class Keeper:
        def __init__(self, array: np.ndarray) -> None:
            self.right = is_numbered(array, 7)

        def check(self) -> tuple[bool, int]:
            return self.right, os.getpid()

    ref = small.put(numbered(7))
    keeper = Keeper.remote(ref)
    right, pid = small.get(keeper.check.remote(), timeout=SECONDS)
    assert right
    refs = fill(2 * STORE // MIB)
    assert on_disk(ref)
    os.kill(pid, 9)
    right, other = eventually(lambda: _answer(keeper))
    assert right
    assert other != pid
    del refs


def _answer(actor: Any) -> Any:
    try:
        return engine.get(actor.check.remote(), timeout=SECONDS)
    except engine.exceptions.ActorUnavailableError:
        return None  # it is being restarted


def test_borrowers_follow(small: Any) -> None:
    @small.remote
    class Borrower:
        def take(self, refs: list[Any]) -> None:
            self.refs = refs

        def check(self) -> bool:
            return all(
                is_numbered(engine.get(ref), number) for number, ref in enumerate(self.refs)
            )

    refs = fill(10)
    borrowers = [Borrower.remote() for _ in range(2)]
    for borrower in borrowers:
        small.get(borrower.take.remote(refs), timeout=SECONDS)
        assert small.get(borrower.check.remote(), timeout=SECONDS)  # they know the old places
    others = fill(2 * STORE // MIB)
    assert all(on_disk(ref) for ref in refs)
    for borrower in borrowers:
        assert small.get(borrower.check.remote(), timeout=SECONDS)
    del refs
    gc.collect()
    assert small.get(borrowers[0].check.remote(), timeout=SECONDS)
    del others


def test_what_is_looked_at_stays(small: Any) -> None:
    refs = fill(10)
    array = small.get(refs[3])
    address = array.ctypes.data
    others = fill(2 * STORE // MIB)
    assert not on_disk(refs[3])
    assert all(on_disk(ref) for ref in refs[:3])
    assert is_numbered(array, 3)
    assert small.get(refs[3]).ctypes.data == address
    part = array[5:10]
    del array
    more = fill(STORE // MIB)
    assert not on_disk(refs[3]), "a part of it is looked at"
    assert (part == 3).all()
    del part
    more += fill(STORE // MIB)
    assert on_disk(refs[3])
    del others


def test_what_an_actor_looks_at_stays(small: Any) -> None:
    @small.remote
    class Looker:
        def look(self, array: np.ndarray) -> int:
            self.array = array
            return int(array.ctypes.data)

        def check(self, number: int) -> bool:
            return is_numbered(self.array, number)

        def forget(self) -> None:
            self.array = None

    looker = Looker.remote()
    ref = small.put(numbered(99))
    small.get(looker.look.remote(ref), timeout=SECONDS)
    for _ in range(3):
        fill(STORE // MIB)
        assert small.get(looker.check.remote(99), timeout=SECONDS)
        assert not on_disk(ref)
    small.get(looker.forget.remote(), timeout=SECONDS)
    refs = fill(2 * STORE // MIB)
    eventually(lambda: refs.append(small.put(numbered(1))) or on_disk(ref))
    assert is_numbered(small.get(ref), 99)


def test_an_argument_stays_while_its_call_waits(small: Any, tmp_path: Path) -> None:
    """Calls on their way carry a location: it stays true until they are answered."""

    @small.remote
    class Slow:
        def wait(self, path: str) -> None:
            while not os.path.exists(path):
                time.sleep(0.001)

        def check(self, array: np.ndarray) -> bool:
            return is_numbered(array, 5)

    slow = Slow.remote()
    small.get(slow.__ray_ready__.remote())
    waiting = slow.wait.remote(str(tmp_path / "gate"))
    ref = small.put(numbered(5))
    answer = slow.check.remote(ref)
    refs = fill(2 * STORE // MIB)
    assert not on_disk(ref)
    (tmp_path / "gate").touch()
    assert small.get(answer, timeout=SECONDS)
    small.get(waiting)
    refs += fill(STORE // MIB)
    assert on_disk(ref)


def test_values_of_every_kind_come_back_equal(small: Any) -> None:
    table = pa.table({"n": np.arange(100_000), "s": [f"row {n}" for n in range(100_000)]})
    values = [b"x" * MIB, "text " * MIB, list(range(MIB)), {"a": np.eye(400)}, table]
    refs = [small.put(value) for value in values]
    inner = small.put(numbered(8))
    outer = small.put([inner, np.ones(MIB)])
    del inner
    gc.collect()
    others = fill(2 * STORE // MIB)
    assert all(on_disk(ref) for ref in refs)
    found = small.get(refs)
    assert found[:3] == values[:3]
    assert np.array_equal(found[3]["a"], np.eye(400))
    assert found[4].equals(table)
    assert not found[3]["a"].flags.writeable
    assert is_numbered(small.get(small.get(outer)[0]), 8)
    del others


def test_arrays_from_disk_are_read_only_and_aligned(small: Any) -> None:
    refs = [small.put(np.arange(200_000.0)) for _ in range(40)]
    assert on_disk(refs[0])
    array = small.get(refs[0])
    assert array.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    again = small.get(refs[0])
    assert again.ctypes.data == array.ctypes.data, "those who come later share it"


def test_what_is_on_disk_can_be_shared_with_other_processes(small: Any) -> None:
    table = pa.table({"n": np.arange(200_000)})
    ref = small.put(table)
    others = fill(2 * STORE // MIB)
    assert on_disk(ref)
    with engine.util.share_arrow(ref) as share:
        source = pa.memory_map(share.path)
        source.seek(share.offset)
        assert pa.ipc.open_stream(source).read_all().equals(table)
        source.close()
    in_memory = others[-1]
    with engine.util.share_arrow(in_memory) as share:
        others += fill(2 * STORE // MIB)
        assert not on_disk(in_memory), "a share is a use"
        found = np.memmap(share.path, share.dtype, "r", share.offset, share.shape)
        assert is_numbered(found, 2 * STORE // MIB - 1)
        del found


def test_waiting_counts_what_is_on_disk_and_reads_nothing(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    before = statistics()["restored_bytes"]
    ready, rest = small.wait(refs, num_returns=len(refs), timeout=0)
    assert (len(ready), rest) == (len(refs), [])
    assert statistics()["restored_bytes"] == before


def test_what_is_read_again_comes_back_to_memory(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    assert on_disk(refs[0])
    wanted = refs[0]
    del refs
    gc.collect()
    small.put(0)

    def back() -> bool:
        assert is_numbered(small.get(wanted), 0)
        return not on_disk(wanted)

    eventually(back)
    array = small.get(wanted)
    assert small.get(wanted).ctypes.data == array.ctypes.data
    del array
    others = fill(STORE // MIB)  # the copy on disk is still good: nothing is written
    assert on_disk(wanted)
    assert is_numbered(small.get(wanted), 0)
    del others


def test_the_state_says_what_is_where(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    records = {one["object_id"]: one for one in engine.state.list_objects(limit=1_000, detail=True)}
    first, last = records[refs[0].hex()], records[refs[-1].hex()]
    assert (first["spilled"], first["in_shared_memory"]) == (True, False)
    assert (last["spilled"], last["in_shared_memory"]) == (False, True)
    assert first["reason"] == last["reason"] == "ready"


# ---------------------------------------------------------------------- nobody waits for another


def test_when_all_memory_is_looked_at_new_values_go_to_disk(small: Any) -> None:
    refs = fill(STORE // MIB - 2)
    arrays = small.get(refs)
    ref = small.put(numbered(77, 4 * MIB))

    @small.remote
    def make() -> np.ndarray:
        return numbered(78, 4 * MIB)

    result = make.remote()
    assert is_numbered(small.get(result, timeout=SECONDS), 78, 4 * MIB)
    assert is_numbered(small.get(ref), 77, 4 * MIB)
    start = time.monotonic()
    more = [small.put(numbered(number, 4 * MIB)) for number in range(20)]
    assert time.monotonic() - start < 4, "they do not each wait anew"
    assert on_disk(ref)
    assert on_disk(result)
    assert all(is_numbered(array, number) for number, array in enumerate(arrays))
    del more


def test_two_tasks_that_need_more_than_there_is_both_get_it(small: Any) -> None:
    """Each holds an argument of 40 % of the store and waits for another: a deadlock elsewhere."""
    size = STORE * 2 // 5
    refs = [small.put(numbered(number, size)) for number in range(4)]

    @small.remote
    def both(one: np.ndarray, other: np.ndarray, numbers: list[int]) -> bool:
        return is_numbered(one, numbers[0], size) and is_numbered(other, numbers[1], size)

    answers = [
        both.remote(refs[one], refs[other], [one, other])
        for one, other in ((0, 1), (2, 3), (1, 2), (3, 0)) * 3
    ]
    assert all(small.get(answers, timeout=SECONDS))


def test_results_beside_large_arguments(small: Any) -> None:
    size = STORE // 4
    refs = [small.put(numbered(number, size)) for number in range(6)]

    @small.remote
    def copy(array: np.ndarray) -> np.ndarray:
        return array.copy()

    copies = [copy.remote(ref) for ref in refs * 2]
    for number, ref in enumerate(copies):
        assert is_numbered(small.get(ref, timeout=SECONDS), number % 6, size)


def test_threads_put_at_the_same_time(small: Any) -> None:
    found: dict[int, list[Any]] = {}

    def put(base: int) -> None:
        found[base] = [small.put(numbered(base + number)) for number in range(STORE // MIB)]

    threads = [threading.Thread(target=put, args=(base,)) for base in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    for base, refs in found.items():
        for number, ref in enumerate(refs):
            assert is_numbered(small.get(ref), base + number)


def test_larger_than_the_store_is_an_error_at_once(small: Any) -> None:
    start = time.monotonic()
    with pytest.raises(ObjectStoreFullError, match=r"bytes do not fit.*object_store_memory"):
        small.put(np.zeros(STORE + 1, np.uint8))
    assert time.monotonic() - start < 1


# ---------------------------------------------------------------------- a damaged disk


def spill_files() -> list[str]:
    """The node's descriptors of spill files, as paths that open them."""
    folder = f"/proc/{node_pid()}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: the node works
            if "/spill" in os.readlink(f"{folder}/{name}"):
                found.append(f"{folder}/{name}")
    return found


def is_quiet() -> bool:
    """Whether nothing of ours is being written to disk, or will be."""
    runtime = home()
    with runtime.lock:
        machine = runtime.owner.spill
        return not machine.short and not machine.spilling(time.perf_counter())


def test_damage_on_disk_is_noticed(small: Any) -> None:
    refs = fill(2 * STORE // MIB)
    assert on_disk(refs[0])
    eventually(is_quiet)  # what is written after a cut would make the file long again
    block = home().locate(refs[0]).block
    other = next(
        ref for ref in refs[1:]
        if on_disk(ref) and home().locate(ref).block.offset != block.offset
    )  # fmt: skip

    @small.remote
    def first(array: np.ndarray) -> int:
        return int(array[0])

    for path in spill_files():
        with open(path, "r+b") as file:
            file.seek(block.offset + block.size // 2)
            file.write(b"\xff" * 3)
    with pytest.raises(ObjectLostError, match=r"damaged there: its checksum"):
        small.get(refs[0])
    with pytest.raises(ObjectLostError, match=r"damaged"):
        small.get(first.remote(refs[0]), timeout=SECONDS)
    for path in spill_files():
        os.truncate(path, 0)
    with pytest.raises(ObjectLostError, match=r"cannot be read back: the file ends"):
        small.get(other)
    assert is_numbered(small.get(refs[-1]), len(refs) - 1), "what is in memory is not affected"
