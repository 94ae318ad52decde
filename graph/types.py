"""Declarations in a vertex program: the type of a vertex value and of a message.

``value = graph.float64(default=0.0)``, ``message = graph.float64(combine="min")``. A combiner
merges all messages to one vertex into one before it is computed, at the sender and again at the
receiver: the program then sees one message or none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["COMBINERS", "Field", "boolean", "float32", "float64", "int32", "int64", "pyobject"]

COMBINERS: dict[str, np.ufunc] = {
    "sum": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "any": np.logical_or,
    "all": np.logical_and,
}
"""What ``combine=`` may be: associative and commutative, so that the order does not matter."""


@dataclass(frozen=True)
class Field:
    """The declared type of a value or a message."""

    name: str
    dtype: np.dtype[Any] | None
    """None: any Python object."""
    default: Any
    combine: str | None
    exact: type
    """The Python type that needs no conversion."""

    def __post_init__(self) -> None:
        """Check the combiner and the default."""
        if self.combine is not None and self.combine not in COMBINERS:
            known = ", ".join(map(repr, COMBINERS))
            raise ValueError(f"unknown combine {self.combine!r}; expected one of {known}, or None")
        if self.combine is not None and self.dtype is None:
            raise ValueError(f"combine={self.combine!r} needs numbers, {self.name} may be anything")
        if (self.combine in ("any", "all")) != (self.combine is not None and self.exact is bool):
            raise ValueError(f"combine={self.combine!r} does not go with {self.name}")

    def convert(self, value: Any, what: str) -> Any:
        """``value`` as a Python object of the declared type, or ``TypeError``."""
        if self.dtype is None:
            return value
        if isinstance(value, np.generic):
            value = value.item()
        wanted = {float: Real, int: Integral, bool: bool}[self.exact]
        if not isinstance(value, wanted) or (self.exact is not bool and isinstance(value, bool)):
            raise TypeError(
                f"{what} must be {self.name}, found {type(value).__name__} {value!r:.80}"
            )
        return self.exact(value)

    @property
    def identity(self) -> Any:
        """What combining with changes nothing."""
        if self.combine in (None, "sum", "any"):
            return 0
        if self.combine == "all" or self.dtype is None:
            return True
        least = self.combine == "min"
        if self.dtype.kind == "f":
            return np.inf if least else -np.inf
        return np.iinfo(self.dtype).max if least else np.iinfo(self.dtype).min


def _maker(name: str, dtype: Any, exact: type, zero: Any) -> Callable[..., Field]:
    """The public function that declares a field of one type."""

    def declare(default: Any = zero, combine: str | None = None) -> Field:
        field = Field(name, dtype, default, combine, exact)
        return Field(name, dtype, field.convert(default, "default"), combine, exact)

    declare.__name__ = declare.__qualname__ = name
    declare.__doc__ = f"A {name} value (``default=``) or message (``combine=``) of a program."
    return declare


float64 = _maker("float64", np.dtype(np.float64), float, 0.0)
float32 = _maker("float32", np.dtype(np.float32), float, 0.0)
int64 = _maker("int64", np.dtype(np.int64), int, 0)
int32 = _maker("int32", np.dtype(np.int32), int, 0)
boolean = _maker("boolean", np.dtype(np.bool_), bool, False)
pyobject = _maker("pyobject", None, object, None)
