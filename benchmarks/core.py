"""Tasks, actors and objects: rates beside the peers', the engine's limits, and where time goes.

    python -m benchmarks.core                                    # against the standard library
    python -m benchmarks.core --peer ray --peer-python ENV/bin/python --trials 5 --json core.json
    python -m benchmarks.core --rows 'actor calls' --scale 0.01 --seconds 0.1     # a smoke run

Three parts (`--parts`). *rows*: every row of Ray's microbenchmark and the standard library's maps.
Each side is a process that keeps running; for each row, ours and then each peer's is measured,
`--trials` times over, so that whatever the machine does meanwhile meets all of them. A figure is
the median, with the range. Published, too, is where a peer is ahead. *limits*: what the engine must
reach by itself (`core_limits`). *profile*: how the time of a call divides (`core_profile`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import statistics
import sys
from typing import Any

from benchmarks import core_stdlib, report
from benchmarks.peers import Side, SideFailed, serve

__all__ = ["main", "table"]

OURS = "engine"
PEERS = ("stdlib", "ray")
PARTS = ("rows", "limits", "profile")
# Rows of Ray's script that have no counterpart: its drivers may speak through a proxy.
NOT_APPLICABLE = {
    f"client: {name}": "n/a: no client protocol"
    for name in ("get calls", "put calls", "put gigabytes", "1:1 actor sync", "1:1 actor async")
}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.serve:
        _serve(options)
        return 0
    from benchmarks import core_limits, core_profile  # not where Ray's side has no engine

    keep = ("trials", "seconds", "scale", "num_cpus")
    settings = {name: getattr(options, name) for name in keep}
    results: dict[str, Any] = {"benchmark": "core", "settings": settings, "failures": []}
    if "rows" in options.parts:
        results |= _measure(options, results["failures"])
        report.show("core: rates, higher is better", *table(results))
        if "stdlib" in results["versions"]:
            report.show("core: what the standard library's figures are", *_labels(results))
    if "limits" in options.parts:
        results["limits"] = core_limits.measure(options.rows, options.scale, results["failures"])
        lines = core_limits.table(results["limits"])
        report.show("core: what the engine must reach", *lines, part="limits")
    if "profile" in options.parts:
        results["profile"] = core_profile.measure(options.scale)
        lines = core_profile.table(results["profile"])
        report.show("core: where the time of a call goes", *lines, part="profile")
    if options.json:
        report.write_json(options.json, results)
    return 1 if results["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.core", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all of them")
    add("--rows", default="", help="only rows whose name contains this regular expression")
    add("--peer", action="append", choices=PEERS, help="may be repeated; default: stdlib")
    add("--peer-python", default=sys.executable, help="interpreter that has Ray installed")
    add("--trials", type=int, default=5, help="windows a row and side")
    add("--seconds", type=float, default=1.0, help="length of a window")
    add("--scale", type=float, default=1.0, help="shrink every batch: a smoke run")
    add("--num-cpus", type=int, default=os.cpu_count(), help="CPUs each side is given")
    add("--json", help="keep all measurements in this file")
    add("--serve", choices=(OURS, *PEERS), help=argparse.SUPPRESS)
    return parser


# ------------------------------------------------------------------------------- the child


def _serve(options: argparse.Namespace) -> None:
    """One side: measure what is asked for until the input ends."""
    from benchmarks.rows import Rows, Runner

    # Half of the machine, as in Ray's script: servers and clients share it.
    n_cpu = max(1, (os.cpu_count() or 1) // 2)
    with contextlib.ExitStack() as stack:
        rows: Rows
        if options.serve == "stdlib":
            core_stdlib.set_num_cpus(options.num_cpus)
            rows, version = core_stdlib.STDLIB, sys.version.split()[0]
        else:
            os.environ["CORE_API"] = options.serve
            core_rows = importlib.import_module("benchmarks.core_rows")
            core_rows.ray.init(num_cpus=options.num_cpus, resources={"custom": 100})
            stack.callback(core_rows.ray.shutdown)
            name = "penstock" if options.serve == OURS else options.serve
            rows, version = core_rows.CORE, report.versions(name).get(name, "")
        runner = Runner(rows, n_cpu=n_cpu, scale=options.scale)

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            if "row" in request:
                return {"rate": runner.measure(request["row"], request["seconds"])}
            units = {name: row.unit for name, row in rows.items()}
            return {"units": units, "version": version}

        serve(answer)


# ------------------------------------------------------------------------------ the parent


def _measure(options: argparse.Namespace, failures: list[str]) -> dict[str, Any]:
    """Run all sides in turn; a row that fails on one side is reported, the others go on."""
    peers = list(dict.fromkeys(options.peer or ["stdlib"]))
    if "ray" in peers and "stdlib" not in peers:
        peers.append("stdlib")  # it holds the limit of the put row, measured in the same run
    shared = ["--scale", str(options.scale), "--num-cpus", str(options.num_cpus)]
    with contextlib.ExitStack() as stack:
        sides = [
            stack.enter_context(
                Side(
                    name,
                    ["-m", "benchmarks.core", "--serve", name, *shared],
                    python=options.peer_python if name == "ray" else sys.executable,
                )
            )
            for name in (OURS, *peers)
        ]
        about = {side.name: side.ask() for side in sides}
        units: dict[str, str] = about[OURS]["units"]
        rows: list[dict[str, Any]] = []
        for name in [name for name in units if re.search(options.rows, name)]:
            asked = [side for side in sides if name in about[side.name]["units"]]
            print(f"{name} ...", file=sys.stderr, flush=True)
            rates = _row(name, asked, options, failures)
            rows.append({"row": name, "unit": units[name], "rates": rates})
    return {
        "versions": {name: answer["version"] for name, answer in about.items()},
        "rows": rows,
        "not_applicable": [name for name in NOT_APPLICABLE if re.search(options.rows, name)],
    }


def _row(
    name: str, sides: list[Side], options: argparse.Namespace, failures: list[str]
) -> dict[str, list[float]]:
    """All trials of one row; a side that fails is left out of the remaining ones."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    failed = set()
    for _ in range(options.trials):
        for side in sides:
            if side.name in failed:
                continue
            try:
                rates[side.name].append(side.ask(row=name, seconds=options.seconds)["rate"])
            except SideFailed as error:
                failed.add(side.name)
                failures.append(str(error))
                print(f"  failed: {error}", file=sys.stderr, flush=True)
    return rates


def _labels(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    shown = [row["row"] for row in results["rows"] if row["rates"].get("stdlib")]
    return ["row", "is"], [[name, core_stdlib.LABELS[name]] for name in shown]


def table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table: ours, then each peer with the ratio ours / peer's."""
    peers = [name for name in results["versions"] if name != OURS]
    columns = ["row", "unit", "penstock"]
    for peer in peers:
        columns += [f"{peer} {results['versions'][peer]}".strip(), "ratio"]
    lines = []
    for row in results["rows"]:
        ours = row["rates"][OURS]
        line = [row["row"], row["unit"], report.spread(ours) if ours else "failed"]
        for peer in peers:
            theirs = row["rates"].get(peer)
            if theirs is None:
                line += ["", ""]
            elif not theirs or not ours:
                line += [report.spread(theirs) if theirs else "failed", ""]
            else:
                ratio = statistics.median(ours) / statistics.median(theirs)
                line += [report.spread(theirs), f"{ratio:.2f}"]
        lines.append(line)
    for name in results["not_applicable"]:
        lines.append([name, "", NOT_APPLICABLE[name], *[""] * 2 * len(peers)])
    return columns, lines


if __name__ == "__main__":
    sys.exit(main())
