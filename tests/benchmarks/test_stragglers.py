"""The straggler benchmark: it runs, checks its results, and says how both arms did."""

from __future__ import annotations

import pytest

from benchmarks import stragglers


@pytest.mark.usefixtures("leak_check")
def test_a_smoke_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "30", "--task-ms", "5", "--stop-seconds", "0.5", "--trials", "1"]
    assert stragglers.main(arguments) == 0
    out = capsys.readouterr().out
    assert "30 tasks, 1 of 50 takes 20 x" in out
    assert "one worker stopped" in out
