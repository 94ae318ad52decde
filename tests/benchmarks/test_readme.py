"""The README's figures are those of the result files, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import readme, report

TEXT = "a\n<!-- core:begin -->\nold\n<!-- core:end -->\nb\n<!-- demo:begin -->\n<!-- demo:end -->\n"


def test_the_readme_shows_the_results_that_are_kept() -> None:
    assert readme.main(["--check"]) == 0, "run: python -m benchmarks.readme"


def test_tables_machine_and_versions_replace_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_shown", [])
    report.show("rates", ["row", "ours"], [["calls", "1,230"]])
    report.write_json(tmp_path / "core.json", {"versions": {"ray": "2.60.0"}})
    filled = readme.fill(TEXT, tmp_path)
    assert "old" not in filled
    assert "Rates.\n\n| row | ours |\n|---|---:|\n| calls | 1,230 |" in filled
    assert "ray 2.60.0" in filled
    assert filled.startswith("a\n")
    assert filled.endswith("b\n<!-- demo:begin -->\n<!-- demo:end -->\n")
    assert readme.fill(filled, tmp_path) == filled


def test_parts_of_a_benchmark_have_places_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_shown", [])
    report.show("rates", ["row", "ours"], [["calls", "1"]])
    report.show("limits", ["what", "is"], [["time", "2"]], part="limits")
    report.write_json(tmp_path / "core.json", {})
    text = "<!-- core:begin -->\n<!-- core:end -->\n<!-- core/limits:begin -->\n"
    first, second = readme.fill(text + "<!-- core/limits:end -->\n", tmp_path).split("core:end")
    assert "Rates." in first
    assert "Limits." not in first
    assert "Limits." in second
    assert "Rates." not in second


def test_text_is_quoted_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo.txt").write_text("\nfiles  12\n  rows 3  \n")
    assert "```text\nfiles  12\n  rows 3\n```" in readme.fill(TEXT, tmp_path)


def test_a_part_without_results_is_emptied(tmp_path: Path) -> None:
    assert "<!-- core:begin -->\n<!-- core:end -->" in readme.fill(TEXT, tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00123456, "0.00123"), (4.567, "4.57"), (999.4, "999"), (12345, "12,300")],
)
def test_figures_have_three_significant_digits(value: float, text: str) -> None:
    assert report.figure(value) == text


def test_spread_is_median_and_range() -> None:
    assert report.spread([3000, 1000, 2000]) == "2,000 (1,000-3,000)"
    assert report.spread([7.0]) == "7"


def test_percentiles_of_a_known_sample() -> None:
    found = report.percentiles(list(range(1000)), 50, 99, 99.9)
    assert found == {"p50": 500, "p99": 990, "p99.9": 999}
