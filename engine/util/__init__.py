"""Utilities built on tasks and actors (public API)."""

from __future__ import annotations

import sys

from engine import state
from engine.strategies import PlacementGroupSchedulingStrategy
from engine.util import scheduling_strategies
from engine.util.actor_pool import ActorPool
from engine.util.executor import Executor
from engine.util.joblib_backend import register_joblib
from engine.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from engine.util.pool import Pool
from engine.util.queue import Empty, Full, Queue
from engine.util.replayed import now as now  # by name only: `import *` must not
from engine.util.replayed import random as random  # hide what a program calls so
from engine.util.serialization import deregister_serializer, register_serializer
from engine.util.sharing import SharedArrow, share_arrow

__all__ = [
    "ActorPool",
    "Empty",
    "Executor",
    "Full",
    "PlacementGroup",
    "PlacementGroupSchedulingStrategy",
    "Pool",
    "Queue",
    "SharedArrow",
    "deregister_serializer",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "register_joblib",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
    "share_arrow",
    "state",
]

# `from engine.util.state import list_actors` works like `from engine.state import list_actors`.
sys.modules["engine.util.state"] = state
