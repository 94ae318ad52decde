"""Event-time stream processing on columns (public API)."""

import engine
from streaming.aggregates import count, max, mean, min, sum
from streaming.job import Job
from streaming.plan import PlanError
from streaming.running import JobHandle, JobResult
from streaming.sinks.base import Sink, Writer
from streaming.sinks.console import print
from streaming.sinks.files import write_csv, write_json, write_parquet
from streaming.sinks.memory import callback, collect, discard
from streaming.sources.base import Pause, Reader, Source
from streaming.sources.generate import generate
from streaming.sources.memory import from_arrow, from_rows
from streaming.sources.parquet import read_parquet
from streaming.sources.text import read_csv, read_json
from streaming.stream import KeyedStream, Stream, WindowedStream, WindowResult
from streaming.windows import hop, tumble

__all__ = [
    "Job",
    "JobHandle",
    "JobResult",
    "KeyedStream",
    "Pause",
    "PlanError",
    "Reader",
    "Sink",
    "Source",
    "Stream",
    "WindowResult",
    "WindowedStream",
    "Writer",
    "callback",
    "collect",
    "count",
    "discard",
    "from_arrow",
    "from_rows",
    "generate",
    "hop",
    "max",
    "mean",
    "min",
    "print",
    "read_csv",
    "read_json",
    "read_parquet",
    "sum",
    "tumble",
    "write_csv",
    "write_json",
    "write_parquet",
]

# A member that is started, or comes back after a death, need not import all this.
engine.preload("streaming.preload:preload")
