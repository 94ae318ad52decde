"""What a run gives: one value a vertex, kept as a column and keyed by the user's vertex ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graph.ids import VertexIds

__all__ = ["Result"]


class Result:
    """Values by vertex, in the order of the graph's vertices.

    Python objects are made only where asked for: ``to_dict``, iteration, ``result[vertex]``.

    Attributes:
        supersteps: rounds of computation that were run.
        seconds: from the first superstep to the last, without starting processes.
        converged: False where the run ended because it was at its limit of supersteps.
    """

    def __init__(
        self,
        ids: VertexIds,
        values: npt.NDArray[Any] | pa.Array | list[Any],
        *,
        supersteps: int = 0,
        seconds: float = 0.0,
        converged: bool = True,
    ) -> None:
        """``values`` may be a NumPy array, an Arrow array (nulls allowed) or Python objects."""
        if len(values) != len(ids):
            raise ValueError(f"{len(values)} values for {len(ids)} vertices")
        self._ids = ids
        self._values = values
        self.supersteps = supersteps
        self.seconds = seconds
        self.converged = converged

    @property
    def values(self) -> pa.Array:
        """The values as an Arrow column; ``TypeError`` where Arrow has no type for them."""
        if isinstance(self._values, pa.Array):
            return self._values
        try:
            return pa.array(self._values)
        except pa.ArrowException as error:
            raise TypeError(f"these values have no Arrow type: {error}; use to_dict()") from error

    def to_arrow(self) -> pa.Table:
        """A table with the columns ``id`` and ``value``."""
        return pa.table({"id": self._ids.arrow, "value": self.values})

    def to_numpy(self) -> npt.NDArray[Any]:
        """The values as NumPy; a column with nulls becomes float64 with NaN for null."""
        if isinstance(self._values, np.ndarray):
            return self._values
        if isinstance(self._values, list):
            return np.asarray(self._values)
        column = self._values
        if column.null_count and pa.types.is_integer(column.type):
            column = column.cast(pa.float64())
        found: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return found

    def to_dict(self) -> dict[Any, Any]:
        """Vertex id to value, as Python objects (None for null)."""
        return dict(self)

    def to_pandas(self) -> Any:
        """A pandas Series indexed by vertex id. Needs pandas."""
        import pandas

        return pandas.Series(self._list(), index=pandas.Index(self._ids.tolist(), name="id"))

    def top(self, k: int) -> list[tuple[Any, Any]]:
        """The ``k`` largest (id, value), largest first; ties in vertex order, nulls left out."""
        if k < 0:
            raise ValueError(f"k must be at least 0, found {k}")
        column = self.values
        valid = np.flatnonzero(~column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
        numbers = column.take(pa.array(valid)).to_numpy(zero_copy_only=False)
        order = valid[np.argsort(-_orderable(numbers), kind="stable")[:k]]
        ids = self._ids.take(order)
        names = ids if isinstance(ids, list) else ids.to_pylist()
        return list(zip(names, column.take(pa.array(order)).to_pylist(), strict=True))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """(vertex id, value) pairs as Python objects."""
        return zip(self._ids, self._list(), strict=True)

    def __len__(self) -> int:
        """How many vertices."""
        return len(self._ids)

    def __getitem__(self, vertex: Any) -> Any:
        """The value of one vertex. Raises ``KeyError`` if there is no such vertex."""
        value = self._values[self._ids.locate(vertex)]
        if isinstance(value, pa.Scalar):
            return value.as_py()
        return value.item() if isinstance(value, np.generic) else value

    def _list(self) -> list[Any]:
        """The values as Python objects."""
        values = self._values
        if isinstance(values, list):
            return values
        found: list[Any] = values.to_pylist() if isinstance(values, pa.Array) else values.tolist()
        return found

    def __repr__(self) -> str:
        """Length, the first values, and what it took."""
        head = [self._values[i] for i in range(min(3, len(self)))]
        shown = ", ".join(str(value) for value in head) + (", ..." if len(self) > 3 else "")
        return (
            f"<Result of {len(self):,} vertices: [{shown}]; "
            f"{self.supersteps} supersteps, {self.seconds:.3f} s>"
        )


def _orderable(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers that can be negated, so that a stable ascending sort gives a descending order."""
    if numbers.dtype.kind not in "iufb":
        raise TypeError(f"top() needs numbers, the values are {numbers.dtype}")
    return numbers if numbers.dtype.kind == "f" else numbers.astype(np.int64)
