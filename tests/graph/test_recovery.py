"""Algorithms and vertex programs that lose their copies between and inside supersteps, inline.

Integer results are the same bit for bit, and so are PageRank's: a superstep computes the same from
the same state. Real processes and real kills are in tests/faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graph
from engine.topology import Checkpoints, External, InlineHandle, Topology
from engine.topology.coordinator import Coordinator
from engine.topology.errors import CheckpointError
from graph.fingerprint import describe
from tests.graph.test_program import Collect, Components, Ranks, ShortestPaths

Run = Callable[..., graph.Result]


@pytest.fixture(scope="module", params=[True, False], ids=["directed", "undirected"])
def g(request: pytest.FixtureRequest) -> graph.Graph:
    src, dst = graph.generate.kronecker(7, 4, seed=4)
    weight = np.random.default_rng(2).random(src.size)
    return graph.from_edges(src, dst, weight, directed=request.param)


class Memory(graph.VertexProgram):
    """Keeps things in the program, in objects, and in aggregators."""

    value = graph.pyobject()
    message = graph.float64()

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.calls = 0

    def compute(self, v: graph.Vertex, messages: Sequence[Any], ctx: graph.Context) -> None:
        self.calls += 1
        v.value = [*(v.value or []), (ctx.superstep, sum(messages), ctx.aggregated("calls"))]
        ctx.aggregate("calls", self.calls)
        if ctx.superstep < self.steps:
            v.send_to_neighbors(float(len(v.value)))
        v.vote_to_halt()


def runs(g: graph.Graph) -> dict[str, Run]:
    source = g.ids[0].as_py()
    found: dict[str, Run] = {
        "pagerank": lambda **how: graph.pagerank(g, max_iter=12, tol=0.0, **how),
        "bfs": lambda **how: graph.bfs(g, source, **how),
        "sssp": lambda **how: graph.sssp(g, source, **how),
        "wcc": lambda **how: graph.wcc(g, **how),
        "cdlp": lambda **how: graph.cdlp(g, 8, **how),
        "core": lambda **how: graph.core_number(g, **how),
        "pregel": lambda **how: graph.pregel(
            g,
            init=lambda v, ctx: v.numbers,
            message=lambda u, e: u.value,
            combine="min",
            apply=lambda v, m, ctx: np.minimum(v.value, m),
            value=graph.int64(),
            **how,
        ),
    }
    if g.directed:
        found["scc"] = lambda **how: graph.scc(g, **how)
    programs = (Ranks(6), ShortestPaths(source), Components(), Collect(), Memory(7))
    for program in programs:
        found[type(program).__name__] = lambda program=program, **how: graph.run(g, program, **how)
    return found


NAMES = [
    *("pagerank", "bfs", "sssp", "wcc", "cdlp", "core", "pregel", "scc"),
    *("Ranks", "ShortestPaths", "Components", "Collect", "Memory"),
]


class Crashing(InlineHandle):
    """Crashes after some deliveries, again and again."""

    gaps: Sequence[int] = ()
    seen: tuple[int, int] = (0, 0)

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        for gap in self.gaps:
            for _ in range(gap):
                if not self.run_turn():
                    break
            if self._is_done():
                break
            self.crash()
        found = super().wait(timeout)
        statistics = self.checkpoint_statistics()
        Crashing.seen = (statistics.rollbacks, statistics.commits)
        return found


def crash_at(monkeypatch: pytest.MonkeyPatch, seed: int, gaps: Sequence[int]) -> None:
    def deploy(
        self: Topology, inline: bool, checkpoints: Checkpoints | None, external: External
    ) -> InlineHandle:
        assert inline
        handle = Crashing(self, seed=seed, checkpoints=checkpoints, external=external)
        handle.gaps = gaps
        return handle

    monkeypatch.setattr(Topology, "deploy", deploy)


@pytest.mark.parametrize("name", NAMES)
def test_crashes_change_nothing(
    g: graph.Graph, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs(g).get(name)
    if run is None:
        return  # strong components of an undirected graph are its components
    wanted = run(parallelism=3, inline=True)
    for seed in range(3):
        draw = random.Random(seed)
        with monkeypatch.context() as patched:
            crash_at(patched, seed, [draw.randint(1, 25) for _ in range(8)])
            policy = Checkpoints(directory=tmp_path / str(seed), restarts=100)
            got = run(parallelism=3, inline=True, checkpoint=policy, checkpoint_every=1 + seed)
        assert got.to_dict() == wanted.to_dict()
        if name not in ("core", "sssp", "scc"):  # whose copies read what others write meanwhile
            assert got.supersteps == wanted.supersteps
        assert Crashing.seen[0] > 0
        assert Crashing.seen[1] >= 1
        assert list((tmp_path / str(seed)).glob("manifest-*")) == []


class Stops(InlineHandle):
    """Dies with its program after some deliveries."""

    def wait(self, timeout: float | None = None) -> dict[str, list[Any]]:
        for _ in range(150):
            self.run_turn()
        assert self._coordinator is not None
        self._coordinator.directory.close()
        raise SystemExit

    def stop(self, savepoint: Any = None) -> None:
        """Nothing is tidied up."""


def interrupt(run: Run, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            Topology,
            "deploy",
            lambda self, inline, checkpoints, external: Stops(
                self, seed=1, checkpoints=checkpoints, external=external
            ),
        )
        with pytest.raises(SystemExit):
            run(parallelism=2, inline=True, checkpoint=folder, checkpoint_every=2)
    assert list(folder.glob("manifest-*"))


CALLS: list[int] = []


def applied(v: Any, m: Any, ctx: Any) -> Any:
    CALLS.append(ctx.superstep)
    return v.value * 0.5 + m * 0.01


def test_another_program_goes_on(
    g: graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**how: Any) -> graph.Result:
        return graph.pregel(
            g,
            init=1.0,
            message=lambda u, e: u.value,
            combine="sum",
            apply=applied,
            max_supersteps=25,
            **how,
        )

    wanted = run(parallelism=2, inline=True)
    interrupt(run, monkeypatch, tmp_path)
    CALLS.clear()
    got = run(parallelism=2, inline=True, checkpoint=tmp_path, checkpoint_every=2)
    assert got.to_dict() == wanted.to_dict()
    assert (got.supersteps, got.converged) == (wanted.supersteps, wanted.converged)
    assert min(CALLS) > 5


@pytest.mark.parametrize("name", ["pagerank", "wcc", "Memory"])
def test_a_driver_that_dies_at_the_very_end_is_followed_by_one_that_has_it_all(
    g: graph.Graph, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs(g)[name]
    wanted = run(parallelism=2, inline=True)

    def die(self: Coordinator) -> None:
        self.directory.close()
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Coordinator, "finish", die)  # the last epoch is committed, all is there
        with pytest.raises(SystemExit):
            run(parallelism=2, inline=True, checkpoint=tmp_path)
    got = run(parallelism=2, inline=True, checkpoint=tmp_path, checkpoint_every=10)
    assert got.to_dict() == wanted.to_dict()
    assert got.supersteps == wanted.supersteps
    assert list(tmp_path.glob("manifest-*")) == []


def test_other_work_does_not_take_a_checkpoint_up(
    g: graph.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(alpha: float = 0.85, to: Any = None, **how: Any) -> graph.Result:
        return graph.pagerank(to or g, alpha, max_iter=50, tol=0.0, **how)

    interrupt(run, monkeypatch, tmp_path)
    how: dict[str, Any] = {"inline": True, "checkpoint": tmp_path}
    with pytest.raises(CheckpointError, match="task PageRank"):
        run(0.9, parallelism=2, **how)
    with pytest.raises(CheckpointError, match="3 copies of Worker"):
        run(parallelism=3, **how)
    other = graph.from_edges([0, 1, 2], [1, 2, 0])
    with pytest.raises(CheckpointError, match="differs: 'graph "):
        run(to=other, parallelism=2, **how)
    with pytest.raises(CheckpointError, match="topology pagerank"):
        graph.wcc(g, parallelism=2, **how)
    assert run(parallelism=2, **how).supersteps == 51


def test_options_are_checked(g: graph.Graph, tmp_path: Path) -> None:
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="checkpoint_every must be an int of at least 1"):
            graph.wcc(g, checkpoint=tmp_path, checkpoint_every=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="goes with checkpoint=DIRECTORY"):
        graph.wcc(g, checkpoint_every=3)
    with pytest.raises(TypeError, match="parallel"):
        graph.wcc(g, parallel=3)  # type: ignore[call-arg]


def test_descriptions_tell_things_apart_and_not_their_places() -> None:
    def made(k: int) -> Any:
        return lambda v: v * k + 1

    assert describe(made(2)) == describe(made(2))
    assert describe(made(2)) != describe(made(3))
    assert describe(lambda v: v + 1) != describe(lambda v: v + 2)
    assert describe(np.arange(5)) != describe(np.arange(6))
    assert describe(np.arange(5)) != describe(np.arange(5).astype(np.int32))
    assert describe({"a": [1, "x", None, 2.5]}) == "{'a': [1, 'x', None, 2.5]}"
    assert describe(list(range(10_000))) != describe(list(range(1, 10_001)))
    assert len(describe(list(range(10_000)))) < 100
    ids = graph.from_edges(["a", "b"], ["b", "c"]).vertex_ids
    before = describe(ids)
    ids.locate("a")  # fills caches, which are nobody's business
    assert describe(ids) == before != describe(graph.from_edges(["a"], ["b"]).vertex_ids)
