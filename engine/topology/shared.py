"""A NumPy array that every process of the host sees, and may write.

The memory comes from `engine.topology.hooks`, which the runtime connects. Before that it is private
to the process: enough for inline topologies, and pickling is refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.topology.errors import TopologyError, expected
from engine.topology.hooks import allocate, attach

__all__ = ["SharedArray"]


class SharedArray:
    """A fixed-size NumPy array in shared memory; make it with `zeros`.

    Pickling ships the name of the memory, not its content. Nothing orders the writes of different
    processes but the items they exchange: what a copy wrote before it emitted, the receiver sees.

    Attributes:
        shape, dtype: as of the array.
        array: a writable view, of the same memory in every process.
    """

    __slots__ = ("_memory", "_token", "array", "dtype", "shape")

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], memory: memoryview, token: Any
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._memory = memory
        self._token = token
        count = math.prod(shape)
        self.array: npt.NDArray[Any] = np.frombuffer(memory, dtype, count).reshape(shape)

    @classmethod
    def zeros(cls, shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> SharedArray:
        """An array of zeros.

        Raises:
            TopologyError: a negative dimension, or a dtype that holds Python objects.
        """
        dimensions = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        dimensions = tuple(int(n) for n in dimensions)
        kind = np.dtype(dtype)
        if any(n < 0 for n in dimensions):
            raise expected("dimensions >= 0", dimensions, "correct the shape")
        if kind.hasobject:
            raise expected("a dtype of plain values", kind, "objects cannot live in shared memory")
        memory, token = allocate(max(1, math.prod(dimensions) * kind.itemsize))
        return cls(dimensions, kind, memory, token)

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return int(self.array.nbytes)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._token is None:
            raise TopologyError(
                "expected a SharedArray in shared memory, found one private to this process; call "
                "engine.init() before SharedArray.zeros() to ship it to other processes"
            )
        return _reattach, (self.shape, self.dtype.str, self._token)

    def __repr__(self) -> str:
        where = "private" if self._token is None else "shared"
        return f"SharedArray(shape={self.shape}, dtype={self.dtype}, {where})"


def _reattach(shape: tuple[int, ...], dtype: str, token: Any) -> SharedArray:
    return SharedArray(shape, np.dtype(dtype), attach(token), token)
