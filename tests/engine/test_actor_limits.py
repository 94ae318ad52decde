"""What bounds and ends an actor: max_pending_calls, exit_actor, restarts; and what it leaves."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from engine.actor import exit_actor

SECONDS = 20


def test_more_pending_calls_than_allowed_are_refused(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(max_pending_calls=3)
    class Slow:
        def wait(self, path: str) -> int:
            while not os.path.exists(path):
                threading.Event().wait(0.001)
            return 1

    slow = Slow.remote()
    refs = [slow.wait.remote(str(gate)) for _ in range(3)]
    with pytest.raises(exceptions.PendingCallsLimitExceeded, match="3 calls of Slow"):
        slow.wait.remote(str(gate))
    gate.touch()
    assert cluster.get(refs, timeout=SECONDS) == [1, 1, 1]
    assert cluster.get(slow.wait.remote(str(gate)), timeout=SECONDS) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_exit_actor_is_final(cluster: Any, is_async: bool) -> None:
    if is_async:

        class Plain:
            async def leave(self) -> None:
                exit_actor()

            async def f(self) -> int:
                return 1
    else:

        class Plain:  # type: ignore[no-redef]
            def leave(self) -> None:
                exit_actor()

            def f(self) -> int:
                return 1

    actor = cluster.remote(max_restarts=5)(Plain).remote()
    assert cluster.get(actor.f.remote(), timeout=SECONDS) == 1
    for ref in (actor.leave.remote(), actor.f.remote()):
        with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
            cluster.get(ref, timeout=SECONDS)


def test_exit_actor_outside_of_an_actor() -> None:
    with pytest.raises(TypeError, match="methods of actors"):
        exit_actor()


def test_a_restarted_actor_begins_anew_and_keeps_its_name(cluster: Any) -> None:
    @cluster.remote(max_restarts=1, max_task_retries=1, name="phoenix")
    class Phoenix:
        def __init__(self, start: int) -> None:
            self.n = start

        def add(self) -> int:
            self.n += 1
            return self.n

        def die(self) -> None:
            os._exit(7)

    phoenix = Phoenix.remote(10)
    assert cluster.get([phoenix.add.remote() for _ in range(3)], timeout=SECONDS)[-1] == 13
    with pytest.raises(exceptions.ActorDiedError, match="exited with code 7"):
        cluster.get(phoenix.die.remote(), timeout=SECONDS)  # retried once: dies a second time
    with pytest.raises(ValueError, match="no actor named 'phoenix'"):
        cluster.get_actor("phoenix")


def test_timeline_tells_what_ran(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def step(number: int) -> int:
        return number

    cluster.get([step.remote(number) for number in range(5)])
    events = engine.timeline(tmp_path / "trace.json")
    mine = [
        event for event in events if event.get("cat") == "task" and event["name"].endswith("step")
    ]
    assert len(mine) == 5
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in mine)
    assert json.loads((tmp_path / "trace.json").read_text()) == events
