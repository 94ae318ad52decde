"""`engine.timeline`: what ran where and when, as a Chrome trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.core.trace import trace
from engine.session import runtime

__all__ = ["timeline"]


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]]:
    """The calls that ran lately (the last 2,000 of each process), as Chrome trace events.

    Open the file in a trace viewer (``chrome://tracing`` or Perfetto). Each task, actor call and
    actor creation has a phase "fetch" (its arguments are read and unpickled), "run" and
    "serialise" (its result is pickled and stored), and an arrow from where it was submitted. Long
    waits in `get` and `wait` and writes of large values have a line of their own. Calls that run
    beside each other in one process get a row each. Times are in microseconds.

    Args:
        filename: where to write the JSON; None only returns the events.

    More are kept with ``engine.init(config=Config(task_events_kept=...))``, at a cost. Processes
    that do not answer within 2 s are left out, so is what a killed worker has run. Calls with
    ``enable_task_events=False`` leave no record. TypeError for a filename that is no path.
    """
    if filename is not None and not isinstance(filename, str | Path):
        raise TypeError(
            f"engine.timeline: filename={filename!r}, expected a path, or None to get the events "
            "without writing them"
        )
    home = runtime()
    reports = home.ask("gather", about="tasks", patience=30.0)["records"]
    with home.lock:
        reports += home.records["tasks"]()
    events = trace(reports)
    if filename is not None:
        Path(filename).write_text(json.dumps(events))
    return events
