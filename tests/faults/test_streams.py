"""Streams exactly once: kill -9 of any member, and of the driver, at any moment.

Files in, windows and keyed state, files out; the output is that of plain Python.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.exceptions import ActorDiedError
from engine.topology import Checkpoints, TopologyFailedError
from tests.engine.support import eventually, run_script
from tests.faults.jobs import job_of, model, output_of, write_input
from tests.faults.support import Killer, member_pids

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
SMALL = 6_000
POINTS = ("write", "after prepare", "before sync", "close")
SLOW_POINTS = ("open", "before prepare", "snapshot", "after sync")


@cache
def wanted(events: int = SMALL) -> dict[str, Counter[Any]]:
    return model(events)


def policy(folder: Path, every: float = 0.1) -> Checkpoints:
    return Checkpoints(directory=folder / "ck", every=every, restarts=1000)


@pytest.mark.parametrize(
    "point", [*POINTS, *(pytest.param(point, marks=pytest.mark.slow) for point in SLOW_POINTS)]
)
def test_a_death_at_a_named_point(cluster: Any, tmp_path: Path, point: str) -> None:
    write_input(tmp_path / "in", SMALL)
    job = job_of(tmp_path, pause=0.004, points=[point, "restore"])
    result = job.run(2, checkpoint=policy(tmp_path))
    assert output_of(tmp_path) == wanted()
    assert (tmp_path / point).exists(), "nobody died"
    assert result.checkpoints is not None
    assert result.checkpoints.recoveries >= 1
    assert result.checkpoints.rollbacks == 0, result.checkpoints.last_fallback
    assert sorted(path.name for path in (tmp_path / "ck").iterdir()) == [
        "driver.lock",
        "members.lock",
        "states",
    ]


def test_deaths_at_random_moments(cluster: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    with Killer(seed=1, pause=0.4, kills_max=4) as killer:
        result = job_of(tmp_path, pause=0.02).run(2, checkpoint=policy(tmp_path))
    assert output_of(tmp_path) == wanted()
    assert result.checkpoints is not None
    assert killer.kills >= 1
    assert 1 <= result.checkpoints.recoveries <= killer.kills


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
def test_many_deaths(cluster: Any, tmp_path: Path, seed: int) -> None:
    write_input(tmp_path / "in", SMALL)
    every = (0.03, 0.1, 0.4)[seed % 3]
    with Killer(seed=seed, pause=0.8, kills_max=12):
        job_of(tmp_path, pause=0.02).run(1 + seed % 3, checkpoint=policy(tmp_path, every))
    assert output_of(tmp_path) == wanted()


def test_without_checkpoints_a_death_is_told(cluster: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    with (
        pytest.raises(ActorDiedError, match=r"SIGKILL \(pid \d+\)"),
        Killer(seed=1, pause=0.2, kills_max=1),
    ):
        job_of(tmp_path, pause=0.05).run(2)
    assert list(tmp_path.rglob(".part-*")) == []
    assert list(tmp_path.rglob("part-*")) == []


def test_deaths_without_end_are_given_up(cluster: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    few = Checkpoints(directory=tmp_path / "ck", every=0.1, restarts=2)
    with (
        pytest.raises(TopologyFailedError, match=r"(?s)more than 2 times within 60 s.*SIGKILL"),
        Killer(seed=1, pause=0.2, kills_max=20),
    ):
        job_of(tmp_path, pause=0.05).run(2, checkpoint=few)
    assert list(tmp_path.rglob(".part-*")) == []


def test_a_started_job_is_asked_stopped_and_goes_on(cluster: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    job = job_of(tmp_path, pause=0.02)
    with job.start(2, checkpoint=tmp_path / "ck", every="10s") as handle:
        first = handle.checkpoint(timeout=30)
        assert handle.checkpoint(timeout=30) == first + 1
        rows = sum(one.counters.get("source_rows", 0) for one in handle.statistics())
        assert rows < SMALL
        handle.stop(savepoint=tmp_path / "saved")
    visible = output_of(tmp_path)["rows"]
    assert 0 < len(visible) < len(wanted()["rows"])
    eventually(lambda: not member_pids())
    job_of(tmp_path).run(2, checkpoint=tmp_path / "saved", resume=True)
    assert output_of(tmp_path) == wanted()


# --- the driver's death -----------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
import engine
from engine.topology import Checkpoints
from tests.faults.jobs import job_of, write_input

folder = Path(sys.argv[1])
engine.init(num_cpus=2)
policy = Checkpoints(directory=folder / "ck", every=0.1, restarts=1000)
job_of(folder, pause=0.01, points=sys.argv[2:]).run(2, checkpoint=policy, progress=False)
"""


def runs_of(folder: Path, *points: str) -> Iterator[Any]:
    """Runs of the script, each a new driver; ends after the one that ends well."""
    for _ in range(100):
        process = run_script(SCRIPT, folder, str(folder), *points)
        yield process
        said, _ = process.communicate(timeout=60)
        ended = (folder / "windows").exists() and not list((folder / "ck").glob("manifest-*"))
        if process.returncode == 0 or (process.returncode == 1 and ended):
            return  # the second: the one before had ended well, and was killed when it left
        assert process.returncode == -signal.SIGKILL, said
    raise AssertionError("it never came to its end")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before commit", "after commit"])
def test_a_driver_that_dies_while_it_commits(leak_check: None, tmp_path: Path, point: str) -> None:
    write_input(tmp_path / "in", SMALL)
    assert len(list(runs_of(tmp_path, point))) == 2
    assert output_of(tmp_path) == wanted()


def kill_drivers(folder: Path, seconds: list[float]) -> int:
    """Kill the driver after so long, run after run; how many were killed."""
    killed = 0
    for process in runs_of(folder):

        def works(process: Any = process) -> bool:
            return process.poll() is not None or bool(list((folder / "ck").glob("manifest-*")))

        eventually(works, 30)  # the start is the same every time
        if seconds and process.poll() is None:
            time.sleep(seconds.pop())
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
    return killed


@pytest.mark.slow
def test_a_driver_that_is_killed_is_followed_by_another(leak_check: None, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    assert kill_drivers(tmp_path, [0.15, 0.05]) >= 1
    assert output_of(tmp_path) == wanted()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_many_drivers_are_killed(tmp_path: Path, seed: int) -> None:
    write_input(tmp_path / "in", SMALL)
    kill_drivers(tmp_path, [(seed * 7 + i * 13) % 40 / 100 for i in range(6)])
    assert output_of(tmp_path) == wanted()


