"""The journal's form: torn ends are cut off, damage in the middle is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.batches import JournalDamaged, batch, read

BATCHES = st.lists(st.lists(st.binary(max_size=20), max_size=3), max_size=5)


def written(batches: list[list[bytes]]) -> list[bytes]:
    return [batch(number, records) for number, records in enumerate(batches)]


@given(BATCHES)
def test_what_was_written_is_read(batches: list[list[bytes]]) -> None:
    data = b"".join(written(batches))
    found = read(data, bytes)
    assert found.records == [record for records in batches for record in records]
    assert (found.good, found.next) == (len(data), len(batches))


@given(BATCHES, st.lists(st.binary(max_size=20), max_size=3), st.integers(0), st.integers(0))
def test_a_torn_or_garbled_end_is_cut_off(
    batches: list[list[bytes]], last: list[bytes], length: int, bit: int
) -> None:
    """Whatever became of the last batch, those before it are read."""
    safe = b"".join(written(batches))
    torn = bytearray(batch(len(batches), last))
    torn = torn[: length % len(torn)]
    if torn:
        torn[bit // 8 % len(torn)] ^= 1 << bit % 8
    found = read(safe + bytes(torn), bytes)
    assert found.records == [record for records in batches for record in records]
    assert found.good == len(safe)


@given(BATCHES.filter(lambda one: len(one) > 1), st.integers(0))
def test_any_flipped_bit_before_the_last_batch_is_found(
    batches: list[list[bytes]], bit: int
) -> None:
    parts = written(batches)
    data = bytearray(b"".join(parts))
    bit %= 8 * (len(data) - len(parts[-1]))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(JournalDamaged, match="is damaged"):
        read(bytes(data), bytes)


def test_a_batch_in_the_wrong_place_is_not_taken() -> None:
    """As after a lost write, when an old one shows through."""
    first, second = written([[b"a"], [b"b"]])
    assert read(first + first, bytes).records == [b"a"]
    assert read(second, bytes).records == []
