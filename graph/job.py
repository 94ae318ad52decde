"""From a graph and a task to a deployed topology and back: the only place that starts anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.topology import SharedArray, Topology, custom
from graph import compiled
from graph.graph import Graph
from graph.partition import split
from graph.task import Task
from graph.worker import CHANNEL, Worker

__all__ = ["Outcome", "execute"]

COPIES_MAX = 16
"""All-to-all votes cost copies squared; beyond this many a tree would be needed."""
INFLIGHT_ROWS = 1 << 24
INFLIGHT_BYTES = 1 << 30
"""Messages of a superstep between two copies: at most two supersteps' worth are ever in flight."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    state: dict[str, npt.NDArray[Any]]
    """The shared arrays at the end."""
    results: list[Any]
    """What each copy's task handed back."""
    totals: tuple[Any, ...]
    """Those of the last superstep."""
    supersteps: int
    seconds: float


def execute(
    graph: Graph,
    task: Task,
    *,
    parallelism: int | None = None,
    inline: bool = False,
    fill: Callable[[dict[str, npt.NDArray[Any]]], None] | None = None,
) -> Outcome:
    """Run ``task`` over ``graph`` with ``parallelism`` copies (default: one a CPU).

    ``inline`` runs all copies in this process and thread. ``fill`` may write the state before the
    first superstep. Raises what the task raises, as ``engine.exceptions.TaskError`` that is also
    an instance of the original exception.
    """
    copies = _copies(parallelism)
    task.compiled = compiled.enabled()
    if not inline:
        import engine

        engine.init(ignore_reinit_error=True)
    state = {
        name: SharedArray.zeros(shape, dtype)
        for name, (shape, dtype) in task.state(graph.num_vertices, copies).items()
    }
    if fill is not None:
        fill({name: shared.array for name, shared in state.items()})
    offsets = graph.out.offsets if task.balance == "out" else graph.into.offsets
    bounds = split(offsets, copies, align=task.align)
    arrays = [graph.array(name) if inline else graph.ref(name) for name in task.arrays]
    topology = Topology(task.name)
    worker = topology.member(
        "worker", Worker, task, bounds, state, task.arrays, *arrays, parallelism=copies
    )
    topology.channel(
        worker,
        worker,
        custom(_never),
        name=CHANNEL,
        port=CHANNEL,
        capacity_rows=INFLIGHT_ROWS,
        capacity_bytes=INFLIGHT_BYTES,
    )
    handle = topology.deploy(inline=inline)
    try:
        found = handle.wait()["worker"]
    finally:
        handle.stop()
    steps, seconds, totals, _ = found[0]
    return Outcome(
        state={name: shared.array for name, shared in state.items()},
        results=[result for *_, result in found],
        totals=totals,
        supersteps=steps,
        seconds=seconds,
    )


def _never(value: Any, meta: Any, receivers: int) -> list[tuple[int, Any]]:
    """Votes are sent to named copies only; nothing is emitted by partitioning."""
    return []


def _copies(parallelism: int | None) -> int:
    """The number of copies asked for, checked."""
    if parallelism is None:
        return min(len(os.sched_getaffinity(0)), COPIES_MAX)
    if isinstance(parallelism, bool) or not isinstance(parallelism, int | np.integer):
        raise TypeError(f"parallelism must be an int, found {parallelism!r}")
    if not 1 <= parallelism <= COPIES_MAX:
        raise ValueError(f"parallelism must be in 1..{COPIES_MAX}, found {parallelism}")
    return int(parallelism)
