"""Graphs: a copy is killed in every superstep, and the result is that of an undisturbed run.

Bit for bit: each superstep computes the same from the same state (within 1e-9 is what is promised
for PageRank). The driver is killed as well, and another one goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graph
from engine.exceptions import ActorDiedError
from engine.topology import Checkpoints
from tests.engine.support import eventually, run_script
from tests.faults.graphs import DEATHS, MORTALS, Walk
from tests.faults.support import Killer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def g() -> graph.Graph:
    src, dst = graph.generate.kronecker(9, 6, seed=4)
    return graph.from_edges(src, dst, np.random.default_rng(2).random(src.size))


def policy(folder: Path) -> Checkpoints:
    return Checkpoints(directory=folder / "ck", restarts=1000)


def runs(g: graph.Graph) -> dict[str, Callable[..., graph.Result]]:
    source = g.ids[0].as_py()
    return {
        "pagerank": lambda **how: graph.pagerank(g, max_iter=9, tol=0.0, **how),
        "bfs": lambda **how: graph.bfs(g, source, **how),
        "cdlp": lambda **how: graph.cdlp(g, 6, **how),
        "sssp": lambda **how: graph.sssp(g, source, **how),
        "wcc": lambda **how: graph.wcc(g, **how),
    }


def check(
    g: graph.Graph, name: str, tmp_path: Path, patch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    """Die in these supersteps (those there are), at a checkpoint in every one to three."""
    run = runs(g)[name]
    wanted = run(parallelism=2)
    target, mortal = MORTALS[name]
    patch.setattr(DEATHS, "folder", tmp_path)
    patch.setattr(DEATHS, "steps", steps)
    patch.setattr(target, mortal)
    for every in (1, 3):
        for mark in tmp_path.glob("superstep-*"):
            mark.unlink()
        got = run(parallelism=2, checkpoint=policy(tmp_path), checkpoint_every=every)
        assert got.to_dict() == wanted.to_dict()
        died = len(list(tmp_path.glob("superstep-*")))
        assert died == len([step for step in steps if step < wanted.supersteps])
    np.testing.assert_allclose(got.to_numpy(), wanted.to_numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(MORTALS))
def test_a_kill_in_some_supersteps(
    cluster: Any, g: graph.Graph, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(g, name, tmp_path, monkeypatch, [0, 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MORTALS))
def test_a_kill_in_every_superstep(
    cluster: Any, g: graph.Graph, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What sssp does in which superstep depends on who is first: fewer than any run has.
    check(g, name, tmp_path, monkeypatch, list(range(3 if name == "sssp" else 10)))


def test_a_vertex_program_loses_copies(cluster: Any, g: graph.Graph, tmp_path: Path) -> None:
    wanted = graph.run(g, Walk(8, "", ()), parallelism=2)
    deaths = [0, 1, 4, 7]
    got = graph.run(
        g,
        Walk(8, str(tmp_path), deaths),
        parallelism=2,
        checkpoint=policy(tmp_path),
        checkpoint_every=2,
    )
    assert got.to_dict() == wanted.to_dict()
    assert got.supersteps == wanted.supersteps
    assert len(list(tmp_path.glob("superstep-*"))) == len(deaths)


def test_without_checkpoints_a_death_is_told(
    cluster: Any, g: graph.Graph, tmp_path: Path
) -> None:
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        graph.run(g, Walk(8, str(tmp_path), [3]), parallelism=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_moments(
    cluster: Any, g: graph.Graph, tmp_path: Path, seed: int
) -> None:
    wanted = graph.pagerank(g, max_iter=4000, tol=0.0, parallelism=2)
    with Killer(seed=seed, pause=0.8, kills_max=10):
        got = graph.pagerank(
            g,
            max_iter=4000,
            tol=0.0,
            parallelism=2,
            checkpoint=policy(tmp_path),
            checkpoint_every=50,
        )
    assert np.array_equal(got.to_numpy(), wanted.to_numpy())


SCRIPT = """
import sys
from pathlib import Path
import graph
from engine.topology import Checkpoints

folder = Path(sys.argv[1])
src, dst = graph.generate.kronecker(9, 6, seed=4)
g = graph.from_edges(src, dst)
policy = Checkpoints(directory=folder / "ck", restarts=1000)
found = graph.pagerank(
    g, max_iter=int(sys.argv[2]), tol=0.0, parallelism=2, checkpoint=policy, checkpoint_every=20
)
found.to_numpy().tofile(folder / "ranks")
print(found.seconds)
"""


@pytest.mark.slow
def test_a_driver_is_killed_and_another_goes_on(leak_check: None, tmp_path: Path) -> None:
    iterations = 3000
    first = run_script(SCRIPT, tmp_path, str(tmp_path), str(iterations))
    eventually(lambda: len(list((tmp_path / "ck").glob("manifest-*"))) > 1, 60)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    kept = sorted((tmp_path / "ck").glob("manifest-*"))
    assert kept, "it had ended already"
    second = run_script(SCRIPT, tmp_path, str(tmp_path), str(iterations))
    second.communicate(timeout=100)
    assert second.returncode == 0
    src, dst = graph.generate.kronecker(9, 6, seed=4)
    wanted = graph.pagerank(
        graph.from_edges(src, dst), max_iter=iterations, tol=0.0, parallelism=2, inline=True
    )
    assert np.array_equal(np.fromfile(tmp_path / "ranks"), wanted.to_numpy())
    assert list((tmp_path / "ck").glob("manifest-*")) == []
