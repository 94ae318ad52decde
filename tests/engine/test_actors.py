"""Actors: order, handles, names, lifetime, restarts."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from tests.engine.support import alive, attempts, eventually, home

SECONDS = 10.0


@engine.remote
class Counter:
    """Counts; tells its pid; can misbehave."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def pid(self) -> int:
        return os.getpid()

    def boom(self) -> None:
        raise LookupError("boom")

    @engine.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.n, -self.n


def test_calls_of_one_caller_arrive_in_order(cluster: Any) -> None:
    counter = Counter.remote(10)
    assert cluster.get([counter.add.remote() for _ in range(500)]) == list(range(11, 511))


def test_state_stays_and_processes_differ(cluster: Any) -> None:
    one, two = Counter.remote(), Counter.remote(100)
    cluster.get([one.add.remote(5), two.add.remote(5)])
    assert cluster.get([one.add.remote(0), two.add.remote(0)]) == [5, 105]
    pids = cluster.get([one.pid.remote(), two.pid.remote()])
    assert len({*pids, os.getpid()}) == 3


def test_a_call_with_a_pending_argument_holds_back_those_behind(cluster: Any) -> None:
    @cluster.remote
    def slow() -> int:
        time.sleep(0.05)
        return 100

    counter = Counter.remote()
    refs = [counter.add.remote(), counter.add.remote(slow.remote()), counter.add.remote()]
    assert cluster.get(refs) == [1, 101, 102]


def test_method_options(cluster: Any) -> None:
    counter = Counter.remote(3)
    one, two = counter.pair.remote()
    assert cluster.get([one, two]) == [3, -3]
    assert cluster.get(counter.pair.options(num_returns=1).remote()) == (3, -3)


def test_an_error_leaves_the_actor_alive(cluster: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(LookupError, match="boom"):
        cluster.get(counter.boom.remote())
    assert cluster.get(counter.add.remote()) == 1


def test_handles_can_be_passed_on(cluster: Any) -> None:
    @cluster.remote
    def use(handle: Any, box: list[Any]) -> int:
        return cluster.get(handle.add.remote(1)) + cluster.get(box[0].add.remote(10))

    counter = Counter.remote()
    assert cluster.get(use.remote(counter, [counter])) == 1 + 11
    assert cluster.get(counter.add.remote(0)) == 11


def test_handles_compare_by_actor(cluster: Any) -> None:
    @cluster.remote
    def echo(handle: Any) -> Any:
        return handle

    one, two = Counter.remote(), Counter.remote()
    assert cluster.get(echo.remote(one)) == one
    assert one != two
    assert len({one, two, cluster.get(echo.remote(two))}) == 2


def test_more_handles_in_one_argument_than_descriptors_in_a_message(cluster: Any) -> None:
    """Whoever gets a hundred handles of a living actor gets them, and the node survives."""
    counters = [Counter.options(num_cpus=0).remote(n) for n in range(70)]
    cluster.get([counter.add.remote(0) for counter in counters], timeout=40)

    @cluster.remote
    def total(handles: list[Any]) -> int:
        return sum(cluster.get([handle.add.remote(0) for handle in handles]))

    assert cluster.get(total.remote(counters), timeout=40) == sum(range(70))


def test_an_actor_ends_with_its_last_handle(cluster: Any) -> None:
    counter = Counter.remote()
    pid = cluster.get(counter.pid.remote())
    other = counter
    del counter
    gc.collect()
    assert cluster.get(other.add.remote()) == 1
    del other
    gc.collect()
    cluster.put(None)  # tells the engine of the references that died
    eventually(lambda: not alive(pid), what="the actor's process")


def test_pending_calls_run_after_the_last_handle_is_gone(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    class Writer:
        def write(self, path: str) -> int:
            time.sleep(0.005)
            with open(path, "a") as file:
                file.write("x\n")
            return 7

    writer = Writer.remote()
    refs = [writer.write.remote(str(tmp_path / "out")) for _ in range(10)]
    del writer
    gc.collect()
    assert cluster.get(refs, timeout=SECONDS) == [7] * 10
    assert attempts(tmp_path / "out") == 10


def test_a_dropped_actor_gives_its_resources_back(cluster: Any) -> None:
    total = cluster.cluster_resources()
    counters = [Counter.options(num_cpus=1).remote() for _ in range(2)]
    cluster.get([counter.add.remote() for counter in counters])
    assert cluster.available_resources().get("CPU", 0) == 0
    del counters
    gc.collect()
    cluster.put(None)
    eventually(lambda: cluster.available_resources() == total)


def test_named_actors(cluster: Any) -> None:
    counter = Counter.options(name="hits").remote()
    same = cluster.get_actor("hits")
    assert same == counter
    assert cluster.get(same.add.remote(2)) == 2
    with pytest.raises(ValueError, match=r"'hits' lives in namespace 'default' already.*get_actor"):
        Counter.options(name="hits").remote()
    again = Counter.options(name="hits", get_if_exists=True).remote()
    assert cluster.get(again.add.remote(2)) == 4

    @cluster.remote
    def find() -> int:
        return cluster.get(cluster.get_actor("hits").add.remote(2))

    assert cluster.get(find.remote()) == 6
    cluster.kill(counter)
    eventually(lambda: _find("hits") is None)
    fresh = Counter.options(name="hits").remote()
    assert cluster.get(fresh.add.remote(1)) == 1
    cluster.kill(fresh)


def test_a_name_is_found_at_once_even_before_the_actor_is_ready(cluster: Any) -> None:
    @cluster.remote
    class Slow:
        def __init__(self) -> None:
            time.sleep(0.1)

        def hello(self) -> str:
            return "hello"

    slow = Slow.options(name="slow").remote()
    assert cluster.get(cluster.get_actor("slow").hello.remote(), timeout=SECONDS) == "hello"
    cluster.kill(slow)


def test_namespaces_keep_names_apart(cluster: Any) -> None:
    one = Counter.options(name="n", namespace="red").remote(1)
    two = Counter.options(name="n", namespace="blue").remote(2)
    assert cluster.get_actor("n", namespace="red") == one
    assert cluster.get_actor("n", namespace="blue") == two
    assert _find("n") is None


def test_a_name_is_free_again_when_its_arguments_cannot_be_pickled(cluster: Any) -> None:
    with pytest.raises(TypeError, match="lock"):
        Counter.options(name="unborn").remote(threading.Lock())
    counter = Counter.options(name="unborn").remote()
    assert cluster.get(counter.add.remote(), timeout=SECONDS) == 1


def test_a_name_is_free_again_when_an_argument_failed(cluster: Any) -> None:
    @cluster.remote
    def fail() -> int:
        raise ValueError("no start value")

    counter = Counter.options(name="stillborn").remote(fail.remote())
    with pytest.raises(ValueError, match="no start value"):
        cluster.get(counter.add.remote(), timeout=SECONDS)
    del counter
    gc.collect()
    cluster.put(None)

    def again() -> Any:
        try:
            return Counter.options(name="stillborn").remote()
        except ValueError:
            return None

    fresh = eventually(again, what="the name is free")
    assert cluster.get(fresh.add.remote(), timeout=SECONDS) == 1


def _find(name: str) -> Any:
    try:
        return engine.get_actor(name)
    except ValueError:
        return None


def test_a_constructor_that_raises_fails_every_call(cluster: Any) -> None:
    @cluster.remote
    class Bad:
        def __init__(self) -> None:
            raise KeyError("constructor")

        def f(self) -> None:
            return None

    bad = Bad.remote()
    early = bad.f.remote()
    with pytest.raises(KeyError, match=r"Bad\.__init__"):
        cluster.get(early, timeout=SECONDS)
    with pytest.raises(KeyError, match="constructor"):
        cluster.get(bad.f.remote(), timeout=SECONDS)


def test_a_constructor_may_use_the_engine(cluster: Any) -> None:
    @cluster.remote
    def f() -> int:
        return 4

    @cluster.remote
    class Clever:
        def __init__(self, ref: list[Any]) -> None:
            self.x = cluster.get(f.remote()) + cluster.get(ref[0])

        def get(self) -> int:
            return self.x

    assert cluster.get(Clever.remote([cluster.put(3)]).get.remote(), timeout=SECONDS) == 7


def test_kill_fails_pending_and_later_calls(cluster: Any) -> None:
    counter = Counter.remote()
    pid = cluster.get(counter.pid.remote())
    cluster.kill(counter)
    with pytest.raises(exceptions.ActorDiedError, match=r"was killed by engine\.kill\(\)"):
        cluster.get(counter.add.remote(), timeout=SECONDS)
    with pytest.raises(exceptions.ActorDiedError, match=str(pid)):
        cluster.get([counter.add.remote() for _ in range(3)], timeout=SECONDS)
    cluster.kill(counter)  # again: nothing happens


def test_an_actor_killed_before_it_was_placed(cluster: Any) -> None:
    holders = [Counter.options(num_cpus=1).remote() for _ in range(2)]
    cluster.get([one.add.remote() for one in holders])
    waiting = Counter.options(num_cpus=1).remote()
    ref = waiting.add.remote()
    cluster.kill(waiting)
    with pytest.raises(exceptions.ActorDiedError, match="killed"):
        cluster.get(ref, timeout=SECONDS)


def test_restarts_and_retries(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(max_restarts=2, max_task_retries=1)
    class Phoenix:
        def __init__(self, path: str) -> None:
            self.path = path
            with open(path + ".births", "a") as file:
                file.write("x\n")

        def pid(self) -> int:
            return os.getpid()

        def die_once(self) -> int:
            with open(self.path + ".calls", "a") as file:
                file.write("x\n")
            if os.path.getsize(self.path + ".calls") == 2:
                os._exit(1)
            return os.getpid()

    path = str(tmp_path / "phoenix")
    phoenix = Phoenix.remote(path)
    first = cluster.get(phoenix.pid.remote())
    second = cluster.get(phoenix.die_once.remote(), timeout=SECONDS)
    assert first != second
    cluster.kill(phoenix, no_restart=False)
    third = eventually(lambda: _pid(phoenix, second))
    assert attempts(tmp_path / "phoenix.births") == 3
    os.kill(third, 9)
    with pytest.raises(exceptions.ActorDiedError):
        eventually(lambda: cluster.get(phoenix.pid.remote(), timeout=SECONDS) == -1)
    assert attempts(tmp_path / "phoenix.births") == 3


def _pid(actor: Any, old: int) -> int:
    try:
        found = int(engine.get(actor.pid.remote(), timeout=SECONDS))
    except exceptions.ActorUnavailableError:
        return 0
    return found if found != old else 0


def test_without_task_retries_a_call_under_way_is_unavailable(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(max_restarts=1)
    class Mortal:
        def die(self, path: str) -> None:
            open(path, "a").close()
            os._exit(3)

        def hello(self) -> str:
            return "hello"

    mortal = Mortal.remote()
    ref = mortal.die.remote(str(tmp_path / "x"))
    with pytest.raises(exceptions.ActorUnavailableError, match="max_task_retries"):
        cluster.get(ref, timeout=SECONDS)
    assert cluster.get(mortal.hello.remote(), timeout=SECONDS) == "hello"


def test_probes(cluster: Any) -> None:
    counter = Counter.remote(5)
    assert cluster.get(counter.__ray_ready__.remote()) is True
    found = cluster.get(counter.__ray_call__.remote(lambda self, k: self.n + k, 2))
    assert found == 7
    pid = cluster.get(counter.pid.remote())
    ref = counter.__ray_terminate__.remote()
    eventually(lambda: not alive(pid))
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(ref, timeout=SECONDS)


def test_actors_made_by_a_dead_actor_die_too(cluster: Any) -> None:
    @cluster.remote
    class Parent:
        def __init__(self) -> None:
            self.child = Counter.remote()

        def pids(self) -> tuple[int, int]:
            return os.getpid(), engine.get(self.child.pid.remote())

    parent = Parent.remote()
    mine, childs = cluster.get(parent.pids.remote())
    os.kill(mine, 9)
    eventually(lambda: not alive(childs), what="the child's process")


def test_a_detached_actor_outlives_its_creator(cluster: Any) -> None:
    @cluster.remote
    class Parent:
        def make(self) -> int:
            child = Counter.options(name="orphan", lifetime="detached").remote(7)
            return engine.get(child.pid.remote())

    parent = Parent.remote()
    pid = cluster.get(parent.make.remote())
    cluster.kill(parent)
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(parent.make.remote(), timeout=SECONDS)
    orphan = cluster.get_actor("orphan")
    assert cluster.get(orphan.add.remote(), timeout=SECONDS) == 8
    assert cluster.get(orphan.pid.remote()) == pid
    cluster.kill(orphan)


def test_a_dead_client_is_forgotten(cluster: Any) -> None:
    """A driver that makes and drops actors all day does not keep a record of each."""
    before = len(home().owner.callers.actors)
    for _ in range(5):
        cluster.get(Counter.remote().add.remote())
    gc.collect()
    cluster.put(None)
    eventually(lambda: len(home().owner.callers.actors) <= before + 1, what="callers' records")


def test_a_handle_pickled_by_hand_is_refused(cluster: Any) -> None:
    counter = Counter.remote()
    with pytest.raises(exceptions.OutOfBandObjectRefSerializationException, match=r"engine\.put"):
        pickle.dumps(counter)


def test_an_actor_may_call_itself_and_hand_the_result_out(cluster: Any) -> None:
    """There is no line from a process to itself; its answers reach it all the same."""

    @cluster.remote
    class Caller:
        def one(self) -> int:
            return 1

        def items(self) -> Any:
            yield from range(3)

        def again(self, me: Any) -> list[Any]:
            return [me.one.remote()]

        def stream(self, me: Any) -> None:
            self.mine = me.items.options(num_returns="streaming").remote()

        def taken(self) -> list[int]:
            return [cluster.get(ref) for ref in self.mine]

    caller = Caller.remote()
    (inner,) = cluster.get(caller.again.remote(caller), timeout=SECONDS)
    assert cluster.get(inner, timeout=SECONDS) == 1
    cluster.get(caller.stream.remote(caller), timeout=SECONDS)
    cluster.get(caller.one.remote(), timeout=SECONDS)  # its call to itself is in its queue now
    assert cluster.get(caller.taken.remote(), timeout=SECONDS) == [0, 1, 2]
