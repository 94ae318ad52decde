"""From a graph and a task to a deployed topology and back: the only place that starts anything.

With ``checkpoint`` the copies keep the state of every so many supersteps in a directory. After the
death of a process all copies go back there; the graph stays mapped, only the copies are new.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from engine.topology import Checkpoints, External, SharedArray, Topology, custom
from graph import compiled
from graph.fingerprint import describe
from graph.graph import Graph
from graph.partition import split
from graph.task import Task
from graph.worker import CHANNEL, Worker, share_of

__all__ = ["Outcome", "RunOptions", "execute"]

COPIES_MAX = 16
"""All-to-all votes cost copies squared; beyond this many a tree would be needed."""
INFLIGHT_ROWS = 1 << 24
INFLIGHT_BYTES = 1 << 30
"""Messages of a superstep between two copies: at most two supersteps' worth are ever in flight."""
CHECKPOINT_EVERY = 10
"""Supersteps from one checkpoint to the next where the user does not say."""

State = dict[str, SharedArray]
Fill = Callable[[dict[str, npt.NDArray[Any]]], None]


class RunOptions(TypedDict, total=False):
    """How an algorithm or a program is run; keyword arguments of all of them.

    Without ``checkpoint`` the death of a process ends the run with ``ActorDiedError``. With it all
    copies go back to the last superstep kept, and so does the next run of the same algorithm, on
    the same graph with the same arguments and parallelism, after its driver has died; the directory
    is emptied when the run has ended well. Too many deaths raise ``TopologyFailedError``, a
    directory that is in use or holds another run ``CheckpointError``.
    """

    parallelism: int | None
    """Copies (default: one a CPU)."""
    inline: bool
    """All copies in this process and thread."""
    checkpoint: str | os.PathLike[str] | Checkpoints | None
    """A directory (path or file:/// URL), or all there is to say about checkpoints."""
    checkpoint_every: int | None
    """Supersteps from one checkpoint to the next, at least (default 10): a slow disk makes it more,
    never the run wait."""


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
    graph: Graph, task: Task, *, fill: Fill | None = None, **options: Unpack[RunOptions]
) -> Outcome:
    """Run ``task`` over ``graph``.

    ``fill`` may write the state before the first superstep. Raises what the task raises, as
    ``engine.exceptions.TaskError`` that is also an instance of the original exception.
    """
    inline, every, policy = _checked(**options)
    copies = _copies(options.get("parallelism"))
    task.compiled = compiled.enabled()
    if not inline:
        import engine

        engine.init(ignore_reinit_error=True)
    state = {
        name: SharedArray.zeros(shape, dtype)
        for name, (shape, dtype) in task.state(graph.num_vertices, copies).items()
    }
    offsets = graph.out.offsets if task.balance == "out" else graph.into.offsets
    bounds = split(offsets, copies, align=task.align)
    arrays = [graph.array(name) if inline else graph.ref(name) for name in task.arrays]
    topology = Topology(task.name)
    worker = topology.member(
        "worker", Worker, task, bounds, state, task.arrays, every, *arrays, parallelism=copies
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
    if policy is not None:
        policy = _fingerprinted(policy, graph, task, fill)
    handle = topology.deploy(inline=inline, checkpoints=policy, external=_Beginning(state, fill))
    try:
        found = handle.wait()["worker"]
    finally:
        handle.stop()
    for index, (*_, shares) in enumerate(found):
        for name, share in shares.items():  # the arrays of a driver that took up an ended run
            share_of(state[name].array, index, copies)[:] = share
    steps, seconds, totals, *_ = found[0]
    return Outcome(
        state={name: shared.array for name, shared in state.items()},
        results=[result for _, _, _, result, _ in found],
        totals=totals,
        supersteps=steps,
        seconds=seconds,
    )


class _Beginning(External):
    """The shared arrays as they are before the first superstep, whenever one begins there."""

    def __init__(self, state: State, fill: Fill | None) -> None:
        self._arrays = {name: shared.array for name, shared in state.items()}
        self._fill = fill
        self._are_zero = True

    def undo(self, epoch: int) -> None:
        """No copy runs. From a later superstep on the copies restore the arrays themselves."""
        if epoch:
            return
        if not self._are_zero:
            for array in self._arrays.values():
                array.fill(0)
        self._are_zero = False
        if self._fill is not None:
            self._fill(self._arrays)


def _checked(
    *,
    parallelism: int | None = None,
    inline: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
    checkpoint_every: int | None = None,
) -> tuple[bool, int, Checkpoints | None]:
    """Inline or not, supersteps from one checkpoint to the next (0: none), and the policy."""
    every = checkpoint_every
    if every is not None:
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(f"checkpoint_every must be an int of at least 1, found {every!r}")
        if checkpoint is None:
            raise ValueError("checkpoint_every goes with checkpoint=DIRECTORY")
    if checkpoint is None:
        return inline, 0, None
    if not isinstance(checkpoint, Checkpoints):
        checkpoint = Checkpoints(directory=checkpoint)
    return inline, CHECKPOINT_EVERY if every is None else int(every), checkpoint


def _fingerprinted(
    policy: Checkpoints, graph: Graph, task: Task, fill: Fill | None
) -> Checkpoints:
    """The policy for this task with its arguments on this graph."""
    lines = [policy.fingerprint, f"task {describe(task)}"]
    lines += [f"graph {name}: {graph.digest(name)}" for name in task.arrays]
    lines += [f"begins with {describe(fill)}"]
    return replace(policy, fingerprint="\n".join(lines))


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
