"""Arrow tables and batches as Arrow IPC, for the codec.

A large one is written straight into shared memory and read there without a copy, only the rows of
a slice. A small batch, the usual item of a stream, takes a shorter way: its message without the
schema, and the schema's bytes from a cache.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["ArrowPart", "arrow_part", "read_arrow", "read_small_batch", "small_batch"]

# Batches whose message is at most this long take the short way.
_SMALL_BYTES = 64 << 10
_SCHEMAS_KEPT = 16


class ArrowPart:
    """An Arrow table or batch as an IPC stream that is written on demand."""

    __slots__ = ("kind", "nbytes", "value")

    def __init__(self, value: Any, kind: str) -> None:
        import pyarrow as pa

        self.value = value
        self.kind = kind
        counter = pa.MockOutputStream()
        self._write(counter)
        self.nbytes = counter.size()

    def _write(self, sink: Any) -> None:
        import pyarrow as pa

        with pa.ipc.new_stream(sink, self.value.schema) as writer:
            writer.write(self.value)

    def write_into(self, view: memoryview) -> None:
        """Write the stream into memory of `nbytes` bytes."""
        import pyarrow as pa

        self._write(pa.FixedSizeBufferWriter(pa.py_buffer(view)))

    def tobytes(self) -> bytes:
        """The stream as bytes."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        self._write(sink)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def arrow_part(value: Any) -> ArrowPart | None:
    """The value as a part to be written, if it is an Arrow table, batch or array."""
    if not type(value).__module__.startswith("pyarrow"):
        return None
    pa = sys.modules["pyarrow"]
    if isinstance(value, pa.RecordBatch):
        return ArrowPart(value, "batch")
    if isinstance(value, pa.Table):
        return ArrowPart(value, "table")
    if isinstance(value, pa.Array):
        return ArrowPart(pa.record_batch([value], ["value"]), "array")
    if isinstance(value, pa.ChunkedArray):
        return ArrowPart(pa.table([value], ["value"]), "chunked")
    return None


def read_arrow(kind: str, buffer: Any) -> Any:
    """The inverse of an `ArrowPart` of this kind."""
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(buffer)) as reader:
        if kind == "table":
            return reader.read_all()
        if kind == "chunked":
            return reader.read_all().column(0)
        batch = reader.read_next_batch()
    return batch if kind == "batch" else batch.column(0)


# Schemas seen lately with their bytes (None: not for the short way), newest first.
_written: list[tuple[Any, bytes | None]] = []
_read: dict[bytes, Any] = {}


def small_batch(value: Any) -> list[memoryview] | None:
    """[schema bytes, batch message] of a small record batch; None for everything else."""
    pa = sys.modules.get("pyarrow")
    if pa is None or type(value) is not pa.RecordBatch:
        return None
    data = _schema_of(pa, value.schema)
    if data is None or pa.ipc.get_record_batch_size(value) > _SMALL_BYTES:
        return None
    return [memoryview(data), memoryview(value.serialize()).cast("B")]


def _schema_of(pa: Any, schema: Any) -> bytes | None:
    for known, data in _written:
        if schema.equals(known, check_metadata=True):
            return data
    # Dictionaries travel in messages of their own, which only a stream has.
    dictionaries = any("dictionary" in str(field.type) for field in schema)
    made = None if dictionaries else schema.serialize().to_pybytes()
    _written.insert(0, (schema, made))
    del _written[_SCHEMAS_KEPT:]
    return made


def read_small_batch(schema: Any, message: Any) -> Any:
    """The inverse of `small_batch`."""
    import pyarrow as pa

    key = bytes(schema)
    known = _read.get(key)
    if known is None:
        if len(_read) >= _SCHEMAS_KEPT:
            _read.clear()
        known = _read[key] = pa.ipc.read_schema(pa.py_buffer(key))
    return pa.ipc.read_record_batch(pa.py_buffer(message), known)
