"""Window aggregation in event time, in one or two stages.

Rows become partials, one per (slice, key) of a batch (`SlicePartials`). Where a shuffle is needed
`PreAggregateOperator` does this before it, so that one row per group and batch is sent instead of
all rows; `WindowOperator` keeps partials and closes windows as the watermark rises.

State is a list of partial batches, merged into one table whenever the rows added since the last
merge outnumber its result: amortised O(1) a row, no index per key. Closing a window merges the
partials of its slices; a slice is dropped when the last window that contains it has closed.

A row is late when every window that contains it has closed at the operator that owns its key. It
goes to the `late` output as it came, and is counted in `late_rows`. The first stage cannot know
that: it hands rows late by its own watermark on unaggregated, and the owner decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from streaming.aggregates import Aggregate
from streaming.grouping import Grouping, merge_tables
from streaming.operator import DATA, LATE, PARTIAL, Operator, OperatorContext, Output
from streaming.time import MIN_WATERMARK, EventTime
from streaming.windows import Slices, WindowShape

__all__ = ["PreAggregateOperator", "SlicePartials", "WindowOperator", "WindowSpec"]

SLICE = "__slice"
WINDOW = "__window"

# Merge the state when more rows than this, and than the last result, have been added.
COMPACT_ROWS = 65_536
# Rows of the state copied at once when many overlapping windows close together.
ROUND_ROWS = 1 << 22
# Rows of one emitted batch.
EMIT_ROWS = 65_536
# Stop aggregating before the shuffle when it leaves more than this share of the rows, and try
# again after so many rows.
USELESS_SHARE = 0.5
RETRY_ROWS = 1 << 20


@dataclass(frozen=True)
class WindowSpec:
    """What a windowed aggregation does; the same data at both stages."""

    keys: tuple[str, ...]
    shape: WindowShape
    aggregates: Mapping[str, Aggregate]
    time: EventTime

    def slices(self) -> Slices:
        """The window arithmetic in ticks of the event time."""
        return self.shape.bind(self.time.type)


class SlicePartials:
    """From rows to partials per (slice, key), and from those to fewer and to results."""

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        self._slices = spec.slices()
        self._group_keys = [SLICE, *spec.keys]
        self._grouping = Grouping(spec.aggregates)

    def of(self, rows: pa.RecordBatch, ticks: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """The partials of a batch; `ticks` are the event times of its rows."""
        low, high = int(ticks.min()), int(ticks.max())
        self._slices.check_range(low, high)
        first, last = self._slices.slice_of(low), self._slices.slice_of(high)
        if first == last:
            # The common case of an ordered stream: no division per row, one grouping key fewer.
            table = self._grouping.partials(rows, self._spec.keys)
            column = pa.array(np.full(len(table), first, np.int64))
            table = table.add_column(0, SLICE, column)
        else:
            column = pa.array(self._slices.of(ticks))
            rows = rows.append_column(SLICE, column)
            table = self._grouping.partials(rows, self._group_keys)
        return _single_batch(table)

    def merge(self, partials: pa.Table) -> pa.Table:
        """Fewer partials: one per (slice, key)."""
        return self._grouping.merge(partials, self._group_keys)

    def windows(self, partials: pa.Table) -> pa.Table:
        """Results of the windows in column WINDOW: keys, window_start, window_end, aggregates."""
        spec, slices = self._spec, self._slices
        merged = self._grouping.merge(partials, [WINDOW, *spec.keys])
        windows = merged.column(0).combine_chunks().to_numpy()
        starts = windows * slices.every + slices.offset
        names = [*spec.keys, "window_start", "window_end"]
        arrays: list[Any] = [merged.column(key) for key in spec.keys]
        arrays += [spec.time.array(starts), spec.time.array(starts + slices.size)]
        for name, column in self._grouping.finish(merged):
            names.append(name)
            arrays.append(column)
        return pa.Table.from_arrays(arrays, names)


def _single_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0]


class PreAggregateOperator(Operator):
    """The first stage: partials of every batch, to be shuffled by key.

    Turns itself off for a while when keys hardly repeat within a batch, and then passes rows on.
    """

    def __init__(self, spec: WindowSpec) -> None:
        super().__init__()
        self._time = spec.time
        self._slices = spec.slices()
        self._partials = SlicePartials(spec)
        self._watermark = MIN_WATERMARK
        self._rows_until_retry = 0

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Aggregate what is on time here; rows that may be late go on as they are."""
        ticks = self._time.ticks(batch)
        if self._watermark > MIN_WATERMARK:
            threshold = self._slices.late_before(self._watermark)
            if int(ticks.min()) < threshold:
                doubtful = ticks < threshold
                self.push(batch.filter(pa.array(doubtful)), DATA)
                batch, ticks = batch.filter(pa.array(~doubtful)), ticks[~doubtful]
                if not batch.num_rows:
                    return
        if self._rows_until_retry > 0:
            self._rows_until_retry -= batch.num_rows
            self.push(batch, DATA)
            return
        partials = self._partials.of(batch, ticks)
        if partials.num_rows > USELESS_SHARE * batch.num_rows and batch.num_rows > 1024:
            self._rows_until_retry = RETRY_ROWS
        self.push(partials, PARTIAL)

    def on_watermark(self, watermark: int) -> None:
        """Know what is late here, and pass it on."""
        self._watermark = watermark
        self.forward_watermark(watermark)

    def snapshot(self) -> Any:
        """The watermark: without it rows that are late would be aggregated as if they were not.

        And whether it is turned off: a copy that comes back alone has to send the same as before.
        """
        return self._watermark, self._rows_until_retry

    def restore(self, state: Any) -> None:
        """Go on from a snapshot."""
        self._watermark, self._rows_until_retry = state


class WindowOperator(Operator):
    """Keeps partials and emits every window once, when the watermark reaches its end."""

    def __init__(self, spec: WindowSpec) -> None:
        super().__init__()
        self.outputs[LATE] = Output()
        self._spec = spec
        self._slices = spec.slices()
        self._partials = SlicePartials(spec)
        self._watermark = MIN_WATERMARK
        self._pending: list[pa.Table] = []
        self._rows = 0
        self._compacted_rows = 0
        self._lowest_slice: int | None = None

    def open(self, context: OperatorContext) -> None:
        """Keep the member's context for the counter of late rows."""
        self._context = context

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Add rows, or partials made by the first stage, to the state."""
        if port == PARTIAL:
            self._add(batch)
            return
        ticks = self._spec.time.ticks(batch)
        threshold = self._slices.late_before(self._watermark)
        if self._watermark > MIN_WATERMARK and int(ticks.min()) < threshold:
            late = ticks < threshold
            late_rows = batch.filter(pa.array(late))
            self._context.count("late_rows", late_rows.num_rows)
            self.outputs[LATE].batch(late_rows)
            batch, ticks = batch.filter(pa.array(~late)), ticks[~late]
            if not batch.num_rows:
                return
        self._add(self._partials.of(batch, ticks))

    def on_watermark(self, watermark: int) -> None:
        """Emit the windows that end at or before the watermark, then pass it on."""
        previous, self._watermark = self._watermark, watermark
        if self._lowest_slice is not None:
            closed = self._slices.last_closed(watermark)
            first = max(
                self._slices.first_window(self._lowest_slice),
                self._slices.last_closed(previous) + 1,
            )
            if first <= closed:
                self._close_windows(first, closed)
        self.forward_watermark(watermark)

    def snapshot(self) -> Any:
        """Watermark and partials, those added lately merged among themselves.

        To merge them with the others as well would hold the member up, with many keys for long.
        Tables are never changed, so the copy is that of a list.
        """
        base, lately = self._pending[:1], self._pending[1:]
        if len(lately) > 1 and self._rows - len(base[0]) <= COMPACT_ROWS:
            self._pending = [*base, self._partials.merge(merge_tables(lately))]
            self._rows = sum(map(len, self._pending))
        return {
            "watermark": self._watermark,
            "partials": self._pending.copy(),
            "compacted": self._compacted_rows,
            "lowest": self._lowest_slice,
        }

    def restore(self, state: Any) -> None:
        """Take over watermark and partials."""
        self._watermark = int(state["watermark"])
        self._pending = list(state["partials"])
        self._rows = sum(map(len, self._pending))
        self._compacted_rows = state["compacted"]
        self._lowest_slice = state["lowest"]

    def _add(self, partials: pa.RecordBatch) -> None:
        lowest = pc.min(partials.column(0)).as_py()
        if self._lowest_slice is None or lowest < self._lowest_slice:
            self._lowest_slice = lowest
        self._pending.append(pa.Table.from_batches([partials]))
        self._rows += partials.num_rows
        if self._rows - self._compacted_rows > max(COMPACT_ROWS, self._compacted_rows):
            self._compact()

    def _compact(self) -> pa.Table:
        state = self._partials.merge(merge_tables(self._pending))
        self._replace(state)
        return state

    def _replace(self, state: pa.Table) -> None:
        self._pending = [state] if state.num_rows else []
        self._rows = self._compacted_rows = state.num_rows

    def _close_windows(self, first: int, last: int) -> None:
        """Emit the windows first..last in order and drop the slices no open window contains."""
        state = merge_tables(self._pending).combine_chunks()
        slices = state.column(SLICE).combine_chunks().to_numpy()
        last = min(last, self._slices.last_window(int(slices.max())))
        for begin, end in self._rounds(first, last, len(slices)):
            chosen = self._rows_of_windows(state, slices, begin, end)
            if chosen.num_rows:
                results = self._partials.windows(chosen)
                if end > begin:
                    results = results.sort_by("window_start")
                for batch in results.combine_chunks().to_batches(max_chunksize=EMIT_ROWS):
                    self.push(batch)
        kept = slices >= (last + 1) * self._slices.step
        self._lowest_slice = int(slices[kept].min()) if kept.any() else None
        rest = state.filter(pa.array(kept)) if not kept.all() else state
        # Kept rows still may hold several partials of one group, so they count as not merged.
        self._pending = [rest] if rest.num_rows else []
        self._rows = rest.num_rows
        self._compacted_rows = min(self._compacted_rows, self._rows)

    def _rounds(self, first: int, last: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of windows, each of which copies a bounded number of rows of the state."""
        overlap = self._overlap()
        count = last - first + 1
        budget = count if overlap == 1 else max(1, count * ROUND_ROWS // (rows * overlap))
        for begin in range(first, last + 1, budget):
            yield begin, min(begin + budget - 1, last)

    def _overlap(self) -> int:
        """How many windows contain one slice, at most."""
        return -(-self._slices.per_window // self._slices.step)

    def _rows_of_windows(
        self, state: pa.Table, slices: npt.NDArray[np.int64], first: int, last: int
    ) -> pa.Table:
        """The rows of the windows first..last, once for each window, which is column WINDOW."""
        step, size = self._slices.step, self._slices.per_window
        parts = []
        if last - first < self._overlap():
            for window in range(first, last + 1):
                low = window * step
                mask = (slices >= low) & (slices < low + size)
                part = state if mask.all() else state.filter(pa.array(mask))
                column = pa.array(np.full(part.num_rows, window, np.int64))
                parts.append(part.append_column(WINDOW, column))
        else:
            latest = np.floor_divide(slices, step)
            for back in range(self._overlap()):
                window_of = latest - back
                mask = (window_of >= first) & (window_of <= last)
                mask &= window_of * step + size > slices
                part = state.filter(pa.array(mask))
                parts.append(part.append_column(WINDOW, pa.array(window_of[mask])))
        return pa.concat_tables(parts)
