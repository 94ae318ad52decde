"""Mistakes, each with the error it gives: raised where it is made, naming what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow.compute import field as col

import streaming as st

ROWS = [{"k": "a", "v": 1, "x": 1.5, "l": [1], "ts": 10}, {"k": "b", "v": 2, "x": 2.5, "ts": 20}]


def timed() -> st.Stream:
    return st.Job("job").source(st.from_rows(ROWS), name="rows", event_time="ts")


def untimed() -> st.Stream:
    return st.Job("job").source(st.from_rows(ROWS), name="rows")


def source(**options: Any) -> st.Stream:
    return st.Job("job").source(st.from_rows(ROWS), name="rows", **options)


def twice_the_same_sink() -> None:
    stream = untimed()
    stream.sink(st.collect())
    stream.sink(st.collect(), name="collect")


def union_of_jobs() -> None:
    untimed().union(untimed())


def union_of_columns() -> None:
    stream = untimed()
    stream.union(stream.select("k"))


def union_without_common_time() -> None:
    job = st.Job("job")
    left = job.source(st.from_rows(ROWS), name="left", event_time="ts")
    right = job.source(st.from_rows(ROWS), name="right")
    left.union(right).window(st.tumble(10))


def same_source_name() -> None:
    job = st.Job("job")
    job.source(st.from_rows(ROWS), name="rows")
    job.source(st.from_rows(ROWS), name="rows")


def window_after_aggregate() -> None:
    timed().key_by("k").aggregate(n=st.count()).window(st.tumble(10))


BUILD: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("window without time", lambda: untimed().window(st.tumble("1s")), st.PlanError,
     r"tumble\(1s\) needs event time, but source 'rows' has none: give .*event_time=.* 'ts'\]"),
    ("time dropped", lambda: timed().select("k").window(st.tumble(1)), st.PlanError,
     "select dropped its event-time column 'ts'"),
    ("time lost in union", union_without_common_time, st.PlanError, "'right' of the union"),
    ("time lost in aggregate", window_after_aggregate, st.PlanError, "running aggregate have none"),
    ("time replaced", lambda: timed().with_columns(ts=col("v")), st.PlanError, "watermarks were"),
    ("time column missing", lambda: source(event_time="t"), st.PlanError,
     r"source 'rows': no event-time column 't'; there are \['k', 'v', 'x', 'l', 'ts'\]"),
    ("time of a wrong type", lambda: source(event_time="x"), st.PlanError,
     r"expected timestamp or int64 \(milliseconds\), found double.*\['v', 'ts'\]"),
    ("bound without time", lambda: source(out_of_orderness="1s"), st.PlanError, "need event_time"),
    ("bad bound", lambda: source(event_time="ts", out_of_orderness="soon"), ValueError,
     "source 'rows': out_of_orderness: cannot read 'soon'"),
    ("negative bound", lambda: source(event_time="ts", out_of_orderness=-1), st.PlanError,
     "must not be negative"),
    ("bad duration", lambda: st.tumble("10 parsecs"), ValueError, "size: cannot read '10 parsecs'"),
    ("duration of a wrong type", lambda: st.tumble(1.5), TypeError, "expected a timedelta"),
    ("no size", lambda: st.tumble(0), ValueError, "size must be positive, found 0"),
    ("no every", lambda: st.hop("1s", every="-1s"), ValueError, "every must be positive"),
    ("gaps", lambda: st.hop("1s", every="2s"), ValueError, "must not be larger than size"),
    ("too fine a window", lambda: timed().window(st.tumble("1us")), ValueError,
     "1us is finer than the event-time type int64"),
    ("no shape", lambda: timed().window("10s"), TypeError, "expected tumble"),
    ("filter on a missing column", lambda: timed().filter(col("price") > 1), st.PlanError,
     r"filter: no column 'price' in the rows of 'rows'; there are \['k', 'v', 'x', 'l', 'ts'\]"),
    ("filter that is no predicate", lambda: timed().filter(col("v") + 1), st.PlanError,
     "expected a boolean expression, found .* of type int64"),
    ("filter with a function", lambda: timed().filter(lambda row: True), TypeError,
     "expected an expression of pyarrow.compute"),
    ("types that do not fit", lambda: timed().select(z=pc.add(col("k"), col("v"))), st.PlanError,
     "select: z: add.* does not fit the columns"),
    ("select nothing", lambda: timed().select(), st.PlanError, "expected columns, found none"),
    ("select twice", lambda: timed().select("k", "k"), st.PlanError, "each column once"),
    ("select a missing column", lambda: timed().select("q"), st.PlanError, "select: no column 'q'"),
    ("no new column", lambda: timed().with_columns(), st.PlanError, "found none"),
    ("a constant", lambda: timed().with_columns(one=1), TypeError, "write constants as"),
    ("no function", lambda: timed().map("upper"), TypeError, "map: expected a function"),
    ("no key", lambda: timed().key_by(), st.PlanError, "expected at least one column"),
    ("missing key", lambda: timed().key_by("q"), st.PlanError, "key_by: no column 'q'"),
    ("key twice", lambda: timed().key_by("k", "k"), st.PlanError, "each column once"),
    ("nested key", lambda: timed().key_by("l"), st.PlanError, "type list<.*> cannot be a key"),
    ("no aggregate", lambda: timed().window(st.tumble(1)).agg(), st.PlanError, "such as n=count"),
    ("not an aggregate", lambda: timed().window(st.tumble(1)).agg(n=len), TypeError, "n: expected"),
    ("sum of a text", lambda: timed().window(st.tumble(1)).agg(s=st.sum("k")), TypeError,
     r"s=sum\('k'\): a column of type string has no sum"),
    ("mean of a list", lambda: timed().aggregate(s=st.mean("l")), TypeError, "has no mean"),
    ("max of a list", lambda: timed().aggregate(s=st.max("l")), TypeError, "has no max"),
    ("aggregate of a missing column", lambda: timed().aggregate(s=st.max("q")), st.PlanError,
     r"aggregate: s=max\(q\): no column 'q'"),
    ("aggregate of an expression", lambda: st.sum(col("v") * 2), TypeError, "name of a column"),
    ("result names clash", lambda: timed().key_by("k").window(st.tumble(1)).agg(k=st.count()),
     st.PlanError, "there is a column 'k' already"),
    ("unknown emit", lambda: timed().aggregate(emit="now", n=st.count()), st.PlanError, "'now'"),
    ("union of jobs", union_of_jobs, st.PlanError, "belong to different jobs"),
    ("union of columns", union_of_columns, st.PlanError, "use select to align them"),
    ("union of nothing", lambda: timed().union(), st.PlanError, "expected another stream"),
    ("sink names", twice_the_same_sink, st.PlanError, "there is a sink 'collect' already"),
    ("source names", same_source_name, st.PlanError, "the name 'rows' is taken"),
    ("not a sink", lambda: timed().sink(print), TypeError, "expected a sink such as collect"),
    ("not a source", lambda: st.Job("job").source(ROWS), TypeError, "expected a source such as"),
    ("no source", lambda: st.Job("job").run(), st.PlanError, "job 'job' has no source"),
    ("no name", lambda: st.Job(""), st.PlanError, "expected a name"),
    ("bad parallelism", lambda: _with_sink().run(0), st.PlanError, "expected a positive int"),
    ("no sink", lambda: timed()._job.run(), st.PlanError, "has no sink"),
    ("no rows", lambda: st.from_rows([]), ValueError, "an empty list has no columns"),
    ("rows that are no dicts", lambda: st.from_rows([(1, 2)]), TypeError, "expected dicts"),
    ("rows of a number", lambda: st.from_rows(5), TypeError, "expected a list of dicts"),
    ("arrow of a list", lambda: st.from_arrow([1]), TypeError, "expected Arrow data"),
    ("equal column names", lambda: st.from_arrow(pa.table([[1], [2]], names=["a", "a"])),
     ValueError, r"must be unique, found \['a'\]"),
    ("no files", lambda: st.read_parquet("/nowhere/*.parquet"), FileNotFoundError, "nowhere"),
    ("negative count", lambda: st.generate(dict, count=-1), ValueError, "count must not be"),
    ("no rate", lambda: st.generate(dict, rate=0), ValueError, "rate must be positive"),
    ("no batch", lambda: st.generate(dict, batch_rows=0), ValueError, "batch_rows must be"),
    ("generate what", lambda: st.Job("j").source(st.generate(lambda start, n: n)), TypeError,
     "expected a RecordBatch or a dict of arrays"),
    ("callback of nothing", lambda: st.callback(3), TypeError, "expected a function"),
]  # fmt: skip


def _with_sink() -> st.Job:
    stream = timed()
    stream.sink(st.collect())
    return stream._job


@pytest.mark.parametrize(
    ("make", "kind", "message"), [c[1:] for c in BUILD], ids=[c[0] for c in BUILD]
)
def test_mistakes_when_building(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def no_dict(row: dict[str, Any]) -> Any:
    return row["v"]


def fails(row: dict[str, Any]) -> Any:
    return {"v": 1 // (row["v"] - 2)}


RUN: list[tuple[str, Callable[[st.Stream], st.Stream], type[Exception], str]] = [
    ("map to a number", lambda s: s.map(no_dict), TypeError,
     r"map\(no_dict\): expected a dict from the function, found 1 \(int\) for the row \{'k': 'a'"),
    ("map that fails", lambda s: s.map(fails), ZeroDivisionError, "division"),
    ("flat_map to a dict", lambda s: s.flat_map(lambda row: row), TypeError,
     r"flat_map\(<lambda>\): expected an iterable of dicts"),
    ("flat_map to numbers", lambda s: s.flat_map(lambda row: [1]), TypeError, "expected dicts"),
    ("map_batches to a table", lambda s: s.map_batches(lambda b: pa.table(b)), TypeError,
     r"expected a pyarrow.RecordBatch from the function, found Table"),
    ("types that change", lambda s: s.map(lambda r: {"v": "x" if r["v"] > 1 else 1}), TypeError,
     r"column 'v': expected int64 .*found 'x' in row"),
    ("a given schema", lambda s: s.map(lambda r: {"v": "x"}, schema=pa.schema([("v", "int64")])),
     TypeError, r"expected int64 \(as in the given schema\), found 'x'"),
    ("time lost in a function", lambda s: s.map(lambda r: {"v": 1}).window(st.tumble(1)).agg(
        n=st.count()), KeyError, "event-time column 'ts' is missing"),
    ("time retyped", lambda s: s.map(lambda r: {"ts": str(r["ts"])}).window(st.tumble(1)).agg(
        n=st.count()), TypeError, "event-time column 'ts': expected int64, found string"),
    ("null time", lambda s: s.map(lambda r: {"ts": r["ts"] if r["v"] < 2 else None}).window(
        st.tumble(1)).agg(n=st.count()), ValueError, "is null in the row .* drop such rows first"),
    ("a key that is missing", lambda s: s.map(dict).key_by("q").aggregate(n=st.count()),
     KeyError, "no key column 'q'; the rows have"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message"), [c[1:] for c in RUN], ids=[c[0] for c in RUN])
def test_mistakes_when_running(make: Any, kind: type[Exception], message: str) -> None:
    job = st.Job("job")
    source = st.from_rows(ROWS, batch_rows=1)
    make(job.source(source, name="rows", event_time="ts")).sink(st.collect())
    with pytest.raises(kind, match=message):
        job.run(1, inline=True)


def test_the_error_of_a_row_function_shows_its_row() -> None:
    job = st.Job("job")
    job.source(st.from_rows(ROWS)).map(fails).sink(st.collect())
    with pytest.raises(ZeroDivisionError) as caught:
        job.run(1, inline=True)
    chain: list[BaseException] = [caught.value]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    notes = [note for error in chain for note in getattr(error, "__notes__", ())]
    assert any("map(fails) for the row {'k': 'b', 'v': 2" in note for note in notes), notes


def test_a_failed_job_commits_nothing(tmp_path: Path) -> None:
    job = st.Job("job")
    stream = job.source(st.from_rows(ROWS, batch_rows=1)).map(fails)
    stream.sink(st.write_json(tmp_path / "out"))
    with pytest.raises(ZeroDivisionError):
        job.run(1, inline=True)
    assert not list((tmp_path / "out").glob("part-*"))
