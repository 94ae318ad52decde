"""``python -m benchmarks.gap --scale 18 --graph kron --trials 5 --kernel pr,bfs,cc``.

Each trial runs every contestant in turn, so that all see the same machine. PageRank times are per
iteration. ``--peer-dir`` names a folder with GAP's binaries ``pr``, ``bfs``, ``cc``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
from pathlib import Path
from typing import Any

import graph
from benchmarks.gap.contestants import ITERATIONS, KERNELS, Gap, Igraph, Networkit, Ours, Scipy
from benchmarks.gap.inputs import GRAPHS, make, sources, write_serialized
from benchmarks.report import figure, show, spread, versions, write_json
from graph.algorithms import bfs, pagerank, wcc

__all__ = ["main", "measure"]

ERROR_MAX = 1e-2
"""L1 residual after 20 iterations: the error left is below .85**20 = .039 of the start's."""


def main() -> None:
    """Parse the options, measure, show."""
    options = _options()
    g = make(options.graph, options.scale)
    with tempfile.TemporaryDirectory() as folder:
        rivals = _contestants(g, options, Path(folder))
        times = measure(rivals, options.kernel, sources(g, options.trials), g)
    if options.verify:
        _verify(g, rivals[0], options)
    rows = []
    for kernel in options.kernel:
        ours = statistics.median(times[kernel][rivals[0].name])
        for name, values in times[kernel].items():
            ratio = statistics.median(values) / ours
            milliseconds = [1e3 * value for value in values]
            rows.append([kernel, name, spread(milliseconds), figure(ratio)])
    title = f"{options.graph} scale {options.scale}: {g!r}, {options.trials} trials"
    show(title, ["kernel", "contestant", "ms (pr: per iteration)", "ours is x times faster"], rows)
    if options.json:
        write_json(
            options.json,
            {
                "graph": options.graph,
                "scale": options.scale,
                "vertices": g.num_vertices,
                "edges": g.num_edges,
                "seconds": times,
                "versions": versions("numpy", "numba", "scipy", "networkit", "igraph"),
            },
        )


def measure(
    rivals: list[Any], kernels: list[str], starts: list[int], g: graph.Graph
) -> dict[str, dict[str, list[float]]]:
    """Kernel to contestant to seconds, one a trial; a warm-up trial is thrown away."""
    times: dict[str, dict[str, list[float]]] = {}
    for kernel in kernels:
        share = ITERATIONS if kernel == "pr" else 1
        times[kernel] = {rival.name: [] for rival in rivals}
        for trial, start in enumerate([starts[0], *starts]):
            for rival in rivals:
                seconds = rival.run(kernel, start) / share
                if trial:
                    times[kernel][rival.name].append(seconds)
    return times


def _verify(g: graph.Graph, ours: Ours, options: argparse.Namespace) -> None:
    """Check the last results with the slow serial algorithms; raises where one is wrong."""
    last = sources(g, options.trials)[-1]
    for kernel, result in ours.results.items():
        if kernel == "pr":
            right = pagerank.verify(g, result) < ERROR_MAX
        elif kernel == "bfs":
            right = bfs.verify(g, last, result)
        else:
            right = wcc.verify(g, result)
        if not right:
            raise SystemExit(f"{kernel}: the result is wrong")


def _contestants(g: graph.Graph, options: argparse.Namespace, folder: Path) -> list[Any]:
    """Ours first, then whatever is installed."""
    found: list[Any] = [Ours(g, options.parallelism, options.inline)]
    if importlib.util.find_spec("scipy"):
        found.append(Scipy(g))
    if options.peer_dir:
        path = folder / "graph.sg"
        write_serialized(g, path)
        found.append(Gap(options.peer_dir, path, options.parallelism))
    if importlib.util.find_spec("networkit"):
        found.append(Networkit(g, options.parallelism))
    if importlib.util.find_spec("igraph"):
        found.append(Igraph(g))
    return found


def _options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gap", description=__doc__)
    parser.add_argument("--scale", type=int, default=18)
    parser.add_argument("--graph", choices=sorted(GRAPHS), default="kron")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--kernel", default=",".join(KERNELS), type=_kernels)
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--inline", action="store_true", help="all copies in this process")
    parser.add_argument("--verify", action="store_true", help="check our results")
    parser.add_argument("--peer-dir", type=Path, help="folder of GAP's binaries")
    parser.add_argument("--json", type=Path, help="keep all measurements in this file")
    return parser.parse_args()


def _kernels(text: str) -> list[str]:
    """The kernels asked for, checked."""
    names = text.split(",")
    for name in names:
        if name not in KERNELS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(KERNELS)}")
    return names


if __name__ == "__main__":
    main()
