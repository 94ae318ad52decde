"""Partitioning against a plain model: every row in one part, equal keys together, order kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.topology import TopologyError, broadcast, custom, forward, hashed, rebalance
from engine.topology.hashing import key_groups
from engine.topology.partition import split

keys = st.lists(st.one_of(st.none(), st.integers(-20, 20)), max_size=200)
receivers = st.sampled_from([1, 2, 3, 4, 7, 64, 255, 256, 257, 4096])


def table(values: list[int | None]) -> pa.RecordBatch:
    strings = [None if v is None else f"k{v}" for v in values]
    rows = np.arange(len(values))
    return pa.record_batch({"key": pa.array(values, pa.int64()), "text": strings, "row": rows})


def owners(batch: pa.RecordBatch, column: str, count: int) -> list[int]:
    """The model: a row's owner, row by row."""
    groups = [key_groups(batch.slice(row, 1), column)[0] for row in range(batch.num_rows)]
    return [int(group) * count // 4096 for group in groups]


@given(keys, receivers, st.sampled_from(["key", "text"]))
@settings(max_examples=60, deadline=None)
def test_split_follows_the_model(values: list[int | None], count: int, column: str) -> None:
    batch = table(values)
    expected: dict[int, list[int]] = {}
    for row, owner in enumerate(owners(batch, column, count)):
        expected.setdefault(owner, []).append(row)
    parts = split(batch, (column,), count)
    assert [receiver for receiver, _ in parts] == sorted(expected)
    for receiver, part in parts:
        assert part.column("row").to_pylist() == expected[receiver]
        assert part.equals(batch.take(pa.array(expected[receiver])))


@given(keys, receivers, st.data())
@settings(max_examples=60, deadline=None)
def test_cuts_do_not_matter(values: list[int | None], count: int, data: st.DataObject) -> None:
    batch = table(values)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    whole: dict[int, list[int]] = {}
    pieces: dict[int, list[int]] = {}
    for receiver, part in split(batch, ("key", "text"), count):
        whole[receiver] = part.column("row").to_pylist()
    for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
        for receiver, part in split(batch.slice(start, stop - start), ("key", "text"), count):
            pieces.setdefault(receiver, []).extend(part.column("row").to_pylist())
    assert pieces == whole


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_for_one_receiver_is_not_copied(count: int) -> None:
    batch = table([5] * 100)
    ((_, part),) = split(batch, ("key",), count)
    assert part is batch


def test_an_empty_batch_has_no_parts() -> None:
    for count in (1, 2, 3):
        assert list(split(table([]), ("key",), count)) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_missing_column_is_named_whatever_the_parallelism(count: int) -> None:
    route = hashed("nokey").router(0, count)
    with pytest.raises(TopologyError, match="expected a column 'nokey'"):
        route(table([1, 2]), None)


def test_more_receivers_than_groups_are_refused() -> None:
    with pytest.raises(TopologyError, match="at most 4096 receivers"):
        split(table(list(range(50))), ("key",), 4097)


def test_hashed_takes_record_batches_only() -> None:
    with pytest.raises(TopologyError, match=r"a pyarrow.RecordBatch.*found a Table"):
        hashed("a").router(0, 2)(pa.table({"a": [1]}), None)


def test_forward_broadcast_and_rebalance() -> None:
    assert list(forward().router(3, 1)("v", None)) == [(0, "v")]
    assert list(broadcast().router(0, 3)("v", None)) == [(0, "v"), (1, "v"), (2, "v")]
    for sender in range(4):
        route = rebalance().router(sender, 3)
        turns = [route(n, None)[0][0] for n in range(6)]
        assert turns == [(sender + n) % 3 for n in range(6)]


def test_custom_is_called_with_all_and_checked() -> None:
    calls: list[Any] = []

    def spread(value: Any, meta: Any, count: int) -> list[tuple[int, Any]]:
        calls.append((value, meta, count))
        return [(value % count, value)]

    assert list(custom(spread).router(0, 3)(5, "m")) == [(2, 5)]
    assert calls == [(5, "m", 3)]
    for wrong in ([(3, 1)], [(-1, 1)], [(0, 1), (0, 2)]):
        with pytest.raises(TopologyError, match=r"each receiver at most once, in 0\.\.2"):
            custom(lambda v, m, n, wrong=wrong: wrong).router(0, 3)(5, None)


def test_declarations_are_checked() -> None:
    for wrong in ((), ("",), (1,)):
        with pytest.raises(TopologyError, match="names of key columns"):
            hashed(*wrong)  # type: ignore[arg-type]
    with pytest.raises(TopologyError, match="each key column once"):
        hashed("a", "a")
    with pytest.raises(TopologyError, match="expected a function"):
        custom("no")  # type: ignore[arg-type]
