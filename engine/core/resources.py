"""Arithmetic on resource vectors, in units of 1/10,000 so that fractions add up exactly.

GPUs are more than an amount: who has one has a *particular* one. `Devices` says which. Whole
devices are exclusive, fractions share one, and as few as possible are broken into fractions.
"""

from __future__ import annotations

from typing import Any

__all__ = ["GPU", "UNIT", "Devices", "Pool", "add_up", "fits", "from_units", "is_exact",
           "to_units"]

UNIT = 10_000
GPU = "GPU"


def to_units(amounts: dict[str, float]) -> dict[str, int]:
    """Named amounts in integer units; zeros are left out."""
    return {name: round(amount * UNIT) for name, amount in amounts.items() if amount}


def from_units(units: dict[str, int]) -> dict[str, float]:
    """The inverse of `to_units`."""
    return {name: amount / UNIT for name, amount in units.items()}


def is_exact(amount: float) -> bool:
    """Whether an amount is a multiple of the smallest unit, but for rounding."""
    return abs(amount * UNIT - round(amount * UNIT)) <= 1e-6 * max(1.0, amount)


def fits(need: dict[str, int], free: dict[str, int]) -> bool:
    """Whether `free` covers `need`."""
    return all(free.get(name, 0) >= amount for name, amount in need.items())


def add_up(bundles: list[dict[str, int]]) -> dict[str, int]:
    """The sum of vectors."""
    whole: dict[str, int] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            whole[name] = whole.get(name, 0) + amount
    return whole


class Devices:
    """Devices by name, and how much of each is free: UNIT is a whole one."""

    __slots__ = ("free", "total")

    def __init__(self, shares: dict[str, int]) -> None:
        self.total = dict(shares)
        self.free = dict(shares)

    def choose(self, amount: int) -> dict[str, int] | None:
        """Shares that make up `amount`, in the order of the devices; None when there are none.

        A fraction comes from the device with the least left that has room, so that whole devices
        stay whole. Amounts above one device are whole (the options see to that).
        """
        if amount < UNIT:
            rooms = [(free, name) for name, free in self.free.items() if free >= amount]
            if not amount or not rooms:
                return None if amount else {}
            least = min(free for free, _name in rooms)
            return {next(name for free, name in rooms if free == least): amount}
        count = amount // UNIT
        whole = [name for name, free in self.free.items() if free == UNIT]
        return dict.fromkeys(whole[:count], UNIT) if len(whole) >= count else None

    def take(self, amount: int) -> dict[str, int] | None:
        """`choose`, and they are taken."""
        shares = self.choose(amount)
        for name, share in (shares or {}).items():
            self.free[name] -= share
        return shares

    def give(self, shares: dict[str, int]) -> None:
        """Give shares back."""
        for name, share in shares.items():
            self.free[name] += share
            assert self.free[name] <= self.total[name], f"device {name} given back twice"


class Pool:
    """What a node (or a bundle of a placement group) has, and what of it is free."""

    __slots__ = ("devices", "free", "total")

    def __init__(self, total: dict[str, int], devices: dict[str, int] | None = None) -> None:
        self.total = dict(total)
        self.free = dict(total)
        if devices is None:
            devices = {str(index): UNIT for index in range(total.get(GPU, 0) // UNIT)}
        self.devices = Devices(devices)

    def has_room(self, need: dict[str, int]) -> bool:
        """Whether `need` is free, and on devices that can give it."""
        return fits(need, self.free) and (
            GPU not in need or self.devices.choose(need[GPU]) is not None
        )

    def take(self, need: dict[str, int]) -> None:
        """Take resources; `free` may go below zero when a blocked worker takes its slot back."""
        for name, amount in need.items():
            self.free[name] = self.free.get(name, 0) - amount

    def give(self, need: dict[str, int]) -> None:
        """Give resources back; never more than were taken."""
        for name, amount in need.items():
            self.free[name] += amount
            assert self.free[name] <= self.total.get(name, 0), f"{name} given back twice"

    def statistics(self) -> dict[str, Any]:
        """Totals and free amounts."""
        return {"total": from_units(self.total), "free": from_units(self.free)}
