"""Sinks with real files and a real standard output."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import streaming as st
from engine.topology import CheckpointError
from streaming.sinks.files import Written

TABLE = pa.table(
    {
        "i": pa.array(range(50), pa.int64()),
        "s": [f'text "{i}"\n' for i in range(50)],
        "t": pa.array(range(50), pa.timestamp("ms")),
    }
)


def run_into(sink: st.Sink, parallelism: int = 2, **options: Any) -> Any:
    job = st.Job("sink")
    job.source(st.from_arrow(TABLE, batch_rows=7)).sink(sink, name="out", **options)
    return job.run(parallelism, inline=True)["out"]


def by_number(table: pa.Table) -> list[dict[str, Any]]:
    return table.sort_by("i").to_pylist()


def test_parquet(tmp_path: Path) -> None:
    written = run_into(st.write_parquet(tmp_path / "out"))
    assert isinstance(written, Written)
    assert written.rows == 50
    names = [Path(path).name for path in written.files]
    assert names == ["part-00000-00000.parquet", "part-00001-00000.parquet"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert by_number(pq.read_table(tmp_path / "out")) == TABLE.to_pylist()


def test_csv(tmp_path: Path) -> None:
    written = run_into(st.write_csv(tmp_path))
    parse = pacsv.ParseOptions(newlines_in_values=True)
    tables = [pacsv.read_csv(path, parse_options=parse) for path in written.files]
    found = pa.concat_tables(tables).select(["i", "s"])
    assert by_number(found) == TABLE.select(["i", "s"]).to_pylist()


def test_json(tmp_path: Path) -> None:
    written = run_into(st.write_json(tmp_path))
    lines = [
        json.loads(line) for path in written.files for line in Path(path).read_text().splitlines()
    ]
    assert sorted(row["i"] for row in lines) == list(range(50))
    assert next(row for row in lines if row["i"] == 3) == {
        "i": 3,
        "s": 'text "3"\n',
        "t": "1970-01-01T00:00:00.003000",
    }


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run_into(st.write_parquet(tmp_path))
    job = st.Job("again")
    job.source(st.read_parquet(tmp_path)).sink(st.collect())
    assert by_number(job.run(3, inline=True)["collect"]) == TABLE.to_pylist()


def test_old_parts_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    run_into(st.write_parquet(tmp_path))
    with pytest.raises(FileExistsError, match="already holds 2 parts"):
        run_into(st.write_parquet(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is not a directory"):
        run_into(st.write_csv(tmp_path / "file"))


def test_nested_columns_are_refused_by_csv(tmp_path: Path) -> None:
    job = st.Job("nested")
    with pytest.raises(TypeError, match=r"columns \['l'\] are nested"):
        job.source(st.from_rows([{"l": [1]}])).sink(st.write_csv(tmp_path))


def test_prepare_commit_abort(tmp_path: Path) -> None:
    sink = st.write_parquet(tmp_path)
    writer = sink.open(3, 4)
    tokens = []
    for _ in range(2):
        writer.write(TABLE.to_batches()[0])
        tokens.append(json.loads(json.dumps(writer.prepare())))
    assert writer.prepare() is None
    assert not list(tmp_path.glob("part-*"))
    for token in tokens:
        sink.sync(token)
    sink.commit(tokens[0])
    sink.commit(tokens[0])
    sink.abort()
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["part-00003-00000.parquet"]


def prepared(folder: Path) -> tuple[st.Sink, Any]:
    """A sink with one part that is written and not synced."""
    sink = st.write_parquet(folder)
    writer = sink.open(0, 1)
    writer.write(TABLE.to_batches()[0])
    return sink, writer.prepare()


def test_what_could_not_be_synced_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would say yes to a second sync, without the pages that it could not write."""
    sink, token = prepared(tmp_path)

    def fails(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        with pytest.raises(CheckpointError, match=r"Input/output error: rows in it may be lost"):
            sink.sync(token)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_commit_whose_sync_failed_is_synced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, token = prepared(tmp_path)
    sink.sync(token)
    synced: list[int] = []

    def fails_once(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails_once)
    with pytest.raises(OSError, match="No space left"):
        sink.commit(token)
    sink.commit(token)
    assert len(synced) == 2
    assert by_number(pq.read_table(tmp_path)) == TABLE.to_pylist()


def test_changed_columns_are_refused(tmp_path: Path) -> None:
    writer = st.write_parquet(tmp_path).open(0, 1)
    writer.write(pa.record_batch({"a": [1]}))
    with pytest.raises(TypeError, match="rows have changed"):
        writer.write(pa.record_batch({"a": ["x"]}))


def test_collect_keeps_columns_when_there_are_no_rows() -> None:
    job = st.Job("empty")
    job.source(st.from_arrow(TABLE.slice(0, 0))).sink(st.collect())
    table = job.run(2, inline=True)["collect"]
    assert table.schema == TABLE.schema
    assert len(table) == 0


def test_discard_and_callback_count() -> None:
    seen: list[int] = []
    assert run_into(st.discard()) == 50
    assert run_into(st.callback(lambda batch: seen.extend(batch["i"].to_pylist()))) == 50
    assert sorted(seen) == list(range(50))


def test_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_into(st.print(limit=2), parallelism=1) == 50
    assert capsys.readouterr().out.startswith("{'i': 0, 's': 'text \"0\"\\n', 't': datetime")
    assert run_into(st.print(limit=0)) == 50
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="must not be negative"):
        st.print(limit=-1)
