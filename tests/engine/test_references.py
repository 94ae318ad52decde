"""References across processes: lent, nested, outliving their makers, and lost ones."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest

import engine
from engine import exceptions
from tests.engine.support import alive, bytes_live, eventually, home

SECONDS = 10.0
LARGE = 1 << 20


@engine.remote
class Keeper:
    """Keeps references and values for others."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any]) -> int:
        self.kept += refs
        return os.getpid()

    def make(self, value: int, size: int) -> list[Any]:
        self.kept.append(engine.put(np.full(size, value, dtype=np.uint8)))
        return [self.kept[-1]]

    def give(self) -> list[Any]:
        return self.kept

    def read(self) -> list[int]:
        return [int(value[-1]) for value in engine.get(self.kept)]

    def drop(self) -> None:
        self.kept.clear()

    def pid(self) -> int:
        return os.getpid()


def test_a_reference_in_a_container_stays_a_reference(cluster: Any) -> None:
    @cluster.remote
    def kind(x: Any, box: Any, keyword: Any = None) -> list[str]:
        return [type(x).__name__, type(box[0]).__name__, type(keyword).__name__]

    ref = cluster.put(1)
    assert cluster.get(kind.remote(ref, [ref], keyword=ref)) == ["int", "ObjectRef", "int"]


def test_a_reference_that_comes_back_is_the_same_object(cluster: Any) -> None:
    @cluster.remote
    def echo(box: list[Any]) -> list[Any]:
        return box

    ref = cluster.put(1)
    (back,) = cluster.get(echo.remote([ref]))
    assert back is ref
    assert {ref: 1}[back] == 1
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_borrower_keeps_an_object_alive(cluster: Any, size: int) -> None:
    before = bytes_live()
    keeper = Keeper.remote()
    ref = cluster.put(np.full(size, 7, dtype=np.uint8))
    cluster.get(keeper.keep.remote([ref]))
    del ref
    bytes_live()
    others = [cluster.put(np.full(size, 9, dtype=np.uint8)) for _ in range(3)]
    assert cluster.get(keeper.read.remote()) == [7]
    del others
    cluster.get(keeper.drop.remote())
    eventually(lambda: bytes_live() == before)


def test_a_chain_of_borrowers(cluster: Any) -> None:
    before = bytes_live()
    first, second = Keeper.remote(), Keeper.remote()
    cluster.get(first.keep.remote([cluster.put(np.full(LARGE, 7, dtype=np.uint8))]))
    cluster.get(second.keep.remote(cluster.get(first.give.remote())))
    cluster.get(first.drop.remote())
    gc.collect()
    bytes_live()
    other = cluster.put(np.full(LARGE, 9, dtype=np.uint8))
    assert cluster.get(second.read.remote(), timeout=SECONDS) == [7]
    cluster.get(second.drop.remote())
    del other
    eventually(lambda: bytes_live() == before)


def test_the_death_of_a_borrower_frees(cluster: Any) -> None:
    before = bytes_live()
    keeper = Keeper.remote()
    pid = cluster.get(keeper.keep.remote([cluster.put(np.zeros(LARGE, dtype=np.uint8))]))
    assert bytes_live() > before
    os.kill(pid, 9)
    eventually(lambda: bytes_live() == before)


def test_a_value_owned_by_an_actor_is_read_by_the_driver(cluster: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = cluster.get(keeper.make.remote(5, LARGE))
    assert int(cluster.get(ref)[-1]) == 5
    cluster.get(keeper.drop.remote())
    assert int(cluster.get(ref)[-1]) == 5


def test_a_pending_reference_may_be_passed_on(cluster: Any) -> None:
    @cluster.remote
    def late(box: list[Any]) -> int:
        return cluster.get(box[0])

    @cluster.remote
    def early() -> int:
        return 5

    assert cluster.get(late.remote([early.remote()]), timeout=SECONDS) == 5


def test_the_death_of_the_owner_is_a_named_error(cluster: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = cluster.get(keeper.make.remote(5, LARGE))
    pid = cluster.get(keeper.pid.remote())
    os.kill(pid, 9)
    eventually(lambda: not alive(pid))
    with pytest.raises(exceptions.OwnerDiedError, match=rf"pid {pid}.*SIGKILL"):
        cluster.get(ref, timeout=SECONDS)


def test_a_value_here_survives_the_death_of_its_owner(cluster: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = cluster.get(keeper.make.remote(5, LARGE))
    value = cluster.get(ref)
    os.kill(cluster.get(keeper.pid.remote()), 9)
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(keeper.pid.remote(), timeout=SECONDS)
    assert int(value.sum()) == 5 * LARGE
    assert int(cluster.get(ref)[-1]) == 5


def test_a_reference_owned_by_the_dead_that_arrives_late(cluster: Any) -> None:
    """The driver knows that the owner is dead before it ever sees the reference."""
    maker, keeper = Keeper.remote(), Keeper.remote()

    @cluster.remote
    def move(source: Any, target: Any) -> None:
        refs = cluster.get(source.make.remote(5, 10))
        cluster.get(target.keep.remote(refs))

    cluster.get(move.remote(maker, keeper), timeout=SECONDS)
    pid = cluster.get(maker.pid.remote())
    os.kill(pid, 9)
    with pytest.raises(exceptions.ActorDiedError):
        cluster.get(maker.pid.remote(), timeout=SECONDS)
    (ref,) = cluster.get(keeper.give.remote(), timeout=SECONDS)
    with pytest.raises(exceptions.OwnerDiedError):
        cluster.get(ref, timeout=SECONDS)
    assert cluster.wait([ref], timeout=SECONDS) == ([ref], [])
    late = Keeper.remote()
    assert cluster.get(late.keep.remote([ref]), timeout=SECONDS) > 0
    with pytest.raises(exceptions.ObjectLostError):
        cluster.get(late.read.remote(), timeout=SECONDS)


def test_a_task_that_depends_on_a_lost_object_fails(cluster: Any) -> None:
    keeper = Keeper.remote()
    (ref,) = cluster.get(keeper.make.remote(5, 10))
    os.kill(cluster.get(keeper.pid.remote()), 9)

    @cluster.remote
    def use(x: Any) -> Any:
        return x

    with pytest.raises(exceptions.ObjectLostError):
        cluster.get(use.remote(use.remote(ref)), timeout=SECONDS)


def test_a_closure_keeps_the_references_it_captured(cluster: Any) -> None:
    def make(ref: Any) -> Any:
        @cluster.remote
        def use() -> int:
            return int(cluster.get(ref)[-1])

        assert cluster.get(use.remote()) == 4
        return use

    use = make(cluster.put(np.full(LARGE, 4, dtype=np.uint8)))
    gc.collect()
    assert cluster.get([use.remote() for _ in range(4)]) == [4] * 4


def test_references_know_their_id(cluster: Any) -> None:
    ref = cluster.put(1)
    assert ref.hex() == ref.binary().hex()
    assert ref.hex() in repr(ref)
    assert len(ref.binary()) == 16
    assert ref.binary().startswith(home().id)


@pytest.mark.parametrize("wrap", [lambda ref: ref, lambda ref: [{"deep": ref}]])
def test_pickling_by_hand_is_refused(cluster: Any, wrap: Any) -> None:
    with pytest.raises(exceptions.OutOfBandObjectRefSerializationException, match=r"engine\.put"):
        pickle.dumps(wrap(cluster.put(1)))


def test_pickling_by_hand_is_refused_everywhere(cluster: Any) -> None:
    """Also in a task, by cloudpickle, and in a thread while another one encodes a value."""
    refused = exceptions.OutOfBandObjectRefSerializationException
    ref = cluster.put(1)

    @cluster.remote
    def by_hand(box: list[Any]) -> None:
        pickle.dumps(box)

    with pytest.raises(refused, match=r"engine\.put"):
        cluster.get(by_hand.remote([ref]))
    with pytest.raises(refused):
        cloudpickle.dumps(lambda: ref)

    caught: list[BaseException] = []

    class Encoding:
        """Pickling it runs another thread, which pickles a reference."""

        def __reduce__(self) -> Any:
            def elsewhere() -> None:
                try:
                    pickle.dumps(ref)
                except refused as error:  # looked at below
                    caught.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return str, ("encoded",)

    assert cluster.get(cluster.put([Encoding(), ref]))[0] == "encoded"
    assert len(caught) == 1
    assert copy.deepcopy([ref])[0] is ref, "within the process it is the same reference"


def test_a_future_delivers_value_and_error(cluster: Any) -> None:
    @cluster.remote
    def f(fail: bool) -> int:
        if fail:
            raise KeyError("f")
        return 4

    assert f.remote(False).future().result(SECONDS) == 4
    assert isinstance(f.remote(True).future().exception(SECONDS), KeyError)
    assert cluster.put(3).future().result(SECONDS) == 3


def test_nothing_is_held_after_everything_was_dropped(cluster: Any) -> None:
    @cluster.remote
    def f(box: list[Any]) -> list[Any]:
        return [*box, cluster.put(1)]

    gc.collect()
    bytes_live()
    before = set(home().owner.objects.counts())
    refs = [cluster.put([cluster.put(i)]) for i in range(10)]
    results = [f.remote([ref]) for ref in refs]
    assert len(cluster.get(results)) == 10
    del refs, results

    def left() -> bool:
        bytes_live()
        return set(home().owner.objects.counts()) <= before

    eventually(left, what="objects held")


def test_a_task_that_fails_lets_go_of_what_it_was_lent(cluster: Any) -> None:
    """What its frames have held dies with the error, after the answer has left."""

    @cluster.remote
    def f(box: list[Any]) -> None:
        raise KeyError(cluster.get(box[0]))

    ref = cluster.put(1)
    with pytest.raises(KeyError):
        cluster.get(f.remote([ref]), timeout=SECONDS)
    entry = home().owner.objects.entries[ref.binary()]

    def let_go() -> bool:
        home().reactor.poll()
        return not entry.borrowers

    eventually(let_go, what="the worker let go")
