"""All trials: importing their modules fills the table."""

from __future__ import annotations

import tests.chaos.corruption
import tests.chaos.crashes
import tests.chaos.disks
import tests.chaos.flows
import tests.chaos.fuzz
import tests.chaos.kills
import tests.chaos.points
import tests.chaos.pressure
import tests.chaos.seeds
import tests.chaos.suites
from tests.chaos.trial import TRIALS

__all__ = ["TRIALS"]
