"""Atomic compare-and-swap on elements of shared arrays, which numba itself does not have on a CPU.

Copies are processes that share memory; where more than one may write an element (union-find roots,
tentative distances), the write is one of these.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["compare_and_swap"]

item_pointer: Any = cgutils.get_item_pointer


def _swap(typing_context: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    """``compare_and_swap(array, index, expected, value)``: whether the element was replaced.

    Index unsigned and in range; ``expected`` and ``value`` of the array's own integer type.
    """
    if not isinstance(array, numba.types.Array) or array.ndim != 1:
        return None
    if not isinstance(array.dtype, numba.types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        structure = context.make_array(kind)(context, builder, arguments[0])
        at = [arguments[1]]
        place = item_pointer(context, builder, kind, structure, at, wraparound=False)
        pair = builder.cmpxchg(place, arguments[2], arguments[3], "acq_rel", "monotonic")
        return builder.extract_value(pair, 1)

    element = array.dtype
    return numba.types.boolean(array, numba.types.uintp, element, element), generate


compare_and_swap: Any = intrinsic(_swap)
