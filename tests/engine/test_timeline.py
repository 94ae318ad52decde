"""The timeline: a Chrome trace with every phase of a call, and arrows from where it came."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.trace import trace
from tests.engine.support import eventually

KEYS = {"name", "ph", "ts", "pid", "tid"}


def _spans(events: list[dict[str, Any]], name: str, category: str) -> list[dict[str, Any]]:
    return [one for one in events if one.get("cat") == category and one["name"].endswith(name)]


def test_a_call_has_its_phases_in_order(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def phased(x: np.ndarray) -> tuple[int, np.ndarray]:
        time.sleep(0.02)
        return os.getpid(), x + 1

    argument = cluster.put(np.zeros(1 << 22, dtype=np.uint8))
    pid, _array = cluster.get(phased.remote(argument))
    events = cluster.timeline(str(tmp_path / "trace.json"))
    (whole,) = _spans(events, ".phased", "task")
    phases = [_spans(events, f"phased: {one}", one)[0] for one in ("fetch", "run", "serialise")]
    assert {one["pid"] for one in [whole, *phases]} == {pid}
    at = whole["ts"]
    for phase in phases:
        assert abs(phase["ts"] - at) < 1.0
        at += phase["dur"]
    assert abs(whole["dur"] - sum(phase["dur"] for phase in phases)) < 1.0
    assert phases[1]["dur"] >= 20_000
    assert phases[2]["dur"] > 0
    assert abs(whole["ts"] / 1e6 - time.time()) < 60
    wrote = [one for one in events if one["name"].startswith("store ") and one["pid"] == pid]
    assert wrote
    assert json.loads((tmp_path / "trace.json").read_text()) == events
    assert all(set(one) >= KEYS for one in events)


def test_arrows_lead_from_the_submitter_to_the_run(cluster: Any) -> None:
    @cluster.remote
    def arrived() -> None:
        return None

    ref = arrived.remote()
    cluster.get(ref)
    events = cluster.timeline()
    start, end = (one for one in events if one.get("id") == ref.hex())
    assert (start["ph"], end["ph"], end["bp"]) == ("s", "f", "e")
    assert start["pid"] == os.getpid()
    assert start["ts"] <= end["ts"]
    (whole,) = _spans(events, ".arrived", "task")
    assert (whole["pid"], whole["tid"], whole["ts"]) == (end["pid"], end["tid"], end["ts"])
    marks = _spans(events, ".arrived", "submit")
    assert (marks[0]["ts"], marks[0]["pid"]) == (start["ts"], os.getpid())


def test_actors_and_concurrent_calls_have_rows_of_their_own(cluster: Any) -> None:
    @cluster.remote(max_concurrency=3)
    class Threaded:
        def nap(self) -> int:
            time.sleep(0.05)
            return os.getpid()

    @cluster.remote
    class Async:
        async def doze(self) -> int:
            import asyncio

            await asyncio.sleep(0.05)
            return os.getpid()

    threaded, other = Threaded.remote(), Async.remote()
    pid = cluster.get([threaded.nap.remote() for _ in range(3)])[0]
    async_pid = cluster.get([other.doze.remote() for _ in range(3)])[0]
    events = cluster.timeline()
    for name, process in (("nap", pid), ("doze", async_pid)):
        calls = _spans(events, f".{name}", "actor_task")
        assert {one["pid"] for one in calls} == {process}
        assert len({one["tid"] for one in calls}) == 3
        by_row: dict[int, float] = {}
        for one in sorted(calls, key=lambda one: one["ts"]):
            assert by_row.get(one["tid"], 0.0) <= one["ts"]
            by_row[one["tid"]] = one["ts"] + one["dur"]
    titles = {
        one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"
    }
    assert titles[pid].startswith("actor ")
    assert titles[pid].endswith("Threaded")
    assert titles[os.getpid()] == "driver"
    assert _spans(events, "Threaded.__init__", "actor_creation")


def test_long_waits_are_shown(cluster: Any) -> None:
    @cluster.remote
    def sleeps() -> None:
        time.sleep(0.05)

    cluster.get(sleeps.remote())
    waits = [one for one in cluster.timeline() if one.get("cat") == "wait"]
    mine = [one for one in waits if one["pid"] == os.getpid() and one["dur"] > 40_000]
    assert mine[-1]["name"] == "get"


def test_rings_are_bounded(no_engine: Any) -> None:
    from engine.config import Config

    no_engine.init(num_cpus=1, config=Config(task_events_kept=50))

    @no_engine.remote
    def one(x: int) -> int:
        return x

    no_engine.get([one.options(name="named").remote(0)] + [one.remote(n) for n in range(200)])
    eventually(lambda: len(_spans(no_engine.timeline(), ".one", "task")) == 50)
    assert no_engine.state.list_tasks(limit=10_000).total <= 51


def test_calls_beside_each_other_get_the_first_row_that_is_free() -> None:
    def row(number: int, start: float, end: float) -> list[Any]:
        task_id = b"owner---" + number.to_bytes(8)
        return [task_id, "f", "NORMAL_TASK", 0.0, start, 0.0, end, end, "", "f"]

    report = {
        "process": b"worker--", "pid": 7, "epoch": 100.0, "kind": "WORKER", "spans": [],
        "ended": [row(1, 1.0, 4.0), row(2, 2.0, 3.0), row(3, 3.5, 5.0), row(4, 4.0, 6.0)],
    }  # fmt: skip
    rows = {
        one["args"]["task_id"]: one["tid"] for one in trace([report]) if one.get("cat") == "task"
    }
    first = min(rows.values())
    assert [tid - first for tid in rows.values()] == [0, 1, 1, 0]
