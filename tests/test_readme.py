"""The programs in README.md run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.layout import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the programs name: a minute of bids, a small graph."""
    (tmp_path / "bids").mkdir()
    bids = {
        "auction": np.arange(6_000) % 7,
        "price": np.arange(6_000) % 500,
        "date_time": (np.arange(6_000) * 10).astype("datetime64[ms]"),
    }
    pq.write_table(pa.table(bids), tmp_path / "bids" / "1.parquet")
    (tmp_path / "edges.txt").write_text("0 1\n1 2\n2 3\n0 3\n")
    return tmp_path


def run(code: str, folder: Path) -> str:
    """What the program prints, run in `folder`."""
    program = folder / "program.py"
    program.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    done = subprocess.run(
        [sys.executable, "-W", "error", program.name],
        cwd=folder, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_there_is_a_program_for_each_package() -> None:
    assert [re.findall(r"^import (\w+)", block, re.M)[0] for block in BLOCKS] == [
        *("engine", "streaming", "graph")
    ]


@pytest.mark.usefixtures("leak_check")
def test_tasks_and_actors(folder: Path) -> None:
    printed = run(BLOCKS[0], folder).split("\n")
    promised = re.findall(r"# (.+)$", BLOCKS[0], re.M)
    assert printed[:2] == promised


@pytest.mark.usefixtures("leak_check")
def test_a_stream(folder: Path) -> None:
    run(BLOCKS[1], folder)
    hot = pq.read_table(folder / "hot")
    # 60 s of bids are in 34 windows of 10 s that begin every 2 s, for each of 7 auctions.
    assert hot.num_rows == 34 * 7
    assert hot["bids"].to_pylist() == [n for n in hot["bids"].to_pylist() if n > 0]
    assert max(hot["top"].to_pylist()) == 499


@pytest.mark.usefixtures("leak_check")
def test_a_graph(folder: Path) -> None:
    assert run(BLOCKS[2], folder).endswith("{0: 0.0, 1: 1.0, 2: 2.0, 3: 1.0}\n")
