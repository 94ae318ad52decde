"""Work that its own node has no room for goes to a node that has.

Scheduling is bottom-up, as in the thesis: an owner asks its own node for workers, and only what
waits there for a moment goes further. Its node sends a part of the demand to another node in the
owner's name, by what heartbeats tell of free resources. That node grants from its own queue, and
the grant comes to the owner as if from next door: a worker is a worker, and its id says where to
give it back. Nobody forwards what was forwarded.

What was sent away and not granted within a few quanta is called back (the view was old) and may go
elsewhere. Too many workers do no harm: an owner gives idle ones back.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from engine.config import Config
from engine.core.between import View
from engine.core.control import LeaseGrant, LeaseRequest
from engine.core.ids import node_of
from engine.core.node import Demand, NodeMachine
from engine.core.resources import fits

__all__ = ["Spillback"]

Key = tuple[bytes, bytes]


class _Wish:
    """What an owner of this node wants, and how much of it was sent to which other node."""

    __slots__ = ("away", "message", "since")

    def __init__(self, message: LeaseRequest) -> None:
        self.message = message
        self.away: dict[int, int] = {}
        self.since = 0.0  # when something was last sent away or granted from there


class Spillback:
    """The demands of the owners of one node."""

    def __init__(
        self,
        machine: NodeMachine,
        config: Config,
        send: Callable[[int, bytes, LeaseRequest], None],
    ) -> None:
        self._machine = machine
        self._config = config
        self._send = send
        self._wishes: dict[Key, _Wish] = {}
        self._views: dict[int, View] = {}

    def on_request(self, owner: bytes, message: LeaseRequest, now: float) -> None:
        """An owner of this node wants so many more workers in all."""
        key = (owner, message.shape)
        wish = self._wishes.get(key)
        if message.wanted <= 0:
            if wish is not None:
                self._call_back(owner, wish)
                del self._wishes[key]
            self._machine.on_lease_request(owner, message, now)
            return
        if wish is None:
            wish = self._wishes[key] = _Wish(message)
        wish.message = message
        here = max(0, message.wanted - sum(wish.away.values()))
        self._ask_here(owner, wish, here, now)

    def _ask_here(self, owner: bytes, wish: _Wish, wanted: int, now: float) -> None:
        message = msgspec.structs.replace(wish.message, wanted=wanted)
        self._machine.on_lease_request(owner, message, now)

    def on_grant(self, owner: bytes, message: LeaseGrant, now: float) -> None:
        """Another node has granted something to an owner of this node."""
        wish = self._wishes.get((owner, message.shape))
        if wish is not None:
            number = node_of(message.worker)
            wish.since = now
            left = wish.away.get(number, 0) - 1
            if left > 0:
                wish.away[number] = left
            else:
                wish.away.pop(number, None)

    def on_views(self, views: list[View]) -> None:
        """How the nodes stand, as the head has heard."""
        self._views = {view.number: view for view in views}

    def on_owner_died(self, owner: bytes) -> None:
        """An owner of this node is dead; other nodes hear of it, too."""
        for key in [key for key in self._wishes if key[0] == owner]:
            del self._wishes[key]

    def on_node_down(self, number: int, now: float) -> None:
        """Another node is dead: what was sent there is wanted here again."""
        self._views.pop(number, None)
        for (owner, _shape), wish in list(self._wishes.items()):
            if count := wish.away.pop(number, 0):
                self._take_home(owner, wish, count, now)

    def _call_back(self, owner: bytes, wish: _Wish) -> None:
        for number in wish.away:
            self._send(number, owner, msgspec.structs.replace(wish.message, wanted=0))
        wish.away.clear()

    def _take_home(self, owner: bytes, wish: _Wish, count: int, now: float) -> None:
        """So many that are wanted elsewhere no longer are wanted here."""
        demand = self._machine.demands.get((owner, wish.message.shape))
        here = demand.wanted if demand is not None else 0
        self._ask_here(owner, wish, here + count, now)

    def look(self, others: dict[int, Any], me: int, now: float) -> float | None:
        """Send away what has waited here for long enough; returns when to look again."""
        patience = 4 * self._config.lease_quantum_seconds
        following = None
        for key, wish in list(self._wishes.items()):
            demand = self._machine.demands.get(key)
            if demand is None and not wish.away:
                del self._wishes[key]  # all of it was granted
                continue
            if wish.away and now - wish.since >= patience:
                count = sum(wish.away.values())
                self._call_back(key[0], wish)
                self._take_home(key[0], wish, count, now)
                demand = self._machine.demands.get(key)
            if demand is not None and self._is_stuck(demand, now):
                self._send_away(key, wish, demand, others, me, now)
            following = now + self._config.lease_quantum_seconds
        return following

    def _is_stuck(self, demand: Demand, now: float) -> bool:
        if demand.group or demand.spare or demand.wanted <= 0:
            return False
        pool = self._machine.pool
        if not fits(demand.units, pool.total):
            return True
        waited = now - demand.since >= self._config.spillback_seconds
        return waited and not pool.has_room(demand.units)

    def _send_away(
        self,
        key: Key,
        wish: _Wish,
        demand: Demand,
        others: dict[int, Any],
        me: int,
        now: float,
    ) -> None:
        """To the node with the most room; without any, to one that could ever hold it."""
        able = [
            view for number, view in self._views.items()
            if number in others and number != me and number not in wish.away
        ]
        roomy = [view for view in able if fits(demand.units, view.free)]
        if not roomy and not fits(demand.units, self._machine.pool.total):
            roomy = [view for view in able if fits(demand.units, view.total)]
        if not roomy:
            return
        best = min(roomy, key=lambda view: (view.waiting, -sum(view.free.values()), view.number))
        count = max(1, min(demand.wanted, self._times(demand.units, best.free)))
        wish.away[best.number] = count
        wish.since = now
        demand.wanted -= count
        if demand.wanted <= 0:
            del self._machine.demands[key]
        best.waiting += count
        for name, amount in demand.units.items():
            best.free[name] = best.free.get(name, 0) - amount * count
        self._send(best.number, key[0], msgspec.structs.replace(wish.message, wanted=count))

    @staticmethod
    def _times(units: dict[str, int], free: dict[str, int]) -> int:
        """How many would fit; without needs, as many as one likes to send at a time."""
        return min((free.get(name, 0) // amount for name, amount in units.items()), default=4)
