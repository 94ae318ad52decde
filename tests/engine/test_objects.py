"""Values: inline or shared, without a copy, counted, and given back."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine.config import Config
from engine.exceptions import ObjectStoreFullError
from tests.engine.support import bytes_live, eventually, home

INLINE_MAX = Config().inline_bytes_max
LARGE = 1 << 20


def _stored(ref: Any) -> Any:
    return home().locate(ref)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _pickled_to(size: int) -> bytes:
    """Bytes whose pickled form has exactly `size` bytes."""
    from engine.store import codec

    value = bytes(size - 100)
    overhead = codec.encode(value).nbytes - len(value)
    return bytes(size - overhead)


@pytest.mark.parametrize("delta", [-1, 0, 1])
def test_the_inline_limit_is_exact(cluster: Any, delta: int) -> None:
    value = _pickled_to(INLINE_MAX + delta)
    ref = cluster.put(value)
    assert (_stored(ref).block is None) == (delta <= 0)
    assert cluster.get(ref) == value


@pytest.mark.parametrize("delta", [-1, 0, 1])
def test_results_and_arguments_around_the_inline_limit(cluster: Any, delta: int) -> None:
    @cluster.remote
    def echo(x: bytes) -> bytes:
        return x

    value = _pickled_to(INLINE_MAX + delta)
    ref = echo.remote(value)
    assert cluster.get(ref) == value
    assert (_stored(ref).block is None) == (delta <= 0)
    assert cluster.get(echo.remote(ref)) == value


@pytest.mark.parametrize("size", [0, 1, 1000, INLINE_MAX, 3 * INLINE_MAX])
def test_arrays_of_every_size_come_back_read_only(cluster: Any, size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    found = cluster.get(cluster.put(array))
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype
    assert size == 0 or not found.flags.writeable


@pytest.mark.parametrize("size", [10, LARGE], ids=["inline", "shared"])
def test_arrays_are_read_only_wherever_they_arrive(cluster: Any, size: int) -> None:
    """A process that could write would change what others see, or believe that it did."""
    array = np.ones(size, dtype=np.uint8)
    ref = cluster.put({"nested": array})

    @cluster.remote
    def look(given: np.ndarray, inner: Any) -> list[bool]:
        return [given.flags.writeable, cluster.get(inner[0])["nested"].flags.writeable]

    @cluster.remote
    class Keeper:
        def keep(self, given: np.ndarray) -> np.ndarray:
            self.array = given
            return given

        def writeable(self) -> bool:
            return bool(self.array.flags.writeable)

    @cluster.remote
    def items() -> Any:
        yield array.copy()

    keeper = Keeper.remote()
    plain = cluster.put(array)
    found = cluster.get(look.remote(array, [ref])) + cluster.get(look.remote(plain, [ref]))[:1]
    found += [cluster.get(keeper.keep.remote(array)).flags.writeable]
    found += [cluster.get(keeper.writeable.remote())]
    found += [cluster.get(next(items.remote())).flags.writeable]
    found += [cluster.get(ref)["nested"].flags.writeable]
    assert found == [False] * 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        cluster.get(ref)["nested"].flags.writeable = True
    with pytest.raises(TypeError, match="read-only"):
        memoryview(cluster.get(ref)["nested"])[0] = 1
    table = cluster.get(cluster.put(pa.table({"n": np.arange(size)})))
    assert not table["n"].chunk(0).buffers()[1].is_mutable


def test_two_gets_see_the_same_memory(cluster: Any) -> None:
    ref = cluster.put(np.arange(LARGE, dtype=np.uint8))
    one, two = cluster.get(ref), cluster.get(ref)
    assert _address(one) == _address(two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        one.flags.writeable = True


def test_the_original_may_change_afterwards(cluster: Any) -> None:
    array = np.zeros(LARGE, dtype=np.uint8)
    ref = cluster.put(array)
    array[:] = 7
    assert not cluster.get(ref).any()


def test_workers_see_the_same_memory_too(cluster: Any) -> None:
    """The pages behind a view in a worker and in the driver are those of one memfd."""

    @cluster.remote
    def where(array: np.ndarray) -> tuple[str, bool]:
        address = array.__array_interface__["data"][0]
        with open("/proc/self/maps") as maps:
            for line in maps:
                low, _, rest = line.partition("-")
                high = rest.split()[0]
                if int(low, 16) <= address < int(high, 16):
                    return line, array.flags.writeable
        return "", True

    ref = cluster.put(np.arange(LARGE))
    line, writeable = cluster.get(where.remote(ref))
    assert "memfd:penstock" in line
    assert not writeable
    inode = line.split()[4]
    with open("/proc/self/maps") as maps:
        assert any(inode == one.split()[4] for one in maps if "memfd" in one)


def test_a_workers_result_is_read_in_place(cluster: Any) -> None:
    @cluster.remote
    def make() -> np.ndarray:
        return np.arange(LARGE)

    ref = make.remote()
    one, two = cluster.get(ref), cluster.get(ref)
    assert _address(one) == _address(two)
    assert one[-1] == LARGE - 1
    assert _stored(ref).block.holder != home().id


TABLE = pa.table(
    {
        "n": pa.array([None if i % 3 == 0 else i for i in range(50_000)]),
        "s": pa.array([f"text {i}" for i in range(50_000)]),
        "d": pa.array(["a", "b", None, "c", "a"] * 10_000).dictionary_encode(),
    }
)


@pytest.mark.parametrize(
    "value",
    [TABLE, TABLE.slice(17, 30_000), TABLE.to_batches()[0], TABLE["n"].chunk(0), TABLE["s"]],
    ids=["table", "slice", "batch", "array", "chunked"],
)
def test_arrow_is_read_in_place(cluster: Any, value: Any) -> None:
    ref = cluster.put(value)
    one, two = cluster.get(ref), cluster.get(ref)
    assert one.equals(value)
    assert type(one) is type(value)
    assert _buffer_addresses(one) == _buffer_addresses(two)


def _buffer_addresses(value: Any) -> list[int]:
    columns = value.columns if isinstance(value, pa.Table | pa.RecordBatch) else [value]
    chunks = [c for column in columns for c in getattr(column, "chunks", [column])]
    return [part.address for chunk in chunks for part in chunk.buffers() if part is not None]


def test_a_slice_takes_only_its_own_rows(cluster: Any) -> None:
    whole = pa.table({"n": np.arange(1_000_000)})
    block = _stored(cluster.put(whole.slice(5, 50_000))).block
    assert block.size < 1_000_000


def test_several_arrays_in_one_value(cluster: Any) -> None:
    value = {"a": np.arange(LARGE), "b": [np.ones((300, 300)), "text"], "f": np.eye(200, order="F")}
    found = cluster.get(cluster.put(value))
    assert np.array_equal(found["a"], value["a"])
    assert np.array_equal(found["b"][0], value["b"][0])
    assert np.array_equal(found["f"], value["f"])
    assert found["b"][1] == "text"
    assert all(one.ctypes.data % 64 == 0 for one in (found["a"], found["b"][0], found["f"]))


def test_memory_comes_back_when_the_references_die(cluster: Any) -> None:
    before = bytes_live()
    refs = [cluster.put(np.zeros(LARGE, dtype=np.uint8)) for _ in range(5)]
    assert bytes_live() >= before + 5 * LARGE
    del refs
    assert bytes_live() == before


def test_a_freed_block_is_used_again_warm(cluster: Any) -> None:
    bytes_live()
    ref = cluster.put(np.zeros(LARGE, dtype=np.uint8))
    first = _stored(ref).block
    del ref
    assert bytes_live() >= 0
    ref = cluster.put(np.ones(LARGE, dtype=np.uint8))
    assert _stored(ref).block == first


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array,
        lambda array: array[1000:2000],
        lambda array: array.reshape(1024, -1).T,
        memoryview,
        lambda array: pa.array(array).slice(3, 500),
    ],
    ids=["array", "slice", "reshaped", "memoryview", "arrow"],
)
def test_a_value_outlives_its_reference(cluster: Any, view: Any) -> None:
    gc.collect()  # what another test has left in a circle
    before = bytes_live()
    ref = cluster.put(np.full(LARGE, 7, dtype=np.uint8))
    kept = view(cluster.get(ref))
    del ref
    gc.collect()
    others = [cluster.put(np.full(LARGE, 9, dtype=np.uint8)) for _ in range(4)]
    assert np.all(np.asarray(kept) == 7), "the block was given out while somebody looked at it"
    assert bytes_live() >= before + 5 * LARGE
    del kept, others
    assert bytes_live() == before


def test_an_arrow_table_outlives_its_reference(cluster: Any) -> None:
    before = bytes_live()
    table = cluster.get(cluster.put(TABLE))
    column = table["s"].slice(100, 50)
    del table
    others = [cluster.put(np.full(2 * LARGE, 9, dtype=np.uint8)) for _ in range(4)]
    assert column.to_pylist() == [f"text {i}" for i in range(100, 150)]
    del column, others
    assert bytes_live() == before


def test_a_value_that_holds_a_reference_keeps_the_inner_value(cluster: Any) -> None:
    before = bytes_live()
    outer = cluster.put([cluster.put(np.full(LARGE, 3, dtype=np.uint8))])
    assert bytes_live() > before
    inner = cluster.get(outer)[0]
    assert cluster.get(inner)[-1] == 3
    del outer
    assert cluster.get(inner)[-1] == 3
    del inner
    assert bytes_live() == before


def test_large_arguments_are_given_back_after_the_call(cluster: Any) -> None:
    @cluster.remote
    def total(array: np.ndarray) -> int:
        return int(array.sum())

    before = bytes_live()
    assert cluster.get(total.remote(np.ones(LARGE, dtype=np.uint8))) == LARGE
    eventually(lambda: bytes_live() == before)


def test_an_argument_kept_by_an_actor_stays_intact(cluster: Any) -> None:
    @cluster.remote
    class Keeper:
        def keep(self, array: np.ndarray) -> None:
            self.array = array

        def check(self) -> list[int]:
            return np.unique(self.array).tolist()

        def drop(self) -> None:
            del self.array

    before = bytes_live()
    keeper = Keeper.remote()
    cluster.get(keeper.keep.remote(np.full(LARGE, 5, dtype=np.uint8)))
    for value in range(3):
        cluster.put(np.full(LARGE, value, dtype=np.uint8))
    assert cluster.get(keeper.check.remote()) == [5]
    assert bytes_live() == before + LARGE + 0 or bytes_live() > before
    cluster.get(keeper.drop.remote())
    eventually(lambda: bytes_live() == before)


def test_workers_give_blocks_back_too(cluster: Any) -> None:
    @cluster.remote
    class Maker:
        def make(self) -> np.ndarray:
            return np.zeros(LARGE)

        def live(self) -> int:
            return bytes_live()

    maker = Maker.remote()
    refs = [maker.make.remote() for _ in range(3)]
    assert len(cluster.get(refs)) == 3
    assert cluster.get(maker.live.remote()) >= 3 * 8 * LARGE
    del refs
    gc.collect()
    cluster.put(None)
    eventually(lambda: cluster.get(maker.live.remote()) == 0)


def test_a_result_nobody_wants_is_given_back(cluster: Any) -> None:
    @cluster.remote
    class Maker:
        def make(self) -> np.ndarray:
            return np.zeros(LARGE)

        def live(self) -> int:
            return bytes_live()

    maker = Maker.remote()
    for _ in range(3):
        maker.make.remote()
    eventually(lambda: cluster.get(maker.live.remote()) == 0)


def test_a_broadcast_is_one_copy(cluster: Any) -> None:
    @cluster.remote
    def total(array: np.ndarray) -> int:
        return int(array[::4096].sum())

    before = bytes_live()
    ref = cluster.put(np.ones(8 * LARGE, dtype=np.uint8))
    assert cluster.get([total.remote(ref) for _ in range(10)]) == [8 * LARGE // 4096] * 10
    assert bytes_live() < before + 9 * LARGE


@pytest.fixture(scope="class")
def small() -> Any:
    """An engine whose object store has 64 MiB."""
    assert not engine.is_initialized()
    engine.init(num_cpus=1, object_store_memory=64 << 20)
    yield engine
    engine.shutdown()


class TestFullStore:
    """What happens at the limit of the store."""

    def test_what_does_not_fit_is_a_named_error_and_harms_nothing(self, small: Any) -> None:
        ref = small.put(np.ones(10 * LARGE, dtype=np.uint8))
        with pytest.raises(ObjectStoreFullError, match=r"object_store_memory"):
            small.put(np.zeros(100 * LARGE, dtype=np.uint8))
        assert small.get(ref)[-1] == 1

    def test_a_result_that_does_not_fit_is_the_tasks_error(self, small: Any) -> None:
        @small.remote
        def make() -> np.ndarray:
            return np.zeros(100 * LARGE, dtype=np.uint8)

        with pytest.raises(ObjectStoreFullError, match="bytes do not fit"):
            small.get(make.remote(), timeout=10)

    def test_many_puts_one_after_the_other_fit(self, small: Any) -> None:
        for number in range(40):
            ref = small.put(np.full(20 * LARGE, number, dtype=np.uint8))
            assert small.get(ref)[-1] == number
            del ref

    def test_workers_and_driver_share_the_limit(self, small: Any) -> None:
        """Memory that the driver no longer uses must be there for a worker."""
        del_me = small.put(np.zeros(30 * LARGE, dtype=np.uint8))
        del del_me
        bytes_live()

        @small.remote
        def make() -> np.ndarray:
            return np.zeros(40 * LARGE, dtype=np.uint8)

        assert len(small.get(make.remote(), timeout=10)) == 40 * LARGE

    def test_actors_that_die_with_their_objects_give_the_memory_back(self, small: Any) -> None:
        @small.remote
        class Hoarder:
            def hoard(self) -> int:
                self.ref = small.put(np.ones(10 * LARGE, dtype=np.uint8))
                return os.getpid()

        for _ in range(8):
            hoarder = Hoarder.remote()
            small.get(hoarder.hoard.remote(), timeout=10)
            small.kill(hoarder)
            with pytest.raises(Exception, match="killed"):
                small.get(hoarder.hoard.remote(), timeout=10)
