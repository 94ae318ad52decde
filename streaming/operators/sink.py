"""The operator at the end of a stream: hands rows to a sink's writer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from streaming.operator import Operator, OperatorContext
from streaming.sinks.base import Sink

__all__ = ["SinkOperator"]


class SinkOperator(Operator):
    """Writes every batch; at the end of an epoch, and of all, prepares a commit.

    The driver makes the commits: the token handed over is `[name of the sink, the writer's token]`.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        super().__init__()
        self._name = name
        self._sink = sink

    def open(self, context: OperatorContext) -> None:
        """Open this copy's writer."""
        self._context = context
        self._writer = self._sink.open(context.index, context.parallelism)

    def on_batch(self, batch: pa.RecordBatch, port: int) -> None:
        """Write."""
        self._writer.write(batch)

    def snapshot(self) -> Any:
        """End the current part; what the writer needs to go on behind it."""
        self._prepare()
        return self._writer.snapshot()

    def restore(self, state: Any) -> None:
        """Go on behind the last part."""
        self._writer.restore(state)

    def close(self) -> Any:
        """End the last part; this copy's share of the result, which may depend on that."""
        self._prepare()
        return self._writer.result()

    def _prepare(self) -> None:
        token = self._writer.prepare()
        if token is not None:
            self._context.hand_over([self._name, token], partial(self._sink.sync, token))
