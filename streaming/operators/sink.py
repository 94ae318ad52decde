"""The operator at the end of a stream: hands rows to a sink's writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streaming.operator import Operator, OperatorContext
from streaming.sinks.base import Sink

__all__ = ["Prepared", "SinkOperator"]


@dataclass(frozen=True)
class Prepared:
    """What one copy of a sink ends with: the token to commit, and its share of the result."""

    token: Any
    result: Any


class SinkOperator(Operator):
    """Writes every batch; at the end prepares the commit, which the driver makes."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def open(self, context: OperatorContext) -> None:
        """Open this copy's writer."""
        self._writer = self._sink.open(context.index, context.parallelism)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Write."""
        self._writer.write(batch)

    def close(self) -> Prepared:
        """Make everything durable; the token comes first, for the result may depend on it."""
        token = self._writer.prepare()
        return Prepared(token, self._writer.result())
