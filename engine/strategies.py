"""Scheduling strategies, as users spell them in the option `scheduling_strategy`.

Besides these, "DEFAULT" (any worker that is free) and "SPREAD": tasks that are there at the same
time never wait behind one another in one worker. This engine has one machine, over whose workers
that spreads them; an actor has a process of its own in any case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from engine.core.labels import Condition, DoesNotExist, Exists, In, NotIn

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


@dataclasses.dataclass(frozen=True)
class PlacementGroupSchedulingStrategy:
    """Run inside a placement group; None for outside of any, also where one would be inherited.

    `placement_group_bundle_index` -1 means any bundle in which it fits.
    `placement_group_capture_child_tasks`: tasks and actors submitted from inside go into the same
    group, in any bundle, unless they have a strategy of their own; default False.
    """

    placement_group: Any
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None

    def __post_init__(self) -> None:
        group, index = self.placement_group, self.placement_group_bundle_index
        if group is not None and not hasattr(group, "bundle_specs"):
            raise TypeError(f"placement_group={group!r}: expected a PlacementGroup or None")
        count = 0 if group is None else group.bundle_count
        if isinstance(index, bool) or not isinstance(index, int) or not -1 <= index < count:
            raise ValueError(
                f"placement_group_bundle_index={index!r}: expected -1 or an index below {count}"
            )
        if self.placement_group_capture_child_tasks not in (None, True, False):
            raise TypeError(
                "placement_group_capture_child_tasks="
                f"{self.placement_group_capture_child_tasks!r}: expected True or False"
            )


@dataclasses.dataclass(frozen=True)
class NodeAffinitySchedulingStrategy:
    """Run on the node of this id (`engine.nodes()` has it); `soft`: rather there than nowhere."""

    node_id: str
    soft: bool

    def __post_init__(self) -> None:
        if not isinstance(self.node_id, str) or not self.node_id:
            raise TypeError(
                f"node_id={self.node_id!r}: expected a node's id in hexadecimal, as in "
                "engine.nodes()[0]['NodeID']"
            )
        if not isinstance(self.soft, bool):
            raise TypeError(f"soft={self.soft!r}: expected True or False")


class NodeLabelSchedulingStrategy:
    """Run on a node whose labels meet the conditions.

    Args:
        hard: label -> In(...), NotIn(...), Exists() or DoesNotExist(); all have to hold.
        soft: nodes that meet these too are preferred.
    """

    def __init__(
        self, hard: Mapping[str, Condition], *, soft: Mapping[str, Condition] | None = None
    ) -> None:
        for conditions in (hard, soft or {}):
            if not isinstance(conditions, Mapping) or not all(
                isinstance(label, str) and isinstance(one, In | Exists | DoesNotExist)
                for label, one in conditions.items()
            ):
                raise TypeError(
                    f"{conditions!r}: expected a mapping from label to In(...), NotIn(...), "
                    "Exists() or DoesNotExist()"
                )
        if not hard and not soft:
            raise ValueError("NodeLabelSchedulingStrategy without a condition: which nodes?")
        self.hard = dict(hard)
        self.soft = dict(soft or {})
