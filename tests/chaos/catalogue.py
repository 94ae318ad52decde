"""All trials: importing their modules fills the table."""

from __future__ import annotations

from tests.chaos import (
    clocks,
    corruption,
    crashes,
    descriptors,
    disks,
    flows,
    fuzz,
    kills,
    losses,
    points,
    pressure,
    seeds,
    suites,
)
from tests.chaos.trial import TRIALS

__all__ = ["MODULES", "TRIALS"]

MODULES = [clocks, corruption, crashes, descriptors, disks, flows, fuzz, kills, losses]
MODULES += [points, pressure, seeds, suites]
