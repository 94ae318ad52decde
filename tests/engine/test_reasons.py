"""Work that waits says why: to who asks, to who times out, and to the driver after a while."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions, state
from engine.config import Config
from engine.util import placement_group, remove_placement_group
from tests.engine.support import eventually, finished_script, home

SECONDS = 20


@pytest.fixture(scope="module")
def impatient() -> Iterator[Any]:
    assert not engine.is_initialized()
    engine.init(num_cpus=2, config=Config(waiting_warning_seconds=0.1))
    yield engine
    engine.shutdown()


@engine.remote(num_cpus=1.5)
class Counter:
    def pid(self) -> int:
        return os.getpid()


@engine.remote(num_cpus=2)
def whole() -> int:
    return 1


@pytest.fixture
def counter(impatient: Any) -> Iterator[Any]:
    actor = Counter.remote()
    pid = impatient.get(actor.pid.remote(), timeout=SECONDS)
    yield pid
    impatient.kill(actor)
    eventually(lambda: impatient.available_resources()["CPU"] == 2, SECONDS)


def test_who_asks_is_told_what_is_free_and_who_holds_the_rest(
    impatient: Any, counter: int
) -> None:
    ref = whole.remote()
    eventually(lambda: "held by" in state.why_pending(ref), SECONDS)
    reason = state.why_pending(ref)
    assert "whole waits for a worker" in reason
    assert "needs CPU 2; free is CPU 0.5 of 2" in reason
    assert f"held by actor Counter (pid {counter}): CPU 1.5" in reason
    impatient.cancel(ref)


def test_a_time_out_says_it_too(impatient: Any, counter: int) -> None:
    task, actor = whole.remote(), Counter.remote()
    for ref in (task, actor.pid.remote()):
        with pytest.raises(exceptions.GetTimeoutError, match=r"free is CPU 0.5 of 2; held by act"):
            impatient.get(ref, timeout=0.1)
    start = time.perf_counter()
    for _ in range(100):
        with pytest.raises(exceptions.GetTimeoutError, match="waits for a worker"):
            impatient.get(task, timeout=0)
    assert time.perf_counter() - start < 2, "a poll asks nobody"
    impatient.cancel(task)


def test_what_is_done_or_runs_or_waits_for_others(impatient: Any, tmp_path: Path) -> None:
    @impatient.remote(num_cpus=0)
    def wait(path: str) -> int:
        eventually(Path(path).exists, SECONDS)
        return 1

    first = wait.remote(str(tmp_path / "go"))
    second = wait.options(num_cpus=0).remote(first)
    assert "waits for its arguments" in state.why_pending(second)
    eventually(lambda: "runs in" in state.why_pending(first), SECONDS)
    (tmp_path / "go").touch()
    assert impatient.get(first, timeout=SECONDS) == 1
    assert state.why_pending(first) == "ready"


def test_an_answer_that_comes_too_late_is_not_kept(impatient: Any) -> None:
    requests = home().requests
    late = 0
    while late < 20:  # an answer may be there already
        try:
            requests.ask("why", 0, of=b"", shape=b"")
        except exceptions.GetTimeoutError:  # what is wanted here
            late += 1
    impatient.available_resources()  # answered in order
    assert not requests._replies
    assert not requests._abandoned


def test_the_driver_is_warned_once_a_kind_of_work(
    impatient: Any, counter: int, caplog: pytest.LogCaptureFixture
) -> None:
    @impatient.remote(num_cpus=2)
    def large() -> None:
        return None

    @impatient.remote(num_cpus=1)
    class Late:
        pass

    refs = [large.remote() for _ in range(5)]
    actor = Late.remote()
    group = placement_group([{"CPU": 2}], name="whole")

    def told(word: str) -> list[str]:
        impatient.wait(refs, timeout=0)
        texts = [record.getMessage() for record in caplog.records if record.name == "engine"]
        return [text for text in texts if text.startswith(word)]

    for word in ("task ", "actor Late", "placement group whole"):
        eventually(lambda word=word: told(word), SECONDS, word)
    ((text,), (other,)) = told("task "), told("actor Late")
    assert "large has waited for 0 s: it needs CPU 2; free is CPU 0.5 of 2; held by" in text
    assert "End what holds it" in text
    assert "needs CPU 1;" in other
    again = [large.remote() for _ in range(3)]
    assert impatient.wait(again, timeout=0.3)[0] == []
    assert [len(told(word)) for word in ("task ", "actor", "placement")] == [1, 1, 1]
    for ref in [*refs, *again]:
        impatient.cancel(ref)
    impatient.kill(actor)
    remove_placement_group(group)


def test_the_warning_is_on_stderr_while_the_driver_waits_or_sleeps(tmp_path: Path) -> None:
    script = """
import sys, time
import engine
from engine.config import Config

sys.stderr = sys.stdout
engine.init(num_cpus=1, config=Config(waiting_warning_seconds=0.1), {options})

@engine.remote(num_cpus=1)
class Holder:
    def ready(self):
        return 1

holder = Holder.remote()
engine.get(holder.ready.remote())

@engine.remote
def f():
    return 1

ref = f.remote()
time.sleep(0.5)
print("slept")
engine.kill(holder)
print(engine.get(ref))
"""
    lines = finished_script(script.format(options=""), tmp_path).splitlines()
    assert lines[0].startswith("task f has waited for 0 s: it needs CPU 1; free is CPU 0 of 1; ")
    assert lines[1:] == ["slept", "1"]
    quiet = script.format(options='logging_level="error"')
    assert finished_script(quiet, tmp_path).splitlines() == ["slept", "1"]
