"""`ObjectRef`: a future, and what it means to pickle one.

The Python object *is* the local reference count: making one tells the process's object table, its
death tells it again. A reference that leaves the process (pickled inside a value or an argument) is
noted in a weak table, so that when it comes back it is the same Python object; hence references
compare and hash by identity, at C speed.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from engine.core.ids import JobID, TaskID
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

    def task_of(self, ref: ObjectRef[Any]) -> bytes:
        """The id of the task that makes the object."""

    @property
    def info(self) -> dict[str, Any]:
        """Facts about the cluster."""


_holder: RefHolder | None = None
_released: Callable[[bytes], None] | None = None


class _Escaped(weakref.ref["ObjectRef[Any]"]):
    """A weak reference to an ObjectRef that others may find again by its id."""

    __slots__ = ("id",)
    id: bytes


_escaped: dict[bytes, _Escaped] = {}


def _on_death(gone: weakref.ref[Any]) -> None:
    assert isinstance(gone, _Escaped)
    if _escaped.get(gone.id) is gone:
        del _escaped[gone.id]
    if _released is not None:
        _released(gone.id)


def _escape(ref: ObjectRef[Any]) -> None:
    """Note a reference that leaves this process or came into it.

    Its death is told by the weak reference's callback rather than by `__del__`: while `__del__`
    runs in one thread, another could still find the object here and bring it back to life.
    """
    if not ref._tracked:
        note = _Escaped(ref, _on_death)
        note.id = ref._id
        ref._tracked = True
        _escaped[ref._id] = note


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

    __slots__ = ("__weakref__", "_id", "_tracked")

    def __init__(self, object_id: bytes) -> None:
        self._id = object_id
        self._tracked = False  # see _escape

    def __del__(self) -> None:
        if _released is not None and not self._tracked:
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

    def as_future(self) -> asyncio.Future[T]:
        """An `asyncio.Future` of the running loop with the value or the error."""
        return asyncio.wrap_future(self.future(), loop=asyncio.get_running_loop())

    def _on_completed(self, callback: Callable[[Any], Any]) -> None:
        """Call `callback` with the value, or with the exception in its place, once it is there.

        It runs on a thread of the engine, or here if it is there already, and must be short.
        """

        def deliver(done: Future[Any]) -> None:
            error = done.exception()
            callback(done.result() if error is None else error)

        self.future().add_done_callback(deliver)

    def task_id(self) -> TaskID:
        """The id of the task that makes the object.

        A task has the id of its first return value; of its other return values only while it is
        pending. For an object that was put, the object's own id.
        """
        return TaskID(_live().task_of(self))

    def job_id(self) -> JobID:
        """The id of the driver of this cluster."""
        return JobID(_live().info["driver"])

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
        if type(refs) is not list:  # a checkpoint, which must not contain what dies with us
            instead: tuple[Any, ...] | None = refs.reduce(self)  # type: ignore[attr-defined]
            if instead is not None:
                return instead
        refs.append(self)
        _escape(self)
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
    note = _escaped.get(object_id)
    ref = note() if note is not None else None
    if ref is None:
        _live().hold(object_id)
        ref = ObjectRef(object_id)
        _escape(ref)
    return ref
