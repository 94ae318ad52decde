"""What the engine is doing, under the names of Ray's state API: list, get and summarise.

Every listing is a snapshot, gathered from all processes when asked for: tasks and objects of
every owner, not only of the caller. Each process keeps the last calls it has run (2,000, see
`task_events_kept` of `engine.config.Config`); what a worker ran that was killed is gone with it,
what one ran that ended by itself is kept by its node.
A call, method or actor with ``enable_task_events=False`` leaves no record.

A listing is a list of records; a record is a dictionary whose entries are attributes too. All take

    filters: ``[(key, "=" or "!=", value), ...]``; all have to hold, text is compared without case.
    limit: records at most, up to 10,000; `Listing.total` says how many there were.
    timeout: seconds to wait for the answer (GetTimeoutError). A process that is stopped, or in a
        long call into C, is waited for at most 2 s, or half of `timeout`.
    detail: with the columns that are left out otherwise.
    raise_on_missing_output: raise StateApiException when a process has not answered; else
        `Listing.unanswered` has their pids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from engine.core import snapshot
from engine.exceptions import StateApiException
from engine.logs import get_log, list_logs
from engine.session import runtime

__all__ = [
    "Listing",
    "Record",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_topologies",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
    "why_pending",
]

_LIMIT_MAX = 10_000
_Filters = Iterable[tuple[str, str, Any]] | None

# Columns of a listing that are shown with detail=True only.
_DETAIL = {
    "tasks": {"creation_time_ms", "start_time_ms", "end_time_ms", "error_message", "owner_id",
              "required_resources"},
    "actors": {"death_cause", "num_restarts", "is_detached", "required_resources",
               "placement_group_id", "owner_id", "worker_id", "topology"},
    "objects": {"process_id", "local_references", "pending_uses", "borrowers", "reason"},
    "workers": {"worker_launch_time_ms", "end_time_ms", "resources"},
    "nodes": {"start_time_ms", "end_time_ms"},
}  # fmt: skip


class Record(dict[str, Any]):
    """A dictionary whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no column {name!r}; there are: {', '.join(self)}") from None


class Listing(list[Record]):
    """Records, and what was left out: `total` found, pids of processes that are `unanswered`."""

    def __init__(self, records: Iterable[Record], total: int, unanswered: list[int]) -> None:
        super().__init__(records)
        self.total = total
        self.unanswered = unanswered


# ------------------------------------------------------------------------------- gathering


def _gather(about: str, timeout: float) -> tuple[list[Any], list[int]]:
    """What every process, this one too, tells about "tasks" or "objects"; and who did not."""
    home = runtime()
    found = home.ask("gather", timeout, about=about, patience=timeout / 2)
    with home.lock:
        home.drain()
        mine = home.records[about]()
    return [*found["records"], *mine], found["unanswered"]


def _tasks(timeout: float) -> tuple[list[Any], list[int]]:
    reports, unanswered = _gather("tasks", timeout)
    home = runtime()
    waiting = home.ask("state", timeout)["waiting"]
    return snapshot.tasks(reports, home.node, home.info["driver"], waiting), unanswered


def _objects(timeout: float) -> tuple[list[Any], list[int]]:
    reports, unanswered = _gather("objects", timeout)
    return snapshot.objects(reports, runtime().node), unanswered


def _of_node(about: str) -> Callable[[float], tuple[list[Any], list[int]]]:
    return lambda timeout: (runtime().ask("state", timeout)[about], [])


def _topologies(timeout: float) -> tuple[list[Any], list[int]]:
    return snapshot.topologies(_of_node("actors")(timeout)[0]), []


_SOURCES: dict[str, Callable[[float], tuple[list[Any], list[int]]]] = {
    "tasks": _tasks,
    "objects": _objects,
    "topologies": _topologies,
    **{
        about: _of_node(about)
        for about in (
            *("actors", "cluster_events", "jobs", "nodes", "placement_groups", "runtime_envs"),
            "workers",
        )
    },
}


def _list(
    about: str,
    filters: _Filters = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> Listing:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LIMIT_MAX:
        raise ValueError(f"limit={limit!r}: expected an integer from 1 to {_LIMIT_MAX:,}")
    tests = [_checked(one) for one in filters or ()]
    records, unanswered = _SOURCES[about](timeout)
    if unanswered and raise_on_missing_output:
        raise StateApiException(
            f"{len(unanswered)} processes did not answer (pids {unanswered}): stopped, or in a "
            "long call into C. Pass raise_on_missing_output=False for what the others said."
        )
    for key, wanted, same in tests:
        if records and not any(key in record for record in records):
            raise ValueError(
                f"filter on {key!r}: no such column; there are {', '.join(sorted(records[0]))}"
            )
        records = [one for one in records if (_text(one.get(key)) == wanted) == same]
    hidden = set() if detail else _DETAIL.get(about, set())
    shown = [
        Record({key: value for key, value in record.items() if key not in hidden})
        for record in records[:limit]
    ]
    return Listing(shown, len(records), unanswered)


def _checked(one: Any) -> tuple[str, str, bool]:
    if not isinstance(one, tuple | list) or len(one) != 3 or one[1] not in ("=", "!="):
        raise ValueError(f"filter {one!r}: expected (key, '=' or '!=', value)")
    return str(one[0]), _text(one[2]), one[1] == "="


def _text(value: Any) -> str:
    return str(value).lower()


def _get(about: str, key: str, wanted: str, timeout: float) -> list[Record]:
    return _list(about, [(key, "=", wanted)], _LIMIT_MAX, timeout, True, False)


def _get_one(about: str, key: str, wanted: str, timeout: float) -> Record | None:
    found = _get(about, key, wanted, timeout)
    return found[0] if found else None


# ------------------------------------------------------------------------------------ list


def list_tasks(
    *,
    filters: _Filters = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> Listing:
    """One record an attempt of a task or actor call: open ones first, then the latest ended.

    `state` is Ray's: PENDING_ARGS_AVAIL, PENDING_NODE_ASSIGNMENT (no worker yet, or its actor does
    not live yet), SUBMITTED_TO_WORKER, PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY, RUNNING,
    RUNNING_IN_RAY_GET, RUNNING_IN_RAY_WAIT, FINISHED, FAILED. The states that fetch arguments do
    not exist here: they come with the call. `reason` says in words what an open one waits for.
    Further: name, type, attempt_number, worker_id, worker_pid, node_id, actor_id, error_type; with
    `detail` its times in milliseconds since 1970, error_message, owner_id and, while it is open,
    required_resources. The creation of an actor has the actor's id.
    """
    return _list("tasks", filters, limit, timeout, detail, raise_on_missing_output)


def list_objects(
    *,
    filters: _Filters = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> Listing:
    """One record an object and process that owns it or holds references to it.

    object_size is in bytes, holder_id the process in whose memory it lies. `reference_kinds`: any
    of ACTOR_HANDLE, PINNED_IN_MEMORY (in the owner's shared memory), USED_BY_PENDING_TASK,
    CAPTURED_IN_OBJECT, LOCAL_REFERENCE; `reference_type` is the first of them. `in_shared_memory`
    and `spilled` say where a value lies that does not travel inside messages.
    """
    return _list("objects", filters, limit, timeout, detail, raise_on_missing_output)


def list_actors(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record an actor: those that live, then the last 1,000 that are dead.

    `state` is PENDING_CREATION, ALIVE, RESTARTING or DEAD.
    """
    return _list("actors", filters, limit, timeout, detail)


def list_workers(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a process: driver and workers, then the last 1,000 that ended, with why.

    `use` says what a live one is for: "driver", "idle", "lease" (tasks), "actor" or "retiring".
    """
    return _list("workers", filters, limit, timeout, detail)


def list_nodes(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a node: resources, bytes of the object store in use."""
    return _list("nodes", filters, limit, timeout, detail)


def list_jobs(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a driver: its command line, pid and start."""
    return _list("jobs", filters, limit, timeout, detail)


def list_placement_groups(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a placement group that is not removed: PENDING or CREATED, and its bundles."""
    return _list("placement_groups", filters, limit, timeout, detail)


def list_runtime_envs(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a runtime environment that workers live in: what it is, and how many they are."""
    return _list("runtime_envs", filters, limit, timeout, detail)


def list_topologies(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """One record a topology deployed in processes: name, state, and where each copy runs.

    `state` is STARTING, RUNNING, or ENDED; the last ones that ended are kept as long as their
    actors are. Streaming jobs and graph computations are topologies too.
    """
    return _list("topologies", filters, limit, timeout, detail)


def list_cluster_events(
    *, filters: _Filters = None, limit: int = 100, timeout: float = 30, detail: bool = False
) -> Listing:
    """The last 1,000 ends of workers and actors, the latest first: when, how bad, and why."""
    return _list("cluster_events", filters, limit, timeout, detail)


# ------------------------------------------------------------------------------------- get


def get_task(id: str, *, timeout: float = 30) -> Record | list[Record] | None:
    """The task with this id in hexadecimal; a list if it has several attempts, None if unknown."""
    found = _get("tasks", "task_id", id, timeout)
    return found if len(found) > 1 else found[0] if found else None


def get_objects(id: str, *, timeout: float = 30) -> list[Record]:
    """The records of an object, one a process that knows it."""
    return _get("objects", "object_id", id, timeout)


def get_actor(id: str, *, timeout: float = 30) -> Record | None:
    """The actor with this id in hexadecimal, or None."""
    return _get_one("actors", "actor_id", id, timeout)


def get_worker(id: str, *, timeout: float = 30) -> Record | None:
    """The worker or driver with this id in hexadecimal, or None."""
    return _get_one("workers", "worker_id", id, timeout)


def get_node(id: str, *, timeout: float = 30) -> Record | None:
    """The node with this id in hexadecimal, or None."""
    return _get_one("nodes", "node_id", id, timeout)


def get_job(id: str, *, timeout: float = 30) -> Record | None:
    """The job (driver) with this id in hexadecimal, or None."""
    return _get_one("jobs", "job_id", id, timeout)


def get_placement_group(id: str, *, timeout: float = 30) -> Record | None:
    """The placement group with this id in hexadecimal, or None."""
    return _get_one("placement_groups", "placement_group_id", id, timeout)


def why_pending(ref: Any) -> str:
    """In words, why a reference is not ready yet ("ready" when it is)."""
    return runtime().reason(ref.binary(), True)


# ------------------------------------------------------------------------------- summarise


def summarize_tasks(*, timeout: float = 30, raise_on_missing_output: bool = True) -> dict[str, Any]:
    """Attempts counted by name and state: ``{"cluster": {"summary": {name: {...}}, ...}}``."""
    records = _list("tasks", None, _LIMIT_MAX, timeout, False, raise_on_missing_output)
    summary: dict[str, Any] = {}
    for one in records:
        entry = summary.setdefault(
            one["name"],
            {
                "func_or_class_name": one["func_or_class_name"],
                "type": one["type"],
                "state_counts": Counter(),
            },
        )
        entry["state_counts"][one["state"]] += 1
    kinds = Counter(one["type"] for one in records)
    return _summary(
        summary,
        {"state_counts"},
        total_tasks=kinds["NORMAL_TASK"],
        total_actor_tasks=kinds["ACTOR_TASK"],
        total_actor_scheduled=kinds["ACTOR_CREATION_TASK"],
        summary_by="func_name",
    )


def summarize_actors(*, timeout: float = 30) -> dict[str, Any]:
    """Actors counted by class and state."""
    records = _list("actors", None, _LIMIT_MAX, timeout)
    summary: dict[str, Any] = {}
    for one in records:
        entry = summary.setdefault(
            one["class_name"], {"class_name": one["class_name"], "state_counts": Counter()}
        )
        entry["state_counts"][one["state"]] += 1
    return _summary(
        summary, {"state_counts"}, total_actors=len(records), summary_by="class"
    )


def summarize_objects(
    *, timeout: float = 30, raise_on_missing_output: bool = True
) -> dict[str, Any]:
    """Objects counted by the first kind of their references; sizes in MB of 1,000,000 bytes."""
    records = _list("objects", None, _LIMIT_MAX, timeout, True, raise_on_missing_output)
    summary: dict[str, Any] = {}
    for one in records:
        entry = summary.setdefault(
            one["reference_type"],
            {
                "total_objects": 0,
                "total_size_mb": 0.0,
                "total_num_workers": set(),
                "task_state_counts": Counter(),
            },
        )
        entry["total_objects"] += 1
        entry["total_size_mb"] += one["object_size"] / 1e6
        entry["total_num_workers"].add(one["pid"])
        entry["task_state_counts"][one["task_status"]] += 1
    for entry in summary.values():
        entry["total_num_workers"] = len(entry["total_num_workers"])
    owned = {one["object_id"]: one["object_size"] for one in records}
    return _summary(
        summary,
        {"task_state_counts"},
        total_objects=len(owned),
        total_size_mb=sum(owned.values()) / 1e6,
        summary_by="reference_type",
    )


def _summary(summary: dict[str, Any], counters: set[str], **totals: Any) -> dict[str, Any]:
    for entry in summary.values():
        for name in counters:
            entry[name] = dict(entry[name])
    return {"cluster": {"summary": summary, **totals}}
