"""What the node answers about placement groups."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.groups import INFEASIBLE, Group

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["GroupServices"]


class GroupServices:
    """Handlers like those of `Services`; and who waits for which group."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiters: dict[bytes, list[tuple[bytes, int]]] = {}
        self.handlers: dict[str, Callable[..., None]] = {
            "create_group": self._create,
            "remove_group": self._remove,
            "group_ready": self._ready,
            "group_table": self._table,
        }

    def _create(self, peer: bytes, number: int, group: bytes, **about: Any) -> None:
        now, machine = perf_counter(), self._node.machine
        # A worker outlives the task that makes a group, or does not: neither is for the user to
        # know. So only actors are creators; tasks make groups for the driver.
        worker = machine.workers.get(peer)
        creator = peer if worker is not None and worker.use == "actor" else self._node.jobs.of(peer)
        made = Group(group, creator, about.pop("bundles"), since=now, **about)
        taken = machine.want_group(made, now)
        if taken is None:
            self._node.reply(peer, number, None)
            return
        text = (
            f"a placement group named {made.name!r} exists in namespace {made.namespace!r}: "
            f"get_placement_group({made.name!r}) finds it"
        )
        self._node.reply(peer, number, {"kind": "ValueError"}, text)

    def _remove(self, peer: bytes, number: int, group: bytes) -> None:
        self._node.machine.remove_group(group, perf_counter())
        self._node.reply(peer, number, None)

    def _ready(self, peer: bytes, number: int, group: bytes) -> None:
        """Answered when all bundles are reserved, or never will be."""
        self._waiters.setdefault(group, []).append((peer, number))
        self.settle(group)

    def settle(self, group: bytes) -> None:
        """Answer who waits for a group, if its fate is known."""
        if group not in self._waiters:
            return
        machine = self._node.machine
        found = machine.groups.all.get(group)
        kind = text = ""
        if found is None:
            kind, text = "TaskPlacementGroupRemoved", "the placement group was removed"
        elif found.state == INFEASIBLE:
            total = machine.pool.statistics()["total"]
            kind = "TaskUnschedulableError"
            text = f"this machine has {total} and can never hold the bundles {found.bundles}"
        elif not found.pools:
            return
        for peer, number in self._waiters.pop(group):
            self._node.reply(peer, number, {"kind": kind} if kind else True, text)

    def _table(self, peer: bytes, number: int) -> None:
        tables = [group.table() for group in self._node.machine.groups.all.values()]
        self._node.reply(peer, number, tables)
