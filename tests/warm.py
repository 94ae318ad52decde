"""What the workers of the shared engine find imported: the modules that tests import.

A function of a test's is known by its module's name, so each new worker imports that module, and
`pytest` and the rest with it; that takes longer than most tests.
"""

from __future__ import annotations

import importlib

__all__ = ["load"]

MODULES = ("pytest", "streaming", "engine.topology", "tests.engine.support", "tests.faults.jobs")


def load() -> None:
    """Import them, in a process from which workers are forked."""
    for name in MODULES:
        importlib.import_module(name)
