"""Graph tasks whose processes die in chosen supersteps. Light on imports, as the jobs are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graph
from graph.algorithms.bfs import BreadthFirst
from graph.algorithms.cdlp import LabelPropagation
from graph.algorithms.pagerank import PageRank
from graph.algorithms.sssp import DeltaStepping
from graph.algorithms.wcc import Afforest
from tests.faults.deaths import die_once

__all__ = ["DEATHS", "MORTALS", "Walk"]


class Deaths:
    """Where the marks of deaths lie, and in which supersteps they happen."""

    folder = Path()
    steps: Sequence[int] = ()


DEATHS = Deaths()


class _Mortal:
    """Mixed into a task: in each of the chosen supersteps one copy dies, half-way, once."""

    deaths: tuple[str, tuple[int, ...]] = ("", ())
    part: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deaths = (str(DEATHS.folder), tuple(DEATHS.steps))

    def superstep(self, step: int, totals: tuple[Any, ...], messages: Sequence[Any]) -> Any:
        votes = super().superstep(step, totals, messages)  # type: ignore[misc]
        folder, steps = self.deaths
        if step in steps and self.part.index == step % self.part.copies:
            die_once(Path(folder), f"superstep-{step}")
        return votes


class MortalPageRank(_Mortal, PageRank):
    """See `_Mortal`."""


class MortalBreadthFirst(_Mortal, BreadthFirst):
    """See `_Mortal`."""


class MortalLabelPropagation(_Mortal, LabelPropagation):
    """See `_Mortal`."""


class MortalDeltaStepping(_Mortal, DeltaStepping):
    """See `_Mortal`."""


class MortalAfforest(_Mortal, Afforest):
    """See `_Mortal`."""


# Where the mortal task takes the place of the other: module and name.
MORTALS = {
    "pagerank": ("graph.algorithms.pagerank.PageRank", MortalPageRank),
    "bfs": ("graph.algorithms.bfs.BreadthFirst", MortalBreadthFirst),
    "cdlp": ("graph.algorithms.cdlp.LabelPropagation", MortalLabelPropagation),
    "sssp": ("graph.algorithms.sssp.DeltaStepping", MortalDeltaStepping),
    "wcc": ("graph.algorithms.wcc.Afforest", MortalAfforest),
}


class Walk(graph.VertexProgram):
    """Sums of what neighbours had, for some supersteps; one copy dies in each of those chosen."""

    value = graph.int64(default=1)
    message = graph.int64(combine="sum")

    def __init__(self, supersteps: int, folder: str, deaths: Sequence[int]) -> None:
        self.supersteps = supersteps
        self.folder = folder
        self.deaths = tuple(deaths)
        self.computed = 0

    def compute(self, v: graph.Vertex, messages: Sequence[int], ctx: graph.Context) -> None:
        self.computed += 1
        if ctx.superstep in self.deaths and self.computed % 20 == 3:
            die_once(Path(self.folder), f"superstep-{ctx.superstep}")
        v.value = (v.value * 31 + sum(messages)) % 1_000_003
        ctx.aggregate("total", v.value)
        if ctx.superstep + 1 < self.supersteps:
            v.send_to_neighbors(v.value + int(ctx.aggregated("total")) % 7)
        else:
            v.vote_to_halt()
