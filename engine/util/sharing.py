"""Values of the object store for processes that know nothing of this engine."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

from engine.runtime.values import Unreadable
from engine.session import runtime
from engine.store import codec
from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["SharedArrow", "share_arrow"]


class SharedArrow:
    """An Arrow value in shared memory, for another process to read where it lies, without a copy.

    The other process needs pyarrow and three attributes, and must be allowed to open `path`
    (`/proc` allows it to the same user on the same machine, and to root)::

        source = pyarrow.memory_map(path)
        source.seek(offset)
        table = pyarrow.ipc.open_stream(source).read_all()

    What it reads is valid as long as the share is open here: close it (or leave the ``with`` block)
    only when the other process has dropped all that it made from it. It must not write.

    Attributes:
        path: a file that the other process can open while this one lives and the share is open.
        offset, size: where the value lies in the file, in bytes: an Arrow IPC stream, or the
            elements of a NumPy array.
        kind: "table" or "batch"; "array" or "chunked" for a column, which comes as the only one
            of a table; "ndarray".
        dtype, shape: of a NumPy array, which is read by
            ``numpy.memmap(path, dtype, "r", offset, shape)``; else None.
    """

    def __init__(
        self, view: memoryview, fd: int, offset: int, size: int, kind: str, array: Any = None
    ) -> None:
        self.path = f"/proc/{os.getpid()}/fd/{fd}"
        self.offset = offset
        self.size = size
        self.kind = kind
        self.dtype: str | None = None if array is None else array.dtype.str
        self.shape: tuple[int, ...] | None = None if array is None else array.shape
        self._view: memoryview | None = view
        self._close_file = weakref.finalize(self, os.close, fd)

    def close(self) -> None:
        """End the share: the memory may be used for other values from now on. Idempotent."""
        self._view = None
        self._close_file()

    def __enter__(self) -> SharedArrow:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "closed" if self._view is None else f"{self.path}, {self.offset}, {self.size}"
        return f"SharedArrow({self.kind}, {where})"


def share_arrow(ref: ObjectRef[Any]) -> SharedArrow:
    """Let other processes read an object in place: an Arrow table, batch, column, or NumPy array.

    Waits for the object and raises its error. The object stays where it is until the share is
    closed, whatever becomes of the reference. A small value, which does not lie in shared memory
    by itself, is copied there first. Raises TypeError for values of other kinds.

    The way back needs nothing special: ``engine.put(pyarrow.ipc.open_stream(...).read_all())``.
    """
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            f"share_arrow takes an ObjectRef, not a {type(ref).__name__}; put the value first"
        )
    home = runtime()
    home.check_known((ref,))
    shared = _share(home, ref)
    if shared is None:
        shared = _share(home, _copy(home, home.get((ref,), None)[0]))
    assert shared is not None, "a copy is laid out to be shared"
    return shared


def _share(home: Runtime, ref: ObjectRef[Any]) -> SharedArrow | None:
    """The share of an object; None when it is not in a block, or not laid out for it."""
    block = home.locate(ref).block
    if block is None:
        return None
    try:
        view, fd, offset = home.values.share(block, ref)
    except Unreadable as lost:
        home.report_lost(ref, lost)
        return _share(home, ref)
    data, buffers = codec.read_parts(view.toreadonly())
    if len(buffers) == 1:
        at = offset + _distance(view, buffers[0])
        kind = codec.arrow_kind(data)
        if kind is not None:
            return SharedArrow(view, fd, at, buffers[0].nbytes, kind)
        value = codec.decode(data, buffers)
        if type(value).__module__ == "numpy" and value.flags.c_contiguous:
            return SharedArrow(view, fd, at, value.nbytes, "ndarray", value)
    os.close(fd)
    return None


def _distance(whole: memoryview, part: memoryview) -> int:
    import numpy as np

    start = np.frombuffer(whole, np.uint8).ctypes.data
    return int(np.frombuffer(part, np.uint8).ctypes.data) - int(start)


def _copy(home: Runtime, value: Any) -> ObjectRef[Any]:
    """The same value in a block, laid out to be shared."""
    import numpy as np

    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        value = np.ascontiguousarray(value)
    encoded = codec.encode_array(value)
    if encoded is None:
        raise TypeError(
            f"share_arrow: the object is a {type(value).__name__}; expected an Arrow table, "
            "record batch, array or chunked array, or a NumPy array of plain values"
        )
    stored = home.values.store(encoded, inline=False)
    object_id = home.ids.new()
    with home.lock:
        home.owner.objects.add(object_id, stored)
    return ObjectRef(object_id)
