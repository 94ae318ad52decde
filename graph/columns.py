"""User columns (NumPy, Arrow, pandas, polars, lists) as NumPy arrays, with precise complaints."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["id_column", "weight_column"]


def id_column(column: Any, name: str) -> npt.NDArray[Any] | pa.Array | list[Any]:
    """Vertex ids as a NumPy integer array, an Arrow array, or a list of Python objects.

    Raises ``ValueError`` for missing and for negative ids (naming the first position) and for
    a column that is not one-dimensional.
    """
    if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        return _checked(column, name)
    array = _arrow(column, name)
    if isinstance(array, list):
        return array
    if array.null_count:
        at = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{name}: a vertex id is missing at position {at}")
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_integer(array.type):
        return _checked(array.to_numpy(zero_copy_only=False), name)
    if pa.types.is_null(array.type):
        return np.empty(0, np.int64)
    if pa.types.is_floating(array.type):
        raise TypeError(
            f"{name}: vertex ids are {array.type}, expected integers, strings or other hashable "
            f"values; convert the column to integers first"
        )
    return array


def weight_column(column: Any, length: int) -> npt.NDArray[np.float64]:
    """Edge weights as float64. Raises for a wrong length, NaN, and values that are not numbers."""
    array = column if isinstance(column, np.ndarray) else _arrow(column, "weight")
    if isinstance(array, pa.Array):
        if array.null_count:
            at = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(f"weight: a value is missing at position {at}")
        array = array.to_numpy(zero_copy_only=False)
    try:
        weight = np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weight: expected a column of numbers, found {column!r:.80}") from error
    if weight.shape != (length,):
        raise ValueError(f"weight has shape {weight.shape}, but there are {length} edges")
    wrong = np.flatnonzero(np.isnan(weight))
    if wrong.size:
        raise ValueError(f"weight: NaN at position {int(wrong[0])}")
    return weight


def _checked(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """The integer array if it is one-dimensional without negative values."""
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one column, found an array of shape {array.shape}")
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        at = int(np.flatnonzero(array < 0)[0])
        raise ValueError(f"{name}: negative vertex id {int(array[at])} at position {at}")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        at = int(np.argmax(array))
        raise ValueError(f"{name}: vertex id {int(array[at])} at position {at} exceeds 2**63 - 1")
    return array


def _arrow(column: Any, name: str) -> pa.Array | list[Any]:
    """One Arrow array, or the list itself where Arrow has no type for it."""
    if isinstance(column, str | bytes):
        raise TypeError(f"{name}: expected a column of values, found {column!r:.60}")
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    if isinstance(column, pa.Array):
        return column
    if hasattr(column, "to_arrow"):  # polars
        column = column.to_arrow()
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if hasattr(column, "to_numpy") or isinstance(column, np.ndarray):
        values = column.to_numpy() if hasattr(column, "to_numpy") else column
        if values.ndim != 1:
            raise ValueError(f"{name}: expected one column, found an array of shape {values.shape}")
        if values.dtype.kind != "O":
            return pa.array(values)
        column = values
    values = list(column)
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return values  # of several kinds: they stay Python objects
    return values if pa.types.is_nested(array.type) else array
