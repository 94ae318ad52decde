"""Where the time of a call goes: driver and worker, by kind of work, measured by themselves.

    python -m benchmarks.core --parts profile

Each workload runs twice. Plain: CPU time a call of either process, by its own clock. Then under
cProfile in both, which tells how it divides. The profiler's own cost, calibrated on empty
functions, is taken off; what is left is scaled to the plain figure, so that the parts add up to
what a call costs when nobody looks. Nothing else runs meanwhile: one worker, one driver.
"""

from __future__ import annotations

import cProfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine

__all__ = ["KINDS", "measure", "table"]

KINDS = (
    "pickle",
    "msgspec",
    "system calls: send and receive",
    "polling, yielding, locks",
    "bookkeeping (engine.core)",
    "runtime, reactor, connections",
    "API: checks, options, references",
    "user code",
    "other built-ins",
)
_BATCH = 1000
_ROUNDS = 200_000  # calibration


@engine.remote
def echo(x: int) -> int:
    return x


@engine.remote(num_cpus=0)
class Target:
    """Runs calls in a process whose profile can be taken; the tasks' worker has one too."""

    def echo(self, x: int) -> int:
        return x

    def begin(self, profile: bool) -> None:
        begin(profile)

    def end(self) -> tuple[float, list[Any]]:
        return end()


_profile: cProfile.Profile | None = None
_cpu = 0.0


def begin(profile: bool) -> None:
    """From now on count this process's CPU time, and profile this thread if asked to."""
    global _profile, _cpu
    _cpu = time.process_time()
    _profile = cProfile.Profile() if profile else None
    if _profile is not None:
        _profile.enable()


def end() -> tuple[float, list[Any]]:
    """CPU seconds since `begin`, and the profile: (file, name, calls, own seconds)."""
    rows: list[Any] = []
    if _profile is not None:
        _profile.disable()
        for entry in _profile.getstats():
            code = entry.code
            where = ("", code) if isinstance(code, str) else (code.co_filename, code.co_name)
            rows.append((*where, entry.callcount, entry.inlinetime))
    return time.process_time() - _cpu, rows


# -------------------------------------------------------------------------------- workloads


def _check(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"wrong result: expected {wanted!r:.80}, found {found!r:.80}")


def _tasks(count: int) -> tuple[Callable[[], None], Any, Any]:
    wanted, start, stop = list(range(_BATCH)), engine.remote(begin), engine.remote(end)

    def run() -> None:
        for _ in range(count // _BATCH):
            _check(engine.get([echo.remote(n) for n in range(_BATCH)]), wanted)

    return run, start.remote, stop.remote


def _actor_sync(count: int) -> tuple[Callable[[], None], Any, Any]:
    actor = Target.remote()

    def run() -> None:
        for n in range(count):
            _check(engine.get(actor.echo.remote(n)), n)

    return run, actor.begin.remote, actor.end.remote


WORKLOADS: dict[str, tuple[Callable[[int], Any], int]] = {
    "tasks, 1,000 at a time": (_tasks, 100_000),
    "actor calls, one at a time": (_actor_sync, 100_000),
}


def measure(scale: float) -> dict[str, Any]:
    """Microseconds a call, by workload, side and kind, and the plain total beside them."""
    costs = _calibrate()
    found: dict[str, Any] = {}
    with engine.init(num_cpus=1):
        for name, (prepare, calls) in WORKLOADS.items():
            count = max(_BATCH, round(calls * scale) // _BATCH * _BATCH)
            run, start, stop = prepare(count)
            run()
            plain = _once(run, start, stop, False)
            profiled = _once(run, start, stop, True)
            found[name] = {"calls": count, "wall_us": plain["wall"] / count * 1e6}
            for side in ("driver", "worker"):
                total = plain[side][0] / count * 1e6
                found[name][side] = {
                    "cpu_us": total, "parts": _divide(profiled[side][1], count, total, costs)
                }
            del run, start, stop
    return found


def _once(run: Callable[[], None], start: Any, stop: Any, profile: bool) -> dict[str, Any]:
    engine.get(start(profile))
    begin(profile)
    wall = time.perf_counter()
    run()
    wall = time.perf_counter() - wall
    driver = end()
    return {"wall": wall, "driver": driver, "worker": engine.get(stop())}


def _calibrate() -> tuple[float, float]:
    """Seconds that the profiler adds to a call of a Python function and of a built-in."""

    def empty() -> None:
        return None

    def python() -> None:
        for _ in range(_ROUNDS):
            empty()

    def builtin() -> None:
        for _ in range(_ROUNDS):
            abs(1)

    costs = []
    for loop in (python, builtin):
        start = time.perf_counter()
        loop()
        plain = time.perf_counter() - start
        profile = cProfile.Profile()
        start = time.perf_counter()
        profile.runcall(loop)
        costs.append(max(0.0, time.perf_counter() - start - plain) / _ROUNDS)
    return costs[0], costs[1]


# --------------------------------------------------------------------------------- dividing


def _divide(
    rows: list[Any], count: int, total: float, costs: tuple[float, float]
) -> dict[str, float]:
    """Microseconds a call by kind; they add up to `total`."""
    own: Counter[str] = Counter()
    for file, name, calls, seconds in rows:
        cost = costs[0] if file else costs[1]
        # The profiler's work lies about half inside of what it measures, half in the caller.
        own[_kind(file, name)] += max(0.0, seconds - calls * cost / 2)
    whole = sum(own.values()) or 1.0
    return {kind: own[kind] / whole * total for kind in KINDS}


_POLLS = ("epoll", "sched_yield", "_thread", "select.", "posix.", "acquire", "release")


def _kind(file: str, name: str) -> str:
    if not file:
        if "pickle" in name.lower():
            return "pickle"
        if "msgspec" in name or "msgpack" in name:
            return "msgspec"
        if "socket" in name:
            return "system calls: send and receive"
        if any(word in name for word in _POLLS):
            return "polling, yielding, locks"
        return "other built-ins"
    parts = Path(file).parts
    if "benchmarks" in parts:
        return "user code"
    if "engine" not in parts:
        return "pickle" if "pickle" in file else "other built-ins"
    inner = parts[parts.index("engine") + 1 :]
    if inner[0] == "core":
        return "bookkeeping (engine.core)"
    if inner[0] in ("runtime", "wire"):
        return "runtime, reactor, connections"
    if inner[-1] == "codec.py":
        return "pickle"
    return "API: checks, options, references"


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Microseconds a call and shares: one row a kind, two columns a workload."""
    columns = ["microseconds a call"]
    for name in found:
        columns += [f"{name}: driver", "worker"]
    lines = []
    for kind in KINDS:
        line = [kind]
        for workload in found.values():
            for side in ("driver", "worker"):
                part, total = workload[side]["parts"][kind], workload[side]["cpu_us"]
                line.append(f"{part:.2f} ({part / (total or 1.0):.0%})")
        lines.append(line)
    totals = ["CPU time in all"]
    for workload in found.values():
        totals += [f"{workload[side]['cpu_us']:.2f}" for side in ("driver", "worker")]
    walls = ["time between two calls"]
    for workload in found.values():
        walls += [f"{workload['wall_us']:.2f}", ""]
    return columns, [*lines, totals, walls]
