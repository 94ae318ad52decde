"""Deaths at named points: while pickling, unpickling, running, returning, saving, restoring.

A death happens once a round; what is asked for must come all the same, right and once. Where
nothing is tried again (`ways-to-die`), the error must come, be the right one, and come soon.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import engine
from tests.chaos.trial import Found, dice, own_engine, spread, trial
from tests.faults import test_crash_matrix as matrix
from tests.faults.deaths import die_once

__all__ = ["actor_points", "task_points", "ways_to_die"]

SECONDS = 30.0
_DRIVER = "PENSTOCK_CHAOS_DRIVER"  # its pid, in the environment of all workers
LARGE = 1 << 20  # above what travels in a frame


class Dies:
    """A value whose pickling or unpickling in a worker is a point to die at."""

    def __init__(self, folder: str, point: str, content: Any) -> None:
        self.folder, self.point, self.content = folder, point, content

    def __reduce__(self) -> Any:
        if self.point == "pickling":
            _die(self.folder, self.point)
        return _made, (self.folder, self.point, self.content)


def _made(folder: str, point: str, content: Any) -> Dies:
    if point == "unpickling":
        _die(folder, point)
    return Dies(folder, point, content)


def _die(folder: str, point: str) -> None:
    """The first time, and in a worker: in the driver the trial itself would end."""
    if os.environ[_DRIVER] != str(os.getpid()):
        die_once(Path(folder), point)


def echo(value: Dies) -> Any:
    return value.content


def run(folder: str, content: Any) -> Any:
    _die(folder, "running")
    return content


def give(folder: str, point: str, content: Any) -> Dies:
    """Its result dies where it is pickled, or where whoever asked unpickles it."""
    return Dies(folder, point, content)


def nested(kind: str, folder: str, content: Any) -> Any:
    """The worker is the caller: it dies while it pickles arguments or unpickles a result."""
    if kind == "arguments":
        value = Dies(folder, "pickling", content)
        return engine.get(engine.remote(max_retries=-1)(echo).remote(value))
    return engine.get(
        engine.remote(max_retries=-1)(give).remote(folder, "unpickling", content)
    ).content


# Point -> function and arguments.
POINTS: dict[str, Any] = {
    "a worker unpickles arguments": lambda f, x: (echo, (Dies(f, "unpickling", x),)),
    "a worker runs": lambda f, x: (run, (f, x)),
    "a worker pickles the result": lambda f, x: (give, (f, "pickling", x)),
    "a worker pickles a call's arguments": lambda f, x: (nested, ("arguments", f, x)),
    "a worker unpickles a call's result": lambda f, x: (nested, ("result", f, x)),
}


@trial("R5", unit="deaths", short=5, long=1000, minutes=2)
def task_points(count: int) -> Found:
    """Workers die at each named point of a task; the result comes all the same."""
    draw, wrong, back = dice(21), Counter[str]({"wrong results": 0, "nobody died": 0}), []
    os.environ[_DRIVER] = str(os.getpid())
    with own_engine(), tempfile.TemporaryDirectory() as base:
        for number in range(count):
            point = list(POINTS)[number % len(POINTS)]
            folder = Path(base, str(number))
            folder.mkdir()
            content = bytes([number % 256]) * draw.choice([1, LARGE])
            function, arguments = POINTS[point](str(folder), content)
            start = time.perf_counter()
            ref = engine.remote(max_retries=-1)(function).remote(*arguments)
            found = engine.get(ref, timeout=SECONDS)
            back.append(time.perf_counter() - start)
            wrong["wrong results"] += getattr(found, "content", found) != content
            wrong["nobody died"] += not list(folder.iterdir())
    return Found(count, dict(wrong), spread("result", back), {"result p99, ms": 1000})


# ------------------------------------------------------------------------------ actors


class Mortal:
    """An actor that dies where it was told to, once for each mark."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.sums: list[int] = []

    def _point(self, name: str) -> None:
        if Path(self.folder, f"{name}.armed").exists():
            Path(self.folder, f"{name}.armed").unlink(missing_ok=True)
            die_once(Path(self.folder), f"{name}-{time.monotonic_ns()}")

    def add(self, value: Any) -> Any:
        self._point("before")
        number = value.content
        self.sums.append(number + (self.sums[-1] if self.sums else 0))
        self._point("after")
        return Dies(self.folder, "result", self.sums[-1])

    def __checkpoint__(self) -> Any:
        self._point("checkpoint")
        return self.folder, self.sums[-1:]

    def __restore__(self, saved: Any) -> None:
        self.folder, self.sums = saved
        self._point("restore")


ARMS = (("before",), ("after",), ("checkpoint",), ("before", "restore"), ("checkpoint", "restore"))


@trial("R6", unit="deaths", short=7, long=1000, minutes=2)
def actor_points(count: int) -> Found:
    """An actor dies before and after a change, while it saves and while it restores its state."""
    draw, wrong, back = dice(22), Counter[str]({"wrong answers": 0, "nobody died": 0}), []
    total, deaths, rounds = 0, 0, 0
    with own_engine(), tempfile.TemporaryDirectory() as folder:
        cls = engine.remote(max_restarts=-1, checkpoint_every=3)(Mortal)
        actor: Any = cls.remote(folder)
        while deaths < count:
            arms = ARMS[rounds % len(ARMS)]
            rounds += 1
            for name in arms:
                Path(folder, f"{name}.armed").touch()
            numbers = [draw.randrange(100) for _ in range(draw.randint(4, 9))]
            start = time.perf_counter()
            refs = [actor.add.remote(Dies(folder, "", number)) for number in numbers]
            found = [one.content for one in engine.get(refs, timeout=SECONDS)]
            back.append(time.perf_counter() - start)
            for number, answer in zip(numbers, found, strict=True):
                total += number
                wrong["wrong answers"] += answer != total
            # A checkpoint is taken after the answers have left: its death may be yet to come.
            patience, died = time.perf_counter() + 5.0, deaths
            while died == deaths and time.perf_counter() < patience:
                died = len(list(Path(folder).glob("*-*")))
                time.sleep(0.001)
            wrong["nobody died"] += died == deaths
            deaths = died
    return Found(deaths, dict(wrong), spread("answers", back), {"answers p99, ms": 2000})


# ------------------------------------------------------------------------------ no second try


@trial("R22", unit="rounds", short=0, long=5, minutes=1)
def ways_to_die(count: int) -> Found:
    """Ways to die x moments x task, nested task, method: each has its error, soon."""
    wrong = Counter[str]({"wrong error or none": 0})
    took: list[float] = []
    cases = [*matrix.deadly_cases(), *matrix.raising_cases()]
    with own_engine():
        for _ in range(count):
            for way, form, moment in cases:
                start = time.perf_counter()
                try:
                    engine.get(matrix.begin(way, form, moment), timeout=SECONDS)
                    wrong["wrong error or none"] += 1
                except Exception as error:  # which it has to be is the matrix's to say
                    wrong["wrong error or none"] += not matrix.is_expected(error, way, form)
                took.append(time.perf_counter() - start)
    figures = {"cases a round": len(cases)} | spread("error", took)
    return Found(count, dict(wrong), figures, {"error max, ms": 2000})
