"""Rows of a rate benchmark: what one is, the table they stand in, and how one is measured.

The method is that of Ray's own microbenchmark: a warm-up that counts calls, then a window in steps
of a tenth of that count, and the rate is calls in the window over its length. Here the window may
be asked for many times, in turn with another side's.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

__all__ = ["N_CPU", "Call", "Row", "Rows", "Runner"]

# As `clients=N_CPU`: one client a CPU of Ray's count, which is half of the machine's.
N_CPU = 0

Call = Callable[[], Any]
Setup = Callable[[int, int], Call]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: `setup(n, n_cpu)` prepares and returns what is then called again and again.

    A call counts `unit_per_call * n * clients` units; `n` is `batch`, or less in a smoke run.
    """

    name: str
    setup: Setup
    unit: str
    batch: int
    clients: int
    unit_per_call: float
    expect: Callable[[int], Any] | None


class Rows(dict[str, Row]):
    """Rows by name, in the order of their definition."""

    def row(
        self,
        name: str,
        *,
        unit: str = "calls/s",
        batch: int = 1,
        clients: int = 1,
        unit_per_call: float = 1.0,
        expect: Callable[[int], Any] | None = None,
    ) -> Callable[[Setup], Setup]:
        """Add the decorated set-up function as a row; `expect(n)` is what a call must return."""

        def add(setup: Setup) -> Setup:
            self[name] = Row(name, setup, unit, batch, clients, unit_per_call, expect)
            return setup

        return add


class Runner:
    """Measures rows one window at a time; what a row has set up lives until another is asked for.

    `scale` below 1 shrinks every batch: for smoke runs, whose figures mean nothing.
    """

    def __init__(self, rows: Rows, *, n_cpu: int, scale: float = 1.0) -> None:
        self.rows = rows
        self.n_cpu = n_cpu
        self.scale = scale
        self._name = ""
        self._call: Call | None = None
        self._step = 1

    def measure(self, name: str, seconds: float) -> float:
        """Units a second in a window of at least `seconds`."""
        row = self.rows[name]
        n = max(1, round(row.batch * self.scale))
        if name != self._name:
            self._begin(row, n, seconds)
        call, count = self._call, 0
        assert call is not None
        start = time.perf_counter()
        while True:
            for _ in range(self._step):
                call()
            count += self._step
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                clients = row.clients if row.clients != N_CPU else self.n_cpu
                units = row.unit_per_call * (n if row.batch > 1 else 1) * clients
                return units * count / elapsed

    def _begin(self, row: Row, n: int, seconds: float) -> None:
        """Let go of the last row's actors and values, set up, check one result, warm up."""
        self._name, self._call = "", None
        gc.collect()
        call = row.setup(n, self.n_cpu)
        found = call()
        if row.expect is not None and found != (wanted := row.expect(n)):
            raise ValueError(f"wrong result: expected {wanted!r:.80}, found {found!r:.80}")
        del found
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            call()
            count += 1
        self._name, self._call, self._step = row.name, call, count // 10 + 1
