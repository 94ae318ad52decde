"""The engine's own limits: what it must reach in time, memory and number, each measured alone.

    python -m benchmarks.core --parts limits

Each row runs in a child of its own, on an engine of its own. A row checks its result and gives one
or more figures, each with the bound that it must keep; the bounds are the project's, not a peer's.
"""

from __future__ import annotations

import argparse
import dataclasses
import mmap
import operator
import os
import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import engine
from benchmarks import report
from benchmarks.peers import Side, SideFailed, serve

__all__ = ["LIMITS", "measure", "table"]

Figures = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """One row: `run(scale)` gives figures by name; `bounds` says what each has to be."""

    name: str
    run: Callable[[float], Figures]
    bounds: dict[str, tuple[str, float, str]]  # name -> "<" or ">", value, unit
    trials: int


LIMITS: dict[str, Limit] = {}


def limit(name: str, bounds: dict[str, tuple[str, float, str]], trials: int = 1) -> Any:
    """Add the decorated function as a row; it is run `trials` times, each in a fresh process."""

    def add(run: Callable[[float], Figures]) -> Callable[[float], Figures]:
        LIMITS[name] = Limit(name, run, bounds, trials)
        return run

    return add


def check(found: Any, wanted: Any) -> None:
    """A figure for a wrong result is no figure."""
    if found != wanted:
        raise ValueError(f"wrong result: expected {wanted!r:.80}, found {found!r:.80}")


def timed(call: Callable[[], Any], times: int = 5) -> list[float]:
    """Seconds of each of `times` calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


@engine.remote
def nothing(x: int = 0) -> int:
    return x


@engine.remote(num_cpus=0)
def begun_at(path: str) -> float:
    begin = time.perf_counter()
    while not os.path.exists(path):
        time.sleep(0.01)
    return begin


@engine.remote(num_cpus=0)
class Idle:
    def pid(self) -> int:
        return os.getpid()


# ---------------------------------------------------------------------------------- start


@limit("init() to the first result", {"time": ("<", 0.5, "s")}, trials=5)
def first_result(scale: float) -> Figures:
    """A process that has imported the engine and done nothing else."""
    start = time.perf_counter()
    engine.init(num_cpus=2)
    check(engine.get(nothing.remote(7)), 7)
    return {"time": [time.perf_counter() - start]}


@limit("a further worker, from demand to running", {"time": ("<", 20.0, "ms")})
def further_worker(scale: float) -> Figures:
    """Every worker is held; each further task needs a process more. Median of 20."""
    engine.init(num_cpus=2)
    with tempfile.TemporaryDirectory() as folder:
        gate = str(Path(folder, "gate"))
        refs = [begun_at.remote(gate) for _ in range(2)]
        while engine.available_resources() and len(_busy()) < 2:
            time.sleep(0.01)
        asked = []
        for _ in range(max(3, round(20 * scale))):
            time.sleep(0.05)  # the machine is idle but for this
            asked.append(time.perf_counter())
            refs.append(begun_at.remote(gate))
            while len(_busy()) < len(refs):
                time.sleep(0.005)
        Path(gate).touch()
        begun = engine.get(refs)[2:]
    return {"time": [(b - a) * 1e3 for a, b in zip(asked, begun, strict=True)]}


def _busy() -> Any:
    return engine.state.list_workers(filters=[("use", "=", "lease")], limit=10_000)


@limit("private memory of an idle worker", {"memory": ("<", 30.0, "MB")})
def idle_memory(scale: float) -> Figures:
    """USS: pages that no other process has. After some tasks, as workers in use are."""
    engine.init(num_cpus=2)
    check(engine.get([nothing.remote(n) for n in range(2000)]), list(range(2000)))
    time.sleep(0.5)
    workers = engine.state.list_workers(
        filters=[("worker_type", "=", "WORKER"), ("is_alive", "=", True)]
    )
    return {"memory": [psutil.Process(one.pid).memory_full_info().uss / 1e6 for one in workers]}


@limit("1,000 idle actors", {"all alive": ("<", 60.0, "s"), "a call to each": ("<", 5.0, "s")})
def idle_actors(scale: float) -> Figures:
    """Actors without a CPU of their own, until each has answered."""
    engine.init(num_cpus=2)
    count = round(1000 * scale)
    start = time.perf_counter()
    actors = [Idle.remote() for _ in range(count)]
    pids = engine.get([actor.pid.remote() for actor in actors])
    alive = time.perf_counter() - start
    check(len(set(pids)), count)
    again = timed(lambda: engine.get([actor.pid.remote() for actor in actors]), 3)
    return {"all alive": [alive], "a call to each": again}


# ---------------------------------------------------------------------------------- calls


@limit(
    "1,000,000 no-op tasks from one driver",
    {
        "whole run": (">", 20_000.0, "tasks/s"),
        "slowest second": (">", 20_000.0, "tasks/s"),
        "driver's growth after the first tenth": ("<", 50.0, "MB"),
    },
)
def million(scale: float) -> Figures:
    """Submitted as fast as they go; results are taken, and checked, some thousands behind."""
    engine.init(num_cpus=2)
    total, chunk = round(1_000_000 * scale), 1000
    engine.get([nothing.remote(n) for n in range(chunk)])
    me = psutil.Process()
    behind: deque[tuple[int, list[Any]]] = deque()
    seconds: list[int] = []  # tasks done in each second
    start = time.perf_counter()
    at_tenth = me.memory_info().rss

    def take() -> None:
        first, refs = behind.popleft()
        check(sum(engine.get(refs)), sum(range(first, first + chunk)))
        second = int(time.perf_counter() - start)
        seconds.extend([0] * (second + 1 - len(seconds)))
        seconds[second] += chunk

    for first in range(0, total, chunk):
        behind.append((first, [nothing.remote(n) for n in range(first, first + chunk)]))
        if len(behind) > 10:
            take()
        if first == total // 10 // chunk * chunk:
            at_tenth = me.memory_info().rss
    while behind:
        take()
    took = time.perf_counter() - start
    return {
        "whole run": [total / took],
        "slowest second": [float(min(seconds[:-1] or seconds))],
        "driver's growth after the first tenth": [(me.memory_info().rss - at_tenth) / 1e6],
    }


@limit("a task with 10,000 reference arguments", {"time": ("<", 2.0, "s")})
def many_arguments(scale: float) -> Figures:
    """From the call to its result; the objects are there."""
    engine.init(num_cpus=2)
    count = round(10_000 * scale)
    refs = [engine.put(n) for n in range(count)]

    @engine.remote
    def total(*numbers: int) -> int:
        return sum(numbers)

    return {"time": timed(lambda: check(engine.get(total.remote(*refs)), sum(range(count))))}


@limit("a task with 3,000 returns", {"time": ("<", 1.0, "s")})
def many_returns(scale: float) -> Figures:
    """From the call until all values are there."""
    engine.init(num_cpus=2)
    count = round(3000 * scale)

    @engine.remote(num_returns=count)
    def numbers() -> list[int]:
        return list(range(count))

    return {"time": timed(lambda: check(engine.get(numbers.remote()), list(range(count))))}


@limit("get of 10,000 objects", {"time": ("<", 0.5, "s")})
def many_objects(scale: float) -> Figures:
    """Small values that this process owns."""
    engine.init(num_cpus=2)
    count = round(10_000 * scale)
    refs = [engine.put(n) for n in range(count)]
    return {"time": timed(lambda: check(engine.get(refs), list(range(count))))}


@limit(
    "wait for all of n pending references",
    {
        "at 1,000": ("<", 100.0, "us a reference"),
        "at 2,000": ("<", 100.0, "us a reference"),
        "at 4,000": ("<", 100.0, "us a reference"),
        "at 4,000 / at 1,000": ("<", 1.5, ""),
    },
)
def wait_many(scale: float) -> Figures:
    """Tasks are submitted and waited for; linear means the same time a reference at any n."""
    engine.init(num_cpus=2)
    figures: Figures = {}
    for count in (1000, 2000, 4000):
        n = max(4, round(count * scale))

        def wait(n: int = n) -> None:
            ready, rest = engine.wait([nothing.remote() for _ in range(n)], num_returns=n)
            check((len(ready), rest), (n, []))

        wait()
        figures[f"at {count:,}"] = [seconds / n * 1e6 for seconds in timed(wait, 9)]
    small, large = (sorted(figures[f"at {n:,}"])[4] for n in (1000, 4000))
    figures["at 4,000 / at 1,000"] = [large / small]
    return figures


# ---------------------------------------------------------------------------------- values


@limit(
    "put and get of 800 MB",
    {
        "put / memcpy into warm shared memory": (">", 0.9, ""),
        "get": ("<", 1.0, "ms"),
    },
)
def large_values(scale: float) -> Figures:
    """In turn: a put, and a copy of the same array into pages that are there already."""
    engine.init(num_cpus=2)
    count = round(100 * 1024 * 1024 * scale)
    source = np.arange(count, dtype=np.int64)
    shared = np.frombuffer(mmap.mmap(-1, source.nbytes), dtype=np.int64)
    np.copyto(shared, source)
    engine.get(engine.put(source))  # the pages of the first put are new
    ratios, gets = [], []
    for _ in range(7):
        (copied,) = timed(lambda: np.copyto(shared, source), 1)
        start = time.perf_counter()
        ref = engine.put(source)
        put = time.perf_counter() - start
        start = time.perf_counter()
        found = engine.get(ref)
        gets.append((time.perf_counter() - start) * 1e3)
        check(bool((found[:: 1 << 16] == source[:: 1 << 16]).all()), True)
        ratios.append(copied / put)
        del ref, found
    return {"put / memcpy into warm shared memory": ratios, "get": gets}


# -------------------------------------------------------------------------------- measuring


def measure(pattern: str, scale: float, failures: list[str]) -> list[dict[str, Any]]:
    """Run the rows whose name contains the regular expression, each in a process of its own."""
    rows = []
    for name, row in LIMITS.items():
        if not re.search(pattern, name):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures: Figures = {figure: [] for figure in row.bounds}
        for _ in range(row.trials if scale == 1.0 else 1):
            arguments = ["-m", "benchmarks.core_limits", "--scale", str(scale)]
            with Side("limits", arguments) as side:
                try:
                    found = side.ask(row=name)["figures"]
                except SideFailed as error:
                    failures.append(str(error))
                    print(f"  failed: {error}", file=sys.stderr, flush=True)
                    break
            for figure, values in found.items():
                figures[figure] += values
        rows.append({"limit": name, "figures": figures, "bounds": row.bounds})
    return rows


_COMPARE: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What was measured beside what must be reached: medians and ranges."""
    lines = []
    for row in rows:
        for figure, values in row["figures"].items():
            way, bound, unit = row["bounds"][figure]
            name = row["limit"] if figure == "time" else f"{row['limit']}: {figure}"
            wanted = f"{way} {report.figure(bound)} {unit}".strip()
            if not values:
                lines.append([name, wanted, "failed", "", ""])
                continue
            middle = sorted(values)[len(values) // 2]
            met = "yes" if _COMPARE[way](middle, bound) else "no"
            lines.append([name, wanted, report.spread(values), str(len(values)), met])
    return ["what", "must be", "is", "measurements", "met"], lines


def main(arguments: list[str] | None = None) -> int:
    """The child: measures the rows that it is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.core_limits")
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args(arguments)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"figures": LIMITS[request["row"]].run(options.scale)}
        finally:
            engine.shutdown()

    serve(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
