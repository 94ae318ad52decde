"""Channels: how much goes through between two members, and how long one batch is on its way.

    python -m benchmarks.channel                       # throughput and latency, two processes
    python -m benchmarks.channel --inline --seconds 0.2     # both members in this process

Throughput: one member emits record batches as fast as credits allow, the other receives them.
Beside it, in turn, the standard library's way: Arrow IPC bytes over a pipe between two processes;
and the limit of any way that copies once: memcpy of as many bytes into warm memory.

Latency: batches leave on a schedule that does not wait for the receiver (open loop). `one way` is
from the emit to the receiver's `on_batch`; `from schedule` also holds what the sender was late.
`round trip` is a batch sent back and forth, one at a time. The clock is the system-wide monotonic
one, read in both processes.

What epochs and local recovery cost: a sender that makes each batch anew, as a reader does (what is
retained is then memory that is not used again at once), without checkpoints, with epochs of a
second, and with what it takes for one copy to come back alone, in turn. Beside the throughput,
which others on the machine disturb, stand CPU time and page faults of both processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import report
from engine.topology import Checkpoints, Member, MemberContext, Topology, forward

__all__ = ["epoch_costs", "latency", "main", "round_trip", "throughput"]

COLUMNS = 8
ROW_BYTES = 8 * COLUMNS
DISTINCT_BATCHES = 8  # so that the sender's cache does not hold all it sends
BATCHES_MIN = 2  # however slow: there is no rate of fewer
SHARES = (50, 95, 99, 99.9)
PIPE_BYTES_MAX = 1 << 30
PARTS = ("throughput", "latency", "epochs")
SIDES: dict[str, dict[str, Any] | None] = {
    "no checkpoints": None,
    "epochs": {"local": False},
    "and local recovery": {},
    "and 1 GiB retained": {"retain_bytes": 1 << 30},
}


def batch_of(rows: int, seed: int = 0) -> pa.RecordBatch:
    """`rows` rows of eight int64 columns: 64 bytes a row."""
    start = seed * rows
    columns = [pa.array(np.arange(start + c, start + c + rows)) for c in range(COLUMNS)]
    return pa.record_batch(columns, names=[f"c{c}" for c in range(COLUMNS)])


def checksum(batch: pa.RecordBatch) -> int:
    """Sum of the first column."""
    return int(batch.column(0).sum().as_py())


# ---------------------------------------------------------------------------- throughput


class Sender(Member):
    """Emits batches for a while, then ends; its result is how many."""

    def __init__(self, rows: int, seconds: float) -> None:
        self.batches = [batch_of(rows, seed) for seed in range(DISTINCT_BATCHES)]
        self.seconds = seconds
        self.sent = 0
        self.end = 0.0

    def open(self, ctx: MemberContext) -> None:
        """Time starts with the first poll."""
        self.ctx = ctx

    def poll(self) -> bool:
        """One batch a call: the loop asks again while there is credit."""
        now = time.perf_counter()
        self.end = self.end or now + self.seconds
        if now >= self.end and self.sent >= BATCHES_MIN:
            self.ctx.finish()
            return False
        self.ctx.emit(self.next_batch())
        self.sent += 1
        return True

    def next_batch(self) -> pa.RecordBatch:
        """One of those that are there."""
        return self.batches[self.sent % DISTINCT_BATCHES]

    def close(self) -> int:
        """Batches sent."""
        return self.sent


class Receiver(Member):
    """Counts what arrives; every 64th batch is read through."""

    def __init__(self, rows: int) -> None:
        self.sums = [checksum(batch_of(rows, s)) for s in range(DISTINCT_BATCHES)]
        self.batches = self.bytes = 0
        self.first = self.last = 0.0

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """Count, and check now and then that it is the batch that was sent."""
        if self.batches % 64 == 0:
            found, wanted = checksum(value), self.sums[self.batches % DISTINCT_BATCHES]
            if found != wanted:
                raise ValueError(f"batch {self.batches}: sum {found}, expected {wanted}")
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.batches += 1
        self.bytes += value.num_rows * ROW_BYTES  # `nbytes` takes longer than the rest

    def close(self) -> dict[str, float]:
        """Totals and the time between the first and the last batch."""
        seconds = self.last - self.first
        return {"batches": self.batches, "bytes": self.bytes, "seconds": seconds}


def throughput(rows: int, seconds: float, *, inline: bool = False) -> dict[str, float]:
    """Batches and bytes a second between two members."""
    topology = Topology("throughput")
    sender = topology.member("sender", Sender, rows, seconds)
    receiver = topology.member("receiver", Receiver, rows)
    topology.channel(sender, receiver, forward())
    with topology.deploy(inline=inline) as handle:
        results = handle.wait()
    (sent,), (got,) = results["sender"], results["receiver"]
    if got["batches"] != sent:
        raise ValueError(f"{sent} batches were sent, {got['batches']} arrived")
    return _rates(got["batches"], got["bytes"], got["seconds"])


def pipe_throughput(rows: int, seconds: float) -> dict[str, float]:
    """The same through `multiprocessing.Pipe`, each batch as Arrow IPC bytes."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.Process(target=_pipe_sender, args=(theirs, rows, seconds))
    child.start()
    schema = batch_of(1).schema
    batches = size = 0
    first = last = 0.0
    while message := ours.recv_bytes(PIPE_BYTES_MAX):
        batch = pa.ipc.read_record_batch(pa.py_buffer(message), schema)
        last = time.perf_counter()
        first = first or last
        batches += 1
        size += batch.num_rows * ROW_BYTES
    child.join()
    return _rates(batches, size, last - first)


def _pipe_sender(connection: Connection[Any, Any], rows: int, seconds: float) -> None:
    batches = [batch_of(rows, seed) for seed in range(DISTINCT_BATCHES)]
    end, sent = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or sent < BATCHES_MIN:
        connection.send_bytes(batches[sent % DISTINCT_BATCHES].serialize())
        sent += 1
    connection.send_bytes(b"")


def copy_throughput(rows: int, seconds: float) -> dict[str, float]:
    """The limit of one copy: memcpy into memory whose pages are there."""
    sources = [np.arange(rows * COLUMNS) for _ in range(DISTINCT_BATCHES)]
    target = np.zeros(rows * COLUMNS, dtype=np.int64)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        np.copyto(target, sources[count % DISTINCT_BATCHES])
        count += 1
    return _rates(count, count * target.nbytes, time.perf_counter() - start)


def _rates(batches: float, size: float, seconds: float) -> dict[str, float]:
    if seconds <= 0:
        raise ValueError("fewer than two batches arrived: measure for longer")
    return {"batches_per_second": batches / seconds, "gb_per_second": size / seconds / 1e9}


# --------------------------------------------------------- what epochs and recovery cost


def usage() -> np.ndarray:
    """CPU seconds and minor page faults of this process so far."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([found.ru_utime + found.ru_stime, found.ru_minflt])


class Maker(Sender):
    """Emits batches that it has just made; its result: how many, and what it used."""

    def open(self, ctx: MemberContext) -> None:
        """The use is counted from here."""
        super().open(ctx)
        self.halves = [[b.slice(0, len(b) // 2), b.slice(len(b) // 2)] for b in self.batches]
        self.used = usage()

    def next_batch(self) -> pa.RecordBatch:
        """A copy in memory of its own."""
        return pa.concat_batches(self.halves[self.sent % DISTINCT_BATCHES])

    def close(self) -> Any:
        """Batches sent, and use."""
        return self.sent, usage() - self.used


class Meter(Receiver):
    """A receiver whose totals have its use with them."""

    def open(self, ctx: MemberContext) -> None:
        """The use is counted from here."""
        self.used = usage()

    def close(self) -> dict[str, Any]:
        """Totals and use."""
        return {**super().close(), "used": usage() - self.used}


def epoch_costs(rows: int, seconds: float, policy: dict[str, Any] | None) -> dict[str, float]:
    """Throughput, and CPU seconds and page faults a GB of both members, with these checkpoints."""
    topology = Topology("epochs")
    maker = topology.member("maker", Maker, rows, seconds)
    meter = topology.member("meter", Meter, rows)
    topology.channel(maker, meter, forward())
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = None if policy is None else Checkpoints(directory=directory, **policy)
        with topology.deploy(checkpoints=checkpoints) as handle:
            results = handle.wait()
            given_up = handle.statistics()[0].counters.get("retention_given_up", 0)
    ((sent, used),), (got,) = results["maker"], results["meter"]
    if got["batches"] != sent:
        raise ValueError(f"{sent} batches were sent, {got['batches']} arrived")
    cpu, faults = (used + got["used"]) / (got["bytes"] / 1e9)
    found = _rates(got["batches"], got["bytes"], got["seconds"])
    return {**found, "cpu_seconds_per_gb": cpu, "faults_per_gb": faults, "given_up": given_up}


# -------------------------------------------------------------------------------- latency


class Clock(Member):
    """Emits one small batch at each time of a schedule, whether or not the last has arrived."""

    def __init__(self, rows: int, rate: float, count: int) -> None:
        self.batch = batch_of(rows)
        self.period_ns = int(1e9 / rate)
        self.count = count
        self.sent = 0
        self.start_ns = 0

    def open(self, ctx: MemberContext) -> None:
        """The schedule starts with the first poll."""
        self.ctx = ctx

    def poll(self) -> bool:
        """Emit if it is time, else sleep until it is."""
        now = time.monotonic_ns()
        self.start_ns = self.start_ns or now
        due = self.start_ns + self.sent * self.period_ns
        if now < due:
            self.ctx.wake_after((due - now) / 1e9)
            return False
        self.ctx.emit(self.batch, meta=[due, time.monotonic_ns()])
        self.sent += 1
        if self.sent == self.count:
            self.ctx.finish()
        return True


class Stopwatch(Member):
    """Notes for each batch how long ago it was due and how long ago it was emitted."""

    def __init__(self) -> None:
        self.times: list[tuple[int, int]] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """`meta` holds the two times, in nanoseconds."""
        now = time.monotonic_ns()
        due, emitted = meta
        self.times.append((now - due, now - emitted))

    def close(self) -> list[tuple[int, int]]:
        """All differences, in nanoseconds."""
        return self.times


def latency(rows: int, rate: float, seconds: float, *, inline: bool = False) -> dict[str, Any]:
    """Percentiles in microseconds of batches on a schedule of `rate` a second."""
    topology = Topology("latency")
    count = max(10, int(rate * seconds))
    clock = topology.member("clock", Clock, rows, rate, count)
    watch = topology.member("watch", Stopwatch)
    topology.channel(clock, watch, forward())
    with topology.deploy(inline=inline) as handle:
        (times,) = handle.wait()["watch"]
    if len(times) != count:
        raise ValueError(f"{count} batches were sent, {len(times)} arrived")
    names = ("from schedule", "one way")
    return {
        name: _microseconds([t[index] for t in times[count // 10 :]])
        for index, name in enumerate(names)
    }


class Ping(Member):
    """Sends a batch when the last one is back; its result are the round trips in ns."""

    def __init__(self, rows: int, count: int) -> None:
        self.batch = batch_of(rows)
        self.count = count
        self.times: list[int] = []
        self.emitted = 0

    def open(self, ctx: MemberContext) -> None:
        """The first batch leaves with the first poll."""
        self.ctx = ctx

    def poll(self) -> bool:
        """Start the exchange; afterwards the answers keep it going."""
        if not self.emitted:
            self._serve()
        return False

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """One round trip is over."""
        self.times.append(time.monotonic_ns() - self.emitted)
        if len(self.times) == self.count:
            self.ctx.finish()
        else:
            self._serve()

    def close(self) -> list[int]:
        """Round trips in nanoseconds."""
        return self.times

    def _serve(self) -> None:
        self.emitted = time.monotonic_ns()
        self.ctx.emit(self.batch)


class Pong(Member):
    """Sends back what comes."""

    def open(self, ctx: MemberContext) -> None:
        """Nothing but the context."""
        self.ctx = ctx

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """Back it goes."""
        self.ctx.emit(value)


def round_trip(rows: int, count: int, *, inline: bool = False) -> dict[str, float]:
    """Percentiles in microseconds of `count` round trips, one at a time."""
    topology = Topology("round-trip")
    ping = topology.member("ping", Ping, rows, count)
    pong = topology.member("pong", Pong)
    topology.channel(ping, pong, forward())
    topology.channel(pong, ping, forward())
    with topology.deploy(inline=inline) as handle:
        (times,) = handle.wait()["ping"]
    return _microseconds(times[count // 10 :])


def _microseconds(nanoseconds: list[int]) -> dict[str, float]:
    found = report.percentiles(nanoseconds, *SHARES)
    return {name: value / 1000 for name, value in found.items()}


# --------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.channel", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[100, 4096, 65536], help="rows a batch (64 B each)")
    add("--seconds", type=float, default=2.0, help="length of one measurement")
    add("--rate", type=float, default=1000.0, help="batches a second in the latency measurement")
    add("--trials", type=int, default=5, help="measurements of each figure")
    add("--inline", action="store_true", help="all members in this process")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--json", help="keep all measurements in this file")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"benchmark": "channel", "settings": vars(options)}
    if "throughput" in options.parts:
        results["throughput"] = [_throughput_row(rows, options) for rows in options.rows]
    if "latency" in options.parts:
        results["latency"] = _latency_rows(min(options.rows), options)
    if "epochs" in options.parts and not options.inline:  # it counts what processes use
        results["epochs"] = [_epochs_row(rows, options) for rows in options.rows]
    _show(results)
    if options.json:
        report.write_json(options.json, results)
    return 0


def _throughput_row(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Ours, the pipe and the copy in turn."""
    found: dict[str, Any] = {"rows": rows, "channel": [], "pipe": [], "memcpy": []}
    for _ in range(options.trials):
        found["channel"].append(throughput(rows, options.seconds, inline=options.inline))
        found["pipe"].append(pipe_throughput(rows, options.seconds))
        found["memcpy"].append(copy_throughput(rows, options.seconds / 4))
    return found


def _epochs_row(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """All sides in turn, each long enough for some epochs."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.trials):
        for side, policy in SIDES.items():
            found[side].append(epoch_costs(rows, 2 * options.seconds, policy))
    return {"rows": rows, "sides": found}


def _latency_rows(rows: int, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"from schedule": [], "one way": []}
    found["round trip"] = []
    for _ in range(options.trials):
        measured = latency(rows, options.rate, options.seconds, inline=options.inline)
        for name, value in measured.items():
            found[name].append(value)
        count = max(20, int(1000 * options.seconds))
        found["round trip"].append(round_trip(rows, count, inline=options.inline))
    return found


def _show(results: dict[str, Any]) -> None:
    lines = []
    for row in results.get("throughput", ()):
        batches = [trial["batches_per_second"] for trial in row["channel"]]
        line = [f"{row['rows']:,}", report.spread(batches)]
        for side in ("channel", "pipe", "memcpy"):
            line.append(report.spread([trial["gb_per_second"] for trial in row[side]]))
        lines.append(line)
    columns = ["rows a batch", "batches/s", "GB/s", "GB/s, pipe", "GB/s, memcpy"]
    if lines:
        report.show("channel: throughput between two members", columns, lines)
    lines = []
    for name, trials in results.get("latency", {}).items():
        lines.append([name, *(report.spread([trial[p] for trial in trials]) for p in trials[0])])
        columns = ["", *trials[0]]
    if lines:
        report.show("channel: latency of small batches, microseconds", columns, lines)
    rows = results.get("epochs", ())
    lines = [_epochs_line(row, side) for row in rows for side in SIDES]
    columns = ["rows a batch", "GB/s", "share", "CPU s/GB", "share", "faults/GB", "given up"]
    if lines:
        report.show("channel: what epochs and local recovery cost", columns, lines)


def _epochs_line(row: dict[str, Any], side: str) -> list[str]:
    """Medians, and the median of the ratios to the measurement without checkpoints beside it."""
    trials, plain = row["sides"][side], row["sides"]["no checkpoints"]
    line = [f"{row['rows']:,}, {side}"]
    for name in ("gb_per_second", "cpu_seconds_per_gb"):
        pairs = zip(trials, plain, strict=True)
        share = statistics.median(one[name] / other[name] for one, other in pairs)
        line += [report.figure(statistics.median(one[name] for one in trials)), f"{share:.2f}"]
    for name in ("faults_per_gb", "given_up"):
        line.append(report.figure(statistics.median(one[name] for one in trials)))
    return line


if __name__ == "__main__":
    sys.exit(main())
