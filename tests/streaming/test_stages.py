"""Fusion, shuffles and pruning, read off the stages."""

from __future__ import annotations

import pyarrow as pa
from pyarrow.compute import field as col

import streaming as st
from streaming.optimise import Needs
from streaming.stages import Stages

SCHEMA = pa.schema([(name, pa.int64()) for name in ("a", "b", "c", "d", "ts")])


def new_job() -> tuple[st.Job, st.Stream]:
    job = st.Job("job")
    return job, job.source(st.from_rows([], schema=SCHEMA), name="rows", event_time="ts")


def source_columns(job: st.Job) -> list[str] | None:
    return Needs(job._sinks).pruned(job._sources[0])


def shape(job: st.Job, parallelism: int) -> list[tuple[str, int, int, int]]:
    """Name, copies, operators and inputs of each stage."""
    stages = Stages(job._sinks, parallelism).stages
    return [(s.name, s.parallelism, len(s.specs), len(s.links)) for s in stages]


def test_forward_operators_are_one_stage() -> None:
    job, rows = new_job()
    rows.filter(col("a") > 1).select("a", "b").map(dict).sink(st.discard())
    assert shape(job, 4) == [("rows", 4, 4, 0)]


def test_a_keyed_step_is_a_shuffle_unless_rows_are_in_place() -> None:
    job, rows = new_job()
    first = rows.key_by("a").window(st.tumble(10)).agg(n=st.count())
    first.key_by("a").aggregate(m=st.max("n")).sink(st.discard(), name="same key")
    first.key_by("a", "n").aggregate(m=st.count()).sink(st.discard(), name="finer key")
    assert shape(job, 2) == [("rows", 2, 2, 0), ("window", 2, 5, 1)]
    first.key_by("n").aggregate(m=st.count()).sink(st.discard(), name="other key")
    assert shape(job, 2)[-1] == ("aggregate-3", 2, 2, 1)
    assert shape(job, 1) == [("rows", 1, 7, 0)]


def test_a_changed_key_is_shuffled_again() -> None:
    job, rows = new_job()
    first = rows.key_by("a").aggregate(n=st.count())
    first.with_columns(a=col("n")).key_by("a").aggregate(m=st.count()).sink(st.discard())
    assert len(shape(job, 2)) == 3


def test_a_union_before_a_shuffle_needs_no_stage() -> None:
    job, rows = new_job()
    both = rows.union(rows.filter(col("a") > 0))
    both.key_by("a").aggregate(n=st.count()).sink(st.discard())
    assert shape(job, 2) == [("rows", 2, 5, 0), ("aggregate", 2, 2, 2)]
    both.sink(st.discard(), name="rows")
    names = {name for name, *_ in shape(job, 2)}
    assert names == {"rows", "aggregate", "union"}


def test_sources_read_what_is_needed_downstream() -> None:
    job, rows = new_job()
    rows.filter(col("a") > 1).select("b").sink(st.discard())
    assert source_columns(job) == ["a", "b"]
    rows.with_columns(x=col("c") + 1, y=col("d")).select("x").sink(st.discard(), name="second")
    assert source_columns(job) == ["a", "b", "c"]
    rows.key_by("d").window(st.tumble(5)).agg(n=st.count()).sink(st.discard(), name="third")
    assert source_columns(job) is None


def test_windows_read_keys_times_and_aggregates_and_all_for_late_rows() -> None:
    job, rows = new_job()
    windows = rows.key_by("a").window(st.tumble(5)).agg(m=st.max("b"))
    windows.sink(st.discard())
    assert source_columns(job) == ["a", "b", "ts"]
    windows.late.sink(st.discard(), name="late")
    assert source_columns(job) is None


def test_functions_read_everything_and_counting_reads_one_column() -> None:
    job, rows = new_job()
    rows.aggregate(n=st.count()).sink(st.discard())
    assert source_columns(job) == ["a"]
    rows.map(dict).select("a").sink(st.discard(), name="second")
    assert source_columns(job) is None


def test_event_time_is_followed_only_for_windows() -> None:
    job, rows = new_job()
    rows.sink(st.discard())
    assert not Needs(job._sinks).uses_time(job._sources[0])
    rows.filter(col("a") > 0).window(st.tumble(1)).agg(n=st.count()).sink(st.discard(), name="w")
    assert Needs(job._sinks).uses_time(job._sources[0])
