"""CSV and JSON (one object a line) files. Bounded and replayable.

The unit of distribution is the file. Types come from the first block of the first file unless
given; a later value that does not fit is an error naming the file. Seeking back re-reads the file
from its beginning and skips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson

from streaming.sources.base import Reader, Source, plain_batch, plain_schema
from streaming.sources.paths import Paths, find_files, fingerprint_of

__all__ = ["TextSource", "read_csv", "read_json"]

_BLOCK_BYTES = 4 << 20


def read_csv(
    paths: Paths, *, types: Mapping[str, pa.DataType] | None = None, delimiter: str = ","
) -> Source:
    """Rows of CSV files with a header line: a path, a directory, a glob, or a list of them.

    `types` fixes the types of some columns. FileNotFoundError when nothing matches.
    """
    return TextSource(find_files(paths, "read_csv", ".csv"), "csv", dict(types or {}), delimiter)


def read_json(paths: Paths, *, types: Mapping[str, pa.DataType] | None = None) -> Source:
    """Rows of JSON files, one object a line: a path, a directory, a glob, or a list of them.

    `types` fixes the types of some columns. FileNotFoundError when nothing matches.
    """
    return TextSource(find_files(paths, "read_json", ".json"), "json", dict(types or {}), "")


class TextSource(Source):
    """See `read_csv` and `read_json`; the list of files is fixed when the source is made."""

    def __init__(
        self, files: list[Path], kind: str, types: dict[str, pa.DataType], delimiter: str
    ) -> None:
        self._files = files
        self._kind = kind
        self._delimiter = delimiter
        self._types = types
        with self._stream(files[0]) as stream:
            self._schema = plain_schema(stream.schema)
        missing = [name for name in types if name not in self._schema.names]
        if missing:
            raise ValueError(
                f"read_{kind}: types= names {missing}; the file has {self._schema.names}"
            )
        self._types = {field.name: field.type for field in self._schema}

    def schema(self) -> pa.Schema:
        """The columns of the first file."""
        return self._schema

    def open(self, index: int, parallelism: int, columns: Sequence[str] | None) -> Reader:
        """Files index, index + parallelism, ..."""
        return _TextReader(self, self._files[index::parallelism])

    def describe(self) -> str:
        """Kind and number of files."""
        return f"read_{self._kind}, {len(self._files)} files"

    def fingerprint(self) -> str:
        """The files and their sizes."""
        return f"{self.describe()}: {fingerprint_of(self._files)}"

    def batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        """The rows of one file, in the types of the source."""
        try:
            with self._stream(path) as stream:
                for batch in stream:
                    if batch.num_rows:
                        plain = plain_batch(batch)
                        yield plain.select(self._schema.names).cast(self._schema)
        except (pa.ArrowInvalid, KeyError) as error:
            raise ValueError(f"read_{self._kind}: {path}: {error}") from error

    def _stream(self, path: Path) -> Any:
        if self._kind == "csv":
            return pacsv.open_csv(
                path,
                read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                parse_options=pacsv.ParseOptions(delimiter=self._delimiter),
                convert_options=pacsv.ConvertOptions(column_types=self._types),
            )
        schema = pa.schema(list(self._types.items())) if self._types else None
        return pajson.open_json(
            path,
            read_options=pajson.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pajson.ParseOptions(explicit_schema=schema),
        )


class _TextReader(Reader):
    """Position: (files finished, batches read of the next one)."""

    def __init__(self, source: TextSource, files: list[Path]) -> None:
        self._source = source
        self._files = files
        self._file = 0
        self._batches_read = 0
        self._open: Iterator[pa.RecordBatch] | None = None

    def read(self) -> pa.RecordBatch | None:
        while self._file < len(self._files):
            if self._open is None:
                self._open = self._source.batches(self._files[self._file])
            batch = next(self._open, None)
            if batch is not None:
                self._batches_read += 1
                return batch
            self._open = None
            self._file += 1
            self._batches_read = 0
        return None

    def position(self) -> Any:
        return [self._file, self._batches_read]

    def seek(self, position: Any) -> None:
        self._file, self._batches_read = position
        self._open = None
        if self._batches_read:
            self._open = self._source.batches(self._files[self._file])
            for _ in range(self._batches_read):
                next(self._open)
