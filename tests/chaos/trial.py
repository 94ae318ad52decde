"""A trial: one way to break the engine, many times, counting what went wrong.

A trial is a function of a count: how many kills, damages, seeds or seconds. It starts its own
engine, checks every result, and returns what it `Found`. Wrong things must be none at all, in the
short form and in the long one; figures (times, growth) have bounds, which count in the long form
only, since they say something on a quiet machine only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import engine
from benchmarks.report import percentiles
from engine.config import Config

__all__ = ["TRIALS", "Found", "Trial", "dice", "own_engine", "spread", "trial"]


@dataclasses.dataclass
class Found:
    """What a trial found.

    Args:
        count: how many times, in the trial's unit, it has happened.
        wrong: by kind, how often something was not as promised.
        figures: what was measured, by name with unit.
        bounds: at most so much of a figure.
        note: anything that a reader must know to understand it.
        complete: there was no more to do, whatever the count.
    """

    count: int
    wrong: dict[str, int] = dataclasses.field(default_factory=dict)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    complete: bool = False

    def breaches(self) -> list[str]:
        """Figures above their bounds."""
        return [
            f"{name}: {self.figures[name]:.3g}, at most {most:g}"
            for name, most in self.bounds.items()
            if not self.figures[name] <= most
        ]

    def mistakes(self) -> list[str]:
        """Kinds of wrong things that have happened, with their numbers."""
        return [f"{name}: {count}" for name, count in self.wrong.items() if count]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A function, the promises that it is about, and how often it runs in either form."""

    name: str
    run: Callable[[int], Found]
    promises: tuple[str, ...]
    unit: str
    short: int
    long: int
    minutes: float
    says: str

    @property
    def file(self) -> str:
        """The file of the tree that holds it."""
        return self.run.__module__.replace(".", "/") + ".py"


TRIALS: dict[str, Trial] = {}


def trial(
    *promises: str, unit: str, short: int, long: int, minutes: float
) -> Callable[[Callable[[int], Found]], Callable[[int], Found]]:
    """Add the decorated function; its name and the first line of its docstring are the trial's.

    Args:
        promises: rows of RELIABILITY.md.
        unit: what is counted.
        short: the count with all other tests; 0 leaves it out, as other tests do the same.
        long: the count in `make chaos`.
        minutes: how long the long form takes, about, on two cores.
    """

    def add(run: Callable[[int], Found]) -> Callable[[int], Found]:
        name = run.__name__.replace("_", "-")
        says = (run.__doc__ or "").split("\n")[0]
        assert name not in TRIALS
        TRIALS[name] = Trial(name, run, promises, unit, short, long, minutes, says)
        return run

    return add


# ------------------------------------------------------------------- what trials share


@contextlib.contextmanager
def own_engine(**options: Any) -> Iterator[Any]:
    """An engine of this trial alone; kills that come from a trial make nothing poison."""
    options.setdefault("num_cpus", 2)
    options.setdefault("config", Config(restart_deaths_max=10**6))
    engine.init(**options)
    try:
        yield engine
    finally:
        engine.shutdown()


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds, as figures."""
    if not seconds:
        return {}
    found = [1000 * one for one in seconds]
    tail = percentiles(found, 99)["p99"]
    return {
        f"{name} p50, ms": round(statistics.median(found), 1),
        f"{name} p99, ms": round(tail, 1),
        f"{name} max, ms": round(max(found), 1),
    }


def dice(seed: int) -> random.Random:
    """Randomness that is the same in every run."""
    return random.Random(seed)
