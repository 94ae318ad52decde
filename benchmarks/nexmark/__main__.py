"""Events per second of the Nexmark queries: `python -m benchmarks.nexmark --query q0,q1`.

An event counts whether it is a person, an auction or a bid; the queries here read bids alone (46
of 50 events), and the generator makes only the columns a query reads, as column pruning asks for.
Its own cost is measured apart, in one process, and is part of every other figure. Jobs that read
bids by a key run twice as many processes as copies, on the same cores. With --verify
the results are first compared with DuckDB's on a small stream.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import streaming as st
from benchmarks.nexmark.events import Settings
from benchmarks.nexmark.generator import bids
from benchmarks.nexmark.queries import QUERIES, Query, build
from benchmarks.nexmark.verify import verify
from benchmarks.report import figure, show, spread, versions, write_json

_VERIFY_SIZE = 200_000
# The generator alone is timed over this many events, whatever the size of the job.
_GENERATOR_EVENTS = 4_000_000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nexmark", description=__doc__)
    parser.add_argument("--size", type=int, default=50_000_000, help="events of each run")
    parser.add_argument("--parallelism", type=int, default=2)
    parser.add_argument("--query", default=",".join(QUERIES), help="names, separated by commas")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--batch-rows", type=int, default=35_000, help="events of a block")
    parser.add_argument("--rate", type=int, default=100_000, help="events/s of event time")
    parser.add_argument("--group", type=int, default=1, help="events whose order is mixed")
    parser.add_argument("--inline", action="store_true", help="one thread instead of processes")
    parser.add_argument("--verify", action="store_true", help="compare results with DuckDB first")
    parser.add_argument("--json", help="file for all figures")
    arguments = parser.parse_args()
    unknown = set(arguments.query.split(",")) - set(QUERIES)
    if unknown:
        parser.error(f"no query {', '.join(sorted(unknown))}; there are {', '.join(QUERIES)}")
    return arguments


def _generator_seconds(query: Query, settings: Settings, batch_rows: int, events: int) -> float:
    bids(0, batch_rows, query.columns, settings=settings)  # builds the tables of texts
    began = time.perf_counter()
    for start in range(0, events, batch_rows):
        bids(start, min(batch_rows, events - start), query.columns, settings=settings)
    return time.perf_counter() - began


def _run_seconds(query: Query, settings: Settings, arguments: argparse.Namespace) -> float:
    job = build(query, settings, arguments.size, arguments.batch_rows, st.discard())
    began = time.perf_counter()
    job.run(arguments.parallelism, inline=arguments.inline, progress=False)
    return time.perf_counter() - began


def _start_seconds(query: Query, settings: Settings, arguments: argparse.Namespace) -> float:
    """The same job over one block a copy: what it takes to start and to end."""
    size = min(arguments.size, arguments.parallelism * arguments.batch_rows)
    return _run_seconds(query, settings, argparse.Namespace(**{**vars(arguments), "size": size}))


def _measure(query: Query, settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    events = min(arguments.size, _GENERATOR_EVENTS)
    generator, start, seconds = [], [], []
    for _ in range(arguments.trials):
        generator.append(events / _generator_seconds(query, settings, arguments.batch_rows, events))
        start.append(_start_seconds(query, settings, arguments))
        seconds.append(_run_seconds(query, settings, arguments))
    return {
        "query": query.name,
        "meaning": query.meaning,
        "seconds": seconds,
        "start_seconds": start,
        "events_per_second": [arguments.size / one for one in seconds],
        "generator_events_per_second_per_core": generator,
    }


def _row(result: dict[str, Any], size: int, cores: int) -> list[str]:
    """A line of the table; start-up is part of the first figures."""
    seconds = statistics.median(result["seconds"])
    return [
        f"{result['query']} ({result['meaning']})",
        spread(result["events_per_second"]),
        figure(size / seconds / cores),
        figure(statistics.median(result["start_seconds"])),
        figure(statistics.median(result["generator_events_per_second_per_core"])),
    ]


def main() -> None:
    """Verify if asked, measure, print, keep."""
    arguments = _arguments()
    settings = Settings(arguments.rate, arguments.group)
    queries = [QUERIES[name] for name in arguments.query.split(",")]
    if arguments.verify:
        for query in queries:
            size = min(arguments.size, _VERIFY_SIZE)
            rows = verify(query, settings, size, 7_001, arguments.parallelism, arguments.inline)
            print(f"{query.name}: {rows} rows equal DuckDB's over {size} events")
    results = [_measure(query, settings, arguments) for query in queries]
    cores = 1 if arguments.inline else arguments.parallelism
    mode = "inline, one thread" if arguments.inline else f"{arguments.parallelism} copies"
    title = (
        f"Nexmark, {arguments.size:,} events over {arguments.size / arguments.rate:g} s of event "
        f"time, blocks of {arguments.batch_rows:,}, {mode}; events/s"
    )
    columns = ["query", "all", "per core", "start-up, s", "generator alone, per core"]
    show(title, columns, [_row(result, arguments.size, cores) for result in results])
    if arguments.json:
        options = {key: value for key, value in vars(arguments).items() if key != "json"}
        kept = {"options": options, "versions": versions("pyarrow", "numpy"), "results": results}
        write_json(arguments.json, kept)


if __name__ == "__main__":
    main()
