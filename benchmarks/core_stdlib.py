"""What a user of one machine would take instead: the standard library, under the same row names.

Pools have the CPUs that the engine is given. Actor calls are a pickled request and reply over a
pipe, both sides blocking: the plainest thing that keeps state in another process. The put row is
not a peer but the physical limit: a copy of the same array into shared memory whose pages are
already there.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.rows import Call, Rows

__all__ = ["LABELS", "STDLIB", "set_num_cpus"]

STDLIB = Rows()
row = STDLIB.row
# What the peer is in each row, for the table's notes.
LABELS = {
    "single client tasks sync": "ProcessPoolExecutor",
    "single client tasks async": "ProcessPoolExecutor",
    "single client tasks and get batch": "multiprocessing.Pool.map, chunksize 1",
    "Pool.map, chunksize 1": "multiprocessing.Pool.map, chunksize 1",
    "Executor.map, chunksize 1": "ProcessPoolExecutor.map, chunksize 1",
    "1:1 actor calls sync": "multiprocessing.Pipe",
    "single client put gigabytes": "memcpy into warm shared memory (the limit)",
}
LARGE_BYTES = 8 * 100 * 1024 * 1024

_num_cpus = os.cpu_count() or 1


def set_num_cpus(count: int) -> None:
    """Size of the pools of rows set up from now on."""
    global _num_cpus
    _num_cpus = count


def small_value(_: int = 0) -> bytes:
    """The task of Ray's benchmark."""
    return b"ok"


class Executor(ProcessPoolExecutor):
    """Ends its processes when the row lets go of it."""

    def __del__(self) -> None:
        self.shutdown(wait=True)


class Mapper:
    """A pool of processes whose map hands out one item at a time."""

    def __init__(self, count: int) -> None:
        self.pool = multiprocessing.Pool(_num_cpus)
        self.count = count

    def call(self) -> list[bytes]:
        """One message an item, as chunksize 1 means."""
        return self.pool.map(small_value, range(self.count), chunksize=1)

    def __del__(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Echo:
    """A process that answers each message with `ok`."""

    def __init__(self) -> None:
        self.connection, other = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_answer, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def call(self) -> Any:
        """One request and its reply."""
        self.connection.send(("small_value", ()))
        return self.connection.recv()

    def __del__(self) -> None:
        self.connection.send(None)
        self.process.join()


def _answer(connection: Connection[Any, Any]) -> None:
    while connection.recv() is not None:
        connection.send(b"ok")


@row("single client tasks sync", expect=lambda n: b"ok")
def tasks_sync(n: int, n_cpu: int) -> Call:
    """Submit one, wait for it."""
    pool = Executor(_num_cpus)
    return lambda: pool.submit(small_value).result()


@row("single client tasks async", batch=1000, expect=lambda n: [b"ok"] * n)
def tasks_async(n: int, n_cpu: int) -> Call:
    """Submit all, then wait for all."""
    pool = Executor(_num_cpus)

    def call() -> list[bytes]:
        futures = [pool.submit(small_value) for _ in range(n)]
        return [future.result() for future in futures]

    return call


@row(
    "single client tasks and get batch",
    unit="batches of 1000/s",
    expect=lambda n: [b"ok"] * 1000,
)
def tasks_batch(n: int, n_cpu: int) -> Call:
    """Map over a thousand items."""
    return Mapper(1000).call


@row("Pool.map, chunksize 1", unit="batches of 1000/s", expect=lambda n: [b"ok"] * 1000)
def pool_map(n: int, n_cpu: int) -> Call:
    """The row above under the name of the interface."""
    return Mapper(1000).call


@row("Executor.map, chunksize 1", unit="batches of 1000/s", expect=lambda n: [b"ok"] * 1000)
def executor_map(n: int, n_cpu: int) -> Call:
    """A future an item."""
    pool = Executor(_num_cpus)
    return lambda: list(pool.map(small_value, range(1000), chunksize=1))


@row("1:1 actor calls sync", expect=lambda n: b"ok")
def actor_sync(n: int, n_cpu: int) -> Call:
    """A request and its reply."""
    return Echo().call


@row("single client put gigabytes", unit="GB/s", unit_per_call=LARGE_BYTES / 1e9)
def put_gigabytes(n: int, n_cpu: int) -> Call:
    """Copy into the same shared pages again and again."""
    source = np.zeros(LARGE_BYTES // 8, dtype=np.int64)
    shared = np.frombuffer(mmap.mmap(-1, LARGE_BYTES), dtype=np.int64)
    return lambda: np.copyto(shared, source)
