"""Stragglers: how long a job takes when some of its tasks are slow, with and without second copies.

    python -m benchmarks.stragglers
    python -m benchmarks.stragglers --tasks 40 --task-ms 5 --stop-seconds 1 --trials 1   # smoke

Two troubles. *Slow tasks*: one task of 50, drawn at random, takes 20 times as long, the first time
it runs (so a slow machine is meant, not a large piece of work). *A stopped worker*: one worker gets
SIGSTOP in the middle of a task, and SIGCONT some seconds later. For each, in turn and on the same
draw: the job with nothing wrong, the job as it is, and the job with ``speculative=True``. The tasks
sleep, so that the workers may be more than the cores. Every result is checked.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import engine
from benchmarks import report

__all__ = ["main"]

SLOW_SHARE = 50
SLOW_TIMES = 20
ARMS = ("nothing slow", "once", "speculative")


def work(number: int, seconds: float, slow: str, stop: str) -> int:
    """The task. `slow`, `stop`: a file that the first run makes, which then is slow or stopped."""
    if slow and _is_first(slow):
        seconds *= SLOW_TIMES
    if stop and _is_first(stop):
        Path(stop).write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(seconds)
    return number * number


def _is_first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:  # this is the second copy
        return False
    return True


class Job:
    """`tasks` tasks on an engine that runs; `run` gives seconds from first call to last result."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seconds = options.task_ms / 1e3
        self.stop_seconds = options.stop_seconds
        remote = engine.remote(work)
        self.functions = {
            "nothing slow": remote, "once": remote, "speculative": remote.options(speculative=True)
        }
        for function in self.functions.values():  # workers and medians
            count = 2 * options.workers
            engine.get([function.remote(n, self.seconds, "", "") for n in range(count)])

    def run(self, arm: str, tasks: int, slow: set[int], stopped: int) -> float:
        """One job. `slow` are the numbers of slow tasks, `stopped` of the one that stops (-1)."""
        if arm == "nothing slow":
            slow, stopped = set(), -1
        function = self.functions[arm]
        with tempfile.TemporaryDirectory() as folder:
            pid_file = Path(folder, "stop")
            waker = threading.Thread(target=self._wake, args=(pid_file,))
            if stopped >= 0:
                waker.start()
            start = time.perf_counter()
            refs = [
                function.remote(
                    n, self.seconds, f"{folder}/{n}" if n in slow else "",
                    str(pid_file) if n == stopped else "",
                )
                for n in range(tasks)
            ]  # fmt: skip
            found = engine.get(refs)
            took = time.perf_counter() - start
            if found != [n * n for n in range(tasks)]:
                raise ValueError(f"wrong results with {arm!r}")
            if stopped >= 0:
                waker.join()
            return took

    def _wake(self, pid_file: Path) -> None:
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.01)
        pid = int(pid_file.read_text())
        time.sleep(self.stop_seconds)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:  # the second copy was faster, and the engine ended this one
            return


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    measured: dict[str, dict[str, list[float]]] = {}
    with engine.init(num_cpus=options.workers):
        job = Job(options)
        for tasks in options.tasks:
            slow = f"{tasks} tasks, 1 of {SLOW_SHARE} takes {SLOW_TIMES} x"
            stop = f"{tasks} tasks, one worker stopped for {options.stop_seconds:g} s"
            measured[slow] = {arm: [] for arm in ARMS}
            measured[stop] = {arm: [] for arm in ARMS}
            for trial in range(options.trials):
                draw = random.Random(trial)
                chosen = set(draw.sample(range(tasks), max(1, tasks // SLOW_SHARE)))
                stopped = draw.randrange(tasks)
                for arm in ARMS:
                    measured[slow][arm].append(job.run(arm, tasks, chosen, -1))
                for arm in ARMS:
                    measured[stop][arm].append(job.run(arm, tasks, set(), stopped))
    what = f"tasks of {options.task_ms:g} ms on {options.workers} workers"
    report.show(f"stragglers: seconds a job, {what}", *_table(measured))
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        results = {"benchmark": "stragglers", "settings": settings, "seconds": measured}
        report.write_json(options.json, results)
    return 0


def _table(measured: dict[str, dict[str, list[float]]]) -> tuple[list[str], list[list[str]]]:
    columns = ["job", *ARMS, "once / speculative", "speculative / nothing slow"]
    rows = []
    for name, arms in measured.items():
        once, twice, clean = arms["once"], arms["speculative"], arms["nothing slow"]
        gain = [a / b for a, b in zip(once, twice, strict=True)]
        left = [a / b for a, b in zip(twice, clean, strict=True)]
        figures = [report.spread(arms[arm]) for arm in ARMS]
        ratios = [f"{statistics.median(one):.2f}" for one in (gain, left)]
        rows.append([name, *figures, *ratios])
    return columns, rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.stragglers", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--tasks", type=int, nargs="+", default=[100, 400], help="tasks a job")
    add("--task-ms", type=float, default=50.0, help="length of an ordinary task")
    add("--workers", type=int, default=4, help="logical CPUs; the tasks sleep")
    add("--stop-seconds", type=float, default=10.0, help="how long the stopped worker stays so")
    add("--trials", type=int, default=5, help="draws, each run with and without copies")
    add("--json", help="keep all measurements in this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
