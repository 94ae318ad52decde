"""The public API: every promised name exists, is exported, listed, and documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.layout import ROOT

# What scripts outside the project rely on, by module.
PROMISED: dict[str, str] = {
    "engine": (
        "ActorHandle ObjectRef ObjectRefGenerator available_resources cancel cluster_resources "
        "exceptions get get_actor get_gpu_ids get_runtime_context init is_initialized kill method "
        "nodes put remote shutdown timeline wait"
    ),
    "engine.exceptions": (
        "ActorDiedError ActorUnavailableError EngineError GetTimeoutError NodeDiedError "
        "ObjectLostError ObjectStoreFullError OutOfMemoryError OwnerDiedError "
        "PendingCallsLimitExceeded RuntimeEnvSetupError TaskCancelledError TaskError "
        "WorkerCrashedError"
    ),
    "engine.topology": (
        "Member MemberContext SharedArray Topology broadcast custom forward hashed key_groups "
        "rebalance"
    ),
    "engine.runtime_env": "RuntimeEnv",
    "engine.util": (
        "ActorPool Executor Pool Queue get_current_placement_group get_placement_group "
        "placement_group placement_group_table remove_placement_group scheduling_strategies "
        "deregister_serializer register_serializer share_arrow"
    ),
    "engine.util.scheduling_strategies": (
        "DoesNotExist Exists In NodeAffinitySchedulingStrategy NodeLabelSchedulingStrategy NotIn "
        "PlacementGroupSchedulingStrategy"
    ),
    "engine.state": (
        "get_actor get_job get_log get_node get_objects get_placement_group get_task get_worker "
        "list_actors list_cluster_events list_jobs list_logs list_nodes list_objects "
        "list_placement_groups list_runtime_envs list_tasks list_topologies list_workers "
        "summarize_actors summarize_objects summarize_tasks why_pending"
    ),
    "engine.util.state": "list_actors list_objects list_tasks summarize_tasks",
    "engine.testing": "Cluster reference_counts",
    "streaming": (
        "Job collect count count_distinct count_window first from_arrow from_rows generate "
        "global_window hop last max mean min read_csv read_json read_parquet session sum top_k "
        "tumble write_csv write_json write_parquet callback print interval KeyedProcess Sink Source"
    ),
    "streaming.testing": "CRASH EOF RESCALE idle rows watermark",
    "graph": (
        "VertexProgram betweenness bfs cdlp core_number float64 from_edges from_networkx "
        "from_scipy lcc pagerank pregel read_edges read_mtx read_parquet run scc sssp triangles wcc"
    ),
}
# Promised and not there yet: an expected failure, which has to be struck out here when it passes.
NOT_YET: dict[str, str] = {
    "engine.testing": "Cluster",
    "streaming": (
        "count_distinct count_window first global_window last session top_k interval KeyedProcess"
    ),
    "streaming.testing": "CRASH EOF RESCALE idle rows watermark",
}
PREFIXED = ("RayError", "RayTaskError", "RayActorError")


def names() -> Iterator[Any]:
    """One case a promised name."""
    for module, promised in PROMISED.items():
        for name in promised.split():
            marks = []
            if name in NOT_YET.get(module, "").split():
                marks.append(pytest.mark.xfail(reason="in NOT_YET"))
            yield pytest.param(module, name, id=f"{module}.{name}", marks=marks)


def modules() -> Iterator[str]:
    """Every module of the three packages that is in the tree."""
    for package in ("engine", "streaming", "graph"):
        if (ROOT / package / "__init__.py").is_file():
            yield package
            for found in pkgutil.walk_packages([str(ROOT / package)], package + "."):
                if not found.name.endswith("__main__"):
                    yield found.name


MODULES = sorted(modules())


def test_the_packages_tested_are_those_of_this_tree() -> None:
    for name in ("engine", "streaming", "graph"):
        found = importlib.import_module(name).__file__
        assert found is not None
        assert found.startswith(str(ROOT)), f"{name} is installed from elsewhere: {found}"


@pytest.mark.parametrize(("module", "name"), list(names()))
def test_promised_name_exists(module: str, name: str) -> None:
    loaded = importlib.import_module(module)
    assert hasattr(loaded, name)
    assert name in loaded.__all__, f"{name} is there but not in {module}.__all__"


@pytest.mark.parametrize("name", PREFIXED)
def test_exceptions_answer_to_the_prefixed_spelling(name: str) -> None:
    exceptions = importlib.import_module("engine.exceptions")
    plain = {"RayError": "EngineError"}.get(name, name.removeprefix("Ray"))
    assert getattr(exceptions, name) is getattr(exceptions, plain)


@pytest.mark.parametrize("module", MODULES)
def test_export_list_is_true(module: str) -> None:
    loaded = importlib.import_module(module)
    exported = loaded.__all__
    missing = [name for name in exported if not hasattr(loaded, name)]
    assert not missing
    assert len(set(exported)) == len(exported)


@pytest.mark.parametrize("module", MODULES)
def test_exported_functions_and_classes_are_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    bare = [name for name, thing in _own_exports(loaded) if not inspect.getdoc(thing)]
    assert not bare


@pytest.mark.parametrize("module", ["engine", "engine.topology", "streaming", "graph"])
def test_public_methods_are_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    bare = [
        f"{name}.{method}"
        for name in loaded.__all__
        if inspect.isclass(thing := getattr(loaded, name))
        for method, function in vars(thing).items()
        if inspect.isfunction(function) and not method.startswith("_")
        if not inspect.getdoc(getattr(thing, method))
    ]
    assert not bare


def _own_exports(loaded: ModuleType) -> Iterator[tuple[str, Any]]:
    """Exported functions and classes that this module defines itself."""
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if getattr(thing, "__module__", None) == loaded.__name__:
            yield name, thing
