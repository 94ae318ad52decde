"""Streams: from files to files under every combination of faults, and how soon output goes on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import field as col

import streaming as st
from engine.topology import Checkpoints
from tests.chaos.trial import Found, dice, own_engine, spread, trial
from tests.engine.support import eventually, run_script
from tests.faults.jobs import model, output_of, write_input
from tests.faults.support import member_pids

__all__ = ["files_to_files", "first_output"]

EVENTS = 100_000
_SCRIPT = """
import contextlib, sys
from pathlib import Path
import engine
from engine.config import Config
from engine.topology import Checkpoints
from tests.faults.jobs import job_of
from tests.faults.support import Killer

folder, parallelism, every, kills, *points = sys.argv[1:]
engine.init(num_cpus=2, config=Config(restart_deaths_max=1000))
policy = Checkpoints(directory=Path(folder) / "ck", every=float(every), restarts=1000)
job = job_of(Path(folder), pause=0.004, points=points, batch_rows=200)
with Killer(seed=len(folder), pause=1.5, kills_max=int(kills)):
    job.run(int(parallelism), checkpoint=policy, progress=False)
"""
# What dies: members at random, members at named points; and the driver, or not; more than once.
COMBINATIONS = list(
    itertools.product(
        [("6", []), ("0", ["write", "snapshot", "after prepare", "restore", "close"])],
        [0, 2], ["1", "2"], ["0.1", "0.4"],
    )
)  # fmt: skip


@trial("R11", unit="combinations", short=0, long=16, minutes=8)
def files_to_files(count: int) -> Found:
    """100,000 rows, 16 combinations of deaths, copies and intervals: each row once."""
    draw, wanted = dice(81), model(EVENTS)
    wrong = Counter[str]({"wrong output": 0, "runs that failed": 0})
    drivers = 0
    for (kills, points), deaths, parallelism, every in COMBINATIONS[:count]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_input(folder / "in", EVENTS)
            arguments = [name, parallelism, every, kills, *points]
            for death in range(deaths + 1):
                process = run_script(_SCRIPT, folder, *arguments, stderr=subprocess.PIPE)
                if death < deaths:
                    eventually(partial(_works, process, folder), 60)
                    time.sleep(draw.random())
                    os.kill(process.pid, signal.SIGKILL)
                    drivers += 1
                _out, err = process.communicate(timeout=300)
            if process.returncode:
                print(err[-3000:], file=sys.stderr)
                wrong["runs that failed"] += 1
                continue
            wrong["wrong output"] += output_of(folder) != wanted
    figures = {"rows": EVENTS, "drivers killed": drivers}
    return Found(min(count, len(COMBINATIONS)), dict(wrong), figures)


def _works(process: Any, folder: Path) -> bool:
    return process.poll() is not None or bool(list((folder / "ck").glob("manifest-*")))


# ------------------------------------------------------------------------------ recovery time

KEYS = 1_600_000
RATE = 400_000


def events(start: int, n: int) -> dict[str, pa.Array]:
    """Keys that repeat: once each was there the state grows no more."""
    numbers = np.arange(start, start + n)
    columns = {"id": numbers, "k": numbers % KEYS, "ts": numbers // 1000, "out": numbers % 997 == 0}
    return {name: pa.array(values) for name, values in columns.items()}


def note(folder: str, _batch: pa.RecordBatch) -> None:
    """Output of this process, now."""
    with open(f"{folder}/{os.getpid()}", "a") as file:
        file.write(f"{time.monotonic()}\n")


@trial("R12", unit="kills", short=0, long=30, minutes=4)
def first_output(count: int) -> Found:
    """A member of a stream with a large state dies; how long until the next output."""
    draw, back, bytes_max = dice(82), [], 0
    with own_engine(), tempfile.TemporaryDirectory() as name:
        (folder := Path(name, "out")).mkdir()
        job = st.Job("large state")
        rows = job.source(st.generate(events, rate=RATE), event_time="ts", out_of_orderness=1)
        latest = rows.key_by("k", "out").aggregate(
            emit="updates", n=st.count(), first=st.min("id"), last=st.max("id"), sum=st.sum("id")
        )
        # Each member has an output: whichever dies, the next output is that of its successor.
        for stream, sink in (latest, "state"), (rows, "out"):
            output = st.callback(partial(note, str(folder)))
            stream.filter(col("out")).sink(output, name=sink)
        policy = Checkpoints(directory=Path(name, "ck"), every=1.0, restarts=10**6)
        with job.start(2, checkpoint=policy) as handle:
            time.sleep(KEYS / RATE + 3)  # all keys are there, and in a checkpoint
            for _ in range(count):
                before = {path.name for path in folder.iterdir()}
                victim = draw.choice(member_pids())
                start = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                new = eventually(partial(_others, folder, before), 60)
                back.append(min(float(path.read_text().split()[0]) for path in new) - start)
                handle.checkpoint(timeout=60)
            statistics = handle.checkpoints()
            assert statistics is not None
            bytes_max = max(path.stat().st_size for path in Path(name, "ck", "states").iterdir())
            total = sum(path.stat().st_size for path in Path(name, "ck", "states").iterdir())
            handle.stop()
    figures = spread("first output", back) | {
        "checkpoints on disk, MB": round(total / 1e6), "largest file, MB": round(bytes_max / 1e6),
    }  # fmt: skip
    return Found(count, {}, figures, {"first output p99, ms": 3000})


def _others(folder: Path, before: set[str]) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in before and path.stat().st_size]
