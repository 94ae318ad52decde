"""A stream: count the words of the Python language reference.

Lines become rows, rows become words, words are counted by key in parallel. `explain()` shows the
processes that the job is run as; the words of one key always meet in the same copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa

import streaming as st

WORD = re.compile(r"[a-z]{4,}")


def words(row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The words of one line, in lower case."""
    for word in WORD.findall(row["line"].lower()):
        yield {"word": word}


def main() -> None:
    """Build the job, show its plan, run it, print the most frequent words."""
    lines = [{"line": line} for text in topics.values() for line in text.splitlines()]

    job = st.Job("word-count")
    counts = (
        job.source(st.from_rows(lines), name="reference")
        .flat_map(words, schema=pa.schema([("word", pa.string())]))
        .key_by("word")
        .aggregate(n=st.count())
    )
    counts.sink(st.collect(), name="counts")

    print(job.explain(parallelism=2))
    table = job.run(parallelism=2)["counts"].sort_by([("n", "descending"), ("word", "ascending")])
    print(f"\n{len(lines):,} lines, {table.num_rows:,} different words; the most frequent:")
    for row in table.slice(0, 8).to_pylist():
        print(f"  {row['n']:6,}  {row['word']}")


if __name__ == "__main__":
    main()
