"""Sources: every row once whatever the number of copies, positions that replay, real files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import streaming as st

TABLE = pa.table({"i": pa.array(range(100), pa.int64()), "s": [f"row {i}" for i in range(100)]})


def counted(start: int, n: int) -> dict[str, Any]:
    numbers = np.arange(start, start + n)
    return {"i": numbers, "s": [f"row {i}" for i in numbers]}


def read_all(reader: st.Reader, limit: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    batches = 0
    while batches != limit and (batch := reader.read()) is not None:
        assert isinstance(batch, pa.RecordBatch)
        rows += batch.to_pylist()
        batches += 1
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table as Parquet (7 row groups in 2 files), CSV and JSON (2 files each)."""
    path = tmp_path_factory.mktemp("files")
    for number, part in enumerate((TABLE.slice(0, 60), TABLE.slice(60))):
        pq.write_table(part, path / f"{number}.parquet", row_group_size=15)
        pacsv.write_csv(part, path / f"{number}.csv")
        lines = "".join(json.dumps(row) + "\n" for row in part.to_pylist())
        (path / f"{number}.json").write_text(lines)
    (path / "_ignored.parquet").write_text("not parquet")
    return path


def all_sources(folder: Path) -> dict[str, st.Source]:
    return {
        "from_rows": st.from_rows(TABLE.to_pylist(), batch_rows=7),
        "from_pandas": st.from_rows(TABLE.to_pandas(), batch_rows=9),
        "from_polars": st.from_rows(pl.DataFrame(TABLE), batch_rows=9),
        "from_arrow": st.from_arrow(TABLE, batch_rows=11),
        "from_reader": st.from_arrow(TABLE.to_reader(13), batch_rows=11),
        "generate": st.generate(counted, count=100, batch_rows=8),
        "read_parquet": st.read_parquet(folder, batch_rows=4),
        "read_csv": st.read_csv(str(folder / "*.csv")),
        "read_json": st.read_json([folder / "0.json", folder / "1.json"]),
    }


KINDS = [
    *("from_rows", "from_pandas", "from_polars", "from_arrow", "from_reader", "generate"),
    *("read_parquet", "read_csv", "read_json"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parallelism", [1, 2, 5])
def test_every_row_once(folder: Path, kind: str, parallelism: int) -> None:
    source = all_sources(folder)[kind]
    schema = source.schema()
    assert schema is not None
    assert schema.names == ["i", "s"]
    rows = []
    for index in range(parallelism):
        reader = source.open(index, parallelism, None)
        rows += read_all(reader)
        reader.close()
    assert sorted(rows, key=lambda row: row["i"]) == TABLE.to_pylist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_position_replays_the_rest(folder: Path, kind: str, taken: int) -> None:
    source = all_sources(folder)[kind]
    first = source.open(0, 2, None)
    read_all(first, taken)
    position = json.loads(json.dumps(first.position()))
    rest = read_all(first)
    second = source.open(0, 2, None)
    second.seek(position)
    assert read_all(second) == rest
    first.close()
    second.close()


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_read_only_the_columns_they_need(folder: Path, kind: str) -> None:
    job = st.Job("columns")
    job.source(all_sources(folder)[kind]).aggregate(total=st.sum("i")).sink(st.collect())
    result = job.run(2, inline=True)
    assert result["collect"].to_pylist() == [{"total": 4950}]
    assert "not read: s" in job.explain()


@settings(max_examples=50, deadline=None)
@given(
    cuts=hs.lists(hs.integers(0, 30), max_size=6),
    batch_rows=hs.integers(1, 40),
    parallelism=hs.integers(1, 4),
)
def test_blocks_of_a_chunked_table(cuts: list[int], batch_rows: int, parallelism: int) -> None:
    chunks = [TABLE.slice(cut, 7) for cut in cuts]
    table = pa.concat_tables(chunks) if chunks else TABLE.slice(0, 0)
    source = st.from_arrow(table, batch_rows=batch_rows)
    readers = [source.open(index, parallelism, ["i"]) for index in range(parallelism)]
    found = sorted(row["i"] for reader in readers for row in read_all(reader))
    assert found == sorted(table["i"].to_pylist())


def test_dictionaries_and_views_become_plain() -> None:
    table = pa.table(
        {
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "v": pa.array(["x", "y"], pa.string_view()),
        }
    )
    source = st.from_arrow(table)
    assert source.schema() == pa.schema([("d", pa.string()), ("v", pa.string())])
    assert read_all(source.open(0, 1, None)) == [{"d": "x", "v": "x"}, {"d": "y", "v": "y"}]


def test_pandas_index_and_times() -> None:
    frame = pd.DataFrame({"ts": pd.to_datetime(["2024-01-01", "2024-01-02"])}, index=[5, 6])
    schema = st.from_rows(frame).schema()
    assert schema is not None
    assert schema.names == ["ts"]
    assert pa.types.is_timestamp(schema.field("ts").type)


def test_generate_gives_only_the_columns_asked_for() -> None:
    asked: list[Sequence[str] | None] = []

    def made(start: int, n: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        asked.append(columns)
        every = {"a": np.arange(start, start + n), "b": np.zeros(n), "c": np.ones(n)}
        return {name: every[name] for name in columns or every}

    job = st.Job("columns")
    source = st.generate(made, count=10)
    job.source(source).select("c", "a").sink(st.collect())
    assert job.run(1, inline=True)["collect"].schema.names == ["c", "a"]
    assert asked[0] is None
    assert asked[-1] == ["a", "c"]


def test_generate_does_not_wait_for_what_was_read_before() -> None:
    reader = st.generate(counted, rate=1.0, batch_rows=10).open(0, 1, None)
    assert isinstance(reader.read(), st.Pause)
    reader.hurry(True)
    assert isinstance(reader.read(), pa.RecordBatch)
    reader.hurry(False)
    assert isinstance(reader.read(), st.Pause)


def test_generate_with_a_rate_is_not_ahead_of_time() -> None:
    reader = st.generate(counted, rate=1e9, batch_rows=10).open(0, 1, None)
    pause = st.generate(counted, rate=10.0).open(0, 1, None).read()
    assert isinstance(pause, st.Pause)
    assert 0 < pause.seconds < 0.2
    assert isinstance(reader, st.Reader)


def test_files_must_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2\.parquet has the columns"):
        st.read_parquet(tmp_path)
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "2.csv").write_text("a\nx\n")
    job = st.Job("files")
    job.source(st.read_csv(tmp_path)).sink(st.collect())
    with pytest.raises(ValueError, match=r"read_csv: .*2\.csv"):
        job.run(1, inline=True)


def test_types_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a;t\n1;2024-01-01 00:00:00\n")
    source = st.read_csv(tmp_path, types={"a": pa.string()}, delimiter=";")
    assert source.schema() == pa.schema([("a", pa.string()), ("t", pa.timestamp("s"))])
    with pytest.raises(ValueError, match=r"types= names \['b'\]"):
        st.read_csv(tmp_path, types={"b": pa.string()})
