"""Why something waits for resources, in words: what it needs, what is free, who holds the rest.

Asked for by people (`engine.state`, the text of a time-out), and told to them unasked once work has
waited for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from engine.core.control import Waiting
from engine.core.groups import Group
from engine.core.ids import owner_of
from engine.core.resources import GPU, UNIT, Pool, add_up

if TYPE_CHECKING:
    from engine.core.node import Demand, NodeMachine

__all__ = ["Reasons", "amounts", "why_waiting"]

# Holders named; the rest is counted.
_NAMED = 4
# Kinds of work that were warned about: bounds memory, not meaning.
_WARNED_KEPT = 1_000


def amounts(units: dict[str, int]) -> str:
    """A vector for people: "CPU 2, GPU 0.5"."""
    return ", ".join(f"{name} {amount / UNIT:g}" for name, amount in units.items()) or "nothing"


def why_waiting(
    needs: dict[str, int],
    pool: Pool,
    holders: Iterable[tuple[str, int, dict[str, int]]],
    ahead: int,
) -> str:
    """What keeps a demand from being met by this pool.

    `holders` have resources of it: who, pid (0: no process), how much.
    """
    if pool.has_room(needs):
        return f"needs {amounts(needs)}, which is free: a worker process is being started for it"
    short = {name: need for name, need in needs.items() if pool.free.get(name, 0) < need}
    if not short:  # enough in all, but spread over devices that are shared already
        short = {GPU: needs[GPU]}
    free = ", ".join(
        f"{name} {max(0, pool.free.get(name, 0)) / UNIT:g} of {pool.total.get(name, 0) / UNIT:g}"
        for name in short
    )
    text = f"needs {amounts(needs)}; free is {free}"
    shares = [
        (title, pid, {name: units[name] for name in short if units.get(name)})
        for title, pid, units in holders
    ]
    held = [
        f"{title}{f' (pid {pid})' if pid else ''}: {amounts(share)}"
        for title, pid, share in sorted(shares, key=lambda one: -sum(one[2].values()))
        if share
    ]
    if held:
        more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        text += f"; held by {'; '.join(held[:_NAMED])}{more}"
    return text + (f"; {ahead} more asked before it" if ahead else "")


class Reasons:
    """The reasons of one node's demands, and who was warned of them."""

    def __init__(
        self, machine: NodeMachine, patience_seconds: float, send: Callable[[bytes, Any], None]
    ) -> None:
        self._machine = machine
        self._patience = patience_seconds
        self._send = send
        self._warned: dict[tuple[Any, ...], None] = {}
        self._next_look = 0.0

    # ------------------------------------------------------------------ asked

    def of(self, owner: bytes, shape: bytes) -> str:
        """Why a demand (of an actor: b"" and its id) is not met; "" if there is none."""
        demand = self._machine.demands.get((owner, shape))
        return "" if demand is None else self.of_demand(demand)

    def of_demand(self, demand: Demand) -> str:
        """Why this demand is not met."""
        machine = self._machine
        pool = machine.pool_for(demand)
        if pool is None:
            group = machine.groups.all[demand.group]
            return f"waits for placement group {group.title}, which {self.of_group(group)}"
        if self._after_group(demand, pool):
            first = machine.groups.next_waiting()
            assert first is not None
            return f"comes after placement group {first.title}, whose turn it is"
        before = 0
        for other in machine.demands.values():
            if other is demand:
                break
            before += other.wanted
        return why_waiting(demand.units, pool, self._holders(pool), before)

    def _after_group(self, demand: Demand, pool: Pool) -> bool:
        """Whether what it needs is kept for a placement group that has asked before."""
        kept = self._machine.kept_for_group() if pool is self._machine.pool else set()
        return not kept.isdisjoint(demand.units)

    def of_group(self, group: Group) -> str:
        """Why this group is not placed."""
        pool = self._machine.pool
        before = 0
        for other in self._machine.groups.waiting():
            if other is group:
                break
            before += 1
        return why_waiting(add_up(group.units), pool, self._holders(pool), before)

    def _holders(self, pool: Pool) -> list[tuple[str, int, dict[str, int]]]:
        machine = self._machine
        workers = [one for one in machine.workers.values() if one.pool is pool]
        found = [(one.title, one.pid, one.kept_units()) for one in workers]
        if pool is machine.pool:
            groups = [one for one in machine.groups.all.values() if one.pools]
            found += [(f"placement group {one.title}", 0, add_up(one.units)) for one in groups]
        return found

    # ------------------------------------------------------------------ told

    def warn(self, now: float) -> None:
        """Tell who has asked for something that waits for resources for long; once a kind of work.

        Not for tasks of which others run: those wait for their turn, as a queue does.
        """
        if now < self._next_look:
            return
        self._next_look = now + self._patience / 10  # a thousand actors may wait
        machine, limit = self._machine, now - self._patience
        for demand in machine.demands.values():
            if demand.since > limit:
                continue
            if not demand.actor and machine.held(demand.owner, demand.shape):
                continue
            pool = machine.pool_for(demand)
            if pool is None or not pool.has_room(demand.units) or self._after_group(demand, pool):
                creator = owner_of(demand.actor) if demand.actor else demand.owner
                kind = (creator, demand.title, *sorted(demand.units.items()))
                if self._is_news(kind):
                    self._tell(creator, demand.title, now - demand.since, self.of_demand(demand))
        for group in machine.groups.waiting():
            if group.since <= limit and self._is_news((group.id,)):
                title = f"placement group {group.title}"
                self._tell(group.creator, title, now - group.since, self.of_group(group))

    def _is_news(self, kind: tuple[Any, ...]) -> bool:
        if kind in self._warned:
            return False
        self._warned[kind] = None
        if len(self._warned) > _WARNED_KEPT:
            del self._warned[next(iter(self._warned))]
        return True

    def _tell(self, whom: bytes, title: str, seconds: float, why: str) -> None:
        text = (
            f"{title} has waited for {seconds:.0f} s: it {why}. It starts when that comes back. "
            "End what holds it, ask for less, or give more to engine.init()."
        )
        self._send(whom, Waiting(text))
