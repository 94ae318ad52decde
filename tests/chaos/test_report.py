"""RELIABILITY.md says what was measured and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.catalogue import TRIALS
from tests.chaos.promises import PROMISES
from tests.chaos.report import BEGIN, END, PAGE, RESULTS, fill, main
from tests.layout import ROOT


def test_the_table_is_what_the_results_make() -> None:
    assert main(["--check"]) == 0, "run `python -m tests.chaos.report`"


def test_every_promise_has_its_row_and_every_harness_exists() -> None:
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in table.splitlines() if line.startswith("| R")]
    assert [row.split(" ")[1] for row in rows] == [one.name for one in PROMISES]
    assert [one.name for one in PROMISES] == [f"R{number}" for number in range(1, 31)]
    assert all((ROOT / one.file).is_file() for one in TRIALS.values())


def test_a_figure_typed_by_hand_does_not_stay(tmp_path: Path) -> None:
    results = json.loads(RESULTS.read_text())
    page = tmp_path / "page.md"
    page.write_text(fill(f"before\n{BEGIN}{END}after\n", results).replace("held", "always held"))
    assert main(["--page", str(page), "--check"]) == 1
    assert main(["--page", str(page)]) == 0
    assert main(["--page", str(page), "--check"]) == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
