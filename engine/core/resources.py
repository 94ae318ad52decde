"""Arithmetic on resource vectors, in units of 1/10,000 so that fractions add up exactly."""

from __future__ import annotations

from typing import Any

__all__ = ["Pool", "fits", "from_units", "to_units"]

_UNIT = 10_000


def to_units(amounts: dict[str, float]) -> dict[str, int]:
    """Named amounts in integer units; zeros are left out."""
    return {name: round(amount * _UNIT) for name, amount in amounts.items() if amount}


def from_units(units: dict[str, int]) -> dict[str, float]:
    """The inverse of `to_units`."""
    return {name: amount / _UNIT for name, amount in units.items()}


def fits(need: dict[str, int], free: dict[str, int]) -> bool:
    """Whether `free` covers `need`."""
    return all(free.get(name, 0) >= amount for name, amount in need.items())


class Pool:
    """What a node (or a bundle of a placement group) has, and what of it is free."""

    __slots__ = ("free", "total")

    def __init__(self, total: dict[str, int]) -> None:
        self.total = dict(total)
        self.free = dict(total)

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
