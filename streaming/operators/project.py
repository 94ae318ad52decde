"""Columnar operators: filter, select, with_columns.

Each evaluates its expressions in one Arrow call for the whole batch; columns that are only passed
on are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from streaming.expressions import BoundExpressions
from streaming.operator import Operator

__all__ = ["FilterOperator", "ProjectOperator", "WithColumnsOperator"]


class FilterOperator(Operator):
    """Keeps the rows for which the predicate is true (null counts as false).

    `keep` names the columns that are still needed afterwards; None: all of them.
    """

    def __init__(self, predicate: pc.Expression, keep: Sequence[str] | None = None) -> None:
        super().__init__()
        self._predicate = BoundExpressions([predicate])
        self._keep = None if keep is None else list(keep)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Evaluate once; copy only when some rows go and some stay."""
        [mask] = self._predicate.evaluate(batch)
        if not pa.types.is_boolean(mask.type):
            raise TypeError(f"filter: expected a boolean expression, found one of type {mask.type}")
        kept = mask.true_count
        if kept == 0:
            return
        if self._keep is not None:
            batch = batch.select(self._keep)
        self.push(batch if kept == len(mask) else batch.filter(mask), port)


class ProjectOperator(Operator):
    """Exactly the named columns; an entry without an expression is taken over as it is."""

    def __init__(self, columns: Sequence[tuple[str, pc.Expression | None]]) -> None:
        super().__init__()
        self._names = [name for name, _ in columns]
        self._computed = [name for name, expression in columns if expression is not None]
        self._expressions = BoundExpressions([e for _, e in columns if e is not None])

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Compute the new columns in one call."""
        if not self._computed:
            self.push(batch.select(self._names), port)
            return
        values = dict(zip(self._computed, self._expressions.evaluate(batch), strict=True))
        arrays = [values[n] if n in values else batch.column(n) for n in self._names]
        self.push(pa.RecordBatch.from_arrays(arrays, names=self._names), port)


class WithColumnsOperator(Operator):
    """All columns, some replaced or added; new values are computed from the old row."""

    def __init__(self, columns: Sequence[tuple[str, pc.Expression]]) -> None:
        super().__init__()
        self._names = [name for name, _ in columns]
        self._expressions = BoundExpressions([expression for _, expression in columns])

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Compute the new columns in one call."""
        values = dict(zip(self._names, self._expressions.evaluate(batch), strict=True))
        names = batch.schema.names + [n for n in self._names if n not in batch.schema.names]
        arrays = [values[n] if n in values else batch.column(n) for n in names]
        self.push(pa.RecordBatch.from_arrays(arrays, names=names), port)
