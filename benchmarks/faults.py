"""What surviving costs while nothing fails, and how long it takes when something does.

    python -m benchmarks.faults --kills 1000 --json benchmarks/results/faults.json

*Cost*: calls to one actor without checkpoints, with the order of its calls kept but no checkpoint,
and with a checkpoint every 1,000 calls, in turn; tasks of engines with lineage and without, too.
*Worker kills*: random workers are killed under a load of tasks; each result is checked. *Actor
kills*: an actor with 10 MB of state is killed under calls; each answer and the state are checked,
so a lost or a repeated call would be seen.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import engine
from benchmarks import report
from engine.config import Config

__all__ = ["actor_kills", "call_costs", "costs", "lineage_costs", "main", "task_kills"]

STATE_BYTES = 10 << 20
BLOCK_BYTES = 200_000
NEVER = 10**9  # calls to a checkpoint that does not come
SIDES: dict[str, dict[str, Any]] = {
    "no checkpoints": {},
    "order kept": {"max_restarts": -1, "checkpoint_every": NEVER},
    "checkpoint every 1,000 calls": {"max_restarts": -1, "checkpoint_every": 1000},
}


class Counter:
    """The actor of all rows."""

    def __init__(self, nbytes: int) -> None:
        self.state = np.zeros(nbytes, np.uint8)
        self.count = 0

    def add(self) -> int:
        """The number of calls so far."""
        self.count += 1
        return self.count

    @engine.method(read_only=True)
    def pid(self) -> int:
        """Whom to kill."""
        return os.getpid()


def call_costs(trials: int, batch: int = 1000) -> dict[str, dict[str, list[float]]]:
    """Calls a second of each side, many at a time and one at a time, in turn."""
    make = engine.remote(Counter)
    actors = {}
    for name, options in SIDES.items():
        actors[name] = (make.options(**options) if options else make).remote(100)
        engine.get([actors[name].add.remote() for _ in range(batch)])
    found: dict[str, dict[str, list[float]]] = {name: {"async": [], "sync": []} for name in SIDES}
    for _ in range(trials):
        for name, actor in actors.items():
            start = time.perf_counter()
            for _ in range(4):
                engine.get([actor.add.remote() for _ in range(batch)])
            found[name]["async"].append(4 * batch / (time.perf_counter() - start))
            start = time.perf_counter()
            for _ in range(batch):
                engine.get(actor.add.remote())
            found[name]["sync"].append(batch / (time.perf_counter() - start))
    return found


@engine.remote
def small(number: int) -> int:
    """A task whose result travels in its answer."""
    return number


@engine.remote
def large(nbytes: int) -> np.ndarray[Any, Any]:
    """A task whose result lies in shared memory: it is what lineage is for."""
    return np.zeros(nbytes, np.uint8)


def lineage_costs(
    trials: int, num_cpus: int = 2, batch: int = 1000
) -> dict[str, dict[str, list[float]]]:
    """Tasks a second with lineage and without: an engine for each measurement, in turn."""
    budgets = {"no lineage": 0, "lineage": Config().lineage_bytes_max}
    found: dict[str, dict[str, list[float]]] = {
        name: {"async": [], "sync": [], "blocks": []} for name in budgets
    }
    for _ in range(trials):
        for name, budget in budgets.items():
            with engine.init(num_cpus=num_cpus, config=Config(lineage_bytes_max=budget)):
                engine.get([small.remote(number) for number in range(batch)])
                engine.get([large.remote(BLOCK_BYTES) for _ in range(batch // 10)])
                for way, row in _task_rows(batch).items():
                    start = time.perf_counter()
                    count = row()
                    found[name][way].append(count / (time.perf_counter() - start))
    return found


def _task_rows(batch: int) -> dict[str, Callable[[], int]]:
    def many() -> int:
        for _ in range(4):
            engine.get([small.remote(number) for number in range(batch)])
        return 4 * batch

    def one() -> int:
        for number in range(batch):
            engine.get(small.remote(number))
        return batch

    def blocks() -> int:
        for _ in range(batch // 10):
            engine.get([large.remote(BLOCK_BYTES) for _ in range(10)])
        return batch

    return {"async": many, "sync": one, "blocks": blocks}


def costs(found: dict[str, dict[str, list[float]]], plain: str) -> dict[str, dict[str, float]]:
    """By what is measured and how: the median loss of rate against `plain`, in percent of it."""
    rates = found[plain]
    return {
        name: {
            way: 100 * (1 - statistics.median(a / b for a, b in zip(ours, rates[way], strict=True)))
            for way, ours in ways.items()
        }
        for name, ways in found.items()
        if name != plain
    }


@engine.remote(max_retries=-1)
def square(number: int) -> tuple[int, int]:
    """A task of about a millisecond."""
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass
    return number * number, os.getpid()


def task_kills(kills: int) -> dict[str, Any]:
    """Kill random workers under load; how long until there is a new one, and is all right.

    The measured time runs from the kill to the first result of a task that was submitted after it
    and needs a worker of its own: a new worker has then been started and has run.
    """
    dice, back, wrong, done = random.Random(1), [], 0, 0
    for _ in range(kills):
        load = [square.remote(number) for number in range(40)]
        victim = dice.choice(_busy())
        os.kill(victim, signal.SIGKILL)
        start = time.perf_counter()
        engine.get([square.remote(number) for number in range(2)])
        back.append(time.perf_counter() - start)
        for number, (found, _pid) in enumerate(engine.get(load)):
            wrong += found != number * number
            done += 1
    return {"kills": kills, "tasks": done, "wrong": wrong, "seconds": back}


def _busy() -> list[int]:
    workers: list[int] = []
    while not workers:
        workers = [one["pid"] for one in engine.state.list_workers() if one["use"] == "lease"]
    return workers


def actor_kills(kills: int) -> dict[str, Any]:
    """Kill an actor under calls; how long until the next answer, and are all answers right."""
    actor: Any = engine.remote(max_restarts=-1, checkpoint_every=100)(Counter).remote(STATE_BYTES)
    back, wrong, count = [], 0, 0
    for _ in range(kills):
        refs = [actor.add.remote() for _ in range(50)]
        pid = engine.get(actor.pid.remote())
        refs += [actor.add.remote() for _ in range(50)]
        os.kill(pid, signal.SIGKILL)
        start = time.perf_counter()
        refs.append(actor.add.remote())
        engine.get(refs[-1])
        back.append(time.perf_counter() - start)
        expected = list(range(count + 1, count + 1 + len(refs)))
        wrong += engine.get(refs) != expected
        count += len(refs)
    return {"kills": kills, "calls": count, "wrong": wrong, "seconds": back}


# --------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code, 1 if anything was lost or done twice."""
    parser = argparse.ArgumentParser(prog="benchmarks.faults", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--trials", type=int, default=30, help="measurements of each side of the cost of calls")
    add("--kills", type=int, default=100, help="kills of workers, and of the actor")
    add("--num-cpus", type=int, default=2)
    add("--json", help="keep all measurements in this file")
    options = parser.parse_args(arguments)
    # All these kills come from here: none of them makes a task or actor poison.
    config = Config(restart_deaths_max=options.kills + 1)
    lineage = lineage_costs(options.trials, options.num_cpus)
    with engine.init(num_cpus=options.num_cpus, config=config):
        results: dict[str, Any] = {
            "benchmark": "faults",
            "settings": vars(options),
            "costs": call_costs(options.trials),
            "lineage": lineage,
            "task_kills": task_kills(options.kills),
            "actor_kills": actor_kills(options.kills),
        }
        _check_threads()
    _show(results)
    if options.json:
        report.write_json(options.json, results)
    return int(bool(results["task_kills"]["wrong"] or results["actor_kills"]["wrong"]))


def _check_threads() -> None:
    """Hundreds of deaths leave no thread behind."""
    assert threading.active_count() < 10, threading.enumerate()


def _cost_lines(found: dict[str, dict[str, list[float]]], plain: str) -> list[list[str]]:
    lost, lines = costs(found, plain), []
    for name, ways in found.items():
        line = [name]
        for way, rates in ways.items():
            cost = "" if name == plain else f"{lost[name][way]:.1f}"
            line += [report.figure(statistics.median(rates)), cost]
        lines.append(line)
    return lines


def _show(results: dict[str, Any]) -> None:
    columns = ["actor", "calls/s, 1,000 at a time", "cost, %", "one at a time", "cost, %"]
    lines = _cost_lines(results["costs"], "no checkpoints")
    report.show("faults: what checkpoints cost", columns, lines)
    columns = ["tasks", "tasks/s, 1,000 at a time", "cost, %", "one at a time", "cost, %"]
    columns += [f"results of {BLOCK_BYTES:,} bytes", "cost, %"]
    lines = _cost_lines(results["lineage"], "no lineage")
    report.show("faults: what lineage costs", columns, lines)
    lines = []
    for name in ("task_kills", "actor_kills"):
        found = results[name]
        shares = report.percentiles([1000 * one for one in found["seconds"]], 50, 99, 100)
        work = found.get("tasks") or found.get("calls")
        lines.append(
            [
                {"task_kills": "worker, busy with tasks", "actor_kills": "actor, 10 MB of state"}[
                    name
                ],
                f"{found['kills']:,}", f"{work:,}", f"{found['wrong']}",
                *(report.figure(one) for one in shares.values()),
            ]
        )
    columns = ["killed", "times", "results", "wrong", "back p50, ms", "p99", "max"]
    report.show("faults: kill -9 under load", columns, lines)


if __name__ == "__main__":
    sys.exit(main())
