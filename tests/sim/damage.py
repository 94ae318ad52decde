"""The fault "damage": values on disk that cannot be read any more, while faults happen.

With draws of its own, so that a seed without it is the run that it was.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Damage"]

_SHARE = 0.5  # of the seeds in which values go to disk


class Damage:
    """Damages values of one world."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._draw = Random(f"damage {seed}")
        self.on = world.faults.on["little memory"] and self._draw.random() < _SHARE
        self._pause = self._draw.choice([0.0005, 0.002, 0.01])  # mean seconds between two

    def begin(self) -> None:
        """Have it happen from now on."""
        if self.on:
            self._world.clock.after(self._draw.expovariate(1 / self._pause), self._strike)

    def _strike(self) -> None:
        if self._world.faults.active():
            if self._world.memory.damage(self._draw):
                self._world.mark("fault: damage")
            self.begin()

    def happened(self) -> bool:
        """Whether anything has been damaged."""
        return self._world.marks["fault: damage"] > 0
