"""Where work runs: devices, named resources, strategies and labels; one engine with two GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from engine.util import PlacementGroupSchedulingStrategy, placement_group, remove_placement_group
from engine.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from tests.engine.support import eventually

SECONDS = 20


@pytest.fixture(scope="module")
def machine() -> Iterator[Any]:
    assert not engine.is_initialized()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
        engine.init(
            num_cpus=4,
            resources={"disk": 2, "accelerator_type:A100": 1},
            labels={"zone": "a", "kind": "big"},
        )
    yield engine
    engine.shutdown()


@engine.remote
def given() -> tuple[Any, ...]:
    context = engine.get_runtime_context()
    return (
        os.environ["CUDA_VISIBLE_DEVICES"],
        context.get_accelerator_ids(),
        context.get_assigned_resources(),
        engine.get_gpu_ids(),
    )


@engine.remote
def pid() -> int:
    return os.getpid()


@engine.remote
def hold(folder: str, name: str) -> str:
    """Run until the folder has a file "go"; tells its devices and process before."""
    facts = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()}"
    os.symlink(facts, Path(folder, name))  # there with its content, or not at all
    eventually(Path(folder, "go").exists, SECONDS)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@engine.remote
class Holder:
    def devices(self) -> str:
        return os.environ["CUDA_VISIBLE_DEVICES"]

    def given(self) -> tuple[Any, ...]:
        context = engine.get_runtime_context()
        return context.get_accelerator_ids()["GPU"], context.get_assigned_resources()


def all_back(machine: Any) -> bool:
    return bool(machine.available_resources() == machine.cluster_resources())


# ------------------------------------------------------------------------------------ devices


def test_devices_are_those_that_the_driver_sees(machine: Any) -> None:
    assert machine.cluster_resources()["GPU"] == 2
    assert machine.get_gpu_ids() == []


def test_without_a_device_a_task_sees_none(machine: Any) -> None:
    assert machine.get(given.remote(), timeout=SECONDS) == ("", {"GPU": []}, {"CPU": 1.0}, [])


def test_a_task_sees_its_own_devices(machine: Any) -> None:
    both = machine.get(given.options(num_gpus=2, num_cpus=0).remote(), timeout=SECONDS)
    assert both == ("4,GPU-abc", {"GPU": ["4", "GPU-abc"]}, {"GPU": 2.0}, ["4", "GPU-abc"])
    one = machine.get(given.options(num_gpus=1).remote(), timeout=SECONDS)
    assert one[3] in ([4], ["GPU-abc"])
    assert machine.get(given.remote(), timeout=SECONDS)[0] == "", "others still see none"
    eventually(lambda: all_back(machine), SECONDS)


def test_whole_devices_are_exclusive_and_fractions_share_one(machine: Any) -> None:
    whole = [Holder.options(num_gpus=1).remote() for _ in range(2)]
    assert sorted(machine.get([one.devices.remote() for one in whole])) == ["4", "GPU-abc"]
    assert machine.available_resources()["GPU"] == 0
    del whole
    eventually(lambda: all_back(machine), SECONDS)
    shares = [Holder.options(num_gpus=0.5).remote() for _ in range(3)]
    seen = machine.get([one.devices.remote() for one in shares], timeout=SECONDS)
    assert sorted(map(seen.count, set(seen))) == [1, 2]
    ids, resources = machine.get(shares[0].given.remote(), timeout=SECONDS)
    assert (ids, resources) == ([seen[0]], {"GPU": 0.5})
    del shares
    eventually(lambda: all_back(machine), SECONDS)


def test_concurrent_tasks_never_share_a_whole_device(machine: Any, tmp_path: Path) -> None:
    task = hold.options(num_gpus=1, num_cpus=0)
    refs = [task.remote(str(tmp_path), str(number)) for number in range(5)]
    eventually(lambda: sum(file.name != "go" for file in tmp_path.iterdir()) == 2, SECONDS)
    running = {os.readlink(file).split()[0] for file in tmp_path.iterdir()}
    assert running == {"4", "GPU-abc"}
    (tmp_path / "go").touch()
    assert set(machine.get(refs, timeout=SECONDS)) <= {"4", "GPU-abc"}
    eventually(lambda: all_back(machine), SECONDS)


def test_a_process_that_had_devices_runs_nothing_else(machine: Any) -> None:
    had = machine.get(pid.options(num_gpus=1, num_cpus=0).remote(), timeout=SECONDS)
    eventually(lambda: all_back(machine), SECONDS)
    later = machine.get([pid.remote() for _ in range(20)], timeout=SECONDS)
    assert had not in later


def test_a_variable_of_the_users_own_rules_where_no_device_was_given(machine: Any) -> None:
    own = {"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}}
    assert machine.get(given.options(runtime_env=own).remote(), timeout=SECONDS)[0] == "7"
    both = given.options(runtime_env=own, num_gpus=1)
    assert machine.get(both.remote(), timeout=SECONDS)[0] in ("4", "GPU-abc")


def test_a_task_that_waits_keeps_its_device(machine: Any) -> None:
    @machine.remote(num_gpus=2)
    def parent() -> Any:
        return machine.get(given.options(num_gpus=1).remote(), timeout=0.2)

    with pytest.raises(exceptions.GetTimeoutError, match=r"free is GPU 0 of 2; held by task.*par"):
        machine.get(parent.remote(), timeout=SECONDS)
    eventually(lambda: all_back(machine), SECONDS)


def test_bundles_reserve_particular_devices(machine: Any) -> None:
    group = placement_group([{"GPU": 1, "CPU": 1}, {"GPU": 0.5}, {"GPU": 0.5}])
    assert group.wait(SECONDS)
    assert machine.available_resources()["GPU"] == 0
    inside = [
        Holder.options(
            num_gpus=amount,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        ).remote()
        for index, amount in enumerate([1, 0.5, 0.5])
    ]
    seen = machine.get([one.devices.remote() for one in inside], timeout=SECONDS)
    assert seen[1] == seen[2] != seen[0]
    remove_placement_group(group)
    eventually(lambda: all_back(machine), SECONDS)


def test_a_restarted_actor_gets_a_device_again(machine: Any) -> None:
    actor = Holder.options(num_gpus=2, max_restarts=1).remote()
    assert machine.get(actor.devices.remote(), timeout=SECONDS) == "4,GPU-abc"
    machine.kill(actor, no_restart=False)
    again = actor.devices.options(max_task_retries=-1).remote()
    assert machine.get(again, timeout=SECONDS) == "4,GPU-abc"
    machine.kill(actor)
    eventually(lambda: all_back(machine), SECONDS)


# ---------------------------------------------------------------------------- named resources


def test_fractions_and_memory_and_named_resources_add_up(machine: Any) -> None:
    total = machine.cluster_resources()
    assert total["memory"] > 0
    assert total["object_store_memory"] > 0
    actors = [
        Holder.options(num_cpus=0.25, memory=1 << 20, resources={"disk": 0.0001}).remote()
        for _ in range(3)
    ]
    machine.get([one.devices.remote() for one in actors], timeout=SECONDS)
    free = machine.available_resources()
    assert free["CPU"] == 3.25
    assert free["memory"] == total["memory"] - 3 * (1 << 20)
    assert free["disk"] == pytest.approx(1.9997)
    del actors
    eventually(lambda: all_back(machine), SECONDS)


def test_accelerator_types_are_resources(machine: Any) -> None:
    wanted = given.options(accelerator_type="A100")
    resources = machine.get(wanted.remote(), timeout=SECONDS)[2]
    assert resources == {"CPU": 1.0, "accelerator_type:A100": 0.001}
    with pytest.raises(exceptions.TaskUnschedulableError, match="accelerator_type:H100"):
        given.options(accelerator_type="H100").remote()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpus": 5}, exceptions.TaskUnschedulableError),
        ({"num_gpus": 3}, exceptions.TaskUnschedulableError),
        ({"memory": 1e15}, exceptions.TaskUnschedulableError),
        ({"resources": {"tape": 1}}, exceptions.TaskUnschedulableError),
        ({"num_gpus": 1.5}, ValueError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_gpus": 1 / 3}, ValueError),
        ({"resources": {"disk": 0.00001}}, TypeError),
        ({"resources": {"memory": 1}}, TypeError),
        ({"resources": {"GPU": 1}}, TypeError),
    ],
)
def test_what_can_never_be_is_refused_at_the_call(machine: Any, options: Any, error: Any) -> None:
    with pytest.raises(error):
        given.options(**options).remote()


# --------------------------------------------------------------------------------- strategies


def test_spread_work_never_waits_behind_another_in_one_worker(
    machine: Any, tmp_path: Path
) -> None:
    """Short tasks make the engine send several ahead to a worker, but not when they are spread."""
    assert machine.get([pid.remote() for _ in range(100)], timeout=SECONDS)
    spread = hold.options(scheduling_strategy="SPREAD", num_cpus=0)
    refs = [spread.remote(str(tmp_path), str(number)) for number in range(8)]
    eventually(lambda: len(list(tmp_path.iterdir())) == 8, SECONDS, "all run at the same time")
    assert len({os.readlink(file) for file in tmp_path.iterdir()}) == 8
    (tmp_path / "go").touch()
    machine.get(refs, timeout=SECONDS)
    many = pid.options(scheduling_strategy="SPREAD")
    assert len(machine.get([many.remote() for _ in range(200)], timeout=SECONDS)) == 200


def test_node_affinity(machine: Any) -> None:
    node = machine.nodes()[0]["NodeID"]
    for strategy in (
        NodeAffinitySchedulingStrategy(node, soft=False),
        NodeAffinitySchedulingStrategy("feedbeef", soft=True),
    ):
        assert machine.get(pid.options(scheduling_strategy=strategy).remote(), timeout=SECONDS)
        actor = Holder.options(scheduling_strategy=strategy).remote()
        assert machine.get(actor.devices.remote(), timeout=SECONDS) == ""
    nowhere = NodeAffinitySchedulingStrategy("feedbeef", soft=False)
    with pytest.raises(exceptions.TaskUnschedulableError, match=f"'feedbeef'.*{node}"):
        pid.options(scheduling_strategy=nowhere).remote()
    with pytest.raises(exceptions.ActorUnschedulableError, match=r"actor 'Holder'.*'feedbeef'"):
        Holder.options(scheduling_strategy=nowhere).remote()


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"label_selector": {"zone": "a"}}, True),
        ({"label_selector": {"zone": "!b", "kind": "in(big, huge)"}}, True),
        ({"label_selector": {"zone": "b"}}, False),
        ({"scheduling_strategy": {"zone": In("a", "b")}}, True),
        ({"scheduling_strategy": {"zone": NotIn("a")}}, False),
        ({"scheduling_strategy": {"zone": Exists(), "rack": DoesNotExist()}}, True),
        ({"scheduling_strategy": {"rack": Exists()}}, False),
    ],
)
def test_labels(machine: Any, options: dict[str, Any], runs: bool) -> None:
    if "scheduling_strategy" in options:
        strategy = NodeLabelSchedulingStrategy(options["scheduling_strategy"])
        options = {"scheduling_strategy": strategy}
    if runs:
        assert machine.get(pid.options(**options).remote(), timeout=SECONDS)
        return
    with pytest.raises(exceptions.TaskUnschedulableError, match=r"can run nowhere: label.*labels"):
        pid.options(**options).remote()
    with pytest.raises(exceptions.ActorUnschedulableError, match="can run nowhere"):
        Holder.options(**options).remote()


def test_soft_labels_are_only_a_wish(machine: Any) -> None:
    strategy = NodeLabelSchedulingStrategy({}, soft={"zone": In("b")})
    assert machine.get(pid.options(scheduling_strategy=strategy).remote(), timeout=SECONDS)
    node = machine.nodes()[0]
    assert node["Labels"] == {"zone": "a", "kind": "big", "ray.io/node-id": node["NodeID"]}
    assert machine.get_runtime_context().get_node_labels() == node["Labels"]


MISTAKES = [
    (lambda: NodeAffinitySchedulingStrategy(5, soft=True), TypeError, "node_id=5"),
    (lambda: NodeAffinitySchedulingStrategy("ab", soft="no"), TypeError, "True or False"),
    (lambda: NodeLabelSchedulingStrategy({}), ValueError, "which nodes"),
    (lambda: NodeLabelSchedulingStrategy({"a": "b"}), TypeError, r"In\(\.\.\.\)"),
    (lambda: NodeLabelSchedulingStrategy({"a": In("b c")}), ValueError, "values of a label"),
    (lambda: PlacementGroupSchedulingStrategy("g"), TypeError, "expected a PlacementGroup"),
    (lambda: PlacementGroupSchedulingStrategy(None, 0), ValueError, "bundle_index=0"),
    (lambda: pid.options(scheduling_strategy="FAST"), ValueError, "'DEFAULT', 'SPREAD'"),
    (lambda: pid.options(scheduling_strategy=5), ValueError, "PlacementGroupSchedulingStrategy"),
    (lambda: pid.options(label_selector={"a": "b c"}), TypeError, r"in\(a, b\).*'b c'"),
    (lambda: pid.options(label_selector=["a"]), TypeError, "label -> 'value'"),
    (lambda: pid.options(label_selector={"a": 5}), TypeError, "label -> 'value'"),
    (lambda: pid.options(placement_group=5), ValueError, "a PlacementGroup"),
    (lambda: pid.options(accelerator_type=""), ValueError, "non-empty string"),
    (lambda: pid.options(num_gpus=1.5), ValueError, "whole devices"),
    (lambda: pid.options(num_cpus=1 / 3), ValueError, "steps of 0.0001"),
]


@pytest.mark.parametrize("row", range(len(MISTAKES)))
def test_mistakes(row: int) -> None:
    act, error, message = MISTAKES[row]
    with pytest.raises(error, match=f"(?s){message}"):
        act()
