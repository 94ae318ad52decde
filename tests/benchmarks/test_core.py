"""The core benchmark: every row runs on our side, takes turns properly, and reports honestly."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import core, core_limits, core_profile
from benchmarks.peers import Side, SideFailed
from benchmarks.rows import N_CPU, Rows, Runner

RESULTS: dict[str, Any] = {
    "versions": {"engine": "0.1.0", "ray": "2.60.0", "stdlib": "3.11"},
    "rows": [
        {"row": "a", "unit": "calls/s", "rates": {"engine": [20, 40, 30], "ray": [10, 11, 12]}},
        {"row": "b", "unit": "GB/s", "rates": {"engine": [], "stdlib": [2.0]}},
    ],
    "not_applicable": ["client: get calls"],
}


def test_table_has_medians_ratios_and_what_failed() -> None:
    columns, rows = core.table(RESULTS)
    assert columns == ["row", "unit", "penstock", "ray 2.60.0", "ratio", "stdlib 3.11", "ratio"]
    assert rows[0] == ["a", "calls/s", "30 (20-40)", "11 (10-12)", "2.73", "", ""]
    assert rows[1] == ["b", "GB/s", "failed", "", "", "2", ""]
    assert rows[2][2].startswith("n/a")


class TestRunner:
    """Measuring one row."""

    def rows(self) -> tuple[Rows, list[str]]:
        log: list[str] = []
        rows = Rows()

        @rows.row("ten", batch=10, clients=N_CPU, expect=lambda n: n)
        def _ten(n: int, n_cpu: int) -> Any:
            log.append("set up")
            return lambda: log.append("call") or n

        @rows.row("wrong", expect=lambda n: b"ok")
        def _wrong(n: int, n_cpu: int) -> Any:
            return lambda: b"no"

        return rows, log

    def test_counts_units_and_sets_up_once(self) -> None:
        rows, log = self.rows()
        runner = Runner(rows, n_cpu=3)
        clock = iter(range(1000))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("benchmarks.rows.time.perf_counter", lambda: next(clock))
            rates = [runner.measure("ten", 5.0) for _ in range(2)]
        # One tick a reading: a window of five readings holds five steps of one call.
        assert rates == [10 * 3, 10 * 3]
        assert log.count("set up") == 1

    def test_scale_shrinks_the_batch(self) -> None:
        rows, _ = self.rows()
        seen = []

        @rows.row("seen", batch=1000)
        def _seen(n: int, n_cpu: int) -> Any:
            seen.append(n)
            return lambda: None

        Runner(rows, n_cpu=1, scale=0.01).measure("seen", 0.0)
        assert seen == [10]

    def test_a_wrong_result_is_no_figure(self) -> None:
        rows, _ = self.rows()
        with pytest.raises(ValueError, match="expected b'ok', found b'no'"):
            Runner(rows, n_cpu=1).measure("wrong", 0.0)


class TestSides:
    """Children that answer JSON lines."""

    @contextlib.contextmanager
    def side(self, code: str) -> Iterator[Side]:
        program = f"from benchmarks.peers import serve\ndef answer(r):\n    {code}\nserve(answer)"
        with Side("test", ["-c", program], python=sys.executable) as side:
            yield side

    @pytest.mark.usefixtures("leak_check")
    def test_what_a_child_prints_is_no_answer(self) -> None:
        with self.side("print('noise'); return {'twice': 2 * r['x']}") as side:
            assert [side.ask(x=x)["twice"] for x in (1, 2)] == [2, 4]
            assert "noise" in side.log()

    @pytest.mark.usefixtures("leak_check")
    def test_an_error_is_reported_and_the_child_goes_on(self) -> None:
        with self.side("return {'half': 1 / r['x']}") as side:
            with pytest.raises(SideFailed, match="ZeroDivisionError"):
                side.ask(x=0)
            assert side.ask(x=2) == {"half": 0.5}

    @pytest.mark.usefixtures("leak_check")
    def test_a_death_is_reported_with_its_last_words(self) -> None:
        with (
            self.side(
                "import os, sys; sys.stderr.write('words'); sys.stderr.flush(); os._exit(3)"
            ) as side,
            pytest.raises(SideFailed, match=r"(?s)code 3.*words"),
        ):
            side.ask()


@pytest.mark.usefixtures("leak_check")
def test_every_row_of_ours_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A smoke run: results are checked, rates are not."""
    arguments = ["--parts", "rows", "--rows", "^(?!.*gigabytes)", "--scale", "0.01"]
    arguments += ["--seconds", "0.01"]
    assert core.main([*arguments, "--trials", "1", "--num-cpus", "2"]) == 0
    assert "failed" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("leak_check")
def test_every_limit_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A smoke run of what is quick even so: results are checked, figures are not."""
    arguments = ["--parts", "limits", "--scale", "0.005", "--rows", "^(?!.*(worker|800 MB))"]
    assert core.main(arguments) == 0
    out = capsys.readouterr().out
    assert "failed" not in out
    assert "1,000 idle actors" in out


def test_limits_say_whether_they_are_met() -> None:
    rows = [
        {
            "limit": "start",
            "figures": {"time": [0.4, 0.6, 0.2], "rate": []},
            "bounds": {"time": ("<", 0.5, "s"), "rate": (">", 10.0, "a second")},
        }
    ]
    columns, lines = core_limits.table(rows)
    assert columns == ["what", "must be", "is", "measurements", "met"]
    assert lines[0] == ["start", "< 0.5 s", "0.4 (0.2-0.6)", "3", "yes"]
    assert lines[1] == ["start: rate", "> 10 a second", "failed", "", ""]


@pytest.mark.usefixtures("leak_check")
def test_the_parts_of_a_call_add_up() -> None:
    found = core_profile.measure(0.02)
    assert list(found) == list(core_profile.WORKLOADS)
    for workload in found.values():
        for side in ("driver", "worker"):
            parts = workload[side]["parts"]
            assert sum(parts.values()) == pytest.approx(workload[side]["cpu_us"])
            assert parts["msgspec"] > 0
        assert workload["driver"]["parts"]["bookkeeping (engine.core)"] > 0
    columns, lines = core_profile.table(found)
    assert len(columns) == 5
    assert all(len(line) == 5 for line in lines)
