"""Placement groups: bundles of resources reserved together, all or nothing, in turn.

One node: every strategy packs here, but STRICT_SPREAD of several bundles, which the caller refuses.
Pure, like everything here.
"""

from __future__ import annotations

from typing import Any

from engine.core.ids import short
from engine.core.resources import GPU, Pool, add_up, fits, to_units

__all__ = ["INFEASIBLE", "Group", "Groups"]

PENDING, CREATED, INFEASIBLE = "PENDING", "CREATED", "INFEASIBLE"


class Group:
    """One group. `pools` are its bundles once they are reserved."""

    __slots__ = (
        *("bundles", "creator", "detached", "id", "name", "namespace", "pools", "since", "state"),
        *("strategy", "units"),
    )

    def __init__(
        self,
        group: bytes,
        creator: bytes,
        bundles: list[dict[str, float]],
        *,
        since: float = 0.0,
        name: str = "",
        namespace: str = "",
        strategy: str = "PACK",
        detached: bool = False,
    ) -> None:
        self.id = group
        self.creator = creator
        self.bundles = bundles
        self.units = [to_units(bundle) for bundle in bundles]
        self.since = since
        self.name = name
        self.namespace = namespace
        self.strategy = strategy
        self.detached = detached
        self.state = PENDING
        self.pools: list[Pool] = []

    @property
    def title(self) -> str:
        """Its name, or the beginning of its id."""
        return self.name or short(self.id)

    def can_hold(self, units: dict[str, int], bundle: int) -> bool:
        """Whether the bundle (-1: any) is large enough, used or not."""
        bundles = self.units if bundle < 0 else self.units[bundle : bundle + 1]
        return any(fits(units, one) for one in bundles)

    def pool_for(self, units: dict[str, int], bundle: int) -> Pool | None:
        """The bundle to take `units` from; None while nothing is reserved."""
        if not self.pools:
            return None
        if bundle >= 0:
            return self.pools[bundle]
        return next(
            (pool for pool in self.pools if pool.has_room(units)),
            next((pool for pool in self.pools if fits(units, pool.total)), self.pools[0]),
        )

    def table(self) -> dict[str, Any]:
        """For people."""
        return {
            "placement_group_id": self.id.hex(),
            "name": self.name,
            "namespace": self.namespace,
            "bundles": dict(enumerate(self.bundles)),
            "strategy": self.strategy,
            "state": self.state,
            "is_detached": self.detached,
            "creator": self.creator.hex(),
        }


class Groups:
    """All groups of a node, and their reservations in its pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.all: dict[bytes, Group] = {}
        self._waiting: dict[bytes, Group] = {}

    def add(self, group: Group) -> Group | None:
        """A new group. The one that has its name already, if there is one: then nothing happens."""
        if group.name:
            taken = self.find(group.namespace, group.name)
            if taken is not None:
                return taken
        self.all[group.id] = group
        whole = Pool(self._pool.total, self._pool.devices.total)
        if _reserve(whole, group.units) is None:
            group.state = INFEASIBLE
        else:
            self._waiting[group.id] = group
        return None

    def find(self, namespace: str, name: str) -> Group | None:
        """The group of this name."""
        named = (one for one in self.all.values() if one.name == name)
        return next((one for one in named if one.namespace == namespace), None)

    def place(self) -> list[Group]:
        """Reserve for those that wait, as far as it goes; those whose turn has come.

        In order: a large group must not starve behind small ones.
        """
        placed = []
        for group in list(self._waiting.values()):
            pools = _reserve(self._pool, group.units)
            if pools is None:
                break
            group.pools, group.state = pools, CREATED
            del self._waiting[group.id]
            placed.append(group)
        return placed

    def waiting(self) -> list[Group]:
        """The groups that are not reserved yet, in the order of their turns."""
        return list(self._waiting.values())

    def next_waiting(self) -> Group | None:
        """The group whose turn is next."""
        return next(iter(self._waiting.values()), None)

    def remove(self, group_id: bytes) -> Group | None:
        """Forget a group and give back what it reserved; nothing may run in it any more."""
        group = self.all.pop(group_id, None)
        if group is None:
            return None
        self._waiting.pop(group_id, None)
        if group.pools:
            self._pool.give(add_up(group.units))
            for pool in group.pools:
                self._pool.devices.give(pool.devices.total)
        return group

    def made_by(self, process: bytes) -> list[bytes]:
        """Groups that end with this process."""
        return [
            one.id for one in self.all.values() if one.creator == process and not one.detached
        ]


def _reserve(pool: Pool, bundles: list[dict[str, int]]) -> list[Pool] | None:
    """Take all bundles from the pool, or nothing."""
    whole = add_up(bundles)
    if not fits(whole, pool.free):
        return None
    shares: list[dict[str, int]] = [{}] * len(bundles)
    # Whole devices first, while there are whole ones.
    for index in sorted(range(len(bundles)), key=lambda one: -bundles[one].get(GPU, 0)):
        taken = pool.devices.take(bundles[index].get(GPU, 0))
        if taken is None:
            for given in shares:
                pool.devices.give(given)
            return None
        shares[index] = taken
    pool.take(whole)
    return [Pool(bundle, devices) for bundle, devices in zip(bundles, shares, strict=True)]
