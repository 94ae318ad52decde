"""The short form of every trial that has one; and that trials find what they are to find."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import engine.topology.durable as durable
from tests.chaos import corruption, crashes
from tests.chaos.__main__ import choose, run_apart
from tests.chaos.catalogue import TRIALS
from tests.chaos.promises import PROMISES
from tests.chaos.report import verdict
from tests.chaos.trial import Found, Trial

SHORT = [one for one in TRIALS.values() if one.short]


@pytest.mark.parametrize("one", SHORT, ids=lambda one: one.name)
def test_nothing_is_wrong(one: Trial, leak_check: None) -> None:
    """Figures are not looked at: other tests may run beside this one."""
    found = one.run(one.short)
    if not found.count:
        pytest.skip(found.note)
    assert not found.mistakes()
    assert found.count >= one.short
    assert set(found.bounds) <= set(found.figures)


# ------------------------------------------------------------------- what they are to find


@pytest.mark.parametrize("forgotten", ["sync", "sync directory"])
def test_a_commit_without_its_syncs_is_found(forgotten: str) -> None:
    def write(path: Any, parts: Any) -> None:
        temporary = path.with_name(path.name + durable.TEMPORARY)
        with durable.open(temporary, "xb", buffering=0) as file:  # type: ignore[attr-defined]
            for part in parts:
                if memoryview(part).nbytes:
                    file.write(memoryview(part).cast("B"))
            if forgotten != "sync":
                durable.os.fsync(file.fileno())
        durable.os.replace(temporary, path)
        if forgotten != "sync directory":
            durable.sync_directory(path.parent)

    with (
        mock.patch("engine.topology.checkpoint.write_durably", write),
        mock.patch("engine.topology.statefile.write_durably", write),
    ):
        wrong = crashes.commit_crashes(150).wrong
    assert wrong["a returned commit lost"]


def test_a_checksum_that_is_not_compared_is_found() -> None:
    def read(path: Path, nbytes: int, _digest: str) -> memoryview:
        if not path.exists() or path.stat().st_size != nbytes:
            raise ValueError("as it is found in any case")
        return memoryview(bytearray(path.read_bytes()))

    with mock.patch("engine.topology.statefile.read_whole", read):
        assert corruption.checkpoint_damage(100).mistakes()


# ------------------------------------------------------------------- the frame around them


def test_every_trial_is_of_a_promise_and_says_what_it_does() -> None:
    rows = {one.name: one for one in PROMISES}
    for one in TRIALS.values():
        assert one.says.endswith(".")
        assert one.promises
        assert not [name for name in one.promises if rows[name].whole]
    named = {name for one in TRIALS.values() for name in one.promises}
    assert {one.name for one in PROMISES if not one.whole} == named


def test_trials_are_chosen_by_name_and_promise() -> None:
    assert {one.name for one in TRIALS.values()} - {one.name for one in choose([])} == {"reruns"}
    assert choose(["R28"]) == [TRIALS["reruns"]]
    assert [one.name for one in choose(["commit-crashes"])] == ["commit-crashes"]
    assert {one.name for one in choose(["R17"])} == {
        *("actor-damage", "checkpoint-damage", "spill-damage"),
    }
    with pytest.raises(SystemExit, match="expected trials or promises"):
        choose(["R99"])


def test_a_trial_apart_tells_what_it_found_and_what_it_left(leak_check: None) -> None:
    kept = run_apart(TRIALS["actor-damage"], 50)
    assert (kept["count"], kept["left"], kept["error"]) == (50, [], "")
    assert verdict(TRIALS["actor-damage"], kept).status == "held, 50 of 10,000"


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, "held"),
        ({"count": 9}, "held, 9 of 10"),
        ({"count": 9, "complete": True}, "held"),
        ({"wrong": {"lost": 1}}, "**not held**"),
        ({"figures": {"back, ms": 11.0}}, "**not held**"),
        ({"left": ["process 1"]}, "**not held**"),
        ({"error": "it died"}, "**not held**"),
    ],
)
def test_a_verdict_looks_at_everything(changed: dict[str, Any], status: str) -> None:
    one = Trial("t", lambda count: Found(count), ("R1",), "kills", 1, 10, 1.0, "Kills.")
    kept = {
        "count": 10, "wrong": {"lost": 0}, "figures": {"back, ms": 3.0},
        "bounds": {"back, ms": 10.0}, "left": [], "error": "",
    }  # fmt: skip
    said = verdict(one, kept | changed)
    assert said.status == status
    assert said.held is ("not" not in status)
    assert "kills; " in said.text
    assert "ms (at most 10)" in said.text
