"""What a task computes, in words: the same in every run of the program, others for another task.

So that a checkpoint is not taken up by another algorithm, other arguments or another graph. Numbers
and texts stand for themselves, arrays for their digest, functions for their code, and objects for
their class and what they hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["describe", "digest"]

_DEPTH_MAX = 6
_DIGEST_BYTES = 12
_TEXT_MAX = 2000


def digest(array: Any) -> str:
    """Shape, type and checksum of an array."""
    return f"{array.dtype}{list(array.shape)} {_checksum(np.ascontiguousarray(array).data)}"


def describe(value: Any, depth: int = 0) -> str:
    """The value in words; see the module's text.

    An object may have an attribute ``fingerprint`` with what is to be described in its place.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic | np.dtype):
        return repr(value)
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return digest(value)
    if isinstance(value, pa.Array):
        return f"{value.type}[{len(value)}] {_checksum(pa.record_batch([value], ['']).serialize())}"
    if depth > _DEPTH_MAX:
        return type(value).__qualname__
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return f"{value.__qualname__} {_code(value.__code__)}{describe(cells, depth + 1)}"
    if isinstance(value, Mapping):
        items = (f"{key!r}: {describe(item, depth + 1)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        text = ", ".join(describe(item, depth + 1) for item in value)
        if len(text) > _TEXT_MAX:
            text = f"{len(value)} of them, {_checksum(text.encode())}"
        return f"[{text}]"
    held = getattr(value, "fingerprint", None)
    if held is None:
        held = getattr(value, "__dict__", None)
    return f"{type(value).__qualname__}{describe(held, depth + 1)}"


def _code(code: CodeType) -> str:
    """A function's code: what it does, not where it stands."""
    inner = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return _checksum(repr([code.co_code.hex(), code.co_names, inner]).encode())


def _checksum(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
