"""Scopes: what lies in them outlives drivers, its keeper, and with a directory the node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.config import Config
from engine.exceptions import ObjectLostError, TaskError
from tests.engine.support import alive, attempts, eventually, kill9, run_script
from tests.engine.test_standing import Standing, penstock, standing

__all__ = ["standing"]


@pytest.fixture
def own_engine(leak_check: None, no_engine: Any) -> Iterator[None]:
    """An embedded engine of two CPUs, with a store that spills soon."""
    engine.init(num_cpus=2, object_store_memory=64 << 20)
    yield
    engine.shutdown()


def noted(path: str, value: Any = 1, *_others: Any) -> Any:
    """A task that leaves a line in a file each time it runs."""
    with open(path, "a") as file:
        file.write("x\n")
    return value


class Counter:
    """An actor with a state."""

    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()


def keeper_pid(name: str = "s") -> int:
    """The process that keeps a scope."""
    found = engine.state.list_actors(
        filters=[("class_name", "=", "Keeper"), ("name", "=", name), ("state", "=", "ALIVE")]
    )
    return int(found[0].pid) if found else 0


def kill_keeper(name: str = "s") -> None:
    """SIGKILL, and wait until another process keeps the scope."""
    pid = eventually(lambda: keeper_pid(name))
    kill9(pid)
    eventually(lambda: keeper_pid(name) not in (0, pid))


def test_what_a_scope_is(own_engine: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scope is named 's'; there are: none"):
        engine.get_scope("s")
    scope = engine.detached("s")
    assert engine.list_scopes() == ["s"]
    assert (len(scope), list(scope)) == (0, [])
    add = engine.remote(lambda x, y: x + y)
    one = scope.put("one", 1)
    assert engine.get(scope.submit("three", add, one, y=2)) == 3
    assert engine.get(scope.submit("four", add, engine.put(3), 1)) == 4, "its value is copied"
    assert engine.get(scope.put("five", add.remote(2, 3))) == 5
    assert engine.get(scope.submit("none", engine.remote(lambda: None))) is None
    counter = scope.create("counter", engine.remote(Counter))
    assert engine.get(counter.add.remote()) == 1
    assert scope.create("counter", engine.remote(Counter)) == counter, "the one that is there"
    again = engine.get_scope("s")
    assert again.keys() == ["one", "three", "four", "five", "none", "counter"]
    assert "three" in again
    assert engine.get(again["three"]) == 3
    assert engine.get(again["counter"].add.remote()) == 2
    scope.put("one", 10)
    assert engine.get(again["one"]) == 10
    assert engine.get(one) == 1, "what was there lives while a reference does"
    del scope["three"], scope["counter"]
    eventually(lambda: again.keys() == ["four", "five", "none", "one"])
    for key in ("three", "counter"):
        with pytest.raises(KeyError, match="is not in scope 's'"):
            again[key]
    assert scope.sync() is False, "an embedded engine has no directory"
    scope.delete()
    assert engine.list_scopes() == []
    eventually(lambda: not keeper_pid())


def test_what_a_scope_refuses(own_engine: None) -> None:
    scope = engine.detached("s")
    ref = engine.put(1)
    add = engine.remote(lambda x, y=0: x)
    with pytest.raises(ValueError, match=r"holds ObjectRef.* inside"):
        scope.put("a", [ref])
    with pytest.raises(ValueError, match=r"an argument of .* holds ObjectRef"):
        scope.submit("a", add, [ref])
    with pytest.raises(ValueError, match=r"the function .* holds ObjectRef"):
        scope.submit("a", engine.remote(lambda: ref))
    with pytest.raises(ValueError, match="returns not one value"):
        scope.submit("a", add.options(num_returns=2), 1)
    with pytest.raises(ValueError, match="retry_exceptions"):
        scope.submit("a", add.options(retry_exceptions=[OSError]), 1)
    with pytest.raises(TypeError, match="takes a remote function"):
        scope.submit("a", print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes an actor class"):
        scope.create("a", Counter)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        scope.submit("a", add)
    with pytest.raises(ValueError, match="non-empty string"):
        engine.detached("")
    scope.put("a", 1)
    with pytest.raises(ValueError, match="has a value under 'a'"):
        scope.create("a", engine.remote(Counter))
    assert scope.keys() == ["a"]


def test_a_scope_has_a_limit(leak_check: None, no_engine: Any) -> None:
    engine.init(num_cpus=1, config=Config(scope_bytes_max=100_000))
    scope = engine.detached("s")
    scope.put("a", bytes(60_000))
    with pytest.raises(ValueError, match="scope_bytes_max"):
        scope.put("b", bytes(60_000))
    del scope["a"]
    scope.put("b", bytes(60_000))
    scope.put("large", bytes(1_000_000))
    kill_keeper()
    with pytest.raises(ValueError, match="scope_bytes_max"):
        scope.put("c", bytes(60_000))
    assert len(engine.get(scope["b"])) == 60_000


def test_a_keeper_that_is_killed_finds_everything_again(own_engine: None, tmp_path: Path) -> None:
    scope, run = engine.detached("s"), engine.remote(noted)
    ran = str(tmp_path / "ran")
    array = np.arange(1 << 18)
    scope.put("small", {"a": [1, 2]})
    large = scope.put("large", array)
    scope.submit("result", run, ran, large)
    scope.submit("of args", run, ran, array)
    scope.submit("wrong", engine.remote(lambda: 1 // 0))
    counter = scope.create("counter", engine.remote(Counter))
    assert engine.get(counter.add.remote()) == 1
    for key in ("result", "of args"):
        assert np.array_equal(engine.get(scope[key]), array)
    with pytest.raises(ZeroDivisionError):
        engine.get(scope["wrong"])
    scope.submit("dropped", run, ran)
    del scope["dropped"]
    del large
    for _ in range(3):
        kill_keeper()
        assert sorted(scope) == ["counter", "large", "of args", "result", "small", "wrong"]
        assert engine.get(scope["small"]) == {"a": [1, 2]}
        for key in ("large", "result", "of args"):
            assert np.array_equal(engine.get(scope[key]), array)
        with pytest.raises(TaskError):
            engine.get(scope["wrong"])
    assert attempts(tmp_path / "ran") in (2, 3), "nothing ran again"
    assert engine.get(scope["counter"].add.remote()) == 2
    scope.delete()


def test_what_was_under_way_runs_again(own_engine: None, tmp_path: Path) -> None:
    scope, gate = engine.detached("s"), tmp_path / "gate"
    ran = str(tmp_path / "ran")

    @engine.remote
    def wait(path: str) -> int:
        noted(ran)
        while not os.path.exists(path):
            time.sleep(0.005)
        return 7

    scope.submit("slow", wait, str(gate))
    scope.submit("after", engine.remote(lambda x: x + 1), scope["slow"])
    eventually(lambda: attempts(tmp_path / "ran") == 1)
    old = scope["after"]
    kill_keeper()
    with pytest.raises(engine.exceptions.OwnerDiedError):
        engine.get(old, timeout=10)
    eventually(lambda: attempts(tmp_path / "ran") == 2)
    gate.touch()
    assert engine.get(scope["after"], timeout=10) == 8
    assert engine.get(scope["slow"]) == 7
    with pytest.raises(engine.exceptions.OwnerDiedError):
        scope.submit("more", engine.remote(lambda x: x), old)


def test_what_a_result_was_made_of_is_kept_for_it(own_engine: None, tmp_path: Path) -> None:
    scope, run = engine.detached("s"), engine.remote(noted)
    ran = str(tmp_path / "ran")
    scope.submit("first", run, ran, 5)
    # Its value holds a reference, which cannot be written down: it is made again.
    scope.submit("second", engine.remote(lambda x: [engine.put(x)]), scope["first"])
    assert engine.get(engine.get(scope["second"])[0]) == 5
    del scope["first"]
    kill_keeper()
    assert scope.keys() == ["second"]
    assert engine.get(engine.get(scope["second"])[0]) == 5
    assert attempts(tmp_path / "ran") == 1


def test_objects_on_disk_are_found_again(own_engine: None) -> None:
    scope = engine.detached("s")
    for number in range(12):  # more than fits into the store
        scope.put(f"{number}", np.full(1 << 20, number))
    eventually(lambda: engine.nodes()[0]["spilled_objects"])
    kill_keeper()
    for number in range(12):
        array = engine.get(scope[f"{number}"])
        assert array.shape == (1 << 20,)
        assert (array == number).all()
        del array
    scope.delete()
    eventually(lambda: engine.nodes()[0]["disk_used"] == 0)


def test_a_deleted_scope_gives_its_memory_back(own_engine: None, tmp_path: Path) -> None:
    scope = engine.detached("s")
    scope.put("a", np.ones(1 << 20))
    kill_keeper()
    assert engine.get(scope["a"]).sum() == 1 << 20
    scope.submit("forever", engine.remote(time.sleep), 600)
    eventually(lambda: engine.available_resources()["CPU"] == 1)
    scope.delete()
    eventually(lambda: engine.available_resources()["CPU"] == 2)
    second = engine.detached("s")
    assert second.keys() == []


# ------------------------------------------------------------------------------- a node that stands

FIRST = """
import os, sys
import numpy as np
import engine

engine.init(address=sys.argv[1])
ran = sys.argv[2]

@engine.remote
def features(model, ran):
    with open(ran, "a") as file:
        file.write("x\\n")
    return model * 2

@engine.remote
def total(array, more):
    return float(array.sum()) + float(more.sum())

@engine.remote
class Hits:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return self.n
    def pid(self):
        return os.getpid()

scope = engine.detached("nightly")
scope.put("small", {"a": 1})
model = scope.put("model", np.ones(1 << 18))
scope.submit("features", features, model, ran)
scope.submit("made", features, scope.submit("seed", features, 3, ran), ran)
scope.submit("total", total, scope["features"], np.ones(1 << 15))
hits = scope.create("hits", Hits.options(max_restarts=-1, checkpoint_every=1))
outside = Hits.options(name="outside", lifetime="detached", namespace="team").remote()
engine.get([hits.add.remote() for _ in range(5)] + [outside.add.remote()])
engine.get([scope[one] for one in ("features", "made", "total")])
assert scope.sync(10) is True
print("ready", flush=True)
sys.stdin.read()
"""


def first_driver(node: Standing, folder: Path) -> Any:
    """A driver that has made a scope, killed."""
    driver = run_script(FIRST, folder, node.address, str(folder / "ran"), stdin=-1)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    kill9(driver.pid)
    driver.communicate()


def test_a_scope_outlives_its_driver_and_its_keeper(standing: Standing, tmp_path: Path) -> None:
    first_driver(standing, tmp_path)
    engine.init(address=standing.address)
    scope = engine.get_scope("nightly")
    for _ in range(2):
        assert engine.get(scope["model"]).sum() == 1 << 18
        assert engine.get(scope["features"]).sum() == 2 << 18
        assert engine.get(scope["total"]) == (2 << 18) + (1 << 15)
        assert engine.get(scope["made"]) == 12
        kill_keeper("nightly")
    assert attempts(tmp_path / "ran") == 3
    assert engine.get(scope["hits"].add.remote()) == 6
    kill9(engine.get(scope["hits"].pid.remote()))
    assert engine.get(scope["hits"].add.remote()) == 7, "from its checkpoint, once each"
    # A task of the first driver's file runs in what the second one makes.
    assert engine.get(scope.submit("third", engine.remote(lambda x: x + 1), scope["made"])) == 13
    engine.shutdown()
    assert "nightly: small, model" in penstock("scope", "ls", "--address", standing.address)
    assert "scopes: nightly" in penstock("status", "--address", standing.address)
    penstock("scope", "rm", "nightly", "--address", standing.address)
    assert "there are: none" in penstock(
        "scope", "rm", "nightly", "--address", standing.address, code=1
    )


def test_a_scope_outlives_its_node(standing: Standing, tmp_path: Path) -> None:
    first_driver(standing, tmp_path)
    family = standing.family()
    kill9(standing.pid)
    eventually(lambda: not any(map(alive, family)))
    standing.start()
    engine.init(address=standing.address)
    scope = engine.get_scope("nightly")
    assert engine.get(scope["small"]) == {"a": 1}
    assert engine.get(scope["made"]) == 12
    assert engine.get(scope["total"]) == (2 << 18) + (1 << 15)
    for key in ("model", "features"):  # the value, and the large result of a task that needs it
        with pytest.raises(ObjectLostError, match=r"'model' was put into scope 'nightly'.* again"):
            engine.get(scope[key])
    assert attempts(tmp_path / "ran") == 3, "small results were written down"
    assert engine.get(scope["hits"].add.remote(), timeout=10) == 6, "from its checkpoint"
    outside = engine.get_actor("outside", namespace="team")
    assert engine.get(outside.add.remote()) == 1, "it had no checkpoint: it begins anew"
    scope.put("model", np.ones(10))
    assert scope.sync(10)
    engine.shutdown()
    # Stopped in order it stays as well, since the directory is the user's choice.
    penstock("stop", "--address", standing.address)
    assert standing.directory.exists()
    standing.start()
    engine.init(address=standing.address)
    scope = engine.get_scope("nightly")
    assert engine.get(scope["model"]).sum() == 10
    scope.delete()
    engine.kill(engine.get_actor("outside", namespace="team"))
    eventually(lambda: not engine.list_scopes())
    engine.shutdown()
    penstock("stop", "--address", standing.address)
    assert not standing.directory.exists(), "nothing is left to be kept"


def test_large_results_are_made_again_after_the_node(standing: Standing, tmp_path: Path) -> None:
    engine.init(address=standing.address)
    scope, ran = engine.detached("s"), str(tmp_path / "ran")
    scope.submit("array", engine.remote(_array), ran, 1 << 17)
    scope.submit("sum", engine.remote(lambda x: [int(x.sum())] * 50_000), scope["array"])
    assert engine.get(scope["sum"])[0] == 1 << 17
    del scope["array"]
    assert scope.sync(10)
    engine.shutdown()
    kill9(standing.pid)
    eventually(lambda: not alive(standing.pid))
    standing.start()
    engine.init(address=standing.address)
    assert engine.get(engine.get_scope("s")["sum"], timeout=20)[0] == 1 << 17
    assert attempts(tmp_path / "ran") == 2


def _array(path: str, size: int) -> Any:
    noted(path)
    return np.ones(size)


def test_a_damaged_journal_is_told(standing: Standing, tmp_path: Path) -> None:
    first_driver(standing, tmp_path)
    kill9(standing.pid)
    eventually(lambda: not alive(standing.pid))
    for path in standing.directory.glob("journal.db*"):
        path.write_bytes(b"scribble" * 1000)
    standing.start()
    said = penstock("status", "--address", standing.address)
    assert "trouble: the journal is damaged" in said
    assert "scopes: none" in said
    engine.init(address=standing.address)
    assert engine.get(engine.detached("new").put("a", 1)) == 1
