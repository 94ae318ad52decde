"""What may be said about checkpoints, and the mistakes that are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.exceptions import GetTimeoutError
from engine.topology import (
    CheckpointError,
    Checkpoints,
    External,
    InlineHandle,
    Member,
    Topology,
    TopologyError,
    forward,
)
from engine.topology.policy import directory_of
from tests.topology.members import HandClock, Numbers, Relay


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "seconds > 0 or None as every"),
        ({"every": float("nan")}, "seconds > 0 or None as every"),
        ({"keep": 0}, "keep >= 1"),
        ({"timeout": 0}, "timeout > 0"),
        ({"restarts": -1}, "restarts >= 0"),
        ({"retain_bytes": -1}, "local=False retains nothing"),
        ({"restart_seconds": 0}, "restart_seconds > 0"),
        ({"directory": "s3://bucket/ck"}, "a path or a file:/// URL"),
        ({"directory": "file://host/ck"}, "a path or a file:/// URL"),
        ({"directory": ""}, "a directory for checkpoints"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        Checkpoints(**{"directory": "ck", **options})


def test_a_directory_is_a_path_or_a_url(tmp_path: Path) -> None:
    assert directory_of("file:///var/ck%20one") == Path("/var/ck one")
    assert directory_of("file://localhost/var") == Path("/var")
    assert directory_of(tmp_path / "a") == tmp_path / "a"
    assert directory_of("ck") == Path.cwd() / "ck"


ROWS = 500


def pair(receiver: type[Member] = Relay) -> Topology:
    made = Topology("pair")
    made.member("a", Numbers, ROWS, (1,))
    made.member("b", receiver)
    made.channel("a", "b", forward())
    return made


def checkpoints(path: Path, **options: Any) -> Checkpoints:
    return Checkpoints(directory=path / "ck", **{"every": None, **options})


class Refusing(External):
    def begin(self, resumed: bool) -> None:
        raise FileExistsError("old results")


def test_the_outside_may_refuse_and_nothing_is_held(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="old results"):
        InlineHandle(pair(), checkpoints=checkpoints(tmp_path), external=Refusing())
    InlineHandle(pair(), checkpoints=checkpoints(tmp_path)).stop()


class Unbuildable(Relay):
    def __init__(self) -> None:
        raise OSError("no file")


def test_a_constructor_that_raises_lets_the_directory_go(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="no file"):
            InlineHandle(pair(Unbuildable), checkpoints=checkpoints(tmp_path))


class Closing(Relay):
    """Closes an epoch where a barrier could have been aligned."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        assert self.ctx.can_close_epoch()
        self.ctx.close_epoch(1, None)


def test_only_members_on_a_cycle_close_epochs(tmp_path: Path) -> None:
    handle = InlineHandle(pair(Closing), checkpoints=checkpoints(tmp_path))
    with pytest.raises(TopologyError, match=r"close_epoch\(\) from a member on a cycle"):
        handle.wait()


def test_an_epoch_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    clock = HandClock()

    class Slow(Numbers):
        def snapshot(self) -> Any:
            clock.now += 100.0
            return super().snapshot()

    made = Topology("slow")
    made.member("a", Slow, 50, (1,))
    made.member("b", Relay)
    made.channel("a", "b", forward())
    handle = InlineHandle(
        made, clock=clock, sleep=clock.sleep, checkpoints=checkpoints(tmp_path, timeout=50.0)
    )
    with pytest.raises(GetTimeoutError, match="has not ended in time"):
        handle.checkpoint(timeout=1.0)
    handle.stop()


def test_a_manifest_that_cannot_be_written_aborts_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
    handle.run_turn()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("engine.topology.checkpoint.CheckpointDirectory.commit", full)
        with pytest.raises(TopologyError, match=r"manifest: .*No space left"):
            handle.checkpoint()
    assert handle.checkpoint() == 2
    handle.wait()


def test_a_damaged_state_is_found_when_a_run_goes_on(tmp_path: Path) -> None:
    first = InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
    for _ in range(2):
        first.run_turn()
        first.checkpoint()
    first.stop()
    newest = max((tmp_path / "ck" / "states").glob("*-b_0-*"))
    newest.write_bytes(bytes(newest.stat().st_size))
    second = InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
    statistics = second.checkpoint_statistics()
    assert (statistics.epoch, statistics.damaged, statistics.rollbacks) == (1, 1, 1)
    assert second.wait()["a"] == [ROWS]


def test_a_damaged_state_is_found_when_one_copy_comes_back(tmp_path: Path) -> None:
    handle = InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
    for _ in range(2):
        handle.run_turn()
        handle.checkpoint()
    newest = max((tmp_path / "ck" / "states").glob("*-b_0-*"))
    newest.write_bytes(bytes(newest.stat().st_size))
    handle.crash(copy=1)
    assert handle.wait()["a"] == [ROWS]
    statistics = handle.checkpoint_statistics()
    assert (statistics.damaged, statistics.rollbacks) == (1, 1)


def test_a_manifest_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    first = InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
    first.checkpoint()
    first.stop()
    [manifest] = (tmp_path / "ck").glob("manifest-*")
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(CheckpointError, match=r"expected a manifest: .*Is a directory"):
        InlineHandle(pair(), checkpoints=checkpoints(tmp_path))
