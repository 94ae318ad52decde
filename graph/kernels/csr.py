"""Counting sorts behind compressed rows (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["group", "group_weighted", "transpose", "transpose_weighted"]


@jit
def _starts(keys: Any, rows: int) -> Any:
    """Row offsets and a copy of them to be used as write cursors."""
    one = np.uint64(1)
    offsets = np.zeros(rows + 1, np.uint64)
    for i in range(keys.size):
        offsets[np.uint64(keys[i]) + one] += one
    for r in range(np.uint64(1), np.uint64(rows + 1)):
        offsets[r] += offsets[r - one]
    return offsets


@jit
def group(keys: Any, values: Any, rows: int) -> Any:
    """Rows of ``values`` by ``keys`` (both uint32), input order kept inside a row."""
    one = np.uint64(1)
    offsets = _starts(keys, rows)
    cursor = offsets.copy()
    out = np.empty(keys.size, np.uint32)
    for i in range(keys.size):
        key = keys[i]
        at = cursor[key]
        cursor[key] = at + one
        out[at] = values[i]
    return offsets, out


@jit
def group_weighted(keys: Any, values: Any, weight: Any, rows: int) -> Any:
    """As :func:`group`, carrying a weight along."""
    one = np.uint64(1)
    offsets = _starts(keys, rows)
    cursor = offsets.copy()
    out = np.empty(keys.size, np.uint32)
    carried = np.empty(keys.size, weight.dtype)
    for i in range(keys.size):
        key = keys[i]
        at = cursor[key]
        cursor[key] = at + one
        out[at] = values[i]
        carried[at] = weight[i]
    return offsets, out, carried


@jit
def transpose(offsets: Any, targets: Any) -> Any:
    """The reversed rows; inside each the sources ascend, whatever the input's order."""
    one = np.uint64(1)
    rows = offsets.size - 1
    flipped = _starts(targets, rows)
    cursor = flipped.copy()
    out = np.empty(targets.size, np.uint32)
    for v in range(np.uint64(rows)):
        for e in range(offsets[v], offsets[v + one]):
            target = targets[e]
            at = cursor[target]
            cursor[target] = at + one
            out[at] = v
    return flipped, out


@jit
def transpose_weighted(offsets: Any, targets: Any, weight: Any) -> Any:
    """As :func:`transpose`, carrying a weight along."""
    one = np.uint64(1)
    rows = offsets.size - 1
    flipped = _starts(targets, rows)
    cursor = flipped.copy()
    out = np.empty(targets.size, np.uint32)
    carried = np.empty(targets.size, weight.dtype)
    for v in range(np.uint64(rows)):
        for e in range(offsets[v], offsets[v + one]):
            target = targets[e]
            at = cursor[target]
            cursor[target] = at + one
            out[at] = v
            carried[at] = weight[e]
    return flipped, out, carried
