"""Utilities built on tasks and actors (public API)."""

from __future__ import annotations

from engine import state
from engine.util.placement_group import (
    PlacementGroup,
    PlacementGroupSchedulingStrategy,
    placement_group,
    remove_placement_group,
)

__all__ = [
    "PlacementGroup",
    "PlacementGroupSchedulingStrategy",
    "placement_group",
    "remove_placement_group",
    "state",
]
