"""The two members a job is compiled to: one reads a source, one reads channels.

Both run a `Chain`. For every item: first the rows, then the watermark that came with them, then
what gathered at the emitters is sent. An item's meta is `[watermark, port]`; the watermark is None
for "this sender is idle".
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.topology import Member, MemberContext
from streaming.operator import Chain, OperatorSpec
from streaming.sources.base import Pause, Source
from streaming.time import MAX_WATERMARK, MIN_WATERMARK, EventTime, WatermarkMerge

__all__ = ["ChannelMember", "MemberResult", "SourceMember"]

# Names of counters, read again by the progress bar and the result.
SOURCE_ROWS = "source_rows"
WATERMARK = "watermark"

@dataclass(frozen=True)
class MemberResult:
    """What one copy ends with: results of its sinks by name, and its counters."""

    sinks: Mapping[str, Any]
    counters: Mapping[str, int]


class _ChainMember(Member):
    """What both have in common."""

    def __init__(self, specs: list[OperatorSpec], roots: list[int], is_inline: bool) -> None:
        self._chain = Chain(specs, roots)
        self._is_inline = is_inline

    def open(self, ctx: MemberContext) -> None:
        """Open the operators. In a process of its own, Arrow may use this one thread only."""
        self._ctx = ctx
        if not self._is_inline:
            pa.set_cpu_count(1)
            pa.set_io_thread_count(1)
        self._chain.open(ctx)

    def close(self) -> MemberResult:
        """Results of the sinks."""
        return MemberResult(self._chain.close(), dict(self._ctx.counters))


class SourceMember(_ChainMember):
    """Reads its part of a source, stamps watermarks and runs a chain."""

    def __init__(
        self,
        source: Source,
        payload: Any,
        columns: Sequence[str] | None,
        event_time: EventTime | None,
        specs: list[OperatorSpec],
        roots: list[int],
        is_inline: bool,
    ) -> None:
        super().__init__(specs, roots, is_inline)
        self._source = source
        self._payload = payload
        self._columns = None if columns is None else list(columns)
        self._time = event_time
        self._watermark = MIN_WATERMARK
        self._is_idle = False
        self._repeats = False

    def open(self, ctx: MemberContext) -> None:
        """Open the operators, then the reader."""
        super().open(ctx)
        if self._payload is not None:
            self._source.attach(self._payload)
        self._reader = self._source.open(ctx.index, ctx.parallelism, self._columns)
        self._last_rows_s = time.monotonic()

    def poll(self) -> bool:
        """One batch, or the end, or the word that there is nothing for long."""
        if self._ctx.repeats != self._repeats:
            self._repeats = self._ctx.repeats
            self._reader.hurry(self._repeats)
        if self._ctx.decided:
            self._go_idle()
            return True
        batch = self._reader.read()
        if batch is None:
            self._chain.root.watermark(MAX_WATERMARK)
            self._chain.flush()
            self._reader.close()
            self._ctx.finish()
            return True
        if isinstance(batch, Pause):
            self._pause(batch)
            return False
        if batch.num_rows:
            self._process(batch)
        return True

    def _process(self, batch: pa.RecordBatch) -> None:
        if self._columns is not None and batch.schema.names != self._columns:
            batch = batch.select(self._columns)
        self._ctx.count(SOURCE_ROWS, batch.num_rows)
        self._chain.root.batch(batch)
        if self._time is not None:
            self._advance(self._time, batch)
        self._chain.flush()

    def _advance(self, event_time: EventTime, batch: pa.RecordBatch) -> None:
        highest = event_time.highest(batch)
        if highest is None:
            return
        watermark = max(MIN_WATERMARK, highest - event_time.out_of_orderness)
        if watermark > self._watermark:
            known = self._watermark if self._watermark > MIN_WATERMARK else 0
            self._ctx.count(WATERMARK, watermark - known)
            self._watermark = watermark
            self._chain.root.watermark(watermark)
        if event_time.idle_after_s is not None:
            self._last_rows_s = time.monotonic()
            self._is_idle = False

    def _pause(self, pause: Pause) -> None:
        seconds = pause.seconds
        idle_after_s = self._time.idle_after_s if self._time is not None else None
        if idle_after_s is not None and not self._is_idle:
            silent_s = time.monotonic() - self._last_rows_s
            if silent_s < idle_after_s:
                seconds = min(seconds, idle_after_s - silent_s)
            elif self._ctx.decide():
                self._go_idle()
        self._ctx.wake_after(seconds)

    def _go_idle(self) -> None:
        self._is_idle = True
        self._chain.announce_idle()

    def snapshot(self) -> Any:
        """Position, watermark and the states of the operators."""
        return {
            "position": self._reader.position(),
            "watermark": self._watermark,
            "operators": self._chain.snapshot(),
        }

    def restore(self, state: Any) -> None:
        """Seek, and give the operators their states back."""
        self._reader.seek(state["position"])
        self._watermark = state["watermark"]
        self._chain.restore(state["operators"])


class ChannelMember(_ChainMember):
    """Merges the watermarks of its senders and runs a chain on what they send."""

    def open(self, ctx: MemberContext) -> None:
        """Open the operators; every sending copy counts for the watermark from the start."""
        super().open(ctx)
        self._merge = WatermarkMerge(sum(ctx.inputs.values()))

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """Rows first, then their watermark."""
        watermark, input_port = meta
        if value is not None:
            self._chain.root.batch(value, input_port)
        if watermark is None:
            was_idle = self._merge.all_idle
            risen = self._merge.idle((port, sender))
            if self._merge.all_idle and not was_idle:
                self._chain.announce_idle()
        else:
            risen = self._merge.update((port, sender), watermark)
        if risen:
            self._chain.root.watermark(self._merge.current)
        self._chain.flush()

    def snapshot(self) -> Any:
        """Marks of the senders and the states of the operators."""
        return {"marks": self._merge.snapshot(), "operators": self._chain.snapshot()}

    def restore(self, state: Any) -> None:
        """Take over the marks, and give the operators their states back."""
        self._merge.restore(state["marks"])
        self._chain.restore(state["operators"])
