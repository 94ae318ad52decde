"""File sinks: Parquet, CSV, JSON (one object a line).

Every copy writes parts of its own into one directory: `part-<copy>-<number>.<suffix>`, one an
epoch in which it had rows. A part is written under a temporary name that begins with "." (readers
of directories skip it), synced to disk, and renamed by `commit`: a visible part is complete.
Exactly once with checkpoints, whatever dies; a job that fails or is stopped leaves no temporary
files, and one whose driver is killed leaves them to the next run, which removes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from engine.topology import CheckpointError
from streaming.rows import to_rows
from streaming.sinks.base import Sink, Writer

__all__ = ["FileSink", "Written", "write_csv", "write_json", "write_parquet"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """What a file sink has written: rows, and the paths of the parts in order of their names."""

    rows: int
    files: tuple[str, ...]


class _Encoder(Protocol):
    def write(self, batch: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


def write_parquet(directory: PathLike, *, compression: str = "zstd") -> Sink:
    """Parquet files in `directory`, which is made if needed and must hold no parts yet."""
    return FileSink(Path(directory), "parquet", compression)


def write_csv(directory: PathLike) -> Sink:
    """CSV files with a header line in `directory`, which must hold no parts yet."""
    return FileSink(Path(directory), "csv", "")


def write_json(directory: PathLike) -> Sink:
    """JSON files, one object a line, in `directory`, which must hold no parts yet.

    Times are written as ISO 8601 texts, binary values are refused.
    """
    return FileSink(Path(directory), "json", "")


class FileSink(Sink):
    """See `write_parquet`, `write_csv`, `write_json`."""

    def __init__(self, directory: Path, kind: str, compression: str) -> None:
        self._directory = directory.absolute()
        self._kind = kind
        self._compression = compression
        self.default_name = kind

    def check(self, schema: pa.Schema | None) -> None:
        """FileExistsError where no directory can be; TypeError for columns CSV cannot hold."""
        if self._directory.exists() and not self._directory.is_dir():
            raise FileExistsError(f"write_{self._kind}: {self._directory} is not a directory")
        if schema is not None and self._kind == "csv":
            nested = [f.name for f in schema if pa.types.is_nested(f.type)]
            if nested:
                raise TypeError(f"write_csv: columns {nested} are nested; use Parquet or JSON")

    def begin(self) -> None:
        """FileExistsError when there are parts already: old and new results would mix."""
        present = sorted(self._directory.glob(f"part-*.{self._kind}"))
        if present:
            raise FileExistsError(
                f"write_{self._kind}: {self._directory} already holds {len(present)} parts "
                f"({present[0].name}, ...); choose an empty directory"
            )

    def open(self, index: int, parallelism: int) -> Writer:
        """Writes the parts of one copy."""
        return _PartWriter(self._directory, self._kind, index, self._encoder)

    def sync(self, token: Any) -> None:
        """Sync the temporary file, and its name.

        Raises CheckpointError when the file cannot be synced. That must not be tried again: the
        kernel takes pages that it could not write for clean, and the next try would succeed without
        them ("fsyncgate", PostgreSQL 2018). A new start writes the rows again.
        """
        try:
            _sync(token[0])
        except OSError as error:
            raise CheckpointError(
                f"expected to sync {token[0]}, found {error}: rows in it may be lost. Start the "
                "job again, with the same checkpoints: it goes on from its last epoch"
            ) from error
        _sync(self._directory)

    def commit(self, token: Any) -> None:
        """Rename the temporary file, durably; when it is gone it has been renamed before.

        But maybe not durably: whoever renamed it may have failed at that.
        """
        temporary, final = token
        if os.path.exists(temporary):
            os.replace(temporary, final)
        _sync(self._directory)

    def abort(self) -> None:
        """Delete temporary files."""
        for path in self._directory.glob(f".part-*.{self._kind}.tmp"):
            path.unlink(missing_ok=True)

    def combine(self, results: Sequence[Written], schema: pa.Schema | None) -> Written:
        """All parts of all copies."""
        files = sorted(path for result in results for path in result.files)
        return Written(sum(result.rows for result in results), tuple(files))

    def describe(self) -> str:
        """The verb and the last part of the path."""
        return f"write_{self._kind}({self._directory.name!r})"

    def _encoder(self, file: pa.NativeFile, schema: pa.Schema) -> _Encoder:
        if self._kind == "parquet":
            encoder: _Encoder = pq.ParquetWriter(file, schema, compression=self._compression)
            return encoder
        return pacsv.CSVWriter(file, schema) if self._kind == "csv" else _JsonEncoder(file)


class _JsonEncoder:
    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file

    def write(self, batch: pa.RecordBatch) -> None:
        lines = (json.dumps(row, default=_json_value) for row in to_rows(batch))
        self._file.write("".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        self._file.flush()


def _json_value(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if type(value).__name__ == "Decimal":
        return str(value)
    raise TypeError(f"write_json: cannot write {value!r} ({type(value).__name__})")


class _PartWriter(Writer):
    def __init__(
        self,
        directory: Path,
        kind: str,
        index: int,
        encoder: Callable[[pa.NativeFile, pa.Schema], _Encoder],
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._index = index
        self._make_encoder = encoder
        self._number = 0
        self._rows = 0
        self._file: pa.NativeFile | None = None
        self._encoder: _Encoder | None = None
        self._schema: pa.Schema | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        if self._encoder is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            # A new file, also where an earlier life of this copy began one: in one process, that
            # one's encoder may write its last words at any time, when it is collected.
            self._temporary().unlink(missing_ok=True)
            self._file = pa.OSFile(str(self._temporary()), "wb")
            self._schema = batch.schema
            self._encoder = self._make_encoder(self._file, batch.schema)
        elif not batch.schema.equals(self._schema):
            raise TypeError(
                f"write_{self._kind}: rows have changed from\n{self._schema}\nto\n{batch.schema}\n"
                f"pass schema= to the map that makes them"
            )
        self._encoder.write(batch)
        self._rows += batch.num_rows

    def prepare(self) -> Any:
        if self._encoder is None or self._file is None:
            return None
        self._encoder.close()
        self._file.close()
        token = [str(self._temporary()), str(self._final(self._number))]
        self._encoder = self._file = None
        self._number += 1
        return token

    def snapshot(self) -> list[int]:
        return [self._number, self._rows]

    def restore(self, state: list[int]) -> None:
        self._number, self._rows = state
        behind = self._number
        while self._final(behind).exists():
            self._final(behind).unlink()
            behind += 1

    def result(self) -> Written:
        files = tuple(str(self._final(number)) for number in range(self._number))
        return Written(self._rows, files)

    def _final(self, number: int) -> Path:
        return self._directory / f"part-{self._index:05d}-{number:05d}.{self._kind}"

    def _temporary(self) -> Path:
        return self._directory / f".part-{self._index:05d}-{self._number:05d}.{self._kind}.tmp"


def _sync(path: PathLike) -> None:
    # Of a directory too: a rename is durable only when the directory entry is.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
