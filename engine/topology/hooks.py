"""Where the runtime connects itself: shared memory, and references among arguments.

Topologies do not know how a process comes to life or where its memory is. The runtime calls
`connect` once in every process; until then memory is private to the process (enough for inline
topologies, which have one process) and arguments are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.topology.errors import expected

__all__ = ["allocate", "attach", "connect", "resolve"]

# A token names shared memory within the host; it must be picklable and not None.
Allocate = Callable[[int], tuple[memoryview, Any]]
Attach = Callable[[Any], memoryview]
Resolve = Callable[[Any], Any]


class _Hooks:
    """What is connected in this process."""

    allocate: Allocate | None = None
    attach: Attach | None = None
    resolve: Resolve | None = None


def connect(
    *,
    allocate: Allocate | None = None,
    attach: Attach | None = None,
    resolve: Resolve | None = None,
) -> dict[str, Any]:
    """Replace all hooks of this process; None takes the private default.

    Returns the hooks there were, to be given back with ``connect(**before)``.

    Args:
        allocate: nbytes -> (zeroed writable memory of at least that size, aligned to 64 bytes,
            token). Whoever holds the memory keeps it alive.
        attach: token -> the same memory, writable, in any process of the host.
        resolve: argument -> the value of a reference, or the argument itself if it is none.
    """
    before = {name: getattr(_Hooks, name) for name in ("allocate", "attach", "resolve")}
    _Hooks.allocate = staticmethod(allocate) if allocate else None
    _Hooks.attach = staticmethod(attach) if attach else None
    _Hooks.resolve = staticmethod(resolve) if resolve else None
    return before


def allocate(nbytes: int) -> tuple[memoryview, Any]:
    """Zeroed memory and its token; the token is None when the memory is private."""
    if _Hooks.allocate is None:
        return np.zeros(nbytes, dtype=np.uint8).data, None
    return _Hooks.allocate(nbytes)


def attach(token: Any) -> memoryview:
    """The memory of a token made by another process of this host.

    Raises:
        TopologyError: nothing is connected in this process.
    """
    if _Hooks.attach is None:
        raise expected(
            "a process of the engine to attach shared memory",
            "one without it",
            "unpickle a SharedArray in a member or a task, not elsewhere",
        )
    return _Hooks.attach(token)


def resolve(argument: Any) -> Any:
    """The value behind a reference; anything else is returned as it is."""
    return argument if _Hooks.resolve is None else _Hooks.resolve(argument)
