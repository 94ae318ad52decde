"""Making a forked process a worker of its runtime environment, before any user code runs.

Called between fork and the worker's first word. What other processes read when they start, a fork
has inherited already; so what can be made good is made good here: thread counts of loaded
libraries, the import path, the time zone.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow

from engine.core.environments import decode_environment

__all__ = ["DEVICES", "expand", "set_up"]

DEVICES = "CUDA_VISIBLE_DEVICES"
_NAMED = re.compile(r"\$\{(\w+)\}")
# First wins; the same order as in OpenBLAS.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
_BLAS_SETTERS = (
    *("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads"),
    *("openblas_set_num_threads64_", "openblas_set_num_threads"),
)


def set_up(environment: bytes) -> None:
    """Set variables, current directory and import path. OSError says what is not there."""
    fields = decode_environment(environment)
    if "job" in fields:
        _follow_driver(fields["job"])
    variables = fields.get("env_vars", {})
    os.environ.update(expand(variables, dict(os.environ)))
    path = []
    if "working_dir" in fields:
        os.chdir(fields["working_dir"])
        path.append(fields["working_dir"])
    for module in fields.get("py_modules", ()):
        os.stat(module)
        path.append(str(Path(module).parent))
    if "PYTHONPATH" in variables:
        path += [one for one in os.environ["PYTHONPATH"].split(os.pathsep) if one]
    sys.path[:0] = dict.fromkeys(path)
    if "TZ" in variables:
        time.tzset()
    _follow_thread_counts(variables)


def _follow_driver(job: dict[str, Any]) -> None:
    """Import what the driver can, and mean the files that it means."""
    sys.path[:] = job["path"]
    try:
        os.chdir(job["directory"])
    except OSError as error:  # a detached actor may outlive it, and need not care
        sys.stderr.write(f"penstock: the driver's directory is gone: {error}\n")


def expand(variables: dict[str, str], inherited: dict[str, str]) -> dict[str, str]:
    """The variables with each ${NAME} replaced: by another of them, or what was inherited.

    A variable that names itself, or comes back to itself, means what was inherited.
    """

    def value(name: str, under: frozenset[str]) -> str:
        if name not in variables or name in under:
            return inherited.get(name, "")
        return _NAMED.sub(lambda found: value(found[1], under | {name}), variables[name])

    return {name: value(name, frozenset()) for name in variables}


def _follow_thread_counts(variables: dict[str, str]) -> None:
    """Libraries that were loaded before the fork have read the variables already."""
    given = next((os.environ[one] for one in _BLAS_THREADS if one in variables), "")
    with suppress(ValueError):  # OpenMP also takes lists; libraries loaded later read them
        count = int(given)
        if "OMP_NUM_THREADS" in variables:
            pyarrow.set_cpu_count(int(os.environ["OMP_NUM_THREADS"]))
        for library in _loaded("openblas"):
            for setter in _BLAS_SETTERS:
                if hasattr(library, setter):
                    getattr(library, setter)(count)


def _loaded(word: str) -> list[ctypes.CDLL]:
    with open("/proc/self/maps") as maps:
        paths = {line.split(None, 5)[5].strip() for line in maps if word in line}
    return [ctypes.CDLL(path) for path in sorted(paths)]
