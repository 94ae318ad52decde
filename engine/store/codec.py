"""Values to bytes and back: the only module that pickles or unpickles.

Protocol 5 with out-of-band buffers, plain pickle first. Plain pickle stores classes and functions
of the driver's script as ``__main__.name``, which a worker cannot import; such streams, and
everything plain pickle refuses (lambdas, closures), go through cloudpickle, which ships the code.
Arrow tables and batches travel as Arrow IPC: written straight into shared memory, read without a
copy, and only the rows of a slice.

References inside a value are found while it is pickled: `ObjectRef.__reduce__` reports itself to
the `contained` list of this thread. A reference pickled anywhere else has no owner who knows of it
and is refused (`OutOfBandObjectRefSerializationException`).
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import pickle
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import cloudpickle

from engine.exceptions import ExceptionParts, SerializationError, TaskError
from engine.store.arrow import (
    ArrowPart,
    arrow_part,
    read_arrow,
    read_small_batch,
    small_batch,
)

__all__ = [
    "Encoded",
    "arrow_kind",
    "contained_refs",
    "decode",
    "decode_durable",
    "deregister",
    "encode",
    "encode_array",
    "encode_definition",
    "encode_durable",
    "encode_error",
    "encode_plain",
    "read_parts",
    "register",
]

_ALIGN = 64
_U64 = Struct("<Q")
_loads = pickle.loads
# Others while classes are registered (`register`).
_dumps: Callable[..., bytes] = pickle.dumps
_MAIN = b"__main__"
_PLAIN_MAX = 64 * 1024
_DESERIALIZER_MAX = 1 << 20
_local = threading.local()


def contained_refs() -> list[Any] | None:
    """The list that collects references pickled by this thread; None outside of `encode`."""
    return getattr(_local, "refs", None)


class Encoded:
    """A pickled value: `data` plus out-of-band `buffers`; `refs` were pickled inside it."""

    __slots__ = ("buffers", "data", "nbytes", "refs")

    def __init__(self, data: bytes, buffers: Sequence[Any], refs: list[Any]) -> None:
        self.data = data
        self.buffers = buffers
        self.refs = refs
        self.nbytes = len(data) + sum(part.nbytes for part in buffers)

    def inline_buffers(self) -> list[bytes] | None:
        """The buffers as bytes, for a value that travels inside a frame."""
        if not self.buffers:
            return None
        return [part.tobytes() for part in self.buffers]

    def block_bytes(self) -> int:
        """Bytes that `write_into` needs."""
        size = _aligned(8 * (2 + len(self.buffers))) + _aligned(len(self.data))
        return size + sum(_aligned(part.nbytes) for part in self.buffers)

    def write_into(self, view: memoryview) -> None:
        """Lay the parts out in `view`: count, sizes, then each part on a 64-byte boundary."""
        _U64.pack_into(view, 0, 1 + len(self.buffers))
        at = _aligned(8 * (2 + len(self.buffers)))
        _U64.pack_into(view, 8, len(self.data))
        view[at : at + len(self.data)] = self.data
        at += _aligned(len(self.data))
        for index, part in enumerate(self.buffers):
            size = part.nbytes
            _U64.pack_into(view, 16 + 8 * index, size)
            if isinstance(part, ArrowPart):
                part.write_into(view[at : at + size])
            elif size:
                view[at : at + size] = part
            at += _aligned(size)


def read_parts(view: memoryview) -> tuple[memoryview, list[memoryview]]:
    """The inverse of `Encoded.write_into`, without copying."""
    (count,) = _U64.unpack_from(view, 0)
    sizes = [_U64.unpack_from(view, 8 + 8 * index)[0] for index in range(count)]
    at = _aligned(8 * (1 + count))
    parts = []
    for size in sizes:
        parts.append(view[at : at + size])
        at += _aligned(size)
    return parts[0], parts[1:]


def _aligned(size: int) -> int:
    return (size + _ALIGN - 1) & -_ALIGN


def encode(value: Any, refs: list[Any] | None = None) -> Encoded:
    """Pickle a value. `refs` collects the references in it (see `ObjectRef.__reduce__`).

    Raises SerializationError (a TypeError) that names the path to what cannot be pickled.
    """
    if not _registered or type(value) not in _registered:
        small = small_batch(value)
        if small is not None:
            return Encoded(_SMALL_BATCH, small, [])
        arrow = arrow_part(value)
        if arrow is not None:
            return Encoded(_ARROW_HEADS[arrow.kind], [arrow], [])
    outer = contained_refs()
    if refs is None:
        refs = []
    _local.refs = refs
    buffers: list[Any] = []
    try:
        plain_error: Exception | None = None
        try:
            data = _dumps(value, protocol=5, buffer_callback=buffers.append)
            if _MAIN not in data:
                return Encoded(data, _raw(buffers), refs)
        except Exception as error:  # whatever a user's __reduce__ raises: cloudpickle tries next
            plain_error = error
        refs.clear()
        buffers.clear()
        try:
            data = _cloud_dumps(value, protocol=5, buffer_callback=buffers.append)
        except Exception as error:  # the user's again: told with the path to what it is about
            if isinstance(plain_error, SerializationError):
                raise plain_error from None
            path = _find_unpicklable(value, "value", set())
            raise SerializationError(
                f"cannot pickle {path or type(value).__name__}: {error}. Give the task data "
                "instead of live resources (open them inside the task), or define __reduce__."
            ) from error
        return Encoded(data, _raw(buffers), refs)
    finally:
        _local.refs = outer


def encode_durable(
    value: Any, keep: Callable[[Any, ArrowPart], int | None] | None = None
) -> Encoded:
    """A value to be kept in a file and read by another run of the program.

    Classes of the script travel by value, and Arrow values, wherever they are inside, as the rows
    they show: pickled, a slice would bring along all of the table it was cut from. `keep` is asked
    about each of these; a number means that it is kept elsewhere, and stands for it here (see
    `decode_durable`).

    Raises SerializationError that names the path to what cannot be pickled.
    """
    outer = contained_refs()
    refs: list[Any] = []
    _local.refs = refs
    buffers: list[Any] = []
    file = io.BytesIO()
    pickler = _DurablePickler(file, protocol=5, buffer_callback=buffers.append)
    pickler.keep = keep
    try:
        pickler.dump(value)
    except OSError:
        raise  # of `keep`, which writes
    except Exception as error:  # whatever a user's __reduce__ raises
        path = _find_unpicklable(value, "state", set())
        raise SerializationError(
            f"cannot pickle {path or type(value).__name__}: {error}. Keep data in the state "
            "instead of live resources (open them again in restore)."
        ) from error
    finally:
        _local.refs = outer
    return Encoded(file.getvalue(), _raw(buffers), refs)


class _Reducers(dict[type, Any]):
    """A table of reducers for a pickler: the registered classes, then those of `others`."""

    def __init__(self, others: Any) -> None:
        super().__init__()
        self._others = others

    def __missing__(self, cls: type) -> Any:
        return self._others[cls]


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """As cloudpickle does, but for the file, which later versions leave out.

    Without it tracebacks of workers would not say which line of the user's program raised.
    """
    make, parts = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return make, tuple(code.co_filename if one == "<dynamic-code>" else one for one in parts)


class _CodePickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = _Reducers(cloudpickle.Pickler.dispatch_table)
    dispatch_table[types.CodeType] = _reduce_code


class _DurablePickler(_CodePickler):
    keep: Callable[[Any, ArrowPart], int | None] | None = None

    def reducer_override(self, obj: Any) -> Any:
        part = arrow_part(obj)
        if part is None:
            return super().reducer_override(obj)
        index = None if self.keep is None else self.keep(obj, part)
        if index is not None:
            return _kept, (index,)
        return read_arrow, (part.kind, pickle.PickleBuffer(part.tobytes()))


def decode_durable(data: Any, buffers: Sequence[Any], kept: Sequence[Any]) -> Any:
    """The inverse of `encode_durable`; `kept` are the values kept elsewhere, by their numbers."""
    _local.kept = kept
    try:
        return _loads(data, buffers=buffers)
    finally:
        _local.kept = ()


def _kept(index: int) -> Any:
    return _local.kept[index]


def encode_plain(value: Any) -> bytes | None:
    """Pickle a value made only of numbers, strings, bytes and tuples; None when it is large."""
    data = pickle.dumps(value, protocol=5)
    return data if len(data) <= _PLAIN_MAX else None


def _raw(buffers: list[Any]) -> list[memoryview]:
    return [buffer.raw() for buffer in buffers] if buffers else buffers


def decode(data: Any, buffers: Sequence[Any] | None) -> Any:
    """Unpickle a value; arrays inside lie in `buffers`, read-only."""
    if buffers:
        return _loads(data, buffers=buffers)
    return _loads(data)


def encode_definition(thing: Any, limit: int) -> tuple[bytes, bytes, list[Any]]:
    """A function or class by value: (key, blob, references captured by it).

    The key is the hash of the blob, so that a worker keeps one copy and a redefinition under the
    same name is another key.
    """
    outer = contained_refs()
    refs: list[Any] = []
    _local.refs = refs
    try:
        blob = _cloud_dumps(thing, protocol=5)
    except Exception as error:  # whatever a captured value's __reduce__ raises
        path = _find_unpicklable(thing, getattr(thing, "__name__", "function"), set())
        raise SerializationError(
            f"cannot ship {path or thing!r}: {error}. A function or class travels with what it "
            "captures; pass such things as arguments or create them inside."
        ) from error
    finally:
        _local.refs = outer
    if len(blob) > limit:
        raise ValueError(
            f"{getattr(thing, '__name__', thing)!r} pickles to {len(blob):,} bytes, above the "
            f"limit of {limit:,}: it captures data. Use engine.put() and pass the reference."
        )
    return hashlib.blake2b(blob, digest_size=16).digest(), blob, refs


def encode_error(error: BaseException, function_name: str, pid: int) -> bytes:
    """A user's exception as a pickled TaskError; never fails."""
    if isinstance(error, TaskError):  # from a task that this one waited for: keep the origin
        fields = error.__dict__
        name, trace, cause = fields["function_name"], fields["traceback_str"], fields["cause"]
        pid = fields["pid"]
    else:
        text = "".join(traceback.format_exception(_without_engine_frames(error)))
        name, trace, cause = function_name, text.rstrip(), error
    forms = [cause] if cause is None else [cause, ExceptionParts(cause), None]
    for form in forms:
        try:
            data = encode(TaskError(name, trace, form, pid)).data
            _loads(data)  # exceptions often pickle and do not unpickle
            return data
        except Exception:  # the next form carries less: in the end the text alone
            continue
    raise AssertionError("a TaskError without its cause always travels")


def _without_engine_frames(error: BaseException) -> BaseException:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("engine."):
        trace = trace.tb_next
    return error.with_traceback(trace) if trace is not None else error


class _ArrowStandIn:
    """Pickles to a call of `read_arrow` with one out-of-band buffer (the IPC stream)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return read_arrow, (self.kind, pickle.PickleBuffer(b""))


class _SmallBatchStandIn:
    """Pickles to a call of `read_small_batch` with two out-of-band buffers."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return read_small_batch, (pickle.PickleBuffer(b""), pickle.PickleBuffer(b""))


def encode_array(value: Any) -> Encoded | None:
    """An Arrow value with its IPC stream as one buffer, or a contiguous NumPy array as one.

    None for everything else. Not the form of small batches, which is for the engine alone.
    """
    part = arrow_part(value)
    if part is not None:
        return Encoded(_ARROW_HEADS[part.kind], [part], [])
    encoded = encode(value)
    return encoded if type(value).__module__ == "numpy" and len(encoded.buffers) == 1 else None


def arrow_kind(data: memoryview) -> str | None:
    """What kind of Arrow value an encoded value is whose only buffer is an IPC stream."""
    head = bytes(data)
    return next((kind for kind, known in _ARROW_HEADS.items() if known == head), None)


_ARROW_HEADS = {
    kind: _dumps(_ArrowStandIn(kind), protocol=5, buffer_callback=lambda _buffer: False)
    for kind in ("table", "batch", "array", "chunked")
}

# The same for every batch: what differs lies in the buffers.
_SMALL_BATCH = _dumps(_SmallBatchStandIn(), protocol=5, buffer_callback=lambda _buffer: False)


# ------------------------------------------------------------------------------ custom classes


_registered = _Reducers(copyreg.dispatch_table)
# Classes that the pickler writes by itself, without asking any table.
_BUILT_IN = (
    *(int, float, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset, type(None)),
    *(type, type(encode)),
)


class _CloudPickler(_CodePickler):
    dispatch_table = _Reducers(_CodePickler.dispatch_table)


def register(cls: type, serializer: Callable[[Any], Any], deserializer: Any) -> None:
    """Pickle instances of exactly this class with `serializer` from now on, in this process.

    The deserializer travels with each value. Raises TypeError for a class that cannot be registered
    and SerializationError for a deserializer that cannot travel.
    """
    global _dumps
    if cls in _BUILT_IN:
        raise TypeError(
            f"{cls.__name__} is written by pickle itself and cannot have a serializer of its own; "
            "register a subclass of it, or a class that contains it"
        )
    _key, blob, refs = encode_definition(deserializer, _DESERIALIZER_MAX)
    if refs:
        raise SerializationError(
            f"the deserializer of {cls.__name__} captures an ObjectRef, which nobody would hold"
        )

    def reduce(value: Any) -> tuple[Any, ...]:
        return _rebuild, (blob, serializer(value))

    _registered[cls] = _CloudPickler.dispatch_table[cls] = reduce
    _dumps = _dumps_registered


def deregister(cls: type) -> None:
    """Pickle instances of this class as usual again."""
    global _dumps
    _registered.pop(cls, None)
    _CloudPickler.dispatch_table.pop(cls, None)
    if not _registered:
        _dumps = pickle.dumps


def _dumps_registered(value: Any, protocol: int, buffer_callback: Any = None) -> bytes:
    with io.BytesIO() as file:
        pickler = pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
        pickler.dispatch_table = _registered
        pickler.dump(value)
        return file.getvalue()


def _cloud_dumps(value: Any, protocol: int, buffer_callback: Any = None) -> bytes:
    with io.BytesIO() as file:
        _CloudPickler(file, protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


_deserializer = functools.lru_cache(maxsize=256)(pickle.loads)


def _rebuild(blob: bytes, payload: Any) -> Any:
    return _deserializer(blob)(payload)


# ------------------------------------------------------------------------------ explaining


def _find_unpicklable(value: Any, path: str, seen: set[int], depth: int = 0) -> str | None:
    """The path to the innermost part that cannot be pickled, with its type."""
    if depth > 6 or id(value) in seen:
        return None
    seen.add(id(value))
    for name, child in _children(value):
        if not _picklable(child):
            return _find_unpicklable(child, f"{path}{name}", seen, depth + 1) or (
                f"{path}{name} (a {type(child).__module__}.{type(child).__qualname__})"
            )
    if depth == 0:
        return None
    return f"{path} (a {type(value).__module__}.{type(value).__qualname__})"


def _children(value: Any) -> list[tuple[str, Any]]:
    if type(value) in _registered:  # its serializer is what failed
        return []
    if isinstance(value, dict):
        return [(f"[{key!r}]", child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", child) for index, child in enumerate(value)]
    found: list[tuple[str, Any]] = []
    code = getattr(value, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=False):
            found.append((f" captured variable {name!r}", cell.cell_contents))
        for name in code.co_names:
            if name in value.__globals__:
                found.append((f" global variable {name!r}", value.__globals__[name]))
    if type(value).__reduce__ is not object.__reduce__:  # type: ignore[comparison-overlap]
        return found  # its attributes are not what is pickled
    for name, child in getattr(value, "__dict__", {}).items():
        if not (isinstance(value, type) and name.startswith("__")):
            found.append((f".{name}", child))
    return found


def _picklable(value: Any) -> bool:
    try:
        _cloud_dumps(value, protocol=5)
    except Exception:  # the question is only whether it can be pickled
        return False
    return True
