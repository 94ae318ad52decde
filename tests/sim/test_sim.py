"""Seeds, old and new; that a seed is a run; and that the simulator finds what it is to find.

SIM_FIRST in the environment moves the new seeds: `SIM_FIRST=$RANDOM make test ARGS="-k fresh"`.
"""

from __future__ import annotations

import functools
import gc
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.core.cluster import Cluster
from engine.core.dispatch import Dispatcher
from engine.core.head import HeadMachine
from engine.core.loading import Loader
from engine.core.lost_nodes import LostNodes
from engine.core.node import NodeMachine
from engine.core.objects import ObjectTable
from engine.core.owner import Owner
from engine.core.pressure import Pressure
from engine.core.relay import Relay
from engine.core.session import Session
from engine.core.spill import SpillMachine
from engine.core.spillback import Spillback
from engine.core.store import SegmentBook
from engine.core.streams import ItemStreams
from tests.layout import ROOT
from tests.sim.__main__ import SEEDS, kept, main
from tests.sim.marks import required
from tests.sim.world import Failed, World, run

FIRST = int(os.environ.get("SIM_FIRST", "0"))
FRESH, CHUNK = 200, 25
KEPT = kept()
# The run of a seed, for all tests that need no second one.
first_run = functools.cache(run)


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Dead worlds are cycles."""
    yield
    gc.collect()


@pytest.mark.parametrize("first", range(FIRST, FIRST + FRESH, CHUNK))
def test_fresh_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        first_run(seed)


@pytest.mark.parametrize("at", range(0, len(KEPT), CHUNK))
def test_seeds_that_have_failed_once(at: int) -> None:
    for seed in KEPT[at : at + CHUNK]:
        run(seed)


def test_the_same_seed_is_the_same_run() -> None:
    for seed in range(FIRST, FIRST + 40):
        assert run(seed).digest == first_run(seed).digest, f"seed {seed}"


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    """Whatever order its sets and its addresses have."""
    arguments = [sys.executable, "-m", "tests.sim", "--seeds", "40", "--digests"]
    runs = [
        subprocess.Popen(
            arguments,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": salt},
            stdout=subprocess.PIPE,
            text=True,
        )
        for salt in ("0", "1", "4711")
    ]
    found = {one.communicate()[0] for one in runs}
    assert not any(one.returncode for one in runs)
    assert len(found) == 1
    assert len(found.pop().split()) == 80


# ------------------------------------------------------------------- what it is to find


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _double_grant(self: Any, worker: Any) -> None:
    if worker.pool is not None and not worker.blocked:
        worker.pool.give(worker.units)
    worker.pool, worker.blocked = None, False


_on_process_died = Dispatcher.on_process_died


def _forget_the_queue(self: Any, worker: bytes) -> Any:
    return _on_process_died(self, worker)[:1]


_charge = Owner._charge


def _never_stop(self: Any, task: Any, message: Any, now: float) -> None:
    task.retries += 1
    _charge(self, task, message, now)


def _settle_at_once(self: Any, ids: Any, peer: bytes, message: Any, **_in_order: Any) -> bool:
    return False


def _no_use(self: Any, object_id: bytes, block: Any) -> bool:
    return False


_on_evict = SpillMachine.on_evict


def _always_gone(self: Any, peer: bytes, message: Any) -> Any:
    uses, self.uses = self.uses, {}
    try:
        return _on_evict(self, peer, message)
    finally:
        self.uses = uses


def _nobody(self: Any, *_args: Any) -> list[Any]:
    return []


def _as_it_comes(self: Any, packet: Any, now: float) -> list[bytes]:
    self._on_ack(packet.ack)
    self._owes = True
    self.received = max(self.received, packet.seq)
    return [packet.body] if packet.seq else []


def _do_only(self: Any, event: Any) -> None:
    self._apply(event)


# These show only where memory is short.
SHORT = {
    "what a call carries may move": (SpillMachine, "carry", _no_use),
    "a borrower gives up what it looks at": (SpillMachine, "on_evict", _always_gone),
    "calls never let go of what they carried": (Loader, "unload", _nothing),
    "requests of the dead are kept": (Pressure, "on_died", _nothing),
}
# And these where there are several nodes.
SEVERAL = {
    "packets are sent once": (Session, "tick", _nothing),
    "packets are taken as they come": (Session, "on_packet", _as_it_comes),
    "the deaths of processes are kept from other nodes": (Relay, "on_died", _nothing),
    "demands that nobody granted elsewhere are forgotten": (Spillback, "_take_home", _nothing),
    "owners do not bury the processes of a dead node": (LostNodes, "add", _nobody),
    "actors on a dead node are not made again": (HeadMachine, "processes_of", _nobody),
    "events are not written": (Cluster, "_do", _do_only),
}
MISTAKES = SHORT | SEVERAL | {
    "borrowers are not registered": (ObjectTable, "on_add_borrower", _nothing),
    "borrowers are never let go": (ObjectTable, "on_drop_borrower", _nothing),
    "replies do not wait for registrations": (ObjectTable, "after_settled", _settle_at_once),
    "queued tasks of a dead worker are forgotten": (
        Dispatcher, "on_process_died", _forget_the_queue,
    ),
    "idle leases are kept": (Dispatcher, "tick", _nothing),
    "a dead worker's tasks are retried for ever": (Owner, "_charge", _never_stop),
    "watchers of an actor are not told": (HeadMachine, "_tell", _nothing),
    "resources of the dead are kept": (NodeMachine, "_release", _nothing),
    "segments of the dead are kept": (SegmentBook, "_close", _nothing),
    "consumers never tell": (ItemStreams, "_tell", _nothing),
}  # fmt: skip


# Where the search for a mistake begins that few seeds show. When the simulator draws otherwise,
# others will: then it only takes longer.
BEGIN_AT = {
    "what a call carries may move": 1146,
    "a borrower gives up what it looks at": 933,
    "requests of the dead are kept": 119,
    "replies do not wait for registrations": 1096,
}


def _run_all(count: int, mistake: str) -> None:
    first = BEGIN_AT.get(mistake, 0)
    for seed in (*range(first, count), *range(first)):
        if mistake in SHORT and not World(seed).faults.on["little memory"]:
            continue
        if mistake not in SEVERAL or World(seed).several:
            run(seed)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_machine_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(machine, name, wrong)
    with pytest.raises(Failed):
        _run_all(3000, mistake)


def test_a_failed_seed_is_told_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HeadMachine, "_tell", _nothing)
    out = tmp_path / "seeds.txt"
    assert main(["--seeds", "12"], out) == 1
    told = capsys.readouterr().out
    assert f"seed {kept(out)[0]} failed at" in told
    assert "faults drawn" in told
    assert re.search(r"^ +\d+\.\d{3} ms  \S.* -> \S.*: \S", told, re.M), "the end of the trace"


def test_marks_are_names_that_something_hits() -> None:
    names = required()
    assert len(names) == len(set(names))
    hit = sum((first_run(seed).marks for seed in range(150)), start=Counter[str]())
    assert len([name for name in names if hit[name]]) > 0.8 * len(names)
    assert SEEDS.exists()
