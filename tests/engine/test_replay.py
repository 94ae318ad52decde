"""Actors with checkpoints: real processes, real kills, each call applied exactly once."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine import exceptions
from engine.core.control import Checkpoint, Restore
from engine.runtime.checkpoint_memory import CheckpointFiles, CheckpointMemory, memory_of
from engine.runtime.checkpoints import read_checkpoint
from engine.store import codec
from tests.engine.support import eventually, home, kill9

SECONDS = 20.0
LARGE = 1 << 20


@engine.remote
class Ledger:
    """Appends what it is given; the answer is the position."""

    def __init__(self, path: str = "") -> None:
        if path:
            with open(path, "a") as file:
                file.write("made\n")
        self.items: list[Any] = []

    def add(self, item: Any) -> int:
        self.items.append(item)
        return len(self.items)

    def add_large(self, item: Any) -> np.ndarray[Any, Any]:
        self.items.append(item)
        return np.full(LARGE, len(self.items), np.uint8)

    def add_or_fail(self, item: Any, fail: bool) -> int:
        self.items.append(item)
        if fail:
            raise ValueError(f"refused {item}")
        return len(self.items)

    @engine.method(read_only=True)
    def all(self) -> list[Any]:
        return self.items

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()


def replayed(every: float = 7, **options: Any) -> Any:
    return Ledger.options(max_restarts=-1, checkpoint_every=every, **options)


def kill_actor(handle: Any) -> None:
    kill9(engine.get(handle.pid.remote(), timeout=SECONDS))


def test_state_and_answers_survive_kills(cluster: Any) -> None:
    ledger = replayed().remote()
    refs = []
    for number in range(300):
        refs.append(ledger.add.remote(number))
        if number % 60 == 59:
            kill_actor(ledger)
    assert engine.get(refs, timeout=SECONDS) == list(range(1, 301))
    assert engine.get(ledger.all.remote(), timeout=SECONDS) == list(range(300))


def test_one_at_a_time(cluster: Any) -> None:
    ledger = replayed(5).remote()
    for number in range(40):
        assert engine.get(ledger.add.remote(number), timeout=SECONDS) == number + 1
        if number % 9 == 8:
            kill_actor(ledger)
    assert engine.get(ledger.all.remote(), timeout=SECONDS) == list(range(40))


def test_the_constructor_runs_once(cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "made"
    ledger = replayed(1000).remote(str(path))
    assert engine.get(ledger.add.remote(0), timeout=SECONDS) == 1
    kill_actor(ledger)
    assert engine.get(ledger.add.remote(1), timeout=SECONDS) == 2
    assert path.read_text() == "made\n"


def test_large_arguments_and_answers(cluster: Any) -> None:
    ledger = replayed(3).remote()
    blocks = [np.full(LARGE, number, np.uint8) for number in range(8)]
    refs = []
    for number, block in enumerate(blocks):
        argument = block if number % 2 else engine.put(block)
        refs.append(ledger.add_large.remote(argument))
        del argument
        if number in (2, 5):
            kill_actor(ledger)
    for number, found in enumerate(engine.get(refs, timeout=SECONDS), 1):
        assert found[0] == number
        assert found[-1] == number
    kill_actor(ledger)
    for block, found in zip(blocks, engine.get(ledger.all.remote(), timeout=SECONDS), strict=True):
        assert (block == found).all()


def test_user_errors_are_answers_like_others(cluster: Any) -> None:
    ledger = replayed(4).remote()
    refs = [ledger.add_or_fail.remote(number, number % 3 == 0) for number in range(10)]
    kill_actor(ledger)
    for number, ref in enumerate(refs):
        if number % 3 == 0:
            with pytest.raises(ValueError, match=f"refused {number}"):
                engine.get(ref, timeout=SECONDS)
        else:
            assert engine.get(ref, timeout=SECONDS) == number + 1
    assert engine.get(ledger.all.remote(), timeout=SECONDS) == list(range(10))


def test_kill_that_lets_restart_loses_nothing(cluster: Any) -> None:
    ledger = replayed().remote()
    refs = [ledger.add.remote(number) for number in range(50)]
    engine.kill(ledger, no_restart=False)
    assert engine.get(refs, timeout=SECONDS) == list(range(1, 51))


def test_without_restarts_left_it_dies(cluster: Any) -> None:
    ledger = Ledger.options(max_restarts=1, checkpoint_every=5).remote()
    assert engine.get([ledger.add.remote(0) for _ in range(7)], timeout=SECONDS)[-1] == 7
    kill_actor(ledger)
    assert engine.get(ledger.add.remote(0), timeout=SECONDS) == 8
    kill_actor(ledger)
    with pytest.raises(exceptions.ActorDiedError):
        engine.get(ledger.add.remote(0), timeout=SECONDS)


@engine.remote(num_cpus=0, max_retries=0)
def feed(ledger: Any, name: int, count: int) -> list[int]:
    """A caller in another process."""
    found: list[int] = engine.get([ledger.add.remote((name, number)) for number in range(count)])
    return found


def test_several_callers_see_one_history(cluster: Any) -> None:
    ledger = replayed(50).remote()
    stop = threading.Event()

    def kill_now_and_then() -> None:
        while not stop.wait(0.15):
            kill_actor(ledger)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        answers = engine.get([feed.remote(ledger, name, 1500) for name in range(3)], timeout=60)
    finally:
        stop.set()
        killer.join()
    history = engine.get(ledger.all.remote(), timeout=SECONDS)
    assert len(history) == 4500
    for name, positions in enumerate(answers):
        assert positions == sorted(positions)
        for number, position in enumerate(positions):
            assert history[position - 1] == (name, number)


@engine.remote
class Relay:
    """An actor that is replayed and calls others, once for each call it gets."""

    def __init__(self, targets: list[Any]) -> None:
        self.targets = targets
        self.sum = 0

    def pass_on(self, item: int) -> int:
        found = engine.get([one.add.remote(item) for one in self.targets])
        self.sum += sum(found)
        return self.sum

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("every", [None, 5])
def test_calls_made_in_a_replay_are_not_applied_twice(cluster: Any, every: int | None) -> None:
    plain = Ledger.options(max_restarts=-1, checkpoint_every=every).remote()
    other = Ledger.options(max_restarts=-1, checkpoint_every=every).remote()
    relay = Relay.options(max_restarts=-1, checkpoint_every=9).remote([plain, other])
    refs = []
    for number in range(60):
        refs.append(relay.pass_on.remote(number))
        if number % 14 == 13:
            kill_actor(relay)
        if every is not None and number % 20 == 19:
            kill_actor(other)
    sums = engine.get(refs, timeout=SECONDS)
    assert engine.get(plain.all.remote(), timeout=SECONDS) == list(range(60))
    assert engine.get(other.all.remote(), timeout=SECONDS) == list(range(60))
    assert sums == [number * (number + 1) for number in range(1, 61)]


@engine.remote
class Hooked:
    """Keeps something that cannot be pickled and says what is to be stored instead."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n = 0

    def add(self) -> int:
        with self.lock:
            self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()

    def __checkpoint__(self) -> dict[str, int]:
        return {"n": self.n}

    def __restore__(self, saved: dict[str, int]) -> None:
        self.lock = threading.Lock()
        self.n = saved["n"]


def test_hooks(cluster: Any) -> None:
    hooked = Hooked.options(max_restarts=-1, checkpoint_every=2).remote()
    for number in range(1, 10):
        assert engine.get(hooked.add.remote(), timeout=SECONDS) == number
        if number % 4 == 0:
            kill_actor(hooked)


class Slotted:
    __slots__ = ("__dict__", "n")

    def __init__(self) -> None:
        self.n = 0
        self.table = pa.table({"x": [0]})

    def add(self) -> int:
        self.n += 1
        self.table = pa.table({"x": list(range(self.n))})
        return int(self.table.num_rows)

    def pid(self) -> int:
        return os.getpid()


class Lists(list[int]):
    """A state that only pickle knows how to take apart."""

    def add(self) -> int:
        self.append(1)
        return len(self)

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("cls", [Slotted, Lists])
def test_states_of_other_forms(cluster: Any, cls: type) -> None:
    actor = engine.remote(max_restarts=-1, checkpoint_every=2)(cls).remote()
    for number in range(1, 8):
        assert engine.get(actor.add.remote(), timeout=SECONDS) == number
        if number % 3 == 0:
            kill_actor(actor)


class Unpicklable:
    def __init__(self, late: bool) -> None:
        self.lock = None if late else threading.Lock()

    def spoil(self) -> str:
        self.lock = threading.Lock()
        return "spoilt"


def test_state_that_cannot_be_pickled_is_refused_at_once(cluster: Any) -> None:
    actor = engine.remote(checkpoint_every=1)(Unpicklable).remote(False)
    with pytest.raises(TypeError, match="lock"):
        engine.get(actor.spoil.remote(), timeout=SECONDS)


def test_state_that_cannot_be_pickled_any_more_ends_the_actor(cluster: Any) -> None:
    actor = engine.remote(checkpoint_every=1, max_restarts=-1)(Unpicklable).remote(True)
    assert engine.get(actor.spoil.remote(), timeout=SECONDS) == "spoilt"
    with pytest.raises(exceptions.ActorDiedError, match=r"checkpoint.*lock"):
        engine.get(actor.spoil.remote(), timeout=SECONDS)


@engine.remote
class Keeper:
    """Keeps references: others' and its own."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        self.kept.append(engine.put(("own", len(self.kept))))
        self.kept.append(engine.put(np.full(LARGE, len(self.kept), np.uint8)))
        return len(self.kept)

    def read(self) -> list[Any]:
        found = engine.get(self.kept)
        return [one if isinstance(one, tuple | int) else int(one[0]) for one in found]

    def pid(self) -> int:
        return os.getpid()


def test_references_in_the_state(cluster: Any) -> None:
    keeper = Keeper.options(max_restarts=-1, checkpoint_every=1).remote()
    before = len(home().owner.objects.entries)
    assert engine.get(keeper.keep.remote([engine.put(5)]), timeout=SECONDS) == 3
    assert engine.get(keeper.keep.remote([engine.put(6)]), timeout=SECONDS) == 6
    expected = [5, ("own", 1), 2, 6, ("own", 4), 5]
    for _ in range(3):
        assert engine.get(keeper.read.remote(), timeout=SECONDS) == expected
        kill_actor(keeper)
    assert engine.get(keeper.read.remote(), timeout=SECONDS) == expected
    del keeper
    eventually(lambda: _entries() < before, what="the references of a dead actor are let go")


def _entries() -> int:
    runtime = home()
    runtime.settle()
    runtime.reactor.poll()
    return len(runtime.owner.objects.entries)


def test_callers_let_go_of_what_a_checkpoint_covers(cluster: Any) -> None:
    ledger = replayed(10).remote()
    for _ in range(5):
        engine.get([ledger.add.remote(0) for _ in range(100)], timeout=SECONDS)
    client = ledger._client
    assert client.retained is not None
    eventually(lambda: len(client.retained.calls) <= 100)
    log = home().owner.callers.logs[client.id]
    assert len(log.runs) <= 1
    assert log.end - log.start <= 100


def test_out_of_scope_ends_it(cluster: Any) -> None:
    ledger = replayed(1000).remote()
    pid = engine.get(ledger.pid.remote(), timeout=SECONDS)
    engine.get([ledger.add.remote(0) for _ in range(10)], timeout=SECONDS)
    del ledger
    eventually(lambda: not _lives(pid), what="the actor ends with its last handle")


def _lives(pid: int) -> bool:
    return pid in {one["pid"] for one in engine.state.list_actors() if one["state"] != "DEAD"}


def test_by_time(cluster: Any) -> None:
    ledger = replayed(0.05).remote()
    engine.get([ledger.add.remote(number) for number in range(20)], timeout=SECONDS)
    client = ledger._client
    assert client.retained is not None
    eventually(lambda: home().reactor.poll() or not client.retained.calls)
    kill_actor(ledger)
    assert engine.get(ledger.add.remote(20), timeout=SECONDS) == 21


def test_named_handles_know_it_too(cluster: Any) -> None:
    ledger = replayed(4, name="replayed ledger").remote()
    found = engine.get_actor("replayed ledger")
    refs = [(ledger if number % 2 else found).add.remote(number) for number in range(20)]
    kill_actor(found)
    assert engine.get(refs, timeout=SECONDS) == list(range(1, 21))


@engine.remote
class Chance:
    """Its state depends on time, chance, and on which of two tasks is faster."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def look(self) -> list[Any]:
        first, _rest = engine.wait([nap.remote() for _ in range(4)], num_returns=2)
        self.seen.append((engine.util.now(), engine.util.random().random(), engine.get(first)))
        return self.seen

    @engine.method(read_only=True)
    def pid(self) -> int:
        return os.getpid()


@engine.remote(num_cpus=0)
def nap() -> float:
    return random.random()


def test_what_the_engine_hands_out_is_repeated(cluster: Any) -> None:
    chance = Chance.options(max_restarts=-1, checkpoint_every=100, replayable=True).remote()
    for _ in range(6):
        before = engine.get(chance.look.remote(), timeout=SECONDS)
    kill_actor(chance)
    after = engine.get(chance.look.remote(), timeout=SECONDS)
    assert [one[:2] for one in after[:6]] == [one[:2] for one in before]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"checkpoint_every": 0}, ValueError, "above 0"),
        ({"checkpoint_every": "5"}, ValueError, "above 0"),
        ({"replayable": True}, ValueError, "needs checkpoint_every"),
        ({"checkpoint_every": 5, "max_concurrency": 2}, ValueError, "several calls at a time"),
    ],
)
def test_misuse(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Ledger.options(**options)


def test_retries_of_exceptions_are_refused(cluster: Any) -> None:
    ledger = replayed().remote()
    with pytest.raises(ValueError, match="exactly once"):
        ledger.add.options(retry_exceptions=True)


def test_misuse_of_classes() -> None:
    class Coroutines:
        async def run(self) -> None: ...

    class Half:
        def __checkpoint__(self) -> None: ...

    class Generates:
        def items(self) -> Any:
            yield 1

    for cls, error, says in (
        (Coroutines, ValueError, "several calls at a time"),
        (Half, TypeError, "not both"),
        (Generates, TypeError, "read_only"),
    ):
        with pytest.raises(error, match=says):
            engine.remote(checkpoint_every=5)(cls)


@pytest.mark.slow
def test_hundreds_of_kills_under_load(cluster: Any) -> None:
    dice = random.Random(5)
    ledger = replayed(40).remote()
    refs: list[Any] = []
    for _ in range(300):
        refs += [ledger.add.remote(len(refs) + i) for i in range(dice.randint(1, 60))]
        kill_actor(ledger)
    assert engine.get(refs, timeout=120) == list(range(1, len(refs) + 1))


class DiesInHooks:
    """Dies in each checkpoint and in each restoring, once for each state."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    @engine.method(read_only=True)
    def rest(self) -> None:
        """Answered when the actor has nothing else to do: a checkpoint that was due is taken."""

    def _die(self, moment: str) -> None:
        path = f"{self.folder}/{moment}-{self.n}"
        if self.n and not os.path.exists(path):
            open(path, "w").close()
            kill9(os.getpid())

    def __checkpoint__(self) -> tuple[str, int]:
        self._die("checkpoint")
        return self.folder, self.n

    def __restore__(self, saved: tuple[str, int]) -> None:
        self.folder, self.n = saved
        self._die("restore")


def test_death_while_a_checkpoint_is_taken_or_restored(cluster: Any, tmp_path: Path) -> None:
    actor = engine.remote(max_restarts=-1, checkpoint_every=1)(DiesInHooks).remote(str(tmp_path))
    calls = 0

    def died_while_it_was_restored() -> bool:
        nonlocal calls
        calls += 1
        assert engine.get(actor.add.remote(), timeout=SECONDS) == calls
        engine.get(actor.rest.remote(), timeout=SECONDS)
        return any(one.name.startswith("restore") for one in tmp_path.iterdir())

    # A checkpoint is whole only when the actor has been idle at a state in which it died before.
    eventually(died_while_it_was_restored, SECONDS)
    assert any(one.name.startswith("checkpoint") for one in tmp_path.iterdir())


def undetected(damages: int, seed: int = 3) -> int:
    """Damage an actor's checkpoint so many times; how often it was taken for the truth."""
    contents = [("saved", {"state": list(range(first, first + 1000))}) for first in (1000, 3000)]
    memories = []
    for content in contents:
        encoded = codec.encode(content)
        memory = bytearray(encoded.block_bytes())
        encoded.write_into(memoryview(memory))
        memories.append(memory)
    memory, other = memories
    found = Checkpoint(b"actor", 1, len(memory), zlib.crc32(memory))
    dice, missed = random.Random(seed), 0
    for _ in range(damages):
        damaged = bytearray(memory)
        kind = dice.randrange(4)
        if kind == 0:
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del damaged[dice.randrange(len(damaged)) :]
        elif kind == 2:  # the other one of the two memories, which take turns
            damaged = bytearray(other)
        else:  # the new one was written in part
            at = dice.randrange(100, len(damaged) - 100)
            damaged[at:] = other[at : len(damaged)]
        if damaged == memory:
            continue
        with contextlib.suppress(exceptions.ObjectLostError):  # as it should be
            read_checkpoint(Restore(found, [], []), memory_of(found, bytes(damaged)))
            missed += 1
    assert read_checkpoint(Restore(found, [], []), memory_of(found, bytes(memory))) == contents[0]
    return missed


def test_a_damaged_checkpoint_is_noticed() -> None:
    assert undetected(500) == 0


def test_the_node_finds_the_last_whole_checkpoint() -> None:
    """Whenever a process dies while it writes the next one: the header comes last."""
    actor, files, memories = b"actor", CheckpointFiles(), (CheckpointMemory(), CheckpointMemory())

    def write(number: int) -> Checkpoint:
        size, check = memories[number % 2].write(codec.encode(["state", number] * number))
        return Checkpoint(actor, number, size, check)

    def newest() -> Any:
        found, fd = files.newest(actor)
        return found.number, read_checkpoint(Restore(found, [], []), fd)

    for number in (1, 2):
        found = write(number)
        memories[number % 2].commit(found)
        files.keep(found, os.dup(memories[number % 2].fd))
    for number in range(3, 40):
        before = number - 1, ["state", number - 1] * (number - 1)
        assert newest() == before
        found = write(number)
        assert newest() == before
        memories[number % 2].commit(found)
        assert newest() == (number, ["state", number] * number)
    files.drop(actor)
