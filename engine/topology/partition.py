"""How the items of a channel are spread over the receiving copies.

A `Partitioning` is data: it is declared once, shipped to every sending copy, and there makes one
`Router`, the function on the hot path. A router returns (receiver, part) pairs; a receiver
that is not named gets nothing of the value.

Hash partitioning cuts a `RecordBatch` by key group: receiver = group * receivers // 4096, so each
receiver owns a contiguous range of groups, the unit in which keyed state moves. Rows keep
their order within each part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.topology.errors import TopologyError, expected
from engine.topology.hashing import GROUPS, hash_columns, key_groups

__all__ = [
    "Broadcast",
    "Custom",
    "Forward",
    "Hashed",
    "Partitioning",
    "Rebalance",
    "Router",
    "broadcast",
    "custom",
    "forward",
    "hashed",
    "key_groups",
    "rebalance",
    "split",
]

# GROUPS is a power of two: the group is the top bits of the hash.
_OWNER_SHIFT = np.uint64(GROUPS.bit_length() - 1)
_GROUP_SHIFT = np.uint64(64) - _OWNER_SHIFT

Parts = Sequence[tuple[int, Any]]
Router = Callable[[Any, Any], Parts]
CustomFunction = Callable[[Any, Any, int], list[tuple[int, Any]]]


@dataclass(frozen=True, slots=True)
class Partitioning(ABC):
    """Base of the five partitionings."""

    @abstractmethod
    def router(self, sender: int, receivers: int) -> Router:
        """The function of one sending copy: (value, meta) -> [(receiver, part), ...].

        Args:
            sender: index of the sending copy.
            receivers: how many copies it sends to.
        """


@dataclass(frozen=True, slots=True)
class Forward(Partitioning):
    """Copy i sends to copy i only."""

    def router(self, sender: int, receivers: int) -> Router:
        """All of it to the only receiver there is."""
        return _to_the_only


@dataclass(frozen=True, slots=True)
class Hashed(Partitioning):
    """Rows go to the owner of their key group."""

    columns: tuple[str, ...]

    def router(self, sender: int, receivers: int) -> Router:
        """Cuts every batch by the hash of the columns."""
        columns = self.columns

        def route(value: Any, meta: Any) -> Parts:
            if type(value) is not pa.RecordBatch:
                raise expected(
                    f"a pyarrow.RecordBatch to partition by {columns}",
                    f"a {type(value).__name__}",
                    "emit record batches, or use another partitioning",
                )
            return split(value, columns, receivers)

        return route


@dataclass(frozen=True, slots=True)
class Broadcast(Partitioning):
    """Every receiver gets every item (the same object; nobody may change it)."""

    def router(self, sender: int, receivers: int) -> Router:
        """The value once for each receiver."""
        everyone = range(receivers)
        return lambda value, meta: [(receiver, value) for receiver in everyone]


@dataclass(frozen=True, slots=True)
class Rebalance(Partitioning):
    """Whole items in turn; sender i starts at receiver i, so that senders do not march in step."""

    def router(self, sender: int, receivers: int) -> Router:
        """The next receiver in turn gets all of it."""
        turn = sender % receivers - 1

        def route(value: Any, meta: Any) -> Parts:
            nonlocal turn
            turn = (turn + 1) % receivers
            return ((turn, value),)

        return route


@dataclass(frozen=True, slots=True)
class Custom(Partitioning):
    """The user's function decides."""

    function: CustomFunction

    def router(self, sender: int, receivers: int) -> Router:
        """Calls the function and checks its answer."""
        function = self.function

        def route(value: Any, meta: Any) -> Parts:
            parts = function(value, meta, receivers)
            seen: set[int] = set()
            for receiver, _ in parts:
                if not 0 <= receiver < receivers or receiver in seen:
                    raise expected(
                        f"each receiver at most once, in 0..{receivers - 1}",
                        [receiver for receiver, _ in parts],
                        "correct the function given to custom()",
                    )
                seen.add(receiver)
            return parts

        return route


def forward() -> Partitioning:
    """Copy i to copy i; both members need the same parallelism."""
    return Forward()


def hashed(*columns: str) -> Partitioning:
    """By the stable hash of one or more columns: equal keys meet at one receiver.

    Raises:
        TopologyError: no column, a name that is no string, or a name given twice.
    """
    if not columns or not all(isinstance(name, str) and name for name in columns):
        raise expected("names of key columns", columns, "write hashed('user', 'day')")
    if len(set(columns)) != len(columns):
        raise expected("each key column once", columns, "drop the repetition")
    return Hashed(tuple(columns))


def broadcast() -> Partitioning:
    """Every item to every receiver."""
    return Broadcast()


def rebalance() -> Partitioning:
    """Round robin by item."""
    return Rebalance()


def custom(function: CustomFunction) -> Partitioning:
    """`function(value, meta, receivers)` returns a list of (receiver, part), each at most once.

    Raises:
        TopologyError: `function` cannot be called.
    """
    if not callable(function):
        raise expected("a function", type(function).__name__, "write custom(lambda v, m, n: ...)")
    return Custom(function)


def split(batch: pa.RecordBatch, columns: Sequence[str], receivers: int) -> Parts:
    """Cut `batch` by key group into at most `receivers` non-empty parts, in order of receivers.

    Each row is in one part; rows keep their order within a part. A part that is the whole batch
    is the batch itself.

    Raises:
        TopologyError: a column does not exist.
    """
    rows = batch.num_rows
    if receivers == 1 or rows == 0:
        for name in columns:
            if batch.schema.get_field_index(name) < 0:
                hash_columns(batch, (name,))  # raises
        return ((0, batch),) if rows else ()
    hashes = hash_columns(batch, columns)
    if receivers == 2:
        return _split_in_two(batch, hashes)
    hashes >>= _GROUP_SHIFT  # now the key group, as in key_groups()
    hashes *= np.uint64(receivers)
    hashes >>= _OWNER_SHIFT
    # NumPy sorts 8- and 16-bit integers by radix: one pass, and stable.
    owners = hashes.astype(np.uint8 if receivers <= 256 else np.uint16)
    return _split_by_owner(batch, owners, receivers)


def _to_the_only(value: Any, meta: Any) -> Parts:
    return ((0, value),)


def _split_in_two(batch: pa.RecordBatch, hashes: npt.NDArray[np.uint64]) -> Parts:
    """Two masks instead of a sort: half again as fast. The owner is the top bit of the hash."""
    second = hashes.view(np.int64) < 0
    to_second = np.flatnonzero(second)
    if not len(to_second):
        return ((0, batch),)
    if len(to_second) == batch.num_rows:
        return ((1, batch),)
    to_first = np.flatnonzero(~second)
    return ((0, batch.take(pa.array(to_first))), (1, batch.take(pa.array(to_second))))


def _split_by_owner(batch: pa.RecordBatch, owners: npt.NDArray[Any], receivers: int) -> Parts:
    if receivers > GROUPS:
        raise TopologyError(
            f"expected at most {GROUPS} receivers (one a key group), found {receivers}; "
            "lower the parallelism of the receiving member"
        )
    counts = np.bincount(owners, minlength=receivers)
    present = np.flatnonzero(counts)
    if len(present) == 1:
        return ((int(present[0]), batch),)
    sorted_batch = batch.take(pa.array(np.argsort(owners, kind="stable")))
    parts = []
    start = 0
    for receiver in present.tolist():
        rows = int(counts[receiver])
        parts.append((receiver, sorted_batch.slice(start, rows)))
        start += rows
    return parts
