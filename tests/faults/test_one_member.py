"""Kill one process of a windowed stream with files in and out: the others go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from engine import state
from engine.topology import Checkpoints
from tests.engine.support import eventually
from tests.faults.jobs import job_of, model, output_of, write_input

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
SMALL = 6_000
WANTED = model(SMALL)
COPIES = [f"{name}[{index}]" for name in ("source", "window", "aggregate") for index in (0, 1)]


def members() -> dict[str, int]:
    """Copies that run at this moment: name[index] -> process."""
    found = {}
    for actor in state.list_actors(filters=[("class_name", "=", "MemberActor")], detail=True):
        if actor["state"] == "ALIVE" and actor["pid"]:
            _id, _topology, name, index, _copies = actor["topology"]
            found[f"{name}[{index}]"] = actor["pid"]
    return found


@pytest.mark.parametrize("victim", COPIES)
def test_any_member_comes_back_alone(cluster: Any, tmp_path: Path, victim: str) -> None:
    write_input(tmp_path / "in", SMALL)
    policy = Checkpoints(directory=tmp_path / "ck", every=0.1)
    with job_of(tmp_path, pause=0.02).start(2, checkpoint=policy) as handle:
        handle.checkpoint()
        before = members()
        assert sorted(before) == sorted(COPIES)
        os.kill(before[victim], signal.SIGKILL)
        eventually(lambda: members().get(victim, before[victim]) != before[victim])
        after = members()
        result = handle.wait(60)
    assert output_of(tmp_path) == WANTED
    assert {name for name in before if after.get(name) != before[name]} == {victim}
    assert result.checkpoints is not None
    assert result.checkpoints.recoveries == 1
    assert result.checkpoints.rollbacks == 0, result.checkpoints.last_fallback


def test_all_go_back_when_neighbours_die_together(cluster: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in", SMALL)
    policy = Checkpoints(directory=tmp_path / "ck", every=0.1)
    with job_of(tmp_path, pause=0.02).start(2, checkpoint=policy) as handle:
        handle.checkpoint()
        pids = members()
        for victim in ("source[0]", "window[1]"):
            os.kill(pids[victim], signal.SIGKILL)
        result = handle.wait(60)
    assert output_of(tmp_path) == WANTED
    assert result.checkpoints is not None
    assert result.checkpoints.rollbacks == 1
    assert result.checkpoints.last_fallback


@pytest.mark.parametrize("options", [{"local": False}, {"retain_bytes": 0}])
def test_all_go_back_when_one_cannot_alone(
    cluster: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    write_input(tmp_path / "in", SMALL)
    policy = Checkpoints(directory=tmp_path / "ck", every=0.1, **options)
    with job_of(tmp_path, pause=0.02).start(2, checkpoint=policy) as handle:
        handle.checkpoint()
        if "retain_bytes" in options:
            counters = {one.member: one.counters for one in handle.statistics()}
            assert counters["source"]["retention_given_up"] > 0
        os.kill(members()["window[0]"], signal.SIGKILL)
        result = handle.wait(60)
    assert output_of(tmp_path) == WANTED
    assert result.checkpoints is not None
    assert result.checkpoints.rollbacks == 1
    assert result.checkpoints.recoveries == ("retain_bytes" in options)
    assert ("retain" in result.checkpoints.last_fallback) == ("retain_bytes" in options)
