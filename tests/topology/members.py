"""Members and clocks the topology tests share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.topology import Member, MemberContext

__all__ = ["Faulty", "HandClock", "Numbers", "Relay", "batch_of", "ids_of"]


class HandClock:
    """A clock that only moves when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def batch_of(ids: Sequence[int]) -> pa.RecordBatch:
    """Rows with an id and a key that several ids share."""
    numbers = np.asarray(ids, dtype=np.int64)
    return pa.record_batch({"id": numbers, "key": numbers % 7})


def ids_of(batch: pa.RecordBatch) -> list[int]:
    """The ids of the rows in order."""
    ids: list[int] = batch.column("id").to_pylist()
    return ids


class Numbers(Member):
    """A source: copy i emits the ids of range(i * rows, (i + 1) * rows) in batches."""

    def __init__(self, rows: int, batch_rows: Sequence[int], offset: int = 0) -> None:
        self.rows = rows
        self.batch_rows = batch_rows
        self.offset = offset
        self.position = 0
        self.batches = 0

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def poll(self) -> bool:
        if self.position < self.rows:
            take = self.batch_rows[self.batches % len(self.batch_rows)]
            stop = min(self.rows, self.position + take)
            first = self.offset + self.ctx.index * self.rows
            self.ctx.emit(batch_of(range(first + self.position, first + stop)), self.batches)
            self.position = stop
            self.batches += 1
        if self.position == self.rows:
            self.ctx.finish()
        return True

    def snapshot(self) -> Any:
        return self.position, self.batches

    def restore(self, state: Any) -> None:
        self.position, self.batches = state

    def close(self) -> int:
        return self.position


class Relay(Member):
    """Notes what it gets and passes it on, each batch cut into `pieces`.

    Every emitted item carries the count of items emitted before as its meta, so each receiver of
    any partitioning must see 0, 1, 2, ... from each sender. Its result and its state are
    ({(port, sender): (metas, ids)}, items emitted).
    """

    def __init__(self, pieces: int = 1) -> None:
        self.pieces = pieces
        self.seen: dict[tuple[str, int], tuple[list[Any], list[int]]] = {}
        self.emitted = 0
        self.ends: list[str] = []

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        metas, ids = self.seen.setdefault((port, sender), ([], []))
        metas.append(meta)
        if value is None:
            return
        ids.extend(ids_of(value))
        step = -(-value.num_rows // self.pieces)
        for start in range(0, value.num_rows, step):
            self.ctx.emit(value.slice(start, step), self.emitted)
            self.emitted += 1

    def on_end(self, port: str) -> None:
        self.ends.append(port)

    def snapshot(self) -> Any:
        copied = {key: (list(metas), list(ids)) for key, (metas, ids) in self.seen.items()}
        return copied, self.emitted

    def restore(self, state: Any) -> None:
        seen, self.emitted = state
        self.seen = {key: (list(metas), list(ids)) for key, (metas, ids) in seen.items()}

    def close(self) -> Any:
        assert len(set(self.ends)) == len(self.ends), "each port ends once"
        return self.snapshot()


class Faulty:
    """The system calls of a durable write, of which the n-th does not happen."""

    def __init__(self, error: BaseException, at: int) -> None:
        self._error, self._left = error, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in ("replace", "fsync", "open"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise self._error
            return found(*args, **kwargs)

        return call
