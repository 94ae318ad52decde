"""What an ObjectRef can do: futures, callbacks, ids; and ids as values."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

import engine
from engine.core.ids import _Identifier
from tests.engine.support import eventually

SECONDS = 15.0
KINDS = (
    engine.ActorID, engine.JobID, engine.NodeID, engine.PlacementGroupID, engine.TaskID,
    engine.WorkerID,
)  # fmt: skip


@engine.remote(num_cpus=0)
def late(seconds: float, value: Any = 1) -> Any:
    time.sleep(seconds)
    if isinstance(value, str):
        raise LookupError(value)
    return value


def test_future(cluster: Any) -> None:
    assert late.remote(0.01).future().result(SECONDS) == 1
    assert cluster.put(2).future().result(0) == 2
    with pytest.raises(LookupError, match="no such"):
        late.remote(0.01, "no such").future().result(SECONDS)
    array = late.remote(0.01, np.arange(10**5)).future().result(SECONDS)
    assert array[-1] == 10**5 - 1


def test_as_future_belongs_to_the_running_loop(cluster: Any) -> None:
    async def main() -> Any:
        good, bad = late.remote(0.01).as_future(), late.remote(0.01, "no such").as_future()
        assert isinstance(good, asyncio.Future)
        done, _ = await asyncio.wait({good, bad}, timeout=SECONDS)
        assert done == {good, bad}
        with pytest.raises(LookupError, match="no such"):
            await bad
        return await good

    assert asyncio.run(main()) == 1


def test_as_future_outside_of_a_loop(cluster: Any) -> None:
    with pytest.raises(RuntimeError, match=r"no .*event loop"):
        late.remote(0.0).as_future()


def test_on_completed(cluster: Any) -> None:
    found: list[Any] = []
    late.remote(0.01, 5)._on_completed(found.append)
    eventually(lambda: found == [5])
    cluster.put(None)._on_completed(found.append)
    assert found == [5, None], "one that is there calls at once"
    late.remote(0.01, "no such")._on_completed(found.append)
    eventually(lambda: len(found) == 3)
    assert isinstance(found[2], LookupError)


def test_on_completed_while_another_thread_waits(cluster: Any) -> None:
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: cluster.get(late.remote(0.1)))
    waiter.start()
    late.remote(0.02, 5)._on_completed(found.append)
    eventually(lambda: found == [5])
    waiter.join()


def test_ids(cluster: Any) -> None:
    ref = late.remote(0.05)
    assert ref.task_id() == engine.TaskID(ref.binary())
    one, two = late.options(num_returns=2).remote(0.05, [1, 2])
    assert one.task_id() == two.task_id()
    assert cluster.get([ref, one, two], timeout=SECONDS) == [1, 1, 2]
    assert ref.task_id().hex() == ref.hex()
    assert ref.job_id().hex() == cluster.get_runtime_context().get_job_id()

    @cluster.remote
    def mine() -> tuple[str | None, str]:
        context = cluster.get_runtime_context()
        return context.get_task_id(), context.get_job_id()

    asked = mine.remote()
    assert cluster.get(asked, timeout=SECONDS) == (asked.task_id().hex(), asked.job_id().hex())


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_a_value(kind: type[_Identifier]) -> None:
    one = kind(b"\1\2")
    assert one == kind.from_hex("0102") == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))
    assert len({one, kind(b"\1\2"), kind(b"\1\3")}) == 2
    assert one.binary() == b"\1\2"
    assert repr(one) == f"{kind.__name__}(0102)"
    other = next(each for each in KINDS if each is not kind)
    assert one != other(b"\1\2")
    for wrong in (b"", "0102", None):
        with pytest.raises(ValueError, match="expected the bytes of an id"):
            kind(wrong)  # type: ignore[arg-type]


def test_wait_without_fetching(cluster: Any) -> None:
    @cluster.remote(num_cpus=0)
    def waits(box: list[Any]) -> int:
        ready, rest = cluster.wait(box, fetch_local=False, timeout=SECONDS)
        assert not rest
        return int(cluster.get(ready[0])[-1])

    large = late.remote(0.02, np.arange(10**5))
    assert cluster.get(waits.remote([large]), timeout=SECONDS) == 10**5 - 1
    assert cluster.wait([large], fetch_local=False, timeout=SECONDS)[0] == [large]
