"""The benchmark of faults runs and counts what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import faults
from benchmarks.report import read_json


@pytest.mark.processes
def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "faults.json"
    assert faults.main(["--trials", "2", "--kills", "3", "--json", str(path)]) == 0
    kept = read_json(path)
    assert kept["task_kills"]["wrong"] == kept["actor_kills"]["wrong"] == 0
    assert len(kept["actor_kills"]["seconds"]) == 3
    assert "kill -9 under load" in capsys.readouterr().out
