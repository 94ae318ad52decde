"""The state API over real processes: what it lists is what happens."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import exceptions, state
from engine.topology import Member, Topology
from tests.engine.support import eventually

SECONDS = 10.0


@engine.remote
class Worker:
    """An actor whose calls can be held back."""

    def wait_for(self, path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise ValueError("no\nmore")


@pytest.fixture(autouse=True)
def since() -> None:
    """Others have used the same engine: what they did is not looked at."""
    global _since
    _since = time.time() * 1e3


_since = 0.0


def _named(name: str, **equal: Any) -> list[Any]:
    """Records of this test's tasks of a name (the part after the last dot), with their details."""
    found = state.list_tasks(limit=10_000, detail=True)
    return [
        one for one in found
        if one.name.rpartition(".")[2] == name and one.creation_time_ms >= _since
        and all(one[k] == v for k, v in equal.items())
    ]  # fmt: skip


def _task(name: str, wanted: str, **equal: Any) -> Any:
    """The only task of a name, once it is in a state."""
    def look() -> Any:
        found = _named(name, **equal)
        return found[0] if len(found) == 1 and found[0].state == wanted else None

    return eventually(look, SECONDS, f"{name} to be {wanted}")


# ----------------------------------------------------------------------------------- tasks


def test_a_task_from_its_submission_to_its_end(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def first_step(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.002)
        return os.getpid()

    @cluster.remote
    def second_step(x: int) -> int:
        return x

    before = time.time() * 1e3
    first = first_step.remote(str(tmp_path / "go"))
    second = second_step.remote(first)
    running = _task("first_step", "RUNNING")
    waiting = _task("second_step", "PENDING_ARGS_AVAIL")
    assert running.worker_pid in {one.pid for one in state.list_workers()}
    assert before <= running.creation_time_ms <= running.start_time_ms <= time.time() * 1e3
    assert running.end_time_ms is waiting.start_time_ms is waiting.worker_id is None
    assert running.type == "NORMAL_TASK"
    assert running.required_resources == {"CPU": 1.0}
    assert "waits for its arguments" in waiting.reason
    assert running.task_id == first.hex()
    (tmp_path / "go").touch()
    pid = cluster.get(second)
    done = _task("first_step", "FINISHED")
    assert (done.worker_pid, done.attempt_number, done.error_type) == (pid, 0, None)
    assert done.start_time_ms <= done.end_time_ms
    assert abs(done.creation_time_ms - running.creation_time_ms) < 1.0
    assert _task("second_step", "FINISHED")


def test_tasks_that_wait_for_a_worker_or_in_a_verb(cluster: Any, tmp_path: Path) -> None:
    go = str(tmp_path / "go")

    @cluster.remote(num_cpus=2)
    def holds_all(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    @cluster.remote(num_cpus=2)
    def gets_no_worker() -> None:
        return None

    @cluster.remote(num_cpus=0)
    def inside_get(refs: list[Any]) -> None:
        cluster.get(refs)

    @cluster.remote(num_cpus=0)
    def inside_wait(refs: list[Any]) -> None:
        cluster.wait(refs)

    held = holds_all.remote(go)
    _task("holds_all", "RUNNING")
    refs = [gets_no_worker.remote(), inside_get.remote([held]), inside_wait.remote([held])]
    assert _task("gets_no_worker", "PENDING_NODE_ASSIGNMENT").reason
    _task("inside_get", "RUNNING_IN_RAY_GET")
    _task("inside_wait", "RUNNING_IN_RAY_WAIT")
    Path(go).touch()
    cluster.get(refs, timeout=SECONDS)


def test_actor_calls_wait_in_order(cluster: Any, tmp_path: Path) -> None:
    worker = Worker.remote()
    pid = cluster.get(worker.pid.remote())
    held = worker.wait_for.remote(str(tmp_path / "go"))
    behind = worker.pid.remote()
    record = _task("wait_for", "RUNNING", actor_id=worker._actor_id.hex())
    assert (record.worker_pid, record.type) == (pid, "ACTOR_TASK")
    queued = eventually(
        lambda: [
            one for one in _named("pid", actor_id=worker._actor_id.hex())
            if one.state == "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
        ]
    )  # fmt: skip
    assert queued[0].task_id == behind.hex()
    (tmp_path / "go").touch()
    cluster.get([held, behind], timeout=SECONDS)
    created = _named("__init__", actor_id=worker._actor_id.hex())
    assert [(one.type, one.state) for one in created] == [("ACTOR_CREATION_TASK", "FINISHED")]


def test_failures_say_what_kind_they_are(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(max_retries=0)
    def raises() -> None:
        raise ValueError("no\nmore")

    @cluster.remote
    def needs(x: Any) -> None:
        return None

    @cluster.remote(max_retries=1)
    def dies() -> None:
        os._exit(3)

    @cluster.remote
    def sleeps(path: str) -> None:
        Path(path).touch()
        time.sleep(600)

    with pytest.raises(exceptions.WorkerCrashedError):
        cluster.get(dies.remote(), timeout=SECONDS)
    first = raises.remote()  # after the death: a worker's records go with it
    for ref in (first, needs.remote(first)):
        with pytest.raises(ValueError, match="more"):
            cluster.get(ref, timeout=SECONDS)
    path = tmp_path / "started"
    slow = sleeps.remote(str(path))
    eventually(path.exists)
    cluster.cancel(slow)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(slow, timeout=SECONDS)
    (raised,) = _named("raises")
    assert raised.error_type == "TASK_EXECUTION_EXCEPTION"
    assert raised.error_message == "ValueError: no"
    crashed = _named("dies")
    assert [one.error_type for one in crashed] == ["WORKER_DIED"] * 2
    assert sorted(one.attempt_number for one in crashed) == [0, 1]
    assert "exited with code 3" in crashed[0].error_message
    assert _task("needs", "FAILED").end_time_ms
    assert _task("sleeps", "FAILED").error_type == "TASK_CANCELLED"


def test_attempts_that_are_retried_are_listed_each(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(max_retries=2, retry_exceptions=True)
    def unlucky(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            raise ValueError("again")
        return os.path.getsize(path)

    assert cluster.get(unlucky.remote(str(tmp_path / "runs")), timeout=SECONDS) == 3
    found = sorted(_named("unlucky"), key=lambda one: one.attempt_number)
    assert [one.state for one in found] == ["FAILED", "FAILED", "FINISHED"]
    assert [one.attempt_number for one in found] == [0, 1, 2]
    attempts = state.get_task(found[0].task_id)
    assert isinstance(attempts, list)
    assert len(attempts) == 3


def test_tasks_of_other_processes_are_listed(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(num_cpus=0)
    def grandchild(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    @cluster.remote(num_cpus=0)
    def child(path: str) -> None:
        cluster.get([grandchild.remote(path) for _ in range(3)])

    ref = child.remote(str(tmp_path / "go"))
    _task("child", "RUNNING_IN_RAY_GET")
    eventually(lambda: len(_named("grandchild", state="RUNNING")) == 3)
    assert {one.parent_task_id for one in _named("grandchild")} == {ref.hex()}
    owners = {one.owner_id for one in _named("grandchild")}
    assert owners == {_named("child")[0].worker_id}
    (tmp_path / "go").touch()
    cluster.get(ref, timeout=SECONDS)

    @cluster.remote
    def look() -> list[str]:
        return [one.name for one in state.list_tasks(limit=10_000)]

    seen = cluster.get(look.remote(), timeout=SECONDS)
    assert sum(name.endswith("grandchild") for name in seen) == 3


def test_a_name_given_is_the_name_shown(cluster: Any) -> None:
    @cluster.remote
    def plain() -> None:
        return None

    worker = Worker.remote()
    cluster.get([plain.options(name="fancy").remote(), worker.pid.options(name="who").remote()])
    (found,) = state.list_tasks(filters=[("name", "=", "fancy")])
    assert found.func_or_class_name.endswith("plain")
    assert len(state.list_tasks(filters=[("name", "=", "WHO")])) == 1


def test_quiet_calls_leave_no_record(cluster: Any) -> None:
    @cluster.remote(enable_task_events=False)
    def silent_task(fail: bool) -> None:
        if fail:
            raise ValueError("quiet")

    @cluster.remote(enable_task_events=False)
    class SilentActor:
        def silent_method(self) -> None:
            return None

    @cluster.remote
    class Half:
        @cluster.method(enable_task_events=False)
        def silent_half(self) -> None:
            return None

        def loud_half(self) -> None:
            return None

    half, silent = Half.remote(), SilentActor.remote()
    refs = [silent_task.remote(False), silent.silent_method.remote(), half.silent_half.remote()]
    refs += [half.loud_half.remote(), half.loud_half.options(enable_task_events=False).remote()]
    cluster.get(refs, timeout=SECONDS)
    with pytest.raises(ValueError, match="quiet"):
        cluster.get(silent_task.remote(True))
    names = [one.name for one in state.list_tasks(limit=10_000)]
    assert not [one for one in names if "silent" in one or "SilentActor" in one]
    assert len(_named("loud_half")) == 1
    assert not [one for one in cluster.timeline() if "silent" in one["name"]]


def test_what_an_actor_has_done_outlives_it(cluster: Any) -> None:
    @cluster.remote
    class Passing:
        def once(self) -> int:
            return os.getpid()

    actor = Passing.remote()
    pid = cluster.get(actor.once.remote())
    del actor
    eventually(lambda: not [one for one in state.list_workers() if one.pid == pid and one.is_alive])
    record = _task("once", "FINISHED")
    assert record.worker_pid == pid


def test_a_waiting_task_that_is_cancelled_never_runs(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def gate(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    @cluster.remote
    def behind(_x: Any, path: str) -> None:
        Path(path).touch()

    first = gate.remote(str(tmp_path / "go"))
    second = behind.remote(first, str(tmp_path / "ran"))
    cluster.cancel(second)
    (tmp_path / "go").touch()
    cluster.get(first, timeout=SECONDS)
    with pytest.raises(exceptions.TaskCancelledError):
        cluster.get(second, timeout=SECONDS)
    cluster.get([gate.remote(str(tmp_path / "go")) for _ in range(4)], timeout=SECONDS)
    assert not (tmp_path / "ran").exists()
    assert [one.state for one in _named("behind")] == ["FAILED"]


# --------------------------------------------------------------------- filters and limits


def test_filters_limits_and_columns(cluster: Any) -> None:
    @cluster.remote
    def counted(x: int) -> int:
        return x

    cluster.get([counted.remote(n) for n in range(30)])
    name = _named("counted")[0].name
    found = state.list_tasks(filters=[("name", "=", name), ("state", "!=", "failed")], limit=7)
    assert (len(found), found.total) == (7, 30)
    assert {one["name"] for one in found} == {one.name for one in found} == {name}
    assert "start_time_ms" not in found[0]
    assert "start_time_ms" in state.list_tasks(limit=1, detail=True)[0]
    assert state.list_tasks(filters=[("worker_pid", "=", -1)]) == []
    with pytest.raises(AttributeError, match="there are: task_id"):
        _ = found[0].colour


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, "5"])
def test_limits_out_of_range(cluster: Any, limit: Any) -> None:
    with pytest.raises(ValueError, match="from 1 to 10,000"):
        state.list_actors(limit=limit)


@pytest.mark.parametrize("test", ["state", ("state", "<", 1), ("state", "="), 5])
def test_filters_that_are_none(cluster: Any, test: Any) -> None:
    with pytest.raises(ValueError, match="expected \\(key"):
        state.list_workers(filters=[test])


def test_a_filter_on_no_column(cluster: Any) -> None:
    with pytest.raises(ValueError, match=r"no such column.*is_alive"):
        state.list_workers(filters=[("colour", "=", "red")])


def test_a_process_that_is_stopped_is_named(cluster: Any) -> None:
    worker = Worker.remote()
    pid = cluster.get(worker.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.StateApiException, match=rf"pids \[{pid}\]"):
            state.list_tasks(timeout=0.2)
        found = state.list_objects(timeout=0.2, raise_on_missing_output=False)
        assert found.unanswered == [pid]
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.get(worker.pid.remote(), timeout=SECONDS)
    assert state.list_tasks().unanswered == []


# --------------------------------------------------------------------------------- objects


def test_objects_of_all_processes(cluster: Any) -> None:
    @cluster.remote
    class Keeper:
        def keep(self, refs: list[Any]) -> int:
            self.refs = refs
            self.own = cluster.put(np.zeros(1 << 20, dtype=np.uint8))
            return os.getpid()

    ref = cluster.put(np.zeros(3 << 20, dtype=np.uint8))
    outer = cluster.put([ref])
    keeper = Keeper.remote()
    pid = cluster.get(keeper.keep.remote([ref]), timeout=SECONDS)
    mine, theirs = sorted(state.get_objects(ref.hex()), key=lambda one: one.pid == pid)
    assert mine.object_size > 3 << 20
    assert mine.in_shared_memory
    assert mine.reference_kinds == ["PINNED_IN_MEMORY", "CAPTURED_IN_OBJECT", "LOCAL_REFERENCE"]
    assert mine.pid == os.getpid()
    assert mine.holder_id == mine.owner_id == mine.process_id
    assert list(mine.borrowers) == [theirs.process_id]
    assert theirs.reference_type == "LOCAL_REFERENCE"
    assert (mine.type, theirs.type) == ("DRIVER", "WORKER")
    assert mine.task_status == "FINISHED"
    owned = state.list_objects(filters=[("pid", "=", pid), ("in_shared_memory", "=", True)])
    assert len(owned) == 1
    del outer
    handles = [one for one in state.list_objects() if one.reference_type == "ACTOR_HANDLE"]
    assert keeper._actor_id.hex() in {one.object_id for one in handles}


def test_objects_used_by_calls(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def gate(path: str, x: int) -> int:
        while not os.path.exists(path):
            time.sleep(0.002)
        return x

    argument = cluster.put(5)
    ref = gate.remote(str(tmp_path / "go"), argument)
    (record,) = state.get_objects(argument.hex())
    assert "USED_BY_PENDING_TASK" in record.reference_kinds
    assert record.pending_uses == 1
    (pending,) = state.get_objects(ref.hex())
    assert pending.task_status == "PENDING"
    (tmp_path / "go").touch()
    assert cluster.get(ref, timeout=SECONDS) == 5
    assert state.get_objects(ref.hex())[0].task_status == "FINISHED"


# --------------------------------------------------------------- actors, workers, the rest


def test_actors_from_birth_to_death(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote(num_cpus=1)
    class SlowToBegin:
        def __init__(self, path: str) -> None:
            while not os.path.exists(path):
                time.sleep(0.002)

        def pid(self) -> int:
            return os.getpid()

    actor = SlowToBegin.options(name="slow", max_restarts=1).remote(str(tmp_path / "go"))
    mine = actor._actor_id.hex()
    eventually(lambda: state.get_actor(mine))
    assert state.get_actor(mine)["state"] == "PENDING_CREATION"
    (tmp_path / "go").touch()
    pid = cluster.get(actor.pid.remote(), timeout=SECONDS)
    alive = state.get_actor(mine)
    assert (alive["state"], alive["pid"], alive["name"]) == ("ALIVE", pid, "slow")
    assert alive["required_resources"] == {"CPU": 1.0}
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: state.get_actor(mine)["num_restarts"] == 1)
    eventually(lambda: state.get_actor(mine)["state"] == "ALIVE")
    cluster.kill(actor)
    eventually(lambda: state.get_actor(mine)["state"] == "DEAD")
    assert "engine.kill" in state.get_actor(mine)["death_cause"]
    assert state.get_actor("00") is None
    counts = state.summarize_actors()["cluster"]["summary"][alive["class_name"]]["state_counts"]
    assert counts == {"DEAD": 1}


def test_workers_alive_and_dead(cluster: Any) -> None:
    @cluster.remote(max_retries=0)
    def leave() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        cluster.get(leave.remote(), timeout=SECONDS)
    (driver,) = state.list_workers(filters=[("worker_type", "=", "DRIVER")])
    assert driver.pid == os.getpid()
    assert state.get_worker(driver.worker_id) is not None
    dead = state.list_workers(filters=[("is_alive", "=", False)], detail=True)
    assert f"pid {dead[0].pid}" in str(caught.value)
    assert (dead[0].exit_type, dead[0].exit_detail) == ("SYSTEM_ERROR", "was killed by SIGTERM")
    event = next(one for one in state.list_cluster_events() if str(dead[0].pid) in one.message)
    assert (event.severity, event.source_type) == ("ERROR", "NODE")
    assert "SIGTERM" in event.message


def test_nodes_jobs_and_placement_groups(cluster: Any) -> None:
    (node,) = state.list_nodes()
    assert (node.state, node.is_head_node) == ("ALIVE", True)
    assert node.resources_total["CPU"] == 2.0
    assert state.get_node(node.node_id) is not None
    (job,) = state.list_jobs()
    assert job.driver_info["pid"] == str(os.getpid())
    assert job.entrypoint
    assert state.get_job(job.job_id) is not None
    group = cluster.util.placement_group([{"CPU": 1}, {"CPU": 0.5}])
    assert group.wait(SECONDS)
    waiting = cluster.util.placement_group([{"CPU": 2}])
    found = {one.placement_group_id: one for one in state.list_placement_groups()}
    assert found[group.id.hex()].state == "CREATED"
    assert found[group.id.hex()].bundles == [{"CPU": 1.0}, {"CPU": 0.5}]
    assert found[waiting.id.hex()].state == "PENDING"
    cluster.util.remove_placement_group(waiting)
    cluster.util.remove_placement_group(group)
    assert state.get_placement_group(group.id.hex()) is None


def test_runtime_environments_in_use(cluster: Any) -> None:
    @cluster.remote(runtime_env={"env_vars": {"COLOUR": "blue"}})
    class Coloured:
        def colour(self) -> str:
            return os.environ["COLOUR"]

    actor = Coloured.remote()
    assert cluster.get(actor.colour.remote(), timeout=SECONDS) == "blue"
    (found,) = [
        one for one in state.list_runtime_envs()
        if one.runtime_env == {"env_vars": {"COLOUR": "blue"}}
    ]  # fmt: skip
    assert (found.ref_cnt, found.success) == (1, True)


class Idle(Member):
    """A member that waits until it is stopped."""

    def poll(self) -> bool:
        return False


def test_topologies(cluster: Any) -> None:
    topology = Topology("two of a kind")
    topology.member("idle", Idle, parallelism=2, num_cpus=0.1)
    with topology.deploy() as handle:
        (found,) = state.list_topologies(filters=[("state", "=", "RUNNING")])
        assert (found.name, found.copies) == ("two of a kind", 2)
        assert sorted(one["index"] for one in found.members) == [0, 1]
        pids = {one.pid for one in state.list_workers()}
        assert {one["pid"] for one in found.members} <= pids
        handle.stop()
    eventually(lambda: not state.list_topologies(filters=[("state", "=", "RUNNING")]))
    assert state.list_topologies(filters=[("name", "=", "two of a kind")])[0].state == "ENDED"


def test_summaries(cluster: Any) -> None:
    @cluster.remote
    def summed(fail: bool) -> int:
        if fail:
            raise ValueError
        return 1

    keep = cluster.put(np.zeros(1 << 20, dtype=np.uint8))
    refs = [summed.remote(n == 0) for n in range(5)]
    cluster.wait(refs, num_returns=5)
    tasks = state.summarize_tasks()["cluster"]
    (mine,) = [one for name, one in tasks["summary"].items() if name.endswith("summed")]
    assert mine["state_counts"] == {"FINISHED": 4, "FAILED": 1}
    assert tasks["total_tasks"] >= 5
    objects = state.summarize_objects()["cluster"]
    assert objects["summary"]["PINNED_IN_MEMORY"]["total_size_mb"] > 1.0
    assert objects["total_objects"] >= 6
    del keep


def test_the_module_has_rays_place_too(cluster: Any) -> None:
    assert cluster.util.state is state
    assert importlib.import_module("engine.util.state") is state
