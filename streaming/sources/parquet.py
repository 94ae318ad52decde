"""Parquet files. Bounded and replayable.

The unit of distribution is the row group: those of all files, in the order of the sorted paths,
go to the copies in turn. Only the needed columns are read from disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.sources.base import BATCH_ROWS, Reader, Source, plain_batch, plain_schema
from streaming.sources.paths import Paths, find_files, fingerprint_of

__all__ = ["ParquetSource", "read_parquet"]


def read_parquet(paths: Paths, *, batch_rows: int = BATCH_ROWS) -> Source:
    """Rows of Parquet files: a path, a directory, a glob, or a list of them.

    All files must have the columns and types of the first. FileNotFoundError when nothing matches.
    """
    if batch_rows <= 0:
        raise ValueError(f"read_parquet: batch_rows must be positive, found {batch_rows}")
    return ParquetSource(find_files(paths, "read_parquet", ".parquet"), batch_rows)


class ParquetSource(Source):
    """See `read_parquet`; the list of files is fixed when the source is made."""

    def __init__(self, files: list[Path], batch_rows: int) -> None:
        self._files = files
        self._batch_rows = batch_rows
        self._row_groups: list[tuple[int, int]] = []
        self._schema = plain_schema(pq.read_schema(files[0]))
        for position, path in enumerate(files):
            metadata = pq.read_metadata(path)
            found = plain_schema(metadata.schema.to_arrow_schema())
            if not found.equals(self._schema):
                raise ValueError(
                    f"read_parquet: {path} has the columns\n{found}\nbut {files[0]} has\n"
                    f"{self._schema}"
                )
            self._row_groups += [(position, group) for group in range(metadata.num_row_groups)]

    def schema(self) -> pa.Schema:
        """The columns of the files."""
        return self._schema

    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> Reader:
        """Row groups index, index + parallelism, ..."""
        units = [(self._files[f], group) for f, group in self._row_groups[index::parallelism]]
        return _ParquetReader(units, self._batch_rows, columns)

    def describe(self) -> str:
        """Number of files and row groups."""
        return f"read_parquet, {len(self._files)} files, {len(self._row_groups)} row groups"

    def fingerprint(self) -> str:
        """The files and their sizes."""
        return f"{self.describe()}; batches of {self._batch_rows}: {fingerprint_of(self._files)}"


class _ParquetReader(Reader):
    """Position: (row groups finished, batches read of the next one)."""

    def __init__(
        self, units: list[tuple[Path, int]], batch_rows: int, columns: Sequence[str] | None
    ) -> None:
        self._units = units
        self._batch_rows = batch_rows
        self._columns = None if columns is None else list(columns)
        self._unit = 0
        self._batches_read = 0
        self._open: Iterator[pa.RecordBatch] | None = None
        self._file: pq.ParquetFile | None = None

    def read(self) -> pa.RecordBatch | None:
        while self._unit < len(self._units):
            if self._open is None:
                self._open = self._batches()
            batch = next(self._open, None)
            if batch is not None:
                self._batches_read += 1
                return plain_batch(batch)
            self._close_file()
            self._unit += 1
            self._batches_read = 0
        return None

    def position(self) -> Any:
        return [self._unit, self._batches_read]

    def seek(self, position: Any) -> None:
        self._close_file()
        self._unit, skip = position
        self._batches_read = 0
        if skip:
            self._open = self._batches()
            for _ in range(skip):
                next(self._open)
            self._batches_read = skip

    def close(self) -> None:
        self._close_file()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        path, group = self._units[self._unit]
        self._file = pq.ParquetFile(path)
        batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            self._batch_rows, row_groups=[group], columns=self._columns, use_threads=False
        )
        return batches

    def _close_file(self) -> None:
        self._open = None
        if self._file is not None:
            self._file.close()
            self._file = None
