"""The one interface every operator satisfies, and the chain that joins operators in one member.

An operator is fed record batches and watermarks and pushes both on to its `outputs`. Within a
member this is a plain method call; the `Emitter` at a leaf turns it into items of a channel. An
operator sees calls in this order, from one thread::

    open -> [restore] -> (on_batch | on_watermark | snapshot)* -> on_watermark(MAX) -> close

MAX_WATERMARK says that all input has been seen.

It is built in the member that runs it, from an `OperatorSpec`, which is the data that travels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from streaming.time import MIN_WATERMARK

__all__ = [
    "DATA",
    "LATE",
    "MAIN",
    "PARTIAL",
    "Chain",
    "Emitter",
    "Operator",
    "OperatorContext",
    "OperatorSpec",
    "Output",
]

# Input ports of an operator: rows, and rows already aggregated by an upstream member.
DATA = 0
PARTIAL = 1

# Outputs of an operator.
MAIN = "main"
LATE = "late"


class OperatorContext(Protocol):
    """What an operator may ask of the member it runs in (a `MemberContext` satisfies it)."""

    index: int
    parallelism: int

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter shown in the statistics."""

    def emit(self, value: Any, meta: Any = None, *, channel: str | None = None) -> None:
        """Send an item by a channel."""

    def hand_over(self, token: Any, sync: Callable[[], None] | None = None) -> None:
        """Have an effect made visible when the epoch is committed, or all has ended well."""


class Output:
    """The consumers of one output of an operator."""

    __slots__ = ("targets",)

    def __init__(self) -> None:
        self.targets: list[Operator] = []

    def batch(self, batch: pa.RecordBatch, port: int = DATA) -> None:
        """Hand a batch to every consumer; empty batches are dropped here, once for all."""
        if batch.num_rows:
            for target in self.targets:
                target.on_batch(batch, port)

    def watermark(self, watermark: int) -> None:
        """Hand a watermark to every consumer."""
        for target in self.targets:
            target.on_watermark(watermark)


class Operator:
    """Base of all operators: passes watermarks on and keeps no state."""

    def __init__(self) -> None:
        self.outputs: dict[str, Output] = {MAIN: Output()}

    def open(self, context: OperatorContext) -> None:
        """Called once before any data."""

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Rows of an input port, never empty."""
        raise TypeError(f"{type(self).__name__} takes no rows")

    def on_watermark(self, watermark: int) -> None:
        """The event time has reached `watermark`; values rise, the last is MAX_WATERMARK."""
        self.forward_watermark(watermark)

    def snapshot(self) -> Any:
        """State for an epoch; None when there is none. Must not share what changes later."""
        return None

    def restore(self, state: Any) -> None:
        """Take over what `snapshot` returned."""

    def close(self) -> Any:
        """The last call of a run that ended well. A sink returns its result."""
        return None

    def push(self, batch: pa.RecordBatch, port: int = DATA) -> None:
        """Hand rows to the consumers of the main output."""
        self.outputs[MAIN].batch(batch, port)

    def forward_watermark(self, watermark: int) -> None:
        """Hand a watermark to the consumers of every output."""
        for output in self.outputs.values():
            output.watermark(watermark)


@dataclass
class OperatorSpec:
    """An operator as data: how to build it, and who consumes its outputs.

    `consumers` maps an output to positions in the chain. `label` is what explain() prints.
    """

    name: str
    label: str
    build: Callable[[], Operator]
    consumers: dict[str, list[int]] = field(default_factory=dict)
    sink: str | None = None
    is_row_path: bool = False


class Emitter(Operator):
    """A leaf that sends what it is given by one channel.

    Everything pushed between two `flush` calls is sent at `flush`; the last item carries the
    newest watermark as its meta `[watermark, port]`, earlier ones the watermark that held before
    them. Without rows a risen watermark is sent alone. Idleness is the meta `[None, 0]`.
    """

    def __init__(self, channel: str) -> None:
        super().__init__()
        self._channel = channel
        self._pending: list[tuple[pa.RecordBatch, int]] = []
        self._watermark = MIN_WATERMARK
        self._sent = MIN_WATERMARK

    def open(self, context: OperatorContext) -> None:
        """Keep the member's context to send by."""
        self._context = context

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Hold the rows until the watermark that belongs to them is known."""
        self._pending.append((batch, port))

    def on_watermark(self, watermark: int) -> None:
        """Note the watermark for the next flush."""
        self._watermark = watermark

    def flush(self) -> None:
        """Send what has gathered."""
        last = len(self._pending) - 1
        for position, (batch, port) in enumerate(self._pending):
            mark = self._watermark if position == last else self._sent
            self._context.emit(batch, [mark, port], channel=self._channel)
        if not self._pending and self._watermark > self._sent:
            self._context.emit(None, [self._watermark, DATA], channel=self._channel)
        self._pending.clear()
        self._sent = self._watermark

    def announce_idle(self) -> None:
        """Tell the receivers not to wait for this copy's watermark."""
        self._context.emit(None, [None, DATA], channel=self._channel)


class Chain:
    """The operators of one member, wired; `roots` receive what the member reads."""

    def __init__(self, specs: list[OperatorSpec], roots: list[int]) -> None:
        self._specs = specs
        self._operators = [spec.build() for spec in specs]
        for spec, operator in zip(specs, self._operators, strict=True):
            for output, positions in spec.consumers.items():
                operator.outputs.setdefault(output, Output()).targets.extend(
                    self._operators[position] for position in positions
                )
        self.root = Output()
        self.root.targets.extend(self._operators[position] for position in roots)
        self._emitters = [o for o in self._operators if isinstance(o, Emitter)]

    def open(self, context: OperatorContext) -> None:
        """Open every operator."""
        for operator in self._operators:
            operator.open(context)

    def flush(self) -> None:
        """Send what the last batch or watermark left with the emitters."""
        for emitter in self._emitters:
            emitter.flush()

    def announce_idle(self) -> None:
        """Tell every receiver that this copy is idle."""
        for emitter in self._emitters:
            emitter.announce_idle()

    def close(self) -> dict[str, Any]:
        """Close every operator; results of the sinks by name."""
        results = [operator.close() for operator in self._operators]
        return {
            spec.sink: result
            for spec, result in zip(self._specs, results, strict=True)
            if spec.sink is not None
        }

    def snapshot(self) -> dict[str, Any]:
        """States of the operators that have one, by operator name."""
        states = ((s.name, o.snapshot()) for s, o in zip(self._specs, self._operators, strict=True))
        return {name: state for name, state in states if state is not None}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give each operator its state back."""
        for spec, operator in zip(self._specs, self._operators, strict=True):
            if spec.name in states:
                operator.restore(states[spec.name])
