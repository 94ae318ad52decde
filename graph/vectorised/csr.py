"""Counting sorts behind compressed rows (NumPy): a stable sort and a running count."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["group", "group_weighted", "transpose", "transpose_weighted"]


def _starts(keys: Any, rows: int) -> Any:
    """Row offsets: a running count of the keys."""
    offsets = np.zeros(rows + 1, np.uint64)
    np.cumsum(np.bincount(keys, minlength=rows), out=offsets[1:])
    return offsets


def _row_of_each(offsets: Any) -> Any:
    """The row number of every entry."""
    counts = np.diff(offsets).astype(np.int64)
    return np.repeat(np.arange(counts.size, dtype=np.uint32), counts)


def group(keys: Any, values: Any, rows: int) -> Any:
    """Rows of ``values`` by ``keys`` (both uint32), input order kept inside a row."""
    order = np.argsort(keys, kind="stable")
    return _starts(keys, rows), values[order]


def group_weighted(keys: Any, values: Any, weight: Any, rows: int) -> Any:
    """As :func:`group`, carrying a weight along."""
    order = np.argsort(keys, kind="stable")
    return _starts(keys, rows), values[order], weight[order]


def transpose(offsets: Any, targets: Any) -> Any:
    """The reversed rows; inside each the sources ascend, whatever the input's order."""
    return group(targets, _row_of_each(offsets), offsets.size - 1)


def transpose_weighted(offsets: Any, targets: Any, weight: Any) -> Any:
    """As :func:`transpose`, carrying a weight along."""
    return group_weighted(targets, _row_of_each(offsets), weight, offsets.size - 1)
