"""Too much of everything: memory hogs, overload, members that stand still."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

import engine
from engine import exceptions
from engine.config import Config
from engine.topology import Checkpoints
from tests.chaos.trial import Found, dice, own_engine, spread, trial
from tests.engine.support import family, node_pid
from tests.faults.jobs import job_of, model, output_of, write_input
from tests.faults.support import member_pids

__all__ = ["hogs", "overload", "stopped_members"]

MB = 1_000_000
LIMIT = 150 * MB
EVENTS = 6_000
# Calls that a thread submits at a time; half as many may be in flight.
BURST = 400


@engine.remote(max_retries=0)
def hog(path: str) -> None:
    """Takes memory without end, and notes when it takes more than all may have."""
    held = []
    for number in range(2000):
        held.append(b"x" * (5 * MB))
        if (number + 1) * 5 * MB == LIMIT:
            Path(path).write_text(str(time.monotonic()))
        time.sleep(0.002)


@engine.remote
def square(number: int) -> int:
    return number * number


@trial("R20", unit="hogs", short=2, long=100, minutes=2)
def hogs(count: int) -> Found:
    """Tasks take all memory; each is stopped, its error tells, and everybody else works on."""
    wrong = Counter[str]({"not stopped": 0, "error lacks facts": 0, "others disturbed": 0})
    took = []
    with own_engine(memory_limit=LIMIT), tempfile.TemporaryDirectory() as folder:
        node = node_pid()
        for number in range(count):
            path = Path(folder, str(number))
            try:
                engine.get(hog.remote(str(path)), timeout=30)
                wrong["not stopped"] += 1
            except exceptions.OutOfMemoryError as error:
                facts = rf"hog held [\d,]+ bytes.*of at most {LIMIT:,} bytes|Top holders: hog"
                wrong["error lacks facts"] += not re.search(facts, str(error), re.S)
            now = time.monotonic()
            # One that was stopped before it was above the limit took no time at all.
            took.append(max(0.0, now - float(path.read_text())) if path.exists() else 0.0)
            squares = engine.get([square.remote(i) for i in range(10)], timeout=30)
            wrong["others disturbed"] += squares != [i * i for i in range(10)]
        wrong["others disturbed"] += node_pid() != node
    return Found(count, dict(wrong), spread("stopped", took), {"stopped max, ms": 1000})


# ------------------------------------------------------------------------------ overload


@engine.remote
def two_milliseconds(data: bytes) -> int:
    until = time.perf_counter() + 0.002
    while time.perf_counter() < until:
        pass
    return len(data)


def _resident() -> int:
    """Bytes of this process and all of the engine's."""
    found = psutil.Process().memory_info().rss
    for one in family():
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker has just ended
            found += one.memory_info().rss
    return found


@trial("R25", unit="seconds", short=1, long=600, minutes=10.2)
def overload(count: int) -> Found:
    """Threads submit far more than can be done; callers wait, and memory does not grow."""
    done, stop = [0, 0], threading.Event()
    wrong = Counter[str]({"wrong results": 0})
    sizes: list[float] = []
    config = Config(in_flight_calls_max=BURST // 2, restart_deaths_max=10**6)

    def submit(which: int) -> None:
        data = bytes(1000)
        while not stop.is_set():
            refs = [two_milliseconds.remote(data) for _ in range(BURST)]  # waits at the limit
            for found in engine.get(refs):
                wrong["wrong results"] += found != len(data)
            done[which] += len(refs)

    with own_engine(config=config):
        threads = [threading.Thread(target=submit, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + count
        while time.monotonic() < until:
            sizes.append(_resident())
            time.sleep(min(0.5, count / 20))
        stop.set()
        for thread in threads:
            thread.join()
    early = statistics.median(sizes[len(sizes) // 5 : len(sizes) // 5 * 2])
    late = statistics.median(sizes[len(sizes) // 5 * 4 :])
    figures = {
        "growth, %": round(100 * (late / early - 1), 2),
        "resident, MB": round(late / MB),
        "calls done": sum(done),
    }
    return Found(count, dict(wrong), figures, {"growth, %": 5})


# ------------------------------------------------------------------------------ stragglers


@trial("R23", unit="stops", short=1, long=20, minutes=5)
def stopped_members(count: int) -> Found:
    """Members of a stream are stopped for a while; nothing is lost, and nothing piles up."""
    draw, growth = dice(72), []
    wrong = Counter[str]({"wrong output": 0, "nobody was stopped": 0})
    pause, stops = (10.0 if count > 1 else 0.3), 0
    wanted = model(EVENTS)
    with own_engine():
        while stops < count:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_input(folder / "in", EVENTS)
                stopper = _Stopper(draw.random(), pause)
                with stopper:
                    policy = Checkpoints(directory=folder / "ck", every=0.2, timeout=60)
                    job_of(folder, pause=0.01).run(2, checkpoint=policy)
                wrong["wrong output"] += output_of(folder) != wanted
                wrong["nobody was stopped"] += not stopper.stops
            growth.append(stopper.growth)
            stops += max(1, stopper.stops)
    figures = {"stopped for, s": pause, "growth meanwhile max, MB": round(max(growth) / MB, 1)}
    # All channels together hold less: 100 rows of some 40 bytes a batch, 64 batches a channel.
    return Found(stops, dict(wrong), figures, {"growth meanwhile max, MB": 32})


class _Stopper:
    """Stops one member of the running job for a while, and looks at the others' memory."""

    def __init__(self, share: float, pause: float) -> None:
        self.stops, self.growth = 0, 0
        self._share, self._pause = share, pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        pids: list[int] = []
        while len(pids) < 4:
            if self._end.wait(0.02):
                return
            pids = member_pids()
        if self._end.wait(0.2):
            return
        victim = pids[int(self._share * len(pids))]
        with contextlib.suppress(ProcessLookupError):  # it has ended: nobody was stopped
            os.kill(victim, signal.SIGSTOP)
            self._end.wait(self._pause / 3)  # by then everybody has loaded what it needs
            before = _sizes(pids)
            self._end.wait(self._pause * 2 / 3)
            after = _sizes(pids)
            os.kill(victim, signal.SIGCONT)
            self.stops += 1
            self.growth = sum(after[pid] - before[pid] for pid in after if pid in before)

    def __enter__(self) -> _Stopper:
        self._thread.start()
        return self

    def __exit__(self, *_exc: Any) -> None:
        self._end.set()
        self._thread.join()


def _sizes(pids: list[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[pid] = psutil.Process(pid).memory_info().rss
    return found
