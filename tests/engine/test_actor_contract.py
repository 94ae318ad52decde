"""What Ray promises of actors, line by line: ends, options of methods, handles, restarts."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
import engine.actor
from engine import exceptions
from engine.actor import exit_actor
from tests.engine.support import alive, attempts, eventually, node_pid

SECONDS = 15.0


def append(path: str) -> None:
    """A line in a file: something has run."""
    with open(path, "a") as file:
        file.write("x\n")


class Base:
    """Methods that all the kinds of actors below share."""

    def __init__(self, farewell: str = "") -> None:
        if farewell:
            atexit.register(append, farewell)

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        exit_actor()

    def leave_from_a_generator(self) -> Any:
        yield 1
        exit_actor()

    def sleep(self, path: str) -> None:
        append(path)
        time.sleep(600)


class Coroutines(Base):
    """The same in an event loop."""

    async def leave(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        exit_actor()

    async def leave_from_a_generator(self) -> Any:
        yield 1
        exit_actor()

    async def leave_from_a_task(self) -> None:
        async def leave() -> None:
            exit_actor()

        await asyncio.create_task(leave())

    async def leave_from_a_thread(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, exit_actor)


KINDS = {
    "plain": engine.remote(num_cpus=0)(Base),
    "threaded": engine.remote(num_cpus=0, max_concurrency=3)(Base),
    "async": engine.remote(num_cpus=0)(Coroutines),
}
WAYS = [
    (kind, way)
    for kind in KINDS
    for way in ("leave", "leave_from_a_generator", "leave_from_a_task", "leave_from_a_thread")
    if kind == "async" or way in ("leave", "leave_from_a_generator")
]


@pytest.mark.parametrize(("kind", "way"), WAYS)
def test_exit_actor_is_final_and_graceful(
    cluster: Any, tmp_path: Path, kind: str, way: str
) -> None:
    farewell = tmp_path / "farewell"
    actor = KINDS[kind].options(max_restarts=3).remote(str(farewell))
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    found = getattr(actor, way).remote()
    refs = [found] if isinstance(found, engine.ObjectRef) else list(found)
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        cluster.get(refs[-1], timeout=SECONDS)
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        cluster.get(actor.pid.remote(), timeout=SECONDS)
    eventually(lambda: not alive(pid))
    assert attempts(farewell) == 1


def test_exit_actor_in_the_constructor(cluster: Any) -> None:
    @cluster.remote(num_cpus=0, max_restarts=3)
    class Unwilling:
        def __init__(self) -> None:
            exit_actor()

        def f(self) -> None:
            return None

    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        cluster.get(Unwilling.remote().f.remote(), timeout=SECONDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_terminate_is_queued_and_graceful_and_kill_is_not(
    cluster: Any, tmp_path: Path, kind: str
) -> None:
    farewell = tmp_path / "farewell"
    actor = KINDS[kind].remote(str(farewell))
    pids = [actor.pid.remote() for _ in range(20)]
    ended = actor.__ray_terminate__.remote()
    (pid,) = set(cluster.get(pids, timeout=SECONDS))
    with pytest.raises(exceptions.ActorDiedError, match="__ray_terminate__"):
        cluster.get(ended, timeout=SECONDS)
    eventually(lambda: not alive(pid))
    assert attempts(farewell) == 1
    actor = KINDS[kind].remote(str(farewell))
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    cluster.kill(actor)
    eventually(lambda: not alive(pid))
    assert attempts(farewell) == 1


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_last_handle_is_graceful_too(cluster: Any, tmp_path: Path, kind: str) -> None:
    farewell = tmp_path / "farewell"
    actor = KINDS[kind].remote(str(farewell))
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    del actor
    gc.collect()
    cluster.put(None)
    eventually(lambda: not alive(pid))
    assert attempts(farewell) == 1


@pytest.mark.parametrize("kind", list(KINDS))
def test_probes_of_every_kind(cluster: Any, kind: str) -> None:
    actor = KINDS[kind].remote()
    assert cluster.get(actor.__ray_ready__.remote(), timeout=SECONDS) is True
    found = cluster.get(actor.__ray_call__.remote(lambda self, k: (self.pid(), k), 2))
    assert found == (cluster.get(actor.pid.remote()), 2)


def test_ready_waits_for_the_constructor(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    class Slow:
        def __init__(self, path: str) -> None:
            while not os.path.exists(path):
                time.sleep(0.001)

    slow = Slow.remote(str(gate))
    ready = slow.__ray_ready__.remote()
    assert cluster.wait([ready], timeout=0.05)[0] == []
    gate.touch()
    assert cluster.get(ready, timeout=SECONDS) is True


# ---------------------------------------------------------------------------- methods' options


@engine.remote(num_cpus=0, max_restarts=-1)
class Failing:
    """Fails a given number of times, by an error or by its death."""

    @engine.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return 1, 2

    @engine.method(max_task_retries=3, retry_exceptions=[OSError])
    def raise_os_error(self, path: str, times: int) -> int:
        append(path)
        if attempts(Path(path)) <= times:
            raise OSError("again")
        return attempts(Path(path))

    def raise_value_error(self, path: str, times: int) -> int:
        append(path)
        if attempts(Path(path)) <= times:
            raise ValueError("again")
        return attempts(Path(path))

    def die(self, path: str, times: int) -> int:
        append(path)
        if attempts(Path(path)) <= times:
            os._exit(1)
        return attempts(Path(path))


def test_num_returns_of_the_method_and_of_the_call(cluster: Any) -> None:
    actor = Failing.remote()
    assert cluster.get(actor.pair.remote(), timeout=SECONDS) == [1, 2]
    assert cluster.get(actor.pair.options(num_returns=1).remote(), timeout=SECONDS) == (1, 2)
    assert actor.pair.options(num_returns=0).remote() is None
    items = actor.pair.options(num_returns="streaming").remote()
    assert cluster.get(list(items), timeout=SECONDS) == [1, 2]


def test_retries_of_the_method_and_of_the_call(cluster: Any, tmp_path: Path) -> None:
    actor = Failing.remote()
    assert cluster.get(actor.raise_os_error.remote(str(tmp_path / "a"), 2), timeout=SECONDS) == 3
    with pytest.raises(OSError, match="again"):
        cluster.get(actor.raise_os_error.remote(str(tmp_path / "b"), 9), timeout=SECONDS)
    assert attempts(tmp_path / "b") == 4
    never = actor.raise_os_error.options(retry_exceptions=False)
    with pytest.raises(OSError, match="again"):
        cluster.get(never.remote(str(tmp_path / "c"), 1), timeout=SECONDS)
    again = actor.raise_value_error.options(max_task_retries=2, retry_exceptions=True)
    assert cluster.get(again.remote(str(tmp_path / "d"), 2), timeout=SECONDS) == 3


def test_a_call_with_endless_retries_outlives_its_actors_deaths(
    cluster: Any, tmp_path: Path
) -> None:
    actor = Failing.remote()
    with pytest.raises(exceptions.ActorUnavailableError, match="max_task_retries"):
        cluster.get(actor.die.remote(str(tmp_path / "a"), 1), timeout=SECONDS)
    endless = actor.die.options(max_task_retries=-1)
    assert cluster.get(endless.remote(str(tmp_path / "b"), 4), timeout=SECONDS) == 5
    once = actor.die.options(max_task_retries=1)
    with pytest.raises(exceptions.ActorUnavailableError):
        cluster.get(once.remote(str(tmp_path / "c"), 9), timeout=SECONDS)
    assert attempts(tmp_path / "c") == 2


def test_the_name_of_a_call_is_in_what_is_said_of_it(cluster: Any, tmp_path: Path) -> None:
    actor = KINDS["plain"].remote()
    running = actor.sleep.remote(str(tmp_path / "mark"))
    named = actor.pid.options(name="who are you").remote()
    eventually(lambda: attempts(tmp_path / "mark") == 1)
    cluster.cancel(named)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(named, timeout=SECONDS)
    later = actor.pid.options(name="and you").remote()
    cluster.kill(actor)
    with pytest.raises(exceptions.ActorDiedError, match="and you"):
        cluster.get(later, timeout=SECONDS)
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(running, timeout=SECONDS)


# ------------------------------------------------------------------------------------- handles


def test_a_handle_inside_a_value_keeps_the_actor(cluster: Any) -> None:
    actor = KINDS["plain"].remote()
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    box = cluster.put({"actor": [actor]})
    del actor
    gc.collect()
    cluster.put(None)
    (found,) = cluster.get(box)["actor"]
    assert cluster.get(found.pid.remote(), timeout=SECONDS) == pid
    del box, found
    gc.collect()
    cluster.put(None)
    eventually(lambda: not alive(pid))


def test_a_handle_in_a_pending_task_keeps_the_actor(cluster: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def late(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.001)
        return 1

    @cluster.remote(num_cpus=0)
    def use(actor: Any, _x: int) -> int:
        return int(cluster.get(actor.pid.remote()))

    actor = KINDS["plain"].remote()
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    ref = use.remote(actor, late.remote(str(gate)))
    del actor
    gc.collect()
    cluster.put(None)
    gate.touch()
    assert cluster.get(ref, timeout=SECONDS) == pid


def test_an_actor_made_and_returned_by_an_actor(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    class Maker:
        def make(self) -> list[Any]:
            return [KINDS["plain"].remote(), {"async": KINDS["async"].remote()}]

    maker = Maker.remote()
    one, two = cluster.get(maker.make.remote(), timeout=SECONDS)
    pids = cluster.get([one.pid.remote(), two["async"].pid.remote()], timeout=SECONDS)
    assert len(set(pids)) == 2
    cluster.kill(maker)
    for actor in (one, two["async"]):
        with pytest.raises(exceptions.ActorDiedError):
            eventually(lambda actor=actor: cluster.get(actor.pid.remote(), timeout=SECONDS) == -1)


def test_get_or_create_from_everywhere_makes_one(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    def reach() -> int:
        actor = KINDS["plain"].options(
            name="single", get_if_exists=True, lifetime="detached"
        ).remote()
        return int(engine.get(actor.pid.remote()))

    pids = cluster.get([reach.remote() for _ in range(6)], timeout=SECONDS)
    assert len(set(pids)) == 1
    cluster.kill(cluster.get_actor("single"))


def test_a_name_is_found_while_an_argument_of_the_constructor_is_pending(
    cluster: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    @cluster.remote(num_cpus=0)
    def late(path: str, fail: bool) -> str:
        while not os.path.exists(path):
            time.sleep(0.001)
        if fail:
            raise LookupError("no argument")
        return ""

    @cluster.remote(num_cpus=0)
    def use(name: str) -> int:
        return int(cluster.get(engine.get_actor(name).pid.remote()))

    good = KINDS["plain"].options(name="good").remote(late.remote(str(gate), False))
    bad = KINDS["plain"].options(name="bad").remote(late.remote(str(gate), True))
    refs = [use.remote("good"), use.remote("bad")]
    early = [cluster.get_actor("good").pid.remote(), cluster.get_actor("bad").pid.remote()]
    cluster.wait(refs, timeout=0.1)
    gate.touch()
    assert cluster.get(refs[0], timeout=SECONDS) == cluster.get(early[0], timeout=SECONDS)
    for ref in (early[1], bad.pid.remote()):
        with pytest.raises(LookupError, match="no argument"):
            cluster.get(ref, timeout=SECONDS)
    with pytest.raises((exceptions.ActorDiedError, ValueError)):
        cluster.get(refs[1], timeout=SECONDS)
    cluster.kill(good)


def test_a_handle_dropped_before_the_arguments_came_leaves_no_actor(
    cluster: Any, tmp_path: Path
) -> None:
    gate, born = tmp_path / "gate", tmp_path / "born"

    @cluster.remote(num_cpus=0)
    def late(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.001)
        return path

    @cluster.remote(num_cpus=0)
    class Unwanted:
        def __init__(self, _path: str, born: str) -> None:
            append(born)

    argument = late.remote(str(gate))
    Unwanted.remote(argument, str(born))
    Unwanted.options(name="unwanted").remote(argument, str(born))
    gc.collect()
    cluster.put(None)
    gate.touch()
    cluster.get(argument, timeout=SECONDS)
    fresh = Unwanted.options(name="unwanted").remote("", str(born))
    assert cluster.get(fresh.__ray_ready__.remote(), timeout=SECONDS) is True
    assert attempts(born) == 1


def test_get_actor_has_a_time_limit(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.actor, "_FIND_SECONDS", 0.05)
    os.kill(node_pid(), signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.GetTimeoutError, match="find_actor"):
            cluster.get_actor("nobody")
    finally:
        os.kill(node_pid(), signal.SIGCONT)
    with pytest.raises(ValueError, match="no actor named 'nobody'"):
        cluster.get_actor("nobody")


# ------------------------------------------------------------------------------------ restarts


def test_kill_with_restart_uses_up_the_restarts(cluster: Any) -> None:
    actor = KINDS["plain"].options(max_restarts=2, max_task_retries=-1).remote()
    pids = [cluster.get(actor.pid.remote(), timeout=SECONDS)]
    for _ in range(2):
        cluster.kill(actor, no_restart=False)
        pids.append(cluster.get(actor.pid.remote(), timeout=SECONDS))
    assert len(set(pids)) == 3
    cluster.kill(actor, no_restart=False)
    with pytest.raises(exceptions.ActorDiedError, match=r"engine\.kill"):
        cluster.get(actor.pid.remote(), timeout=SECONDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_restarted(cluster: Any, kind: str) -> None:
    actor = KINDS[kind].options(max_restarts=1, max_task_retries=1).remote()
    first = cluster.get(actor.pid.remote(), timeout=SECONDS)
    os.kill(first, signal.SIGKILL)
    second = eventually(
        lambda: (pid := cluster.get(actor.pid.remote(), timeout=SECONDS)) != first and pid
    )
    assert alive(second)


def test_many_threads_call_one_actor_in_order_each(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[int, int]] = []

        def add(self, who: int, number: int) -> None:
            self.lines.append((who, number))

        def read(self) -> list[tuple[int, int]]:
            return self.lines

    log = Log.remote()

    def work(who: int) -> None:
        for number in range(100):
            log.add.remote(who, number)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = cluster.get(log.read.remote(), timeout=SECONDS)
    for who in range(4):
        assert [number for one, number in lines if one == who] == list(range(100))
