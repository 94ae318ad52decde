"""`ObjectRef`: a future, and what it means to pickle one.

The Python object *is* the local reference count: making one tells the process's object table, its
death tells it again. A reference that leaves the process (pickled inside a value or an argument) is
noted in a weak table, so that when it comes back it is the same Python object; hence references
compare and hash by identity, at C speed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from engine.exceptions import OutOfBandObjectRefSerializationException
from engine.store.codec import contained_refs

__all__ = ["ObjectRef", "RefHolder", "adopt", "set_holder"]

T = TypeVar("T", covariant=True)


class RefHolder(Protocol):
    """The runtime of this process, as references see it."""

    def hold(self, object_id: bytes) -> None:
        """A reference object for this id now exists."""

    def future_of(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future that gets the value or error of the object."""

    def awaitable(self, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
        """What `await ref` runs."""


_holder: RefHolder | None = None
_released: Callable[[bytes], None] | None = None
_escaped: weakref.WeakValueDictionary[bytes, ObjectRef[Any]] = weakref.WeakValueDictionary()


def set_holder(holder: RefHolder | None, released: Callable[[bytes], None] | None) -> None:
    """Connect references to this process's runtime (None: there is none).

    `released` is called with the id when a reference dies: from any thread, at any point, even
    inside the runtime's own critical sections, so it may do no more than note the id.
    """
    global _holder, _released
    _holder, _released = holder, released
    _escaped.clear()


class ObjectRef(Generic[T]):
    """A reference to a value that exists or will exist.

    Pass it to tasks and actor methods (as an argument it arrives as the value, inside a container
    as a reference), to `engine.get` and `engine.wait`; ``await ref`` works in any event loop.
    """

    __slots__ = ("__weakref__", "_id")

    def __init__(self, object_id: bytes) -> None:
        self._id = object_id

    def __del__(self) -> None:
        if _released is not None:
            _released(self._id)

    def binary(self) -> bytes:
        """The 16-byte id."""
        return self._id

    def hex(self) -> str:
        """The id in hexadecimal."""
        return self._id.hex()

    def future(self) -> Future[T]:
        """A `concurrent.futures.Future` with the value or the error."""
        return _live().future_of(self)

    def __await__(self) -> Generator[Any, None, T]:
        return _live().awaitable(self)

    def __reduce__(self) -> tuple[Any, ...]:
        refs = contained_refs()
        if refs is None:
            raise OutOfBandObjectRefSerializationException(
                f"{self!r} was pickled outside of the engine, where its lifetime cannot be "
                "tracked. Pass it as an argument, return it, or put it inside a value given to "
                "engine.put()."
            )
        refs.append(self)
        _escaped[self._id] = self
        return adopt, (self._id,)

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef[T]:
        return self

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"


def _live() -> RefHolder:
    if _holder is None:
        raise RuntimeError("the engine is not running in this process; call engine.init() first")
    return _holder


def adopt(object_id: bytes) -> ObjectRef[Any]:
    """The reference object for an id that came from elsewhere."""
    ref = _escaped.get(object_id)
    if ref is None:
        holder = _live()
        holder.hold(object_id)
        ref = _escaped[object_id] = ObjectRef(object_id)
    return ref
