"""Results against DuckDB: the same events, the published SQL, equal multisets of rows."""

from __future__ import annotations

import duckdb
import pyarrow as pa

import streaming as st
from benchmarks.nexmark.events import Settings
from benchmarks.nexmark.queries import Query, all_bids, build

__all__ = ["differences", "verify"]


def verify(
    query: Query, settings: Settings, size: int, batch_rows: int, parallelism: int, inline: bool
) -> int:
    """Number of result rows; ValueError that shows a difference when there is one."""
    job = build(query, settings, size, batch_rows, st.collect())
    result = job.run(parallelism, inline=inline, progress=False)
    if result.late_rows:
        raise ValueError(f"{query.name}: {result.late_rows} rows were late")
    found = result["out"]
    with duckdb.connect() as connection:
        connection.register("bids", all_bids(settings, size))
        expected = connection.sql(query.sql).to_arrow_table()
    wrong = differences(found, expected)
    if wrong:
        raise ValueError(f"{query.name}: {wrong}")
    return len(expected)


def differences(found: pa.Table, expected: pa.Table) -> str:
    """Empty when both hold the same rows as often, in whatever order; else what is different."""
    names = expected.schema.names
    if found.schema.names != names:
        return f"expected columns {names}, found {found.schema.names}"
    if len(found) != len(expected):
        return f"expected {len(expected)} rows, found {len(found)}"
    order = [(name, "ascending") for name in names]
    ours = found.cast(expected.schema).sort_by(order)
    theirs = expected.sort_by(order)
    for name in names:
        mine, other = ours[name].to_pylist(), theirs[name].to_pylist()
        if mine != other:
            row = next(
                i for i, pair in enumerate(zip(mine, other, strict=True)) if len({*pair}) > 1
            )
            return f"column {name!r}: expected {other[row]!r}, found {mine[row]!r} (row {row})"
    return ""
