"""Tasks, actors and futures on one engine.

::

    import engine

    @engine.remote
    def square(x):
        return x * x

    print(engine.get([square.remote(i) for i in range(4)]))

A script written for Ray's core API runs with ``import engine as ray``.
"""

from __future__ import annotations

import importlib
from typing import Any

from engine import exceptions
from engine.actor import ActorHandle, method
from engine.api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    kill,
    nodes,
    put,
    remote,
    wait,
)
from engine.context import get_gpu_ids, get_runtime_context
from engine.core.ids import ActorID, JobID, NodeID, PlacementGroupID, TaskID, WorkerID
from engine.generators import ObjectRefGenerator
from engine.scopes import Scope, detached, get_scope, list_scopes
from engine.session import init, is_initialized, preload, shutdown
from engine.store.refs import ObjectRef
from engine.timeline import timeline

__all__ = [
    "ActorHandle",
    "ActorID",
    "JobID",
    "NodeID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "Scope",
    "TaskID",
    "WorkerID",
    "available_resources",
    "cancel",
    "cluster_resources",
    "detached",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "get_scope",
    "init",
    "is_initialized",
    "kill",
    "list_scopes",
    "method",
    "nodes",
    "preload",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "wait",
]
__version__ = "0.1.0"

# Loaded at first use: a program that only submits tasks need not pay for their imports.
_SUBMODULES = ("runtime_env", "state", "testing", "topology", "util")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"engine.{name}")
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
