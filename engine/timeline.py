"""`engine.timeline`: what ran where and when, as a Chrome trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.session import runtime

__all__ = ["timeline"]


def timeline(filename: str | Path | None = None) -> list[dict[str, Any]]:
    """The calls that ran lately (the last 10,000 of each live worker), as Chrome trace events.

    Open the file in a trace viewer (``chrome://tracing`` or Perfetto). Each call has a phase
    "fetch" (its arguments are fetched and unpickled) and a phase "run"; times in microseconds.

    Args:
        filename: where to write the JSON; None only returns the events.
    """
    events = []
    for name, pid, start, fetch, run in runtime().ask("gather", about="events"):
        common = {"ph": "X", "pid": pid, "tid": pid}
        if fetch > 0:
            events.append({"name": f"{name}: fetch", "cat": "fetch", "ts": start, "dur": fetch}
                          | common)
        events.append({"name": name, "cat": "run", "ts": start + fetch, "dur": run} | common)
    events.sort(key=lambda event: event["ts"])
    if filename is not None:
        Path(filename).write_text(json.dumps(events))
    return events
