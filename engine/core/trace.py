"""A Chrome trace, made of what each process tells (`runtime.views`). Pure: records in, events out.

Format: "Trace Event Format" of the Chromium project; `ph` is X for a span, M for metadata, s and f
for the ends of an arrow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.core.ids import owner_of

__all__ = ["trace"]

# Rows of a process: what it submitted, its waits and writes, and its calls from here on.
_SUBMITS, _SPANS, _CALLS = 1, 2, 3
_CATEGORIES = {
    "NORMAL_TASK": "task", "ACTOR_TASK": "actor_task", "ACTOR_CREATION_TASK": "actor_creation"
}  # fmt: skip


def trace(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trace events in order of time, after those that name processes and rows."""
    reports = list(reports)
    pids = {report["process"]: report["pid"] for report in reports}
    events: list[dict[str, Any]] = []
    rows: dict[tuple[int, int], str] = {}
    for report in reports:
        pid, epoch = report["pid"], report["epoch"]
        lanes: list[float] = []  # when the last call on each row ended
        for row in sorted(report["ended"], key=lambda one: one[4]):
            tid = _CALLS + _lane(lanes, row[4], row[7])
            rows[pid, tid] = f"calls {tid - _CALLS + 1}" if tid > _CALLS else "calls"
            events += _call(row, pid, tid, epoch)
            owner = pids.get(owner_of(row[0]))
            if owner is not None and row[3]:
                rows[owner, _SUBMITS] = "submits"
                events += _arrow(row, owner, pid, tid, epoch)
        for what, start, end in report["spans"]:
            rows[pid, _SPANS] = "waits and writes"
            events.append(_span(what, "wait", epoch, start, end, pid, _SPANS))
    events.sort(key=lambda event: event["ts"])
    return [*_metadata(reports, rows), *events]


def _lane(lanes: list[float], start: float, end: float) -> int:
    """The first row that is free at `start`."""
    for index, until in enumerate(lanes):
        if until <= start:
            lanes[index] = end
            return index
    lanes.append(end)
    return len(lanes) - 1


def _span(
    name: str, category: str, epoch: float, start: float, end: float, pid: int, tid: int
) -> dict[str, Any]:
    return {
        "name": name, "cat": category, "ph": "X", "ts": (epoch + start) * 1e6,
        "dur": (end - start) * 1e6, "pid": pid, "tid": tid,
    }  # fmt: skip


def _call(row: list[Any], pid: int, tid: int, epoch: float) -> list[dict[str, Any]]:
    task_id, name, kind, _submitted, start, ready, end, stored, error, _function = row
    ready = ready or start
    whole = _span(name, _CATEGORIES[kind], epoch, start, stored, pid, tid)
    whole["args"] = {"task_id": task_id.hex(), "error": error}
    phases = [whole]
    for phase, begin, until in (
        ("fetch", start, ready), ("run", ready, end), ("serialise", end, stored)
    ):  # fmt: skip
        if until > begin:
            phases.append(_span(f"{name}: {phase}", phase, epoch, begin, until, pid, tid))
    return phases


def _arrow(
    row: list[Any], owner: int, pid: int, tid: int, epoch: float
) -> list[dict[str, Any]]:
    task_id, name, submitted, start = row[0].hex(), row[1], row[3], row[4]
    # An arrow needs something to start from.
    mark = _span(f"submit {name}", "submit", epoch, submitted, submitted + 1e-6, owner, _SUBMITS)
    common = {"name": "submit", "cat": "flow", "id": task_id}
    return [
        mark,
        common | {"ph": "s", "ts": mark["ts"], "pid": owner, "tid": _SUBMITS},
        common | {"ph": "f", "bp": "e", "ts": (epoch + start) * 1e6, "pid": pid, "tid": tid},
    ]


def _metadata(
    reports: list[dict[str, Any]], rows: dict[tuple[int, int], str]
) -> list[dict[str, Any]]:
    named = []
    for report in reports:
        kind = "driver" if report["kind"] == "DRIVER" else "worker"
        created = [row[1] for row in report["ended"] if row[2] == "ACTOR_CREATION_TASK"]
        what = f"actor {created[-1].removesuffix('.__init__')}" if created else kind
        named.append(_name("process_name", report["pid"], 0, what))
    named += [_name("thread_name", pid, tid, what) for (pid, tid), what in sorted(rows.items())]
    return named


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": {"name": name}}
