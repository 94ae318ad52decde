"""Restart intensity: what dies again and again is given up, with its story; alone and for real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import exceptions
from engine.config import Config
from engine.core.intensity import Deaths, backoff
from tests.engine.support import attempts, eventually, kill9, run_script

SECONDS = 10.0
LIMIT = Config().restart_deaths_max


@given(st.lists(st.floats(0.0, 20.0), max_size=30), st.integers(1, 6))
def test_it_is_over_when_the_window_holds_too_many(pauses: list[float], limit: int) -> None:
    deaths, now, times = Deaths(limit, 30.0), 0.0, []
    for pause in pauses:
        now += pause
        deaths.add(now, 1, "died")
        times.append(now)
        within = [when for when in times if now - when <= 30.0]
        assert deaths.too_many(now) == (len(within) >= limit)
    assert deaths.count == len(pauses)


def test_the_story_tells_of_each_death() -> None:
    deaths = Deaths(3, 30.0)
    for number in range(5):
        deaths.add(10.0 + number / 4, 100 + number, f"exited with code {number}")
    assert deaths.story() == (
        "died 3 times within 0.50 s: +0.00 s (pid 102) exited with code 2; "
        "+0.25 s (pid 103) exited with code 3; +0.50 s (pid 104) exited with code 4"
    )
    deaths.add(12.0, 200, "x" * 500)
    assert len(deaths.story()) < 400
    many = Deaths(1000, 30.0)
    for number in range(1000):
        many.add(float(number), number, "died")
    assert many.story().startswith("died 1000 times within 999.00 s: ...; +990.00 s (pid 990) died")


def test_backoff_doubles_up_to_its_end() -> None:
    assert [backoff(n, 0.5, 3.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff(10_000, 0.5, 3.0) == 3.0


# ------------------------------------------------------------------------------ real processes


@pytest.fixture(scope="module")
def strict() -> Iterator[Any]:
    """An engine with the default limits."""
    assert not engine.is_initialized()
    engine.init(num_cpus=2)
    yield engine
    engine.shutdown()


@pytest.mark.parametrize("retries", [-1, 50])
def test_a_poison_task_is_stopped_whatever_its_budget(
    strict: Any, tmp_path: Path, retries: int
) -> None:
    @strict.remote(max_retries=retries)
    def poison(path: str) -> None:
        with open(path, "a") as file:
            file.write("x\n")
        os._exit(9)

    path = tmp_path / "runs"
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        strict.get(poison.remote(str(path)), timeout=SECONDS)
    assert attempts(path) == LIMIT
    text = str(caught.value)
    assert f"attempt {LIMIT} " in text
    assert "restart_deaths_max" in text
    assert len(re.findall(r"\+\d+\.\d\d s \(pid \d+\) exited with code 9", text)) == LIMIT


def test_a_poison_actor_is_stopped(strict: Any, tmp_path: Path) -> None:
    @strict.remote(max_restarts=-1)
    class Poison:
        def __init__(self, path: str) -> None:
            with open(path, "a") as file:
                file.write("x\n")
            os.kill(os.getpid(), signal.SIGKILL)

        def f(self) -> None:
            return None

    actor = Poison.remote(str(tmp_path / "runs"))
    with pytest.raises(exceptions.ActorDiedError) as caught:
        strict.get(actor.f.remote(), timeout=SECONDS)
    assert attempts(tmp_path / "runs") == LIMIT
    assert len(re.findall(r"\(pid \d+\) was killed by SIGKILL", str(caught.value))) == LIMIT


def test_other_work_goes_on_beside_poison(strict: Any) -> None:
    @strict.remote(max_retries=-1)
    def poison() -> None:
        os._exit(1)

    @strict.remote(max_retries=0)
    def fine(x: int) -> int:
        return x

    bad = [poison.remote() for _ in range(4)]
    assert strict.get([fine.remote(x) for x in range(200)], timeout=SECONDS) == list(range(200))
    for ref in bad:
        with pytest.raises(exceptions.WorkerCrashedError):
            strict.get(ref, timeout=SECONDS)


def test_kills_by_hand_say_nothing_against_an_actor(strict: Any) -> None:
    @strict.remote(max_restarts=-1, max_task_retries=-1)
    class Patient:
        def pid(self) -> int:
            return os.getpid()

    actor = Patient.remote()
    pids = set()
    for _ in range(LIMIT + 1):
        pids.add(strict.get(actor.pid.remote(), timeout=SECONDS))
        strict.kill(actor, no_restart=False)
        eventually(lambda: strict.get(actor.pid.remote(), timeout=SECONDS) not in pids)
    assert len(pids) == LIMIT + 1


def test_workers_that_cannot_begin_are_not_started_for_ever(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\ndepth = 0\n"
        "def child():\n"
        "    global depth\n"
        "    depth += 1  # of the node: the zygote, the process in between, a worker\n"
        "    if depth == 3: os._exit(7)\n"
        "os.register_at_fork(after_in_child=child)\n"
    )
    text = """
import os, sys
os.environ["PYTHONPATH"] = sys.argv[1] + os.pathsep + os.environ["PYTHONPATH"]
import engine
engine.init(num_cpus=1)

@engine.remote
def f():
    return 1

try:
    engine.get(f.remote(), timeout=20)
except engine.exceptions.NodeDiedError:
    print("told")
"""
    process = run_script(text, tmp_path, str(tmp_path), stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "told\n")
    assert "its workers die before they begin" in err
    assert "exited with code 7" in err


def test_the_limit_can_be_raised(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(max_retries=-1)
    def unlucky(path: str) -> str:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        if len(Path(path).read_text().split()) <= LIMIT + 1:
            time.sleep(600)
        return "done"

    path = tmp_path / "runs"
    ref = unlucky.remote(str(path))
    for count in range(1, LIMIT + 2):
        eventually(lambda count=count: attempts(path) >= count)
        kill9(int(path.read_text().split()[-1]))
    assert cluster.get(ref, timeout=SECONDS) == "done"
