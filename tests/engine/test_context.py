"""`get_runtime_context`: who runs this code, where, and with what."""

from __future__ import annotations

import json
from typing import Any

import pytest

import engine
from tests.engine.support import eventually

SECONDS = 20


def facts() -> dict[str, Any]:
    """All that the context of this process says."""
    context = engine.get_runtime_context()
    return {
        "job": context.get_job_id(),
        "node": context.get_node_id(),
        "worker": context.get_worker_id(),
        "task": context.get_task_id(),
        "task_name": context.get_task_name(),
        "function": context.get_task_function_name(),
        "actor": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "namespace": context.namespace,
        "group": context.get_placement_group_id(),
        "capture": context.should_capture_child_tasks_in_placement_group,
        "restarted": context.was_current_actor_reconstructed,
        "resources": context.get_assigned_resources(),
        "accelerators": context.get_accelerator_ids(),
        "environment": context.get_runtime_env_string(),
    }


@engine.remote
def tell() -> dict[str, Any]:
    return facts()


@engine.remote
def tell_items() -> Any:
    yield facts()


@engine.remote
class Teller:
    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.at_first = facts()
        self.me: Any = None

    def tell(self) -> dict[str, Any]:
        return facts()

    def first(self) -> dict[str, Any]:
        return self.at_first

    def add(self, value: int) -> int:
        self.value += value
        return self.value


    def pass_on(self) -> Any:
        return [engine.get_runtime_context().current_actor]

    def die(self) -> None:
        raise SystemExit(1)


@engine.remote
class Coroutines:
    async def tell(self) -> dict[str, Any]:
        return facts()


@engine.remote(num_cpus=0)
def call_add(actor: Any, value: int) -> Any:
    return engine.get(actor.add.remote(value))


def test_in_a_driver(cluster: Any) -> None:
    found = facts()
    assert found["job"] == found["worker"]
    assert found["node"] == cluster.nodes()[0]["NodeID"]
    nothing = ("task", "task_name", "function", "actor", "actor_name", "group")
    assert [found[name] for name in nothing] == [None] * len(nothing)
    assert (found["resources"], found["accelerators"]) == ({}, {"GPU": []})
    assert json.loads(found["environment"]) == {}
    assert not found["restarted"]
    with pytest.raises(RuntimeError, match="for methods of actors"):
        _ = cluster.get_runtime_context().current_actor


def test_in_a_task(cluster: Any) -> None:
    here = facts()
    ref = tell.remote()
    found = cluster.get(ref, timeout=SECONDS)
    assert (found["job"], found["node"]) == (here["job"], here["node"])
    assert found["worker"] != here["worker"]
    assert found["task"] == ref.hex()
    assert found["task_name"] == "tell"
    assert found["function"] == f"{__name__}.tell"
    assert found["resources"] == {"CPU": 1.0}
    assert found["actor"] is None
    other = cluster.get(tell.options(num_cpus=0.5, name="special").remote(), timeout=SECONDS)
    assert (other["task_name"], other["resources"]) == ("special", {"CPU": 0.5})
    assert cluster.get(tell.remote(), timeout=SECONDS)["task_name"] == "tell"
    items = cluster.get(next(tell_items.options(name="items").remote()), timeout=SECONDS)
    assert items["resources"] == {"CPU": 1.0}


def test_a_name_stands_in_errors_too(cluster: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"special \(pid"):
        cluster.get(fail.options(name="special").remote(), timeout=SECONDS)


def test_in_an_actor(cluster: Any) -> None:
    actor = Teller.options(name="teller", num_cpus=0.5).remote()
    ref = actor.tell.remote()
    found = cluster.get(ref, timeout=SECONDS)
    assert found["task"] == ref.hex()
    assert found["task_name"] == "Teller.tell"
    assert found["function"] == f"{__name__}.Teller.tell"
    assert found["actor"] == actor._actor_id.hex()
    assert found["actor_name"] == "teller"
    assert found["resources"] == {"CPU": 0.5}
    named = actor.tell.options(name="special").remote()
    assert cluster.get(named, timeout=SECONDS)["task_name"] == "special"
    first = cluster.get(actor.first.remote(), timeout=SECONDS)
    assert (first["actor"], first["actor_name"]) == (found["actor"], "teller")
    unnamed = cluster.get(Teller.remote().tell.remote(), timeout=SECONDS)
    assert (unnamed["actor_name"], unnamed["resources"]) == ("", {})
    asynchronous = cluster.get(Coroutines.remote().tell.remote(), timeout=SECONDS)
    assert asynchronous["task_name"] == "Coroutines.tell"


def test_an_actors_handle_of_itself(cluster: Any) -> None:
    actor = Teller.remote(5)
    (again,) = cluster.get(actor.pass_on.remote(), timeout=SECONDS)
    assert again == actor
    assert cluster.get(call_add.remote(again, 2), timeout=SECONDS) == 7
    with pytest.raises(AttributeError, match="it has: add"):
        _ = again.subtract
    identity = again._actor_id.hex()
    del actor, again

    def dead() -> bool:
        from engine import state

        states = {one["actor_id"]: one["state"] for one in state.list_actors()}
        return states.get(identity, "DEAD") == "DEAD"

    eventually(dead, SECONDS, "handles of itself that were dropped do not keep it alive")


def test_a_restarted_actor_knows_it(cluster: Any) -> None:
    actor = Teller.options(max_restarts=1, max_task_retries=-1).remote()
    assert not cluster.get(actor.tell.remote(), timeout=SECONDS)["restarted"]
    cluster.kill(actor, no_restart=False)
    found = cluster.get(actor.tell.remote(), timeout=SECONDS)
    assert found["restarted"]
