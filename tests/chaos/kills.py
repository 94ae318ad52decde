"""SIGKILL at random moments: workers, actors, the node, the driver."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import engine
from benchmarks import faults
from engine import exceptions
from tests.chaos.trial import Found, dice, own_engine, spread, trial
from tests.engine.support import eventually, gone, kill9, node_pid, run_script, zygote_pids

__all__ = ["actor_kills", "call_costs", "driver_kills", "node_kills", "worker_kills"]

SECONDS = 30.0


@trial("R5", unit="kills", short=5, long=1000, minutes=4)
def worker_kills(count: int) -> Found:
    """Workers die under a load of tasks; every result comes, is right, and comes once."""
    with own_engine():
        found = faults.task_kills(count)
    figures = spread("back", found["seconds"]) | {"tasks": found["tasks"]}
    wrong = {"lost or wrong results": found["wrong"]}
    return Found(count, wrong, figures, {"back p50, ms": 300, "back p99, ms": 1000})


@trial("R6", unit="kills", short=4, long=1000, minutes=4)
def actor_kills(count: int) -> Found:
    """An actor with 10 MB of state dies under calls; each call is applied once, in its order."""
    with own_engine():
        found = faults.actor_kills(count)
    figures = spread("back", found["seconds"]) | {"calls": found["calls"]}
    wrong = {"lost, repeated or wrong calls": found["wrong"]}
    return Found(count, wrong, figures, {"back p99, ms": 2000})


# ------------------------------------------------------------------------------ the node


@engine.remote
class Adder:
    """An actor whose answers can be checked."""

    def __init__(self) -> None:
        self.sum = 0

    def add(self, number: int) -> int:
        self.sum += number
        return self.sum


@engine.remote
def double(number: int) -> int:
    return 2 * number


@engine.remote
def twice_nested(number: int) -> int:
    return int(engine.get(double.remote(number)))


@engine.remote
def large(number: int) -> np.ndarray:
    return np.full(50_000, number)


def _is_right(found: Any, wanted: Any) -> bool:
    if isinstance(found, np.ndarray):
        return bool((found == wanted).all())
    return bool(found == wanted)


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        kill9(pid)


@trial("R9", "R26", unit="kills", short=2, long=200, minutes=5)
def node_kills(count: int) -> Found:
    """The node (with the head) or its zygote dies under load; all are told, nothing is left."""
    draw, wrong = dice(11), Counter[str]({"hangs": 0, "wrong results": 0, "left behind": 0})
    told, again = [], []
    for _ in range(count):
        start = time.perf_counter()
        with own_engine():
            adder = Adder.remote()
            assert engine.get(adder.add.remote(0)) == 0
            again.append(time.perf_counter() - start)
            pids = [one.pid for one in psutil.Process().children(recursive=True)]
            victims = [node_pid()] if draw.random() < 0.7 else zygote_pids()
            timer = threading.Timer(draw.random() * 0.2, _kill_all, [victims])
            timer.start()
            expected: list[tuple[Any, Any]] = []
            try:
                for i in range(10_000):
                    expected.append((double.remote(i), 2 * i))
                    expected.append((twice_nested.remote(i), 2 * i))
                    expected.append((large.remote(i), i))
                    expected.append((adder.add.remote(1), i + 1))
            except exceptions.EngineError:
                pass  # it died while we submitted
            timer.join()
            wait_for = time.perf_counter()
            for ref, value in expected:
                try:
                    wrong["wrong results"] += not _is_right(engine.get(ref, timeout=SECONDS), value)
                except exceptions.GetTimeoutError:
                    wrong["hangs"] += 1
                except exceptions.EngineError:
                    continue  # told: the rest of what was submitted will be, too
            told.append(time.perf_counter() - wait_for)
        try:
            eventually(lambda pids=pids: gone(pids), 5)
        except AssertionError:
            wrong["left behind"] += 1
    figures = spread("all told", told) | spread("serving again", again)
    return Found(count, dict(wrong), figures, {"serving again p99, ms": 5000})


# ------------------------------------------------------------------------------ the driver

_DRIVER = """
import json, os, sys, time
import numpy as np
import engine

engine.init(num_cpus=2, object_store_memory=80 << 20)

@engine.remote
def work(n):
    return np.full(20_000, n)

@engine.remote
def nested(n):
    return engine.get([work.remote(n) for _ in range(3)])

@engine.remote(max_restarts=-1, checkpoint_every=5)
class Kept:
    def __init__(self):
        self.state = np.zeros(1 << 18)
    def add(self):
        self.state += 1
        return self.state

actors = [Kept.remote() for _ in range(2)]
print("ready", flush=True)
refs = []
while True:
    refs += [nested.remote(1), work.remote(2), *(one.add.remote() for one in actors)]
    refs.append(engine.put(np.ones(1 << 20)))  # more than there is memory for: it spills
    if len(refs) > 200:
        engine.get(refs.pop(0))
        del refs[:50]
"""


@trial("R26", unit="kills", short=2, long=200, minutes=6)
def driver_kills(count: int) -> Found:
    """A driver dies at any moment of its life; its processes, memory and files go with it."""
    draw, left, back = dice(12), 0, []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            process = run_script(_DRIVER, Path(folder), stderr=subprocess.DEVNULL)
            parent, pids = psutil.Process(process.pid), set[int]()
            assert process.stdout is not None
            if draw.random() < 0.7:  # else it dies somewhere in its start
                process.stdout.readline()
            until = time.perf_counter() + draw.random() * 0.5
            while time.perf_counter() < until:
                pids |= {one.pid for one in parent.children(recursive=True)}
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGSTOP)  # so that nothing is forked unseen
            pids |= {one.pid for one in parent.children(recursive=True)}
            start = time.perf_counter()
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            try:
                eventually(lambda pids=pids: gone(list(pids)), 5)
            except AssertionError:
                left += 1
            back.append(time.perf_counter() - start)
            left += len([one for one in Path(folder).rglob("*") if one.name != "script.py"])
    figures = spread("all gone", back)
    return Found(count, {"left behind": left}, figures, {"all gone max, ms": 2000})



# ------------------------------------------------------------------------------ the price


@trial("R6", unit="rounds", short=0, long=40, minutes=2)
def call_costs(count: int) -> Found:
    """What checkpoints every 1,000 calls, the order of calls and lineage cost the rate of calls."""
    with own_engine():
        calls = faults.call_costs(count)
    tasks = faults.lineage_costs(count)
    lost = faults.costs(calls, "no checkpoints") | faults.costs(tasks, "no lineage")
    labels = {"async": "many at a time", "sync": "one at a time", "blocks": "large results"}
    figures, bounds = {}, {}
    for name, ways in lost.items():
        for way, percent in ways.items():
            figure = f"{name}, {labels[way]}: cost, %"
            figures[figure] = round(percent, 2)
            bounds[figure] = 5 if name.startswith("checkpoint") else 10
    plain = statistics.median(calls["no checkpoints"]["async"])
    figures["calls a second without, many at a time"] = round(plain)
    return Found(count, {}, figures, bounds)
