"""Topologies in rare trouble: each way out that hardly any run takes is taken here."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import engine
from engine.core.messages import ChannelFrame
from engine.core.values import Value
from engine.exceptions import GetTimeoutError, ObjectLostError
from engine.topology import Checkpoints, InlineHandle, Member, Topology, forward
from engine.topology.deploy import ProcessHandle
from engine.topology.durable import read_whole
from engine.topology.errors import LostSenderError
from engine.topology.frames import Data
from engine.topology.process import MemberActor
from tests.engine.support import eventually, gone, kill9
from tests.faults.support import member_pids
from tests.topology.members import HandClock, Numbers, Relay
from tests.topology.sleepers import Commits, Counter, Sums


def counting(folder: Path) -> Topology:
    made = Topology("counting")
    made.member("counter", Counter, folder / "stop")
    made.member("sums", Sums)
    made.channel("counter", "sums", forward())
    return made


class Doomed(Counter):
    """Its process ends as soon as the file is there."""

    def poll(self) -> bool:
        if self.stop.exists():
            os._exit(3)
        self.ctx.wake_after(self.pause)
        return False


class Failing(Counter):
    """Raises as soon as the file is there."""

    def poll(self) -> bool:
        if self.stop.exists():
            raise LookupError("its own error")
        self.ctx.wake_after(self.pause)
        return False


def test_a_wait_without_checkpoints_may_be_short(cluster: Any, tmp_path: Path) -> None:
    with counting(tmp_path).deploy() as handle:
        with pytest.raises(GetTimeoutError, match=r"(?s)has not ended within.*counter\[0\]"):
            handle.wait(timeout=0.05)
        (tmp_path / "stop").touch()
        handle.wait(timeout=30)


def test_a_dead_copy_is_part_of_the_picture(cluster: Any, tmp_path: Path) -> None:
    with counting(tmp_path).deploy() as handle:
        attempt: Any = handle._attempt  # type: ignore[attr-defined]
        pids = eventually(member_pids)
        for pid in pids:
            kill9(pid)
        eventually(lambda: gone(pids))
        assert "SIGKILL" in "\n".join(eventually(attempt.describe))


def test_the_error_of_a_member_says_more_than_the_death_of_another(
    cluster: Any, tmp_path: Path
) -> None:
    made = Topology("unlucky")
    made.member("doomed", Doomed, tmp_path / "stop")
    made.member("failing", Failing, tmp_path / "stop")
    made.member("sink", Member)
    made.channel("doomed", "sink", forward())
    made.channel("failing", "sink", forward())
    with made.deploy() as handle:
        running = handle._attempt.running  # type: ignore[attr-defined]
        (tmp_path / "stop").touch()
        engine.wait(running, num_returns=len(running), timeout=20)
        with pytest.raises(LookupError, match="its own error"):
            handle.wait(timeout=30)


def test_the_error_of_a_member_is_behind_the_deaths_that_it_looked_like(cluster: Any) -> None:
    """A copy that has heard of another's end before its own error was known says less."""

    @cluster.remote(max_retries=0)
    def ends(error: Exception) -> None:
        raise error

    seen = LostSenderError("as it looks from afar")
    running = [ends.remote(seen), ends.remote(LookupError("its own error"))]
    cluster.wait(running, num_returns=2, timeout=20)
    handle: Any = SimpleNamespace(_attempt=SimpleNamespace(running=running))
    assert "its own error" in str(ProcessHandle._first_cause(handle, seen))


def test_statistics_while_all_copies_are_dead_are_the_last_known(
    cluster: Any, tmp_path: Path
) -> None:
    policy = Checkpoints(directory=tmp_path / "ck", every=None)
    with counting(tmp_path).deploy(checkpoints=policy) as handle:
        eventually(lambda: sum(one.rows_out for one in handle.statistics()) > 5, 20)
        go_on, reached = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            go_on.wait(30)

        handle._events.put(hold)  # type: ignore[attr-defined]
        assert reached.wait(30), "the copies are not started again meanwhile"
        pids = member_pids()
        for pid in pids:
            kill9(pid)
        eventually(lambda: gone(pids))
        assert sum(one.rows_out for one in handle.statistics()) > 5
        go_on.set()
        eventually(lambda: handle.checkpoint_statistics().rollbacks == 1, 20)
        (tmp_path / "stop").touch()
        handle.wait(timeout=30)


def test_the_outside_failing_ends_an_inline_run(tmp_path: Path) -> None:
    made = Topology("inline")
    made.member("numbers", Numbers, 100, (1,))
    made.member("relay", Relay)
    made.channel("numbers", "relay", forward())
    outside, clock = Commits(), HandClock()
    policy = Checkpoints(directory=tmp_path / "ck", every=1.0)
    handle = InlineHandle(
        made, checkpoints=policy, external=outside, clock=clock, sleep=clock.sleep
    )
    while not all(loop.ended for loop in handle.loops):
        handle.run_turn()
    outside.fail = True
    clock.now += 1.0
    with pytest.raises(ConnectionError, match="does not answer") as caught:
        handle.run_turn()
    assert type(caught.value) is ConnectionError, "not a member's"
    with pytest.raises(ConnectionError, match="does not answer"):
        handle.run_turn()


def test_a_state_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: .*No such file"):
        read_whole(tmp_path / "state", 10, "")


def test_what_went_with_its_senders_memory_has_never_come() -> None:
    """A frame is there and its value is not: the sender is dead, and will come back alone."""
    dead = {b"address"}

    def lost(*_: Any) -> Any:
        raise ObjectLostError("the segment is gone")

    actor: Any = SimpleNamespace(
        _runtime=SimpleNamespace(
            values=SimpleNamespace(materialise=lost),
            owner=SimpleNamespace(is_dead=dead.__contains__),
        ),
        _copies={(1, 0): 7}, _addresses={7: b"address"}, _torn=set(), _stale=0, _is_local=True,
    )  # fmt: skip
    frame = msgspec.msgpack.encode(Data(1, 0, 5, 10, 80, 1))
    item = ChannelFrame(b"topology", 3, frame, Value(b""))
    assert MemberActor._unpack(actor, item) is None
    assert MemberActor._unpack(actor, item) is None, "nor what follows it"
    assert (actor._torn, actor._stale) == ({7}, 2)
    dead.clear()
    actor._torn.clear()
    with pytest.raises(ObjectLostError):  # it lives: that is no death of a copy
        MemberActor._unpack(actor, item)
