"""Graphs from files: edge lists as text, Parquet, Matrix Market."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graph.build import from_edges, from_scipy
from graph.compiled import kernels
from graph.graph import Graph

__all__ = ["read_edges", "read_mtx", "read_parquet"]

Bytes = npt.NDArray[np.uint8]
COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}
CHUNK_BYTES_MIN = 1 << 20
"""Smaller pieces of a file are not worth a thread."""
LINE_BYTES_MIN = 2
"""The shortest line with an id: one digit and the newline."""


def read_edges(
    path: str | os.PathLike[str],
    weighted: bool = False,
    directed: bool = True,
    vertices: str | os.PathLike[str] | None = None,
    comments: str = "#",
) -> Graph:
    """A graph of a text file with one edge a line: ``src dst [weight]``.

    Columns are separated by spaces, tabs or commas; a third column is ignored unless ``weighted``.
    ``comments`` begins a comment up to the line's end. Ids are non-negative integers; where the
    first edge has other ids, all are taken as strings. ``vertices`` names a file with one id a
    line: those are the vertices then, with or without edges. Files ending in .gz, .bz2, .zst, .lz4
    are decompressed. A line that cannot be read raises ``ValueError`` with file, number, text.
    """
    data = _load(path)
    mark = np.frombuffer(comments.encode(), np.uint8)
    columns = 3 if weighted else 2
    if _integer_ids(data, comments):
        src, dst, weight = _parse(path, data, mark, columns)
    else:
        src, dst, weight = _parse_text(path, data, comments, columns)
    known: Any = None
    if vertices is not None:
        known = _vertices(vertices, comments, as_text=isinstance(src, list))
    return from_edges(src, dst, weight, directed, vertices=known)


def read_parquet(
    path: str | os.PathLike[str],
    src: str = "src",
    dst: str = "dst",
    weight: str | None = None,
    directed: bool = True,
) -> Graph:
    """A graph of a Parquet file or a directory of them, from the columns named."""
    import pyarrow.parquet as pq

    names = [src, dst] if weight is None else [src, dst, weight]
    table = pq.read_table(path, columns=names)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ValueError(f"{os.fspath(path)}: no column {', '.join(missing)}")
    weights = None if weight is None else table[weight]
    return from_edges(table[src], table[dst], weights, directed)


def read_mtx(path: str | os.PathLike[str]) -> Graph:
    """A graph of a Matrix Market file: undirected if declared symmetric, vertices 0..n-1.

    Weighted unless the file is of kind ``pattern``. Needs scipy.
    """
    from scipy.io import mminfo, mmread

    *_, kind, symmetry = mminfo(path)
    directed = symmetry == "general"
    matrix = mmread(path, spmatrix=False)
    return from_scipy(matrix, directed=directed, weighted=kind != "pattern")


def _load(path: str | os.PathLike[str]) -> Bytes:
    """The bytes of the file: mapped, or decompressed into memory."""
    name = os.fspath(path)
    if Path(name).suffix in COMPRESSED:
        with pa.input_stream(name, compression="detect") as stream:
            return np.frombuffer(stream.read(), np.uint8)
    with pa.memory_map(name) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def _integer_ids(data: Bytes, comments: str) -> bool:
    """Whether the first line with an edge begins with two integers (of either sign)."""
    at = 0
    while at < data.size:
        end = at + (1 << 16)
        for line in data[at:end].tobytes().split(b"\n"):
            tokens = _split(line, comments)
            if tokens:
                return all(t.removeprefix("-").isdigit() for t in tokens[:2])
        at = end
    return True


def _parse(path: Any, data: Bytes, mark: Bytes, columns: int) -> tuple[Any, Any, Any]:
    """All columns of a file with integer ids; pieces of the file are parsed side by side."""
    parse = kernels("parse").parse
    cuts = _cuts(data)

    def piece(begin: int, stop: int) -> tuple[Any, ...]:
        room = (stop - begin) // (LINE_BYTES_MIN * min(columns, 2)) + 1
        src, dst = np.empty(room, np.int64), np.empty(room if columns > 1 else 0, np.int64)
        extra = room if columns == 3 else 0
        weight, row = np.empty(extra), np.empty(extra, np.int64)
        at = np.empty(2 * extra, np.int64)
        rows, late, wrong = parse(data, begin, stop, mark, columns, src, dst, weight, row, at)
        if wrong >= 0:
            _complain(path, data, wrong, columns)
        if late:
            weight[row[:late]] = _late(path, data, at[: 2 * late], columns)
        return src[:rows], dst[:rows], weight[:rows]

    with ThreadPoolExecutor(len(cuts)) as pool:
        pieces = list(pool.map(piece, cuts[:-1], cuts[1:])) if data.size else [piece(0, 0)]
    src, dst, weight = map(np.concatenate, zip(*pieces, strict=True))
    return src, dst, weight if columns == 3 else None


def _cuts(data: Bytes) -> list[int]:
    """Positions that cut the file into pieces of whole lines, one a CPU."""
    threads = len(os.sched_getaffinity(0))
    pieces = max(1, min(threads, data.size // CHUNK_BYTES_MIN))
    cuts = [0]
    for i in range(1, pieces):
        at = data.size * i // pieces
        while at < data.size and data[at - 1] != 10:
            at += 1
        cuts.append(max(at, cuts[-1]))
    return [*cuts, data.size]


def _late(path: Any, data: Bytes, ends: npt.NDArray[np.int64], columns: int) -> Any:
    """Weights that need correct rounding of long decimals, or that are no numbers at all.

    ``ends`` are first and last position of each token: as offsets of a string column over the
    file's own bytes they make every second string a token, and Arrow parses them in one go.
    """
    bytes_of = pa.py_buffer(data)
    column = pa.LargeStringArray.from_buffers(ends.size - 1, pa.py_buffer(ends), bytes_of)
    tokens = column.take(pa.array(np.arange(0, ends.size, 2)))
    try:
        values = tokens.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:  # a wrong token, or a spelling that only Python knows
        values = np.array([_float(token) for token in tokens.to_pylist()])
    wrong = np.flatnonzero(np.isnan(values))
    if wrong.size:
        _complain(path, data, int(ends[2 * wrong[0]]), columns)
    return values


def _float(token: str) -> float:
    """The number, or NaN where it is none."""
    try:
        return float(token)
    except ValueError:
        return float("nan")


def _complain(path: Any, data: Bytes, position: int, columns: int) -> None:
    """Raise for the line at this position of the file."""
    number = int(np.count_nonzero(data[:position] == 10)) + 1
    begin = position
    while begin > 0 and data[begin - 1] != 10:
        begin -= 1
    line = data[begin : begin + 200].tobytes().split(b"\n")[0].decode(errors="replace").strip()
    form = {1: "a vertex id", 2: "src dst", 3: "src dst weight"}[columns]
    raise ValueError(
        f"{os.fspath(path)}, line {number}: expected '{form}' with non-negative integer ids"
        f"{' and a number as weight' if columns == 3 else ''}, found {line!r}"
    )


def _parse_text(
    path: Any, data: Bytes, comments: str, columns: int
) -> tuple[list[str], list[str], list[float] | None]:
    """A file whose ids are strings, line by line."""
    src: list[str] = []
    dst: list[str] = []
    weight: list[float] = []
    for number, line in enumerate(data.tobytes().split(b"\n"), 1):
        tokens = _split(line, comments)
        if not tokens:
            continue
        try:
            if not columns <= len(tokens) <= 3:
                raise ValueError(f"{len(tokens)} columns")
            if columns == 3:
                weight.append(float(tokens[2]))
        except ValueError as error:
            form = "src dst weight" if columns == 3 else "src dst"
            text = line.decode(errors="replace").strip()
            raise ValueError(
                f"{os.fspath(path)}, line {number}: expected '{form}', found {text!r}"
            ) from error
        src.append(tokens[0])
        dst.append(tokens[1])
    return src, dst, weight if columns == 3 else None


def _split(line: bytes, comments: str) -> list[str]:
    """The tokens of a line before its comment."""
    tokens = line.decode(errors="replace").replace(",", " ").split()
    for i, token in enumerate(tokens):
        if comments and token.startswith(comments):
            return tokens[:i]
    return tokens


def _vertices(path: Any, comments: str, as_text: bool) -> Any:
    """The ids in a vertex file."""
    data = _load(path)
    if as_text:
        lines = data.tobytes().split(b"\n")
        return [tokens[0] for tokens in (_split(line, comments) for line in lines) if tokens]
    ids, _, _ = _parse(path, data, np.frombuffer(comments.encode(), np.uint8), 1)
    return ids
