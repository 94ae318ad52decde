"""Placement groups: bundles of resources reserved together, all or nothing."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

from engine.api import wait
from engine.session import runtime
from engine.store.refs import ObjectRef

__all__ = [
    "PlacementGroup",
    "PlacementGroupSchedulingStrategy",
    "placement_group",
    "remove_placement_group",
]

_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """A reservation; see `placement_group`."""

    def __init__(
        self,
        group: bytes,
        bundles: list[dict[str, float]],
        name: str,
        ready: ObjectRef[Any] | None,
    ) -> None:
        self.id = group
        self.name = name
        self.bundle_specs = bundles
        self._ready = ready

    @property
    def bundle_count(self) -> int:
        """How many bundles."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[Any]:
        """A reference that is ready once all bundles are reserved; its error says why not."""
        if self._ready is None:
            raise ValueError("only the process that created a placement group can wait for it")
        return self._ready

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether all bundles are reserved within `timeout_seconds`."""
        return bool(wait([self.ready()], timeout=timeout_seconds)[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_specs, self.name, None)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()}, {self.bundle_specs})"


@dataclasses.dataclass(frozen=True)
class PlacementGroupSchedulingStrategy:
    """The option `scheduling_strategy` for work that runs inside a placement group.

    `placement_group_bundle_index` -1 means any bundle in which it fits.
    """

    placement_group: PlacementGroup
    placement_group_bundle_index: int = -1

    def __post_init__(self) -> None:
        count = self.placement_group.bundle_count
        if not -1 <= self.placement_group_bundle_index < count:
            raise ValueError(
                f"placement_group_bundle_index={self.placement_group_bundle_index}: expected -1 "
                f"or an index below {count}"
            )


def placement_group(
    bundles: list[dict[str, float]], strategy: str = "PACK", name: str = ""
) -> PlacementGroup:
    """Reserve bundles of resources, all or none, as soon as they are free.

    Returns at once; `ready()` or `wait()` tell when the reservation stands. On one machine PACK,
    SPREAD and STRICT_PACK place alike; STRICT_SPREAD wants a machine a bundle.
    """
    if not isinstance(bundles, list) or not bundles:
        raise ValueError(f"bundles={bundles!r}: expected a non-empty list of bundles")
    for bundle in bundles:
        if not isinstance(bundle, dict) or not any(bundle.values()):
            raise ValueError(f"bundle {bundle!r}: expected a resource with an amount above 0")
        if any(amount < 0 for amount in bundle.values()):
            raise ValueError(f"bundle {bundle!r}: expected amounts >= 0")
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: expected one of {', '.join(_STRATEGIES)}")
    home = runtime()
    if strategy == "STRICT_SPREAD" and len(bundles) > 1:
        raise ValueError(
            f"STRICT_SPREAD of {len(bundles)} bundles needs as many machines; this engine has one"
        )
    group = secrets.token_bytes(8)
    ready = home.promise("create_group", group=group, bundles=bundles)
    return PlacementGroup(group, bundles, name or group.hex(), ready)


def remove_placement_group(group: PlacementGroup) -> None:
    """Give the bundles back and end what runs in them. Removing twice is no error."""
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"expected a PlacementGroup, not a {type(group).__name__}")
    runtime().ask("remove_group", group=group.id)
