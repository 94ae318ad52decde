"""What an algorithm is to the superstep engine: a task that every copy runs on its partition.

A task is plain data (it is shipped to the copies) and names what it needs: arrays of the graph,
which every copy maps read-only, and arrays of state, which all copies share and may write. Each
superstep it computes on its own range of vertices and returns numbers; when all copies have, every
copy gets the sums in ``totals`` and asks :meth:`Task.done`, which therefore must depend on
nothing that differs between copies.

State needs no locks as long as a copy writes only its own range, and reads of other ranges only
what was written in the superstep before. For a checkpoint all copies stand still between two
supersteps, so the shared state may be written by anybody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graph.superstep import add

__all__ = ["Part", "Shape", "Task"]

Shape = tuple[int | tuple[int, ...], Any]
"""Shape and dtype of one shared array."""


@dataclass
class Part:
    """One copy's view of the graph and of the shared state."""

    index: int
    copies: int
    bounds: npt.NDArray[np.int64]
    graph: Mapping[str, npt.NDArray[Any]]
    state: Mapping[str, npt.NDArray[Any]]
    outbox: list[Any] = field(default_factory=list)
    """What this superstep sends, by receiving copy; empty or None entries: nothing."""

    @property
    def begin(self) -> int:
        """First vertex of this copy."""
        return int(self.bounds[self.index])

    @property
    def end(self) -> int:
        """One past the last vertex of this copy."""
        return int(self.bounds[self.index + 1])

    @property
    def num_vertices(self) -> int:
        """Vertices of the whole graph."""
        return int(self.bounds[-1])


class Task(ABC):
    """One algorithm, run by every copy in step; see the module's text."""

    name = "graph"
    arrays: tuple[str, ...] = ()
    """Graph arrays to map, such as ``out.offsets`` (see ``Graph.array``)."""
    balance = "out"
    """Whose edges make the partitions equal: ``out`` or ``in``."""
    align = 1
    """Partition boundaries are multiples of this."""
    compiled = True
    """Compiled kernels or NumPy ones; set by the process that starts the run."""

    def state(self, num_vertices: int, copies: int) -> dict[str, Shape]:
        """The shared arrays this task needs; they begin as zeros."""
        return {}

    @abstractmethod
    def open(self, part: Part) -> None:
        """Called once in every copy, before the first superstep."""

    @abstractmethod
    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> Any:
        """Do this copy's work of superstep ``step``; returns the numbers of its vote.

        ``totals`` are those of the superstep before (empty in superstep 0); ``messages`` what
        each copy sent to this one then.
        """

    def combine(self, votes: Sequence[Any]) -> tuple[Any, ...]:
        """The totals of all copies' votes; pure. By default the sums."""
        return add(votes)

    @abstractmethod
    def done(self, step: int, totals: tuple[Any, ...]) -> bool:
        """Whether superstep ``step``, which gave these totals, was the last; pure."""

    def snapshot(self) -> Any:
        """What this copy keeps beside the shared state and would need to go on after a superstep.

        By default nothing. Must not share what later supersteps change.
        """
        return None

    def restore(self, saved: Any) -> None:
        """Go on from what ``snapshot`` returned; called after ``open``."""
        return None

    def result(self) -> Any:
        """What this copy hands back in the end beside the shared state; by default nothing."""
        return None
