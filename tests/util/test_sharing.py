"""Arrow values read in place by processes that have pyarrow and nothing of ours."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.util import share_arrow
from tests.engine.support import bytes_live, eventually

TABLE = pa.table(
    {
        "n": pa.array([None if i % 3 == 0 else i for i in range(50_000)]),
        "s": pa.array([f"text {i}" for i in range(50_000)]),
        "d": pa.array(["a", "b", None, "c", "a"] * 10_000).dictionary_encode(),
    }
)

# What the docstring says, in a process of its own. It tells what it has read, whether the buffers
# lie inside the mapping of the shared file, and which modules it has imported.
FOREIGN = """
import hashlib, json, os, sys
import pyarrow

path, offset = sys.argv[1], int(sys.argv[2])
source = pyarrow.memory_map(path)
source.seek(offset)
table = pyarrow.ipc.open_stream(source).read_all()

inode = os.stat(path).st_ino
spans = []
with open("/proc/self/maps") as maps:
    for line in maps:
        fields = line.split()
        if int(fields[4]) == inode:
            spans.append([int(end, 16) for end in fields[0].split("-")])
def inside(buffer):
    return any(low <= buffer.address and buffer.address + buffer.size <= high
               for low, high in spans)
buffers = [b for column in table.columns for chunk in column.chunks
           for b in chunk.buffers() if b is not None and b.size]
sink = pyarrow.BufferOutputStream()
with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
print(json.dumps({
    "digest": hashlib.sha256(sink.getvalue()).hexdigest(),
    "rows": table.num_rows,
    "in_place": all(inside(b) for b in buffers),
    "buffers": len(buffers),
    "ours": [name for name in sys.modules if name.split(".")[0] == "engine"],
}))
"""


def read_elsewhere(share: Any, folder: Path) -> dict[str, Any]:
    """What a process without the engine finds."""
    script = folder / "foreign.py"
    script.write_text(FOREIGN)
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script), share.path, str(share.offset)],
        cwd=folder, capture_output=True, text=True, env=environment, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ours"] == []
    return found


def digest(table: pa.Table) -> str:
    import hashlib

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def test_another_process_reads_a_table_in_place(cluster: Any, tmp_path: Path) -> None:
    ref = cluster.put(TABLE)
    with share_arrow(ref) as share:
        found = read_elsewhere(share, tmp_path)
        assert share.kind == "table"
        assert share.size > 1_000_000
    assert found["digest"] == digest(TABLE)
    assert found["in_place"]
    assert found["buffers"] >= 6


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (TABLE.to_batches()[0], "batch"),
        (TABLE["n"].chunk(0), "array"),
        (TABLE["s"], "chunked"),
        (TABLE.slice(10, 20), "table"),  # small: it has to be brought into shared memory
        (TABLE.slice(10, 20).to_batches()[0], "batch"),
    ],
    ids=["batch", "array", "chunked", "small", "small batch"],
)
def test_every_kind(cluster: Any, tmp_path: Path, value: Any, kind: str) -> None:
    with share_arrow(cluster.put(value)) as share:
        assert share.kind == kind
        found = read_elsewhere(share, tmp_path)
    assert found["rows"] == len(value)
    assert found["in_place"]


def test_a_result_of_a_task(cluster: Any, tmp_path: Path) -> None:
    @cluster.remote
    def make() -> pa.Table:
        return pa.table({"x": np.arange(100_000)})

    with share_arrow(make.remote()) as share:
        found = read_elsewhere(share, tmp_path)
    assert found["digest"] == digest(pa.table({"x": np.arange(100_000)}))
    assert found["in_place"]


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_numpy_array(cluster: Any, size: int) -> None:
    array = np.arange(2.0 * size).reshape(2, size)
    with share_arrow(cluster.put(array)) as share:
        assert share.kind == "ndarray"
        assert share.size == array.nbytes
        found = np.memmap(share.path, share.dtype, "r", share.offset, share.shape)
        assert np.array_equal(found, array)
        del found
    with share_arrow(cluster.put(np.asfortranarray(array))) as share:
        found = np.memmap(share.path, share.dtype, "r", share.offset, share.shape)
        assert np.array_equal(found, array)
        del found


def test_what_is_shared_stays_until_it_is_closed(cluster: Any, tmp_path: Path) -> None:
    before = bytes_live()
    ref = cluster.put(TABLE)
    share = share_arrow(ref)
    del ref
    others = [cluster.put(np.full(1 << 20, 9, np.uint8)) for _ in range(5)]
    assert read_elsewhere(share, tmp_path)["digest"] == digest(TABLE)
    del others
    assert bytes_live() > before
    share.close()
    share.close()
    assert "closed" in repr(share)
    assert bytes_live() == before
    assert not os.path.exists(share.path)


def test_a_share_that_is_forgotten_ends(cluster: Any) -> None:
    before = bytes_live()
    share = share_arrow(cluster.put(TABLE))
    path = share.path
    del share
    gc.collect()
    eventually(lambda: not os.path.exists(path))
    assert bytes_live() == before


@pytest.mark.parametrize("value", [3, "text", [TABLE], np.array([{}, 2], dtype=object)])
def test_other_values_are_refused(cluster: Any, value: Any) -> None:
    ref = cluster.put(value)
    with pytest.raises(TypeError, match="share_arrow: the object is a"):
        share_arrow(ref)


def test_only_references_are_taken(cluster: Any) -> None:
    with pytest.raises(TypeError, match="share_arrow takes an ObjectRef, not a Table"):
        share_arrow(TABLE)  # type: ignore[arg-type]


def test_the_error_of_a_task_is_raised(cluster: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise ValueError("no table")

    with pytest.raises(ValueError, match="no table"):
        share_arrow(fail.remote())
