"""A stable, vectorised 64-bit hash of Arrow columns, and key groups.

The hash of a value depends on the value alone: not on the process, the batch it sits in, a slice
offset, the width of an integer, or whether a string is stored as string, large_string or
dictionary. That is what makes a key's group the same at every sender and after every restart.
Only the upper 32 bits are well mixed, and only they are used.

- integers, booleans, dates, times, timestamps, durations: two multiplications and a shift of the
  stored integer, at about 1 G rows/s. `5` is the same as int8 and as uint64, but a timestamp in
  seconds and the same instant in milliseconds differ (a column has one unit);
- floats: by value, a family of their own (5.0 and 5 may differ); -0.0 is 0.0, all NaN are one;
- strings and binary: eight bytes a step for all rows at once; beyond 256 bytes a value is
  first digested by blake2b, so that one long value cannot stall the batch;
- dictionary: the hash of the distinct values, taken by index;
- structs: their fields combined; decimals and intervals: by their bytes; other nested types: row
  by row through their Python representation (slow, correct);
- null: a constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.topology.errors import expected

__all__ = ["GROUPS", "hash_array", "hash_columns", "key_groups"]

# Key groups are the unit in which keyed state moves when a member is rescaled. With 4096 the
# fullest of 64 receivers has at most 1/64 more groups than the emptiest.
GROUPS = 4096

Hashes = npt.NDArray[np.uint64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_FINISHER = np.uint64(0xD6E8FEB86659FD93)
_FLOAT_SALT = np.uint64(0xA0761D6478BD642F)
_BYTES_SALT = np.uint64(0xE7037ED1A0B428DB)
_NULL_HASH = np.uint64(0x8EBC6AF09C88C6E3)
_HALF = np.uint64(32)
_LONG_BYTES = 256
# Mask of the first n bytes of a little-endian word, n = 0..8.
_PREFIX = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)


def key_groups(
    batch: pa.RecordBatch, columns: str | Sequence[str], groups: int = GROUPS
) -> npt.NDArray[np.uint16]:
    """The key group of every row, 0 <= group < `groups`.

    Args:
        batch: the rows.
        columns: one or more names of key columns.
        groups: how many groups, 1..65536.

    Raises:
        TopologyError: a column does not exist, or `groups` is out of range.
    """
    if not 1 <= groups <= 1 << 16:
        raise expected("1 <= groups <= 65536", groups, "the default is 4096")
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    return groups_of_hashes(hash_columns(batch, names), groups)


def groups_of_hashes(hashes: Hashes, groups: int = GROUPS) -> npt.NDArray[np.uint16]:
    """The group of every hash: the upper half scaled to 0..groups-1. Overwrites `hashes`."""
    hashes >>= _HALF
    hashes *= np.uint64(groups)
    hashes >>= _HALF
    return hashes.astype(np.uint16)


def hash_columns(batch: pa.RecordBatch, names: Sequence[str]) -> Hashes:
    """One hash a row over the named columns; the result belongs to the caller.

    Raises:
        TopologyError: no column, or a column that does not exist.
    """
    if not names:
        raise expected("at least one key column", "none", "name the columns to hash")
    combined: Hashes | None = None
    for name in names:
        position = batch.schema.get_field_index(name)
        if position < 0:
            raise expected(
                f"a column '{name}' to hash",
                f"the columns {batch.schema.names}",
                "hash by an existing, unique column",
            )
        hashes = hash_array(batch.column(position))
        combined = hashes if combined is None else _combine(combined, hashes)
    assert combined is not None
    return combined


def hash_array(array: pa.Array) -> Hashes:
    """One hash a value; the result belongs to the caller."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _hash_dictionary(array)
    if pa.types.is_null(kind):
        return np.full(len(array), _NULL_HASH)
    if isinstance(kind, pa.BaseExtensionType):
        return hash_array(array.storage)
    hashes = _hash_values(array, kind)
    if array.null_count:
        hashes[array.is_null().to_numpy(zero_copy_only=False)] = _NULL_HASH
    return hashes


def _hash_values(array: pa.Array, kind: pa.DataType) -> Hashes:
    """Hashes of the values; whatever for nulls."""
    types = pa.types
    if types.is_integer(kind):
        return _hash_integers(array)
    if types.is_string(kind) or types.is_binary(kind):
        return _hash_bytes(array, np.int32)
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return _hash_bytes(array, np.int64)
    if types.is_boolean(kind):
        return _hash_integers(array.cast(pa.uint8()))
    if types.is_temporal(kind) and kind.bit_width in (32, 64):
        return _hash_integers(array.view(pa.int32() if kind.bit_width == 32 else pa.int64()))
    if types.is_floating(kind):
        return _hash_floats(array)
    if types.is_decimal(kind):
        return hash_array(array.view(pa.binary(kind.bit_width // 8)))
    if types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return hash_array(array.cast(pa.large_binary()))
    if types.is_string_view(kind):
        return hash_array(array.cast(pa.large_string()))
    if types.is_struct(kind) and kind.num_fields:
        return _hash_struct(array)
    digests = [_digest(repr(value).encode()) for value in array.to_pylist()]
    return _mix(np.array(digests, dtype=np.uint64))


def _hash_integers(array: pa.Array) -> Hashes:
    if array.null_count:
        array = array.fill_null(0)
    values = array.to_numpy(zero_copy_only=True)
    # Sign extension makes -1 the same in every width; unsigned values extend with zeros.
    wide = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64, copy=False)
    return _mix(wide.view(np.uint64))


def _hash_floats(array: pa.Array) -> Hashes:
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        values += 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan
    bits = values.view(np.uint64)
    bits ^= _FLOAT_SALT
    return _mix(bits)


def _hash_dictionary(array: pa.DictionaryArray) -> Hashes:
    if len(array.dictionary) > 4 * len(array):  # a small slice of a large dictionary
        return hash_array(array.dictionary_decode())
    indices = array.indices
    distinct = np.append(hash_array(array.dictionary), _NULL_HASH)
    if indices.null_count:
        indices = indices.cast(pa.int64()).fill_null(len(distinct) - 1)
    hashes: Hashes = distinct[indices.to_numpy(zero_copy_only=False)]
    return hashes


def _hash_struct(array: pa.StructArray) -> Hashes:
    combined: Hashes | None = None
    for child in array.flatten():  # flatten, unlike field, applies the parent's offset and nulls
        hashes = hash_array(child)
        combined = _mix(hashes) if combined is None else _combine(combined, hashes)
    assert combined is not None
    return combined


def _hash_bytes(array: pa.Array, offset_type: type[Any]) -> Hashes:
    rows = len(array)
    if rows == 0:
        return np.empty(0, dtype=np.uint64)
    _, offset_buffer, data = array.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=offset_type)
    offsets = offsets[array.offset : array.offset + rows + 1].astype(np.int64)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    # A copy with a tail: the last word of the last value may reach beyond the buffer.
    padded = np.zeros(int(offsets[-1] - offsets[0]) + 16, dtype=np.uint8)
    if data is not None:
        padded[:-16] = np.frombuffer(data, dtype=np.uint8)[offsets[0] : offsets[-1]]
    if int(lengths.max()) <= _LONG_BYTES:
        return _hash_words(padded, starts, lengths)
    hashes = _hash_words(padded, starts, np.minimum(lengths, _LONG_BYTES))
    for row in np.flatnonzero(lengths > _LONG_BYTES).tolist():
        start = int(starts[row])
        digest = _digest(padded[start : start + int(lengths[row])].tobytes())
        hashes[row] = _mix(np.array([digest], dtype=np.uint64))[0]
    return hashes


def _hash_words(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Hashes:
    """Hash of every range of `data`, one 8-byte word of all rows a step."""
    words: Hashes = np.ndarray(len(data) - 7, dtype=np.uint64, buffer=data, strides=(1,))
    # The length is spread first: beside raw bytes it would cancel out ("" against "\1").
    hashes: Hashes = _mix(lengths.astype(np.uint64) ^ _BYTES_SALT)
    active: npt.NDArray[np.int64] | None = None  # None: all rows
    taken = 0
    while True:
        chosen_starts = starts if active is None else starts[active]
        chosen_lengths = lengths if active is None else lengths[active]
        word = words[chosen_starts + taken]
        word &= _PREFIX[np.minimum(chosen_lengths - taken, 8)]
        state = hashes if active is None else hashes[active]
        state = _mix(state ^ word)
        if active is None:
            hashes = state
        else:
            hashes[active] = state
        taken += 8
        longer = np.flatnonzero(chosen_lengths > taken)
        if not len(longer):
            return hashes
        active = longer if active is None else active[longer]


def _mix(values: Hashes) -> Hashes:
    mixed = values * _MULTIPLIER
    mixed ^= mixed >> _HALF
    mixed *= _FINISHER
    return mixed


def _combine(left: Hashes, right: Hashes) -> Hashes:
    """Order matters: (a, b) and (b, a) differ."""
    left ^= left >> _HALF
    left *= _MULTIPLIER
    left += right ^ (right >> _HALF)
    return _mix(left)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
