"""Connects topologies to the store: shared arrays, and references among members' arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.core.values import Value
from engine.runtime import client
from engine.store.refs import ObjectRef
from engine.topology.errors import expected

__all__ = ["allocate", "attach", "resolve"]


def allocate(nbytes: int) -> tuple[memoryview, Any]:
    """Zeroed memory and its token: an `ObjectRef`, or None (private) where no engine runs."""
    home = client.current()
    if home is None:
        return np.zeros(nbytes, dtype=np.uint8).data, None
    block = home.values.allocate(nbytes)
    object_id = home.ids.new()
    with home.lock:
        home.owner.objects.add(object_id, Value(block=block))
        home.owner.spill.fix(object_id)
    ref: ObjectRef[Any] = ObjectRef(object_id)
    view = home.values.view(block, ref)
    np.frombuffer(view, np.uint8)[:] = 0  # a block has whatever lay there before
    return view, ref


def attach(token: ObjectRef[Any]) -> memoryview:
    """The memory behind a token, writable, in any process of the host."""
    home = client.current()
    if home is None:
        raise expected(
            "a process of the engine to attach shared memory",
            "one without it",
            "unpickle a SharedArray in a member or a task, not elsewhere",
        )
    value = home.locate(token)
    assert value.block is not None
    return home.values.view(value.block, token)


def resolve(argument: Any) -> Any:
    """The value of a reference; anything else as it is."""
    if type(argument) is not ObjectRef:
        return argument
    home = client.current()
    assert home is not None, "a reference can only have come from the engine"
    return home.get((argument,), None)[0]
