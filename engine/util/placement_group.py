"""Placement groups: bundles of resources reserved together, all or nothing."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any

from engine.api import wait
from engine.context import get_runtime_context
from engine.core.resources import GPU, is_exact
from engine.session import runtime
from engine.store.refs import ObjectRef

__all__ = [
    "PlacementGroup",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """A reservation; see `placement_group`. May be passed to tasks and actors."""

    def __init__(self, group: bytes, bundles: list[dict[str, float]], name: str = "") -> None:
        self.id = group
        self.name = name
        self._bundles = bundles

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle reserves."""
        return [dict(bundle) for bundle in self._bundles]

    @property
    def bundle_count(self) -> int:
        """How many bundles."""
        return len(self._bundles)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A reference to this group that is ready once all bundles are reserved.

        Its error says why they never will be: TaskUnschedulableError, TaskPlacementGroupRemoved.
        """
        return runtime().promise("group_ready", value=self, group=self.id)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether all bundles are reserved within `timeout_seconds`."""
        done, _ = wait([ready := self.ready()], timeout=timeout_seconds)
        if not done:
            return False
        runtime().get((ready,), None)  # raises when they never will be
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self._bundles, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.name or self.id.hex()}, {self._bundles})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources, all or none, as soon as they are free.

    Returns at once; `ready()` or `wait()` tell when the reservation stands. Groups are served in
    turn: while tasks run on what the next one needs, no new ones start there.

    Args:
        bundles: what each reserves, like [{"CPU": 2, "GPU": 1}, {"CPU": 1}].
        strategy: on one machine PACK, SPREAD and STRICT_PACK place alike; STRICT_SPREAD wants a
            machine a bundle.
        name: for `get_placement_group`; one group a name and namespace (ValueError).
        lifetime: None: the group is removed when the actor that made it ends (made elsewhere: the
            driver); "detached": it stays until it is removed, or the engine shut down.
    """
    if not isinstance(bundles, list) or not bundles:
        raise ValueError(f"bundles={bundles!r}: expected a non-empty list of bundles")
    for bundle in bundles:
        _check_bundle(bundle)
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: expected one of {', '.join(_STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime={lifetime!r}: expected None or 'detached'")
    if not isinstance(name, str):
        raise ValueError(f"name={name!r}: expected a string")
    home = runtime()
    if strategy == "STRICT_SPREAD" and len(bundles) > 1:
        raise ValueError(
            f"STRICT_SPREAD of {len(bundles)} bundles needs as many machines; this engine has one"
        )
    group = secrets.token_bytes(8)
    about = {"name": name, "namespace": home.info["namespace"], "strategy": strategy}
    # Only a name may be taken, so only for one is there an answer to wait for.
    ask = home.ask if name else home.requests.tell
    ask("create_group", group=group, bundles=bundles, detached=lifetime is not None, **about)
    return PlacementGroup(group, bundles, name)


def _check_bundle(bundle: Any) -> None:
    if not isinstance(bundle, Mapping) or not all(isinstance(name, str) for name in bundle):
        raise ValueError(f"bundle {bundle!r}: expected a dictionary from resource to amount")
    for name, amount in bundle.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise ValueError(f"bundle {bundle!r}: expected a number for {name!r}")
        if not amount >= 0 or not math.isfinite(amount):
            raise ValueError(f"bundle {bundle!r}: expected amounts >= 0")
        if not is_exact(amount):
            raise ValueError(f"bundle {bundle!r}: expected no finer steps than 0.0001")
    if not any(bundle.values()):
        raise ValueError(f"bundle {bundle!r}: expected a resource with an amount above 0")
    if bundle.get(GPU, 0) > 1 and bundle[GPU] != int(bundle[GPU]):
        raise ValueError(f"bundle {bundle!r}: expected a share of one GPU, or whole ones")


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give the bundles back and end what runs in them. Removing twice is no error.

    Tasks that run in the group or wait for it raise TaskPlacementGroupRemoved, calls of its actors
    ActorPlacementGroupRemoved.
    """
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"expected a PlacementGroup, not a {type(placement_group).__name__}")
    runtime().requests.tell("remove_group", group=placement_group.id)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The placement group of this name in this namespace; ValueError when there is none."""
    if not isinstance(placement_group_name, str) or not placement_group_name:
        raise ValueError(f"expected a non-empty name, found {placement_group_name!r}")
    namespace = runtime().info["namespace"]
    names = []
    for table in runtime().ask("group_table"):
        if table["namespace"] == namespace and table["name"] == placement_group_name:
            return _of(table)
        if table["namespace"] == namespace and table["name"]:
            names.append(table["name"])
    raise ValueError(
        f"no placement group named {placement_group_name!r} in namespace {namespace!r}; there are: "
        f"{', '.join(sorted(names)) or 'none'}"
    )


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which the calling task or actor runs; None outside of one."""
    current = get_runtime_context().get_placement_group_id()
    if current is None:
        return None
    tables = runtime().ask("group_table")
    found = (one for one in tables if one["placement_group_id"] == current)
    return next(map(_of, found), None)


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What there is to know of a group (name, bundles, strategy, state); of all by id without one.

    A group that was removed has the state "REMOVED".
    """
    tables = {one["placement_group_id"]: one for one in runtime().ask("group_table")}
    if placement_group is None:
        return tables
    known: dict[str, Any] | None = tables.get(placement_group.id.hex())
    if known is not None:
        return known
    bundles = dict(enumerate(placement_group.bundle_specs))
    about = {"placement_group_id": placement_group.id.hex(), "name": placement_group.name}
    return {**about, "bundles": bundles, "state": "REMOVED"}


def _of(table: dict[str, Any]) -> PlacementGroup:
    bundles = [table["bundles"][index] for index in sorted(table["bundles"])]
    return PlacementGroup(bytes.fromhex(table["placement_group_id"]), bundles, table["name"])
