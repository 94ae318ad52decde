"""The rows of Ray's microbenchmark, runnable on `engine` and on Ray by the very same code.

The environment variable CORE_API names the module that is called `ray` below; nothing else differs
between the two sides. Names, batches and call patterns are those of Ray 2.60's own script
(`ray microbenchmark`), which is what makes its published figures comparable. Two things are put
right: gigabytes are counted as 10^9 bytes (Ray's script counts 5 % too few), and one result of
each row is checked.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from typing import Any

import numpy as np

from benchmarks.rows import N_CPU, Call, Rows

__all__ = ["API", "CORE", "ray"]

API = os.environ.get("CORE_API", "engine")
ray: Any = importlib.import_module(API)
CORE = Rows()
row = CORE.row

CLIENTS = 4
LARGE = 100 * 1024 * 1024  # int64 numbers
MEDIUM = LARGE // 10
BYTES_TO_GB = 8 / 1e9


def all_ok(n: int) -> list[bytes]:
    """What n small calls return."""
    return [b"ok"] * n


def plain_value(_: int) -> bytes:
    """As `small_value`, with an item to map over."""
    return b"ok"


@ray.remote
def small_value() -> bytes:
    return b"ok"


@ray.remote(num_cpus=0)
class Actor:
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: int) -> bytes:
        return b"ok"

    def small_value_batch(self, n: int) -> int:
        return list(ray.get([small_value.remote() for _ in range(n)])).count(b"ok")


@ray.remote
class AsyncActor:
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_with_arg(self, x: int) -> bytes:
        return b"ok"

    async def small_value_batch(self, n: int) -> None:
        await asyncio.wait([small_value.remote() for _ in range(n)])


@ray.remote(num_cpus=0)
class Client:
    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers

    def small_value_batch(self, n: int) -> int:
        refs = []
        for server in self.servers:
            refs.extend([server.small_value.remote() for _ in range(n)])
        return list(ray.get(refs)).count(b"ok")

    def small_value_batch_arg(self, n: int) -> int:
        x = ray.put(0)
        refs = []
        for server in self.servers:
            refs.extend([server.small_value_arg.remote(x) for _ in range(n)])
        return list(ray.get(refs)).count(b"ok")


@ray.remote
def put_small(n: int) -> None:
    for _ in range(n):
        ray.put(0)


@ray.remote
def put_medium(n: int) -> None:
    for _ in range(n):
        ray.put(np.zeros(MEDIUM, dtype=np.int64))


@ray.remote
def object_containing_refs(n: int) -> list[Any]:
    return [ray.put(1) for _ in range(n)]


@ray.remote
def call_each_in_turn(actors: list[Any], n: int) -> int:
    refs = [actors[i % len(actors)].small_value.remote() for i in range(n)]
    return list(ray.get(refs)).count(b"ok")


# --------------------------------------------------------------------------------- objects


@row("single client get calls", expect=lambda n: 0)
def get_calls(n: int, n_cpu: int) -> Call:
    ref = ray.put(0)
    return lambda: ray.get(ref)


@row("single client put calls")
def put_calls(n: int, n_cpu: int) -> Call:
    return lambda: ray.put(0)


@row("multi client put calls", batch=100, clients=10)
def multi_put_calls(n: int, n_cpu: int) -> Call:
    return lambda: ray.get([put_small.remote(n) for _ in range(10)])


@row("single client put gigabytes", unit="GB/s", unit_per_call=LARGE * BYTES_TO_GB)
def put_gigabytes(n: int, n_cpu: int) -> Call:
    array = np.zeros(LARGE, dtype=np.int64)
    return lambda: ray.put(array)


@row("multi client put gigabytes", unit="GB/s", unit_per_call=100 * MEDIUM * BYTES_TO_GB)
def multi_put_gigabytes(n: int, n_cpu: int) -> Call:
    return lambda: ray.get([put_medium.remote(10) for _ in range(10)])


@row("single client get object containing 10k refs", expect=lambda n: 10_000)
def get_containing_refs(n: int, n_cpu: int) -> Call:
    ref = object_containing_refs.remote(10_000)
    return lambda: len(ray.get(ref))


@row("single client wait 1k refs", expect=lambda n: [])
def wait_many(n: int, n_cpu: int) -> Call:
    def call() -> list[Any]:
        pending = [small_value.remote() for _ in range(1000)]
        for turn in range(1000):
            # Fetching has to be asked for once; the request stays when `wait` has returned.
            _, pending = ray.wait(pending, fetch_local=turn == 0)
        return pending

    return call


# ----------------------------------------------------------------------------------- tasks


@row("single client tasks and get batch", unit="batches of 1000/s", expect=lambda n: all_ok(1000))
def tasks_batch(n: int, n_cpu: int) -> Call:
    return lambda: ray.get([small_value.remote() for _ in range(1000)])


@row("single client tasks sync", expect=lambda n: b"ok")
def tasks_sync(n: int, n_cpu: int) -> Call:
    return lambda: ray.get(small_value.remote())


@row("single client tasks async", batch=1000, expect=all_ok)
def tasks_async(n: int, n_cpu: int) -> Call:
    return lambda: ray.get([small_value.remote() for _ in range(n)])


@row("multi client tasks async", batch=10_000, clients=CLIENTS, expect=lambda n: [n] * CLIENTS)
def multi_tasks_async(n: int, n_cpu: int) -> Call:
    actors = [Actor.remote() for _ in range(CLIENTS)]
    return lambda: ray.get([actor.small_value_batch.remote(n) for actor in actors])


if API == "engine":  # interfaces of the standard library, beside the standard library's own

    @row("Pool.map, chunksize 1", unit="batches of 1000/s", expect=lambda n: all_ok(1000))
    def pool_map(n: int, n_cpu: int) -> Call:
        pool = importlib.import_module(f"{API}.util").Pool()
        return lambda: pool.map(plain_value, range(1000), chunksize=1)

    @row("Executor.map, chunksize 1", unit="batches of 1000/s", expect=lambda n: all_ok(1000))
    def executor_map(n: int, n_cpu: int) -> Call:
        executor = importlib.import_module(f"{API}.util").Executor()
        return lambda: list(executor.map(plain_value, range(1000), chunksize=1))


# ---------------------------------------------------------------------------------- actors


@row("1:1 actor calls sync", expect=lambda n: b"ok")
def actor_sync(n: int, n_cpu: int) -> Call:
    actor = Actor.remote()
    return lambda: ray.get(actor.small_value.remote())


@row("1:1 actor calls async", batch=1000, expect=all_ok)
def actor_async(n: int, n_cpu: int) -> Call:
    actor = Actor.remote()
    return lambda: ray.get([actor.small_value.remote() for _ in range(n)])


@row("1:1 actor calls concurrent", batch=1000, expect=all_ok)
def actor_concurrent(n: int, n_cpu: int) -> Call:
    actor = Actor.options(max_concurrency=16).remote()
    return lambda: ray.get([actor.small_value.remote() for _ in range(n)])


@row("1:n actor calls async", batch=5000, clients=N_CPU)
def actor_one_to_many(n: int, n_cpu: int) -> Call:
    client = Client.remote([Actor.remote() for _ in range(n_cpu)])
    return lambda: ray.get(client.small_value_batch.remote(n))


@row("n:n actor calls async", batch=5000, clients=CLIENTS, expect=lambda n: [n] * CLIENTS)
def actor_many_to_many(n: int, n_cpu: int) -> Call:
    actors = [Actor.remote() for _ in range(n_cpu)]
    return lambda: ray.get([call_each_in_turn.remote(actors, n) for _ in range(CLIENTS)])


@row("n:n actor calls with arg async", batch=1000, clients=N_CPU)
def actor_many_to_many_arg(n: int, n_cpu: int) -> Call:
    clients = [Client.remote([Actor.remote()]) for _ in range(n_cpu)]
    return lambda: ray.get([client.small_value_batch_arg.remote(n) for client in clients])


# ---------------------------------------------------------------------------- async actors


@row("1:1 async-actor calls sync", expect=lambda n: b"ok")
def async_actor_sync(n: int, n_cpu: int) -> Call:
    actor = AsyncActor.remote()
    return lambda: ray.get(actor.small_value.remote())


@row("1:1 async-actor calls async", batch=1000, expect=all_ok)
def async_actor_async(n: int, n_cpu: int) -> Call:
    actor = AsyncActor.remote()
    return lambda: ray.get([actor.small_value.remote() for _ in range(n)])


@row("1:1 async-actor calls with args async", batch=1000, expect=all_ok)
def async_actor_args(n: int, n_cpu: int) -> Call:
    actor = AsyncActor.remote()
    return lambda: ray.get([actor.small_value_with_arg.remote(i) for i in range(n)])


@row("1:n async-actor calls async", batch=5000, clients=N_CPU)
def async_actor_one_to_many(n: int, n_cpu: int) -> Call:
    client = Client.remote([AsyncActor.remote() for _ in range(n_cpu)])
    return lambda: ray.get(client.small_value_batch.remote(n))


@row("n:n async-actor calls async", batch=5000, clients=CLIENTS, expect=lambda n: [n] * CLIENTS)
def async_actor_many_to_many(n: int, n_cpu: int) -> Call:
    actors = [AsyncActor.remote() for _ in range(n_cpu)]
    return lambda: ray.get([call_each_in_turn.remote(actors, n) for _ in range(CLIENTS)])


# ------------------------------------------------------------------------ placement groups


@row("placement group create/removal", unit="groups/s", batch=100)
def placement_groups(n: int, n_cpu: int) -> Call:
    util = importlib.import_module(f"{API}.util")

    def call() -> None:
        groups = [util.placement_group(bundles=[{"custom": 0.001}]) for _ in range(n)]
        for group in groups:
            if not group.wait(timeout_seconds=30):
                raise TimeoutError("a placement group was not placed within 30 s")
        for group in groups:
            util.remove_placement_group(group)

    return call
