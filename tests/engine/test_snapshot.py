"""Views of tasks, put together from reports that were not taken at one moment."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core import snapshot
from engine.core.gather import Gatherings
from engine.core.ids import IdSource, is_quiet, owner_of, short

NODE, DRIVER, WORKER = b"node----", b"driver--", b"worker--"
TASK = DRIVER + bytes(7) + b"\1"


def _report(process: bytes, pid: int, **known: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "owned": [], "executing": [], "ended": [], "failures": [], "spans": [],
        "actor": b"", "kind": "WORKER", "epoch": 1000.0,
    }  # fmt: skip
    return {"process": process, "pid": pid, **empty, **known}


def _owned(state: str = "SUBMITTED_TO_WORKER", attempts: int = 0) -> list[Any]:
    asked = [DRIVER, b"shape"] if state == "PENDING_NODE_ASSIGNMENT" else None
    row = [TASK, "given", "NORMAL_TASK", state, attempts, WORKER, b"", 1.0, "is on its way"]
    return [*row, asked, b"", {"CPU": 1.0}]


def _ended(start: float, error: str = "") -> list[Any]:
    return [TASK, "given", "NORMAL_TASK", 1.0, start, 0.0, start + 1, start + 1, error, "f"]


def _states(*reports: dict[str, Any]) -> list[tuple[str, int]]:
    found = snapshot.tasks(reports, NODE, DRIVER)
    return [(one["state"], one["attempt_number"]) for one in found]


def test_owner_and_executor_make_one_record() -> None:
    driver = _report(DRIVER, 1, owned=[_owned()])
    worker = _report(WORKER, 2, executing=[[TASK, "RUNNING", 5.0]])
    (record,) = snapshot.tasks([worker, driver], NODE, DRIVER)
    assert (record["state"], record["name"], record["worker_pid"]) == ("RUNNING", "given", 2)
    assert (record["creation_time_ms"], record["start_time_ms"]) == (1_001_000.0, 1_005_000.0)
    assert record["owner_id"] == DRIVER.hex()


def test_the_node_knows_better_why_a_task_waits() -> None:
    driver = _report(DRIVER, 1, owned=[_owned("PENDING_NODE_ASSIGNMENT")])
    demand = {"owner": DRIVER.hex(), "shape": b"shape".hex(), "reason": "all CPUs are taken"}
    (record,) = snapshot.tasks([driver], NODE, DRIVER, [demand])
    assert record["reason"] == "all CPUs are taken"


def test_an_answer_on_its_way_is_no_second_record() -> None:
    driver = _report(DRIVER, 1, owned=[_owned()])
    assert _states(driver, _report(WORKER, 2, ended=[_ended(5.0)])) == [("FINISHED", 0)]


def test_attempts_are_numbered_in_order_of_time() -> None:
    worker = _report(WORKER, 2, ended=[_ended(8.0, "ValueError: b"), _ended(5.0, "ValueError: a")])
    driver = _report(DRIVER, 1, owned=[_owned(attempts=2)])
    assert _states(driver, worker) == [("SUBMITTED_TO_WORKER", 2), ("FAILED", 1), ("FAILED", 0)]


def test_attempts_that_died_are_the_owners_to_tell() -> None:
    failure = [TASK, "f", "NORMAL_TASK", "WorkerCrashedError", "died", 1.0, 4.0, WORKER]
    driver = _report(DRIVER, 1, failures=[failure])
    worker = _report(WORKER, 2, ended=[_ended(5.0)])
    assert _states(driver, worker) == [("FINISHED", 1), ("FAILED", 0)]
    failed = snapshot.tasks([driver], NODE, DRIVER)[0]
    assert failed["error_type"] == "WORKER_DIED"
    assert failed["error_message"] == "WorkerCrashedError: died"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ValueError: no", "TASK_EXECUTION_EXCEPTION"),
        ("TaskCancelledError: f was cancelled", "TASK_CANCELLED"),
        ("", None),
    ],
)
def test_errors_are_filed_by_kind(error: str, kind: str | None) -> None:
    (record,) = snapshot.tasks([_report(WORKER, 2, ended=[_ended(1.0, error)])], NODE, DRIVER)
    assert record["error_type"] == kind


def test_quiet_ids_are_ids() -> None:
    ids = IdSource(DRIVER)
    loud, quiet = ids.new(), ids.quiet()
    assert not is_quiet(loud)
    assert is_quiet(quiet)
    assert loud != quiet
    assert owner_of(quiet) == DRIVER
    assert short(quiet).endswith(":2")


def test_who_does_not_answer_is_named() -> None:
    sent: list[bytes] = []
    answers: list[Any] = []
    gatherings = Gatherings(lambda process, message: sent.append(process))
    gatherings.ask(
        "tasks", [DRIVER, WORKER], 0.0, lambda *found: answers.append(found), patience=1.0
    )
    assert sent == [DRIVER, WORKER]
    assert gatherings.tick(0.5) == 1.0
    assert gatherings.tick(1.0) is None
    assert answers == [([], [DRIVER, WORKER])]
