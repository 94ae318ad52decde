"""A job: sources, the streams built on them, sinks; and running all of it to the end."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from engine.exceptions import GetTimeoutError
from engine.topology import Checkpoints
from streaming.compile import to_topology
from streaming.explain import explain
from streaming.plan import Node, PlanError, SinkNode, SourceNode
from streaming.progress import ProgressBar, SourceProgress
from streaming.running import JobHandle, JobResult, SinkCommits
from streaming.sinks.base import Sink
from streaming.sources.base import Source, plain_schema
from streaming.stages import Stages
from streaming.stream import Stream
from streaming.time import Duration, EventTime, duration_ns

__all__ = ["Job"]

_REFRESH_S = 0.2
# A directory, or all there is to say about checkpoints.
Checkpoint = str | os.PathLike[str] | Checkpoints


class Job:
    """A stream computation under construction; building it runs nothing."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise PlanError(f"Job: expected a name, found {name!r}")
        self.name = name
        self._names: set[str] = set()
        self._sinks: list[SinkNode] = []
        self._sources: list[SourceNode] = []

    def source(
        self,
        source: Source,
        *,
        name: str | None = None,
        event_time: str | None = None,
        out_of_orderness: Duration = 0,
        idle_after: Duration | None = None,
    ) -> Stream:
        """Rows of a source.

        event_time: the column that says when a row happened, timestamp or int64 (milliseconds).
        out_of_orderness: how much later than the newest row an older one may come, at most, and
        still be on time; the watermark is the newest event time less this.
        idle_after: a copy that has had no rows for so long is not waited for; None: it is.
        """
        if not isinstance(source, Source):
            raise TypeError(
                f"source: expected a source such as from_rows(...) or read_parquet(...), "
                f"found {type(source).__name__}"
            )
        chosen = self._unique_name("source") if name is None else self._claim_name(name)
        found = source.schema()
        schema = None if found is None else plain_schema(found)
        time = None
        if event_time is not None:
            time = _event_time(chosen, schema, event_time, out_of_orderness, idle_after)
        elif out_of_orderness != 0 or idle_after is not None:
            raise PlanError(f"source {chosen!r}: out_of_orderness and idle_after need event_time=")
        note = f"source {chosen!r} has none: give job.source(..., event_time='column')"
        if schema is not None:
            note += f", one of {_time_columns(schema) or schema.names}"
        node = SourceNode(
            name=chosen, inputs=(), schema=schema, time=time, time_note=note, source=source
        )
        self._sources.append(node)
        return Stream(self, node)

    def explain(self, parallelism: int | None = None) -> str:
        """The members the job is run as, what is fused in each, and how rows travel."""
        return explain(self.name, self._stages(parallelism))

    def run(
        self,
        parallelism: int | None = None,
        *,
        inline: bool = False,
        progress: bool | None = None,
        checkpoint: Checkpoint | None = None,
        every: Duration | None = None,
        resume: bool | None = None,
    ) -> JobResult:
        """Run until every source has ended, and return the results of the sinks.

        parallelism: copies of sources and keyed steps; None: the cores this process may use.
        inline: everything in this thread, deterministic (tests, debugging).
        progress: a line on the terminal; None: only if stderr is one.
        checkpoint, every, resume: as in `start`.

        An exception in a step stops the job and is raised here as TaskError (also an instance of
        the exception's own class); no sink has committed anything then, or with checkpoints what
        belongs to committed epochs.
        """
        handle = self._deploy(parallelism, inline, checkpoint, every, resume)
        times = {node.name: node.time for node in self._sources}
        with handle, ProgressBar(self.name, SourceProgress(times), progress) as bar:
            return _wait(handle, bar)

    def start(
        self,
        parallelism: int | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        every: Duration | None = None,
        resume: bool | None = None,
    ) -> JobHandle:
        """Run in the background; for sources without an end, and to look at a running job.

        parallelism: copies of sources and keyed steps; None: the cores this process may use.
        checkpoint: a directory (path or file:/// URL). At the end of every epoch the states of all
            copies are kept there and the sinks commit. When a process dies, its copy goes on from
            the last epoch, or the whole job does; functions given to the job must do the same for
            the same rows then, or `Checkpoints(local=False)` has always the whole job go back. The
            same job goes on from there too when it is started again with the same directory after
            its driver has died, was stopped, or failed. When the job has ended well the directory
            is emptied. An `engine.topology.Checkpoints` says more.
        every: from one epoch to the next, by default "1s".
        resume: True: there must be something to go on from; False: begin anew.

        Raises CheckpointError when the directory is in use or holds another job.
        """
        return self._deploy(parallelism, False, checkpoint, every, resume)

    def _deploy(
        self,
        parallelism: int | None,
        inline: bool,
        checkpoint: Checkpoint | None,
        every: Duration | None,
        resume: bool | None,
    ) -> JobHandle:
        stages = self._stages(parallelism)
        policy = self._policy(stages, checkpoint, every, resume)
        topology = to_topology(self.name, stages, inline)
        outside = SinkCommits(self._sinks)
        handle = topology.deploy(inline=inline, checkpoints=policy, external=outside)
        return JobHandle(self.name, handle, self._sinks, policy is not None)

    def _policy(
        self,
        stages: Stages,
        checkpoint: Checkpoint | None,
        every: Duration | None,
        resume: bool | None,
    ) -> Checkpoints | None:
        if checkpoint is None or isinstance(checkpoint, Checkpoints):
            if every is not None or resume is not None:
                raise PlanError(
                    "every= and resume= go with checkpoint=DIRECTORY; "
                    "a Checkpoints(...) has its own"
                )
            if checkpoint is None:
                return None
            policy = checkpoint
        else:
            ns = duration_ns("1s" if every is None else every, "every")
            policy = Checkpoints(directory=checkpoint, every=ns / 1e9, resume=resume)
        sources = (f"{node.name}: {node.source.fingerprint()}" for node in self._sources)
        plan = "\n".join([policy.fingerprint, explain(self.name, stages), *sources])
        return replace(policy, fingerprint=plan)

    def _stages(self, parallelism: int | None) -> Stages:
        if parallelism is None:
            parallelism = len(os.sched_getaffinity(0))
        if not isinstance(parallelism, int) or parallelism < 1:
            raise PlanError(f"parallelism: expected a positive int, found {parallelism!r}")
        if not self._sources:
            raise PlanError(f"job {self.name!r} has no source; add one with job.source(...)")
        if not self._sinks:
            raise PlanError(
                f"job {self.name!r} has no sink, so nothing would come out; "
                f"add one with stream.sink(collect())"
            )
        return Stages(self._sinks, parallelism)

    def _add_sink(self, node: Node, sink: Sink, name: str | None) -> None:
        """For `Stream.sink`."""
        if not isinstance(sink, Sink):
            raise TypeError(
                f"sink: expected a sink such as collect() or write_parquet(...), "
                f"found {type(sink).__name__}"
            )
        taken = {other.name for other in self._sinks}
        chosen = name
        if chosen is None:  # numbered when there are several: collect, collect-2, ...
            count = 1
            chosen = sink.default_name
            while chosen in taken:
                count += 1
                chosen = f"{sink.default_name}-{count}"
        if chosen in taken:
            raise PlanError(
                f"sink: there is a sink {chosen!r} already; give this one another name="
            )
        sink.check(node.schema)
        self._sinks.append(
            SinkNode(
                name=chosen,
                inputs=(node,),
                schema=node.schema,
                time=node.time,
                time_note=node.time_note,
                sink=sink,
            )
        )

    def _unique_name(self, verb: str) -> str:
        """`verb`, or with a number when it is taken: names are stable from run to run."""
        name, number = verb, 1
        while name in self._names:
            number += 1
            name = f"{verb}-{number}"
        self._names.add(name)
        return name

    def _claim_name(self, name: str) -> str:
        if not isinstance(name, str) or not name:
            raise PlanError(f"source: expected a name, found {name!r}")
        if name in self._names:
            raise PlanError(f"source: the name {name!r} is taken; give another name=")
        self._names.add(name)
        return name


def _event_time(
    name: str,
    schema: Any,
    column: str,
    out_of_orderness: Duration,
    idle_after: Duration | None,
) -> EventTime:
    what = f"source {name!r}"
    if schema is None:
        raise PlanError(f"{what}: event_time needs a source that knows its columns beforehand")
    if column not in schema.names:
        raise PlanError(f"{what}: no event-time column {column!r}; there are {schema.names}")
    type_ = schema.field(column).type
    if EventTime.tick_ns(type_) is None:
        raise PlanError(
            f"{what}: event-time column {column!r}: expected timestamp or int64 (milliseconds), "
            f"found {type_}; cast it before, or choose one of {_time_columns(schema)}"
        )
    bound_ns = duration_ns(out_of_orderness, f"{what}: out_of_orderness")
    idle_ns = None if idle_after is None else duration_ns(idle_after, f"{what}: idle_after")
    if bound_ns < 0 or (idle_ns is not None and idle_ns <= 0):
        raise PlanError(f"{what}: out_of_orderness and idle_after must not be negative")
    # A bound finer than a tick is rounded up: never more rows late than asked for.
    tick_ns = EventTime.tick_ns(type_) or 1
    return EventTime(
        column,
        type_,
        out_of_orderness=-(-bound_ns // tick_ns),
        idle_after_s=None if idle_ns is None else idle_ns / 1e9,
    )


def _time_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if EventTime.tick_ns(field.type) is not None]


def _wait(handle: JobHandle, bar: ProgressBar) -> JobResult:
    if not bar.is_shown:
        return handle.wait()
    while True:
        try:
            return handle.wait(timeout=_REFRESH_S)
        except GetTimeoutError:
            bar.update(handle.statistics())
