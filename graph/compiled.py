"""The one door to compiled code: how kernels are compiled, cached, chosen and switched off.

Every inner loop of the package exists twice under the same name and signature: in
``graph.kernels`` (numba: machine code, no GIL) and in ``graph.vectorised`` (NumPy). The
algorithms ask :func:`kernels` for one of the two modules and do not know which they got, so the
same tests run over both.

Numba is imported only when a compiled kernel is first needed: ``import graph`` stays cheap.
Compiled code is cached on disk (next to the source, or in numba's user-wide directory where the
package is not writable, or in ``NUMBA_CACHE_DIR`` if set), so only the first process on a machine
pays the compiler.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar, cast

__all__ = ["AVAILABLE", "enabled", "jit", "kernels", "numpy_only"]

F = TypeVar("F", bound=Callable[..., Any])

AVAILABLE = importlib.util.find_spec("numba") is not None
"""Whether numba is installed; without it everything runs on the NumPy kernels."""

_switch = {"on": AVAILABLE}


def enabled() -> bool:
    """Whether new runs use compiled kernels. A run decides once, in the process that starts it."""
    return _switch["on"]


@contextmanager
def numpy_only() -> Iterator[None]:
    """Inside the block new runs use the NumPy kernels: for tests and for comparing the two."""
    before = _switch["on"]
    _switch["on"] = False
    try:
        yield
    finally:
        _switch["on"] = before


def kernels(name: str, compiled: bool | None = None) -> ModuleType:
    """The module ``name`` of the compiled kernels, or its NumPy twin where not ``compiled``."""
    use = enabled() if compiled is None else compiled
    return importlib.import_module(f"graph.{'kernels' if use else 'vectorised'}.{name}")


def jit(function: F) -> F:
    """Compile ``function`` at its first call: no Python objects, no GIL, cached on disk.

    Wrap-around of negative indices is why the callers index with unsigned arrays: a signed index
    costs numba a test an access, which is half of the time of a gather loop.
    """
    import numba

    return cast(F, numba.njit(cache=True, nogil=True)(function))
