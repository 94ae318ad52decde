"""Killing the members of a running topology."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

from engine import state

__all__ = ["Killer", "member_pids"]


def member_pids() -> list[int]:
    """Processes that host a member of a topology at this moment."""
    return [
        actor["pid"]
        for actor in state.list_actors(filters=[("class_name", "=", "MemberActor")])
        if actor["state"] in ("ALIVE", "PENDING_CREATION") and actor["pid"]
    ]


class Killer:
    """Kills a random member again and again, in a thread, until told to stop.

    Args:
        seed: of the victims and the pauses.
        pause: seconds between two kills, at most.
        kills_max: how many.
    """

    def __init__(self, seed: int, pause: float, kills_max: int) -> None:
        self.kills = 0
        self._draw = random.Random(seed)
        self._pause = pause
        self._kills_max = kills_max
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self.kills < self._kills_max:
            if self._stop.wait(self._draw.random() * self._pause):
                return
            pids = member_pids()
            if pids:
                try:
                    os.kill(self._draw.choice(pids), signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    continue  # it has ended meanwhile

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stop.set()
        self._thread.join()
