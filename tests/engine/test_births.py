"""Processes that die while they are forked: the worker, or the one between it and the zygote."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import engine
from engine.config import Config
from engine.core.control import Preloaded
from engine.runtime.node import Node
from engine.runtime.record import Process
from tests.engine.support import alive, eventually, kill9, node_pid, zygote_pids

SECONDS = 30
# Fewer than would make the node believe that none will live.
IN_A_ROW = 10


@engine.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Actor:
    """Has a process of its own."""

    def pid(self) -> int:
        return os.getpid()


class Reaper:
    """Kills new children of some processes, and counts whose they were."""

    def __init__(self, parents: list[int], chance: float, delay: float, limit: int) -> None:
        self.killed = dict.fromkeys(parents, 0)
        self._chance, self._delay, self._limit = chance, delay, limit
        self._draw = random.Random(delay)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        last, row = _newest(), 0
        while not self._ended.is_set() and sum(self.killed.values()) < self._limit:
            newest = _newest()
            for pid in range(last + 1, newest + 1):
                parent = _parent(pid)
                if parent not in self.killed:
                    continue
                if row == IN_A_ROW or self._draw.random() > self._chance:
                    row = 0
                    continue
                row += 1
                if self._delay:
                    time.sleep(self._draw.uniform(0, self._delay))
                with contextlib.suppress(ProcessLookupError):  # the one in between has ended
                    kill9(pid)
                    self.killed[parent] += 1
            last = newest


def _newest() -> int:
    """The pid given last, to whatever process of the machine."""
    return int(Path("/proc/loadavg").read_text().split()[-1])


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # a thread, or gone
        return 0


@pytest.fixture
def own(leak_check: None) -> Iterator[Any]:
    """An engine of this test alone, to which nothing is poison."""
    config = Config(restart_deaths_max=10_000, worker_starts_max=10_000)
    engine.init(num_cpus=2, config=config)
    yield engine
    engine.shutdown()


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_whoever_dies_as_it_is_forked_is_replaced(own: Any, delay: float) -> None:
    node = node_pid()
    (zygote,) = zygote_pids()
    with Reaper([zygote, node], 0.5, delay, 20) as reaper:
        actors = [Actor.remote() for _ in range(20)]
        own.get([one.pid.remote() for one in actors], timeout=SECONDS)
    assert sum(reaper.killed.values()) > 3
    assert alive(node)
    pids = own.get([one.pid.remote() for one in actors], timeout=SECONDS)
    assert len(set(pids)) == len(actors)
    del actors
    task = own.remote(max_retries=-1)(os.getpid)
    assert len(own.get([task.remote() for _ in range(20)], timeout=SECONDS)) == 20
    eventually(lambda: not set(pids) & set(_running()), what="the actors' processes have ended")


def _running() -> list[int]:
    return [one["pid"] for one in engine.state.list_workers() if one["use"] == "actor"]


def test_what_a_zygote_was_asked_for_when_it_died_is_not_waited_for() -> None:
    """Its successor was warm already, so the node lives: it has to ask again."""
    gone: list[bytes] = []
    line: Any = object()
    node: Any = SimpleNamespace(_processes={}, stopping="", _gone=gone.append)

    def add(name: bytes, zygote: bytes, pid: int, connection: Any) -> None:
        node._processes[name] = Process("worker", connection, pid)
        node._processes[name].zygote = zygote

    add(b"old", b"", 7, line)
    add(b"new", b"old", 0, line)
    add(b"born", b"old", 8, None)
    add(b"asked", b"old", 0, line)
    add(b"lost", b"old", 0, None)
    add(b"asked of the new one", b"new", 0, None)
    Node._drop_unborn(node)
    assert gone == []
    del node._processes[b"old"]
    Node._drop_unborn(node)
    assert gone == [b"lost"]
    node.stopping = "it ends"
    Node._drop_unborn(node)
    assert gone == [b"lost"]


def test_a_zygote_whose_maker_died_before_it_could_say_tells_its_pid() -> None:
    """Its death must be noticed as that of any other."""
    watched: list[bytes] = []
    records = {b"old": Process("zygote", None, 7), b"new": Process("zygote", None, 0)}
    node: Any = SimpleNamespace(
        _processes=records, _zygote=b"old", _successor=b"new", watch_pid=watched.append,
        send=lambda peer, message: None, machine=SimpleNamespace(fresh_is_warm=False),
    )  # fmt: skip
    Node._on_preloaded(node, b"new", Preloaded("", 9))
    assert (records[b"new"].pid, watched, node._zygote) == (9, [b"new"], b"new")
