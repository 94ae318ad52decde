"""Jobs that lose processes, inline: files in and out, windows, keyed state; the output is the same.

The same with real processes and real kills is in tests/faults.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.compute import field as col

import streaming as st
from engine.exceptions import TaskError
from engine.topology import Checkpoints, InlineHandle, TopologyError
from streaming.compile import to_topology
from streaming.operator import DATA, PARTIAL
from streaming.operators.window import PreAggregateOperator, WindowSpec
from streaming.running import JobHandle, SinkCommits
from streaming.time import EventTime
from tests.streaming.model import multiset

EVENTS = 3_000
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100)]


def write_input(folder: Path) -> None:
    """Events 1 ms apart, swapped pairwise, in Parquet files of unequal length."""
    numbers = np.arange(EVENTS)
    table = pa.table(
        {
            "id": numbers,
            "k": [f"key {i * 7919 % 40}" for i in range(EVENTS)],
            "v": numbers * 7 % 1000,
            "ts": pa.array(numbers ^ 1, pa.int64()),
        }
    )
    folder.mkdir(exist_ok=True)
    at = 0
    for number, rows in enumerate((1250, 450, 1300)):
        path = folder / f"in-{number}.parquet"
        pq.write_table(table.slice(at, rows), path, row_group_size=150)
        at += rows


def even(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "even": row["id"] % 2 == 0}


def job_of(folder: Path) -> st.Job:
    """Windows by key, a running count, and the rows themselves; all into files."""
    job = st.Job("recovering")
    events = job.source(
        st.read_parquet(folder / "in", batch_rows=50), event_time="ts", out_of_orderness=1
    )
    kept = events.filter(col("v") >= 10)
    windows = kept.key_by("k").window(st.hop("400ms", every="100ms"))
    windows.agg(n=st.count(), top=st.max("v")).sink(
        st.write_parquet(folder / "windows"), name="windows"
    )
    kept.map(even).key_by("even").aggregate(n=st.count(), total=st.sum("v")).sink(
        st.write_json(folder / "totals"), name="totals"
    )
    kept.select("id", "v").sink(st.write_csv(folder / "rows"), name="rows")
    kept.aggregate(n=st.count()).sink(st.collect(), name="count")
    return job


def output_of(folder: Path) -> dict[str, Counter[Any]]:
    """What is visible in the files."""
    hidden = [path.name for path in folder.rglob(".part-*")]
    assert hidden == [], "temporary files are left"
    windows = pq.read_table(folder / "windows")
    lines = [
        line
        for kind in ("totals", "rows")
        for path in sorted((folder / kind).glob("part-*"))
        for line in path.read_text().splitlines()
        if line != '"id","v"'
    ]
    return {"windows": multiset(windows), "lines": Counter(lines)}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[Any]]:
    """The output of an undisturbed run without checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_input(folder / "in")
    result = job_of(folder).run(2, inline=True)
    assert result["count"].to_pylist() == [{"n": sum(i * 7 % 1000 >= 10 for i in range(EVENTS))}]
    return output_of(folder)


def deploy(folder: Path, seed: int, **options: Any) -> tuple[InlineHandle, JobHandle]:
    job = job_of(folder)
    stages = job._stages(2)
    topology = to_topology(job.name, stages, is_inline=True)
    wanted = Checkpoints(directory=folder / "ck", **{"every": None, "restarts": 1000, **options})
    policy = job._policy(stages, wanted, None, None)
    handle = InlineHandle(
        topology, seed=seed, checkpoints=policy, external=SinkCommits(job._sinks)
    )
    return handle, JobHandle(job.name, handle, job._sinks, True)


@pytest.mark.parametrize("seed", [*range(4), *SLOW])
def test_deaths_at_random_moments_change_nothing(
    seed: int, tmp_path: Path, wanted: dict[str, Counter[Any]]
) -> None:
    draw = random.Random(seed)
    write_input(tmp_path / "in")
    inline, handle = deploy(tmp_path, draw.randrange(1000))
    deaths = turns = 0
    certain = draw.randrange(20, 200)
    while inline.run_turn() or not inline._is_done():
        chance = draw.random()
        turns += 1
        if (chance < 0.006 and deaths < 10) or turns == certain:
            deaths += 1
            if draw.random() < 0.3:  # the whole program: nothing is tidied up
                assert inline._coordinator is not None
                inline._coordinator.directory.close()
                inline, handle = deploy(tmp_path, draw.randrange(1000))
            else:
                inline.crash(copy=draw.choice([None, *range(len(inline.loops))]))
        elif chance < 0.02 and inline._coordinator is not None:
            inline._carry_out(inline._coordinator.request(inline._clock()))
    result = handle.wait()
    assert output_of(tmp_path) == wanted
    assert result["count"]["n"].to_pylist() == [sum(i * 7 % 1000 >= 10 for i in range(EVENTS))]
    assert result["rows"].rows == result["count"]["n"][0].as_py()
    assert sorted(result["rows"].files) == sorted(map(str, (tmp_path / "rows").glob("part-*")))
    assert result.late_rows == 0
    assert result.checkpoints is not None
    assert deaths > 0
    assert result.checkpoints.epoch > 1


def test_an_older_epoch_takes_back_what_a_damaged_one_had_made_visible(
    tmp_path: Path, wanted: dict[str, Counter[Any]]
) -> None:
    write_input(tmp_path / "in")
    inline, handle = deploy(tmp_path, 3, keep=3)
    for _ in range(4):
        for _ in range(150):
            inline.run_turn()
        inline.checkpoint()
    handle.stop()
    newest = max((tmp_path / "ck").glob("manifest-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    inline, handle = deploy(tmp_path, 4)
    result = handle.wait()
    assert output_of(tmp_path) == wanted
    assert result.checkpoints is not None
    assert result.checkpoints.damaged == 1


def test_run_resumes_by_itself_and_empties_the_directory(
    tmp_path: Path, wanted: dict[str, Counter[Any]]
) -> None:
    write_input(tmp_path / "in")
    inline, handle = deploy(tmp_path, 5)
    for _ in range(500):
        inline.run_turn()
    inline.checkpoint()
    handle.stop()
    visible = output_of(tmp_path)["lines"]
    assert visible
    result = job_of(tmp_path).run(2, inline=True, checkpoint=tmp_path / "ck", resume=True)
    assert output_of(tmp_path) == wanted
    assert result.checkpoints is not None
    assert result.checkpoints.attempt == 1
    assert list((tmp_path / "ck").glob("manifest-*")) == []
    with pytest.raises(FileExistsError, match="already holds"):
        job_of(tmp_path).run(2, inline=True, checkpoint=f"file://{tmp_path}/ck")


def test_every_and_resume_need_a_directory(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(st.PlanError, match="go with checkpoint=DIRECTORY"):
        job_of(tmp_path).run(2, inline=True, every="1s")
    with pytest.raises(TopologyError, match="expected a path or a file:/// URL"):
        job_of(tmp_path).run(2, inline=True, checkpoint="s3://bucket/ck")


def failing(row: dict[str, Any]) -> dict[str, Any]:
    if row["id"] == 1500 and not os.environ.get("MENDED"):
        raise ValueError("a row that nobody expected")
    return row


def test_a_job_whose_code_was_mended_goes_on_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")

    def job() -> st.Job:
        made = st.Job("mended")
        rows = made.source(st.read_parquet(tmp_path / "in", batch_rows=50))
        rows.map(failing).select("id").sink(st.write_json(tmp_path / "out"))
        return made

    policy = Checkpoints(directory=tmp_path / "ck", every=1e-6)
    with pytest.raises(ValueError, match="nobody expected") as caught:
        job().run(1, inline=True, checkpoint=policy)
    assert isinstance(caught.value, TaskError)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert before
    assert before[0] == "part-00000-00000.json"
    monkeypatch.setenv("MENDED", "1")
    result = job().run(1, inline=True, checkpoint=policy)
    assert result["json"].rows == EVENTS
    ids = Counter(
        line for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()
    )
    assert len(ids) == EVENTS
    assert set(ids.values()) == {1}


def test_a_stopped_job_leaves_no_temporary_files(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    job = job_of(tmp_path)
    topology = to_topology(job.name, job._stages(2), is_inline=True)
    handle = InlineHandle(topology, external=SinkCommits(job._sinks))
    for _ in range(30):
        handle.run_turn()
    assert list(tmp_path.rglob(".part-*"))
    handle.stop()
    assert list(tmp_path.rglob(".part-*")) == []
    assert list(tmp_path.rglob("part-*")) == []


class Pushed:
    """A context of operators that notes nothing."""

    index, parallelism = 0, 1

    def count(self, name: str, n: int = 1) -> None:
        raise AssertionError(name)


def test_the_first_stage_remembers_what_is_late() -> None:
    time = EventTime("ts", pa.int64())
    spec = WindowSpec(("k",), st.tumble(10), {"n": st.count()}, time)
    late = pa.record_batch({"k": ["a"], "ts": pa.array([3], pa.int64())})

    def ports(operator: PreAggregateOperator) -> list[int]:
        seen: list[int] = []
        operator.push = lambda batch, port=0: seen.append(port)  # type: ignore[method-assign]
        operator.on_batch(late, 0)
        return seen

    before = PreAggregateOperator(spec)
    before.on_watermark(25)
    after = PreAggregateOperator(spec)
    after.restore(before.snapshot())
    assert ports(after) == ports(before) == [0]


def test_the_first_stage_that_is_turned_off_stays_so() -> None:
    """A copy that comes back alone has to send what it had sent."""
    time = EventTime("ts", pa.int64())
    spec = WindowSpec(("k",), st.tumble(10_000), {"n": st.count()}, time)
    rows = pa.record_batch({"k": list(map(str, range(2000))), "ts": list(range(2000))})
    seen: list[int] = []
    first, second = PreAggregateOperator(spec), PreAggregateOperator(spec)
    for operator in (first, second):
        operator.push = lambda batch, port=0: seen.append(port)  # type: ignore[method-assign]
    first.on_batch(rows, 0)
    second.restore(first.snapshot())
    first.on_batch(rows, 0)
    second.on_batch(rows, 0)
    assert seen == [PARTIAL, DATA, DATA]


def test_the_row_path_keeps_its_types() -> None:
    from streaming.operators.map import RowMapOperator

    made: list[pa.RecordBatch] = []

    def operator(function: Any) -> RowMapOperator:
        found = RowMapOperator("map", function)
        found.push = lambda batch, port=0: made.append(batch)  # type: ignore[method-assign]
        return found

    first = operator(lambda row: {"x": row["i"] / 2, "n": None})
    first.on_batch(pa.record_batch({"i": [1]}), 0)
    second = operator(lambda row: {"x": row["i"], "n": None})
    second.restore(first.snapshot())
    second.on_batch(pa.record_batch({"i": [2]}), 0)
    assert made[0].schema == made[1].schema
