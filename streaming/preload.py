"""Load what members of a job need, so that processes forked from this one have it.

Importing this package and Arrow's file formats takes a fresh process longer than restarting a
member may take. Uses no threads and starts no engine.
"""

from __future__ import annotations

import importlib

__all__ = ["preload"]

_MODULES = ("streaming", "pyarrow.csv", "pyarrow.json", "pyarrow.parquet")


def preload() -> None:
    """Import everything, in this process."""
    for module in _MODULES:
        importlib.import_module(module)
