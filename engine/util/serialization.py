"""Serializers for classes that cannot be pickled, or not well (names and semantics of Ray's)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from engine.store import codec

__all__ = ["deregister_serializer", "register_serializer"]

T = TypeVar("T")
P = TypeVar("P")


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], P], deserializer: Callable[[P], T]
) -> None:
    """Have instances of a class serialized by a function wherever they occur in a value.

    `serializer` makes anything that can be pickled out of an instance, `deserializer` an instance
    out of that. Both are for exactly this class (not for its subclasses) and for what this process
    serializes: values put, arguments, results, and what functions capture. The deserializer travels
    with the value, so that whoever reads it needs to register nothing; a process that is to send
    instances on has to register the class, too. A second registration of a class replaces the
    first. Pickling outside of the engine (`pickle`, `copy`) is not affected.

    Raises TypeError when `cls` is no class, or one of the built-in ones that pickle writes by
    itself, and when one of the functions cannot be called or shipped.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer: expected a class, found {cls!r}")
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if not callable(function):
            raise TypeError(f"register_serializer: {name}={function!r} cannot be called")
    codec.register(cls, serializer, deserializer)


def deregister_serializer(cls: type[Any]) -> None:
    """Take back what `register_serializer` did for a class; nothing when it was not registered.

    Values serialized before can still be read.
    """
    codec.deregister(cls)
