"""Running aggregation without windows: one value per key over all rows seen.

Mode "final" emits every key once, when the input has ended. Mode "updates" emits, after every
batch, the new values of the keys that occurred in it: the reader keeps the last row of each key.

State: one row of partials per key, and it grows with the number of keys, without bound. As in
windows, new partials are merged when they outnumber the last result. "updates" merges at every
batch, so its cost per batch grows with the number of keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregates import Aggregate
from streaming.grouping import Grouping, merge_tables
from streaming.operator import PARTIAL, Operator
from streaming.time import MAX_WATERMARK

__all__ = ["PrePartialsOperator", "RunningAggregateOperator"]

COMPACT_ROWS = 65_536
EMIT_ROWS = 65_536


class PrePartialsOperator(Operator):
    """The first stage before a shuffle: one row of partials per key and batch."""

    def __init__(self, keys: Sequence[str], aggregates: Mapping[str, Aggregate]) -> None:
        super().__init__()
        self._keys = list(keys)
        self._grouping = Grouping(aggregates)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Aggregate the batch."""
        partials = self._grouping.partials(batch, self._keys)
        self.push(partials.combine_chunks().to_batches()[0], PARTIAL)


class RunningAggregateOperator(Operator):
    """Keeps one row of partials per key; `updates` chooses the mode."""

    def __init__(
        self, keys: Sequence[str], aggregates: Mapping[str, Aggregate], updates: bool
    ) -> None:
        super().__init__()
        self._keys = list(keys)
        self._updates = updates
        self._grouping = Grouping(aggregates)
        self._pending: list[pa.Table] = []
        self._rows = 0
        self._compacted_rows = 0

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Add rows, or partials of the first stage."""
        if port == PARTIAL:
            partials = pa.Table.from_batches([batch])
        else:
            partials = self._grouping.partials(batch, self._keys)
        self._pending.append(partials)
        self._rows += len(partials)
        if self._updates:
            self._emit(self._of_keys(self._compact(), partials))
        elif self._rows - self._compacted_rows > max(COMPACT_ROWS, self._compacted_rows):
            self._compact()

    def on_watermark(self, watermark: int) -> None:
        """At the end of the input, emit the final values."""
        if watermark == MAX_WATERMARK and not self._updates and self._pending:
            self._emit(self._compact())
        self.forward_watermark(watermark)

    def snapshot(self) -> Any:
        """The partials, those added lately merged among themselves: there may be many batches.

        To merge them with the others as well would hold the member up, with many keys for long.
        Tables are never changed, so the copy is that of a list.
        """
        if not self._pending:
            return None
        base, lately = self._pending[:1], self._pending[1:]
        if len(lately) > 1 and self._rows - len(base[0]) <= COMPACT_ROWS:
            self._pending = [*base, self._grouping.merge(merge_tables(lately), self._keys)]
            self._rows = sum(map(len, self._pending))
        return {"partials": self._pending.copy(), "compacted": self._compacted_rows}

    def restore(self, state: Any) -> None:
        """Take over the partials."""
        self._pending = list(state["partials"])
        self._rows = sum(map(len, self._pending))
        self._compacted_rows = state["compacted"]

    def _compact(self) -> pa.Table:
        state = self._grouping.merge(merge_tables(self._pending), self._keys)
        self._pending = [state]
        self._rows = self._compacted_rows = len(state)
        return state

    def _of_keys(self, state: pa.Table, partials: pa.Table) -> pa.Table:
        """The rows of the state whose key is among those of `partials`."""
        if not self._keys:
            return state
        touched = partials.select(self._keys)
        # Arrow's joins never match nulls, so the keys are paired by grouping: state first.
        marked = merge_tables(
            [
                state.select(self._keys).append_column("__row", pa.array(range(len(state)))),
                touched.append_column("__row", pa.array([None] * len(touched), pa.int64())),
            ]
        )
        grouped = marked.group_by(self._keys, use_threads=False).aggregate(
            [("__row", "max"), ([], "count_all")]
        )
        rows = grouped.filter(pc.greater(grouped["count_all"], 1))["__row_max"]
        return state.take(rows)

    def _emit(self, merged: pa.Table) -> None:
        names = list(self._keys)
        arrays = [merged.column(key) for key in self._keys]
        for name, column in self._grouping.finish(merged):
            names.append(name)
            arrays.append(column)
        table = pa.Table.from_arrays(arrays, names).combine_chunks()
        for batch in table.to_batches(max_chunksize=EMIT_ROWS):
            self.push(batch)
