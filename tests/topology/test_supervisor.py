"""Topologies in processes with checkpoints: what the handle answers and does about trouble.

Deaths are in tests/faults.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.exceptions import GetTimeoutError, TaskError
from engine.topology import (
    CheckpointError,
    Checkpoints,
    External,
    Member,
    Topology,
    TopologyError,
    TopologyHandle,
    forward,
)
from engine.topology.checkpoint import CheckpointDirectory
from engine.topology.plan import plan_topology
from engine.topology.process import MemberActor
from engine.topology.supervisor import SupervisedHandle
from tests.engine.support import eventually, kill9
from tests.faults.support import member_pids
from tests.topology.sleepers import (
    Blocked,
    Broken,
    Commits,
    Counter,
    Referring,
    Sums,
    Unpicklable,
)

pytestmark = pytest.mark.processes


def deploy(
    folder: Path,
    receiver: type[Member] = Sums,
    external: External | None = None,
    **options: Any,
) -> TopologyHandle:
    made = Topology("counting")
    made.member("counter", Counter, folder / "stop")
    made.member("sums", receiver)
    made.channel("counter", "sums", forward())
    policy = Checkpoints(directory=folder / "ck", **{"every": None, **options})
    return made.deploy(checkpoints=policy, external=external)


def end(folder: Path, handle: TopologyHandle) -> None:
    """Let the source end, and check the sum."""
    (folder / "stop").touch()
    results = handle.wait(timeout=30)
    [(count, total)] = results["sums"]
    assert results["counter"] == [count]
    assert total == count * (count - 1) // 2
    assert handle.wait() == results


def test_epochs_are_asked_for_and_counted(cluster: Any, tmp_path: Path) -> None:
    outside = Commits()
    with deploy(tmp_path, external=outside) as handle:
        assert "running" in repr(handle)
        assert handle.checkpoint(timeout=30) == 1
        assert handle.checkpoint(timeout=30) == 2
        statistics = handle.checkpoint_statistics()
        assert (statistics.commits, statistics.epoch, statistics.attempt) == (2, 2, 1)
        assert [one.member for one in handle.statistics()] == ["counter", "sums"]
        with pytest.raises(GetTimeoutError, match=r"(?s)has not ended within 0\.05.*counter\[0\]"):
            handle.wait(timeout=0.05)
        end(tmp_path, handle)
        assert "ended" in repr(handle)
        assert [one.member for one in handle.statistics()] == ["counter", "sums"]
        with pytest.raises(TopologyError, match="found that the topology has ended"):
            handle.checkpoint()
    assert outside.tokens == sorted(outside.tokens)
    assert len(outside.tokens) >= 2


def test_epochs_come_by_themselves(cluster: Any, tmp_path: Path) -> None:
    with deploy(tmp_path, every=0.02) as handle:
        eventually(lambda: handle.checkpoint_statistics().commits > 3, 20)
        end(tmp_path, handle)


def test_a_member_that_is_busy_makes_the_epoch_late(cluster: Any, tmp_path: Path) -> None:
    with deploy(tmp_path, Blocked, timeout=0.2) as handle:
        with pytest.raises(GetTimeoutError, match=r"no epoch of .* was committed within 0\.01 s"):
            handle.checkpoint(timeout=0.01)
        with pytest.raises(TopologyError, match=r"not complete within 0\.2 s: no state of \["):
            handle.checkpoint(timeout=30)
        assert handle.checkpoint_statistics().aborts >= 1

        def committed() -> bool:
            with contextlib.suppress(TopologyError):
                return handle.checkpoint(timeout=5) > 0
            return False

        eventually(committed, 20)
        end(tmp_path, handle)


def test_a_members_error_ends_it_and_the_checkpoint_stays(cluster: Any, tmp_path: Path) -> None:
    with deploy(tmp_path, Broken, every=0.01) as handle:
        with pytest.raises(LookupError, match="number one hundred") as caught:
            handle.wait(timeout=30)
        assert isinstance(caught.value, TaskError)
        with pytest.raises(LookupError):
            handle.wait()
        assert handle.checkpoint_statistics().rollbacks == 0
        assert "failed" in repr(handle)
    assert list((tmp_path / "ck").glob("manifest-*"))


def test_a_state_that_cannot_be_pickled_ends_it(cluster: Any, tmp_path: Path) -> None:
    with (
        deploy(tmp_path, Unpicklable, every=0.01) as handle,
        pytest.raises(TypeError, match=r"(?s)member 'sums' copy 0, snapshot.*cannot pickle"),
    ):
        handle.wait(timeout=30)


def test_a_result_that_cannot_be_kept_ends_it(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with (
        deploy(tmp_path, Referring) as handle,
        pytest.raises(CheckpointError, match="a state without references to objects"),
    ):
        handle.wait(timeout=30)


def test_what_comes_before_a_copy_has_started_waits_for_it(cluster: Any, tmp_path: Path) -> None:
    made = Topology("early")
    made.member("counter", Counter, tmp_path / "stop")
    made.member("sums", Sums)
    made.channel("counter", "sums", forward())
    plans = plan_topology(made)
    actors = [engine.remote(MemberActor).remote(b"early", plan) for plan in plans]
    engine.get([actor.__ray_ready__.remote() for actor in actors])
    addresses = {copy: actor._client.process for copy, actor in enumerate(actors)}
    engine.get([actor.configure.remote(addresses) for actor in actors])
    first = actors[0].start.remote()
    eventually(lambda: engine.get(actors[0].statistics.remote()).rows_out > 5)
    engine.get(actors[1].statistics.remote())  # and a turn of its loop, which finds frames
    second = actors[1].start.remote()
    (tmp_path / "stop").touch()
    sent, _ = engine.get(first)
    assert engine.get(second)[0] == (sent, sent * (sent - 1) // 2)


class Unbuildable(Sums):
    def __init__(self) -> None:
        raise OSError("no file")


def test_a_constructor_that_raises_ends_it(cluster: Any, tmp_path: Path) -> None:
    with (
        deploy(tmp_path, Unbuildable) as handle,
        pytest.raises(OSError, match="no file"),
    ):
        handle.wait(timeout=30)


def test_the_outside_failing_ends_it_and_the_next_run_commits(
    cluster: Any, tmp_path: Path
) -> None:
    outside = Commits()
    with deploy(tmp_path, external=outside) as handle:
        handle.checkpoint(timeout=30)
        outside.fail = True
        handle.checkpoint(timeout=30)  # which is kept: only what it was kept for is not there yet
        with pytest.raises(ConnectionError, match="does not answer") as caught:
            handle.wait(timeout=30)
        assert "while it was ended: the outside does not answer" in "".join(caught.value.__notes__)
    before, outside.fail = len(outside.tokens), False
    with deploy(tmp_path, external=outside) as handle:
        eventually(lambda: len(outside.tokens) > before, 20)  # those of the epoch that was stored
        end(tmp_path, handle)


def test_the_end_waits_for_room_on_the_disk(cluster: Any, tmp_path: Path) -> None:
    with deploy(tmp_path, every=0.05) as handle:
        eventually(lambda: handle.checkpoint_statistics().commits > 0, 20)
        states = tmp_path / "ck" / "states"
        aborts = handle.checkpoint_statistics().aborts
        states.rename(tmp_path / "away")
        states.write_text("no directory: nothing can be written here")
        (tmp_path / "stop").touch()
        eventually(lambda: handle.checkpoint_statistics().aborts > aborts, 20)
        with pytest.raises(GetTimeoutError):
            handle.wait(timeout=0.2)
        assert "Not a directory" in handle.checkpoint_statistics().last_abort
        states.unlink()
        (tmp_path / "away").rename(states)
        end(tmp_path, handle)


@pytest.mark.parametrize("deaths", [0, 1])
def test_results_come_after_the_last_commit(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    """The end of a copy is stored before it answers: the answer may be late, or never come."""
    on_ran = SupervisedHandle._on_ran

    def late(self: SupervisedHandle, number: int, index: int, future: Future[Any]) -> None:
        if not self._coordinator.finished:
            self._events.put(partial(late, self, number, index, future))
        elif number > deaths:
            on_ran(self, number, index, future)
        elif index == 0:  # once
            for pid in member_pids():  # and with it goes what was not heard yet
                kill9(pid)

    monkeypatch.setattr(SupervisedHandle, "_on_ran", late)
    with deploy(tmp_path, every=0.02) as handle:
        eventually(lambda: handle.checkpoint_statistics().commits > 0, 20)
        end(tmp_path, handle)
        assert handle.checkpoint_statistics().rollbacks == deaths


def test_stopped_is_stopped(cluster: Any, tmp_path: Path) -> None:
    handle = deploy(tmp_path)
    handle.checkpoint(timeout=30)
    handle.stop()
    handle.stop()
    with pytest.raises(TopologyError, match="it goes on from its checkpoints"):
        handle.wait()
    with deploy(tmp_path, resume=True) as again:
        end(tmp_path, again)


def test_a_savepoint_that_cannot_be_written_stops_nothing(cluster: Any, tmp_path: Path) -> None:
    taken = CheckpointDirectory(tmp_path / "save", keep=1)
    with deploy(tmp_path) as handle:
        with pytest.raises(CheckpointError, match="that another driver runs with"):
            handle.stop(savepoint=tmp_path / "save")
        taken.close()
        with pytest.raises(TopologyError, match="a directory of its own"):
            handle.stop(savepoint=tmp_path / "ck")
        end(tmp_path, handle)


def test_copies_find_a_damaged_state_and_all_go_back_one_epoch(
    cluster: Any, tmp_path: Path
) -> None:
    handle = deploy(tmp_path)
    for _ in range(2):
        eventually(lambda: sum(one.rows_out for one in handle.statistics()) > 5, 20)
        handle.checkpoint(timeout=30)
    handle.stop()
    newest = max((tmp_path / "ck" / "states").glob("*sums*"))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    with deploy(tmp_path) as again:
        eventually(lambda: again.checkpoint_statistics().epoch == 1, 20)
        statistics = again.checkpoint_statistics()
        assert (statistics.rollbacks, statistics.damaged) == (1, 1)
        end(tmp_path, again)


def test_nothing_is_left_when_all_is_damaged(cluster: Any, tmp_path: Path) -> None:
    handle = deploy(tmp_path)
    handle.checkpoint(timeout=30)
    handle.stop()
    for path in (tmp_path / "ck" / "states").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    with deploy(tmp_path) as again, pytest.raises(CheckpointError, match="only damaged ones"):
        again.wait(timeout=30)
    (tmp_path / "stop").touch()
    with deploy(tmp_path, resume=False) as anew:
        assert anew.wait(timeout=30)["counter"] == [0]


def test_it_ends_with_the_engine(tmp_path: Path) -> None:
    if engine.is_initialized():
        pytest.skip("needs an engine of its own")
    engine.init(num_cpus=1)
    handle = deploy(tmp_path)
    handle.checkpoint(timeout=30)
    engine.shutdown()
    with pytest.raises(Exception, match=r"shut down|is gone|has ended"):
        handle.wait(timeout=30)
    handle.stop()
    assert not engine.is_initialized()
