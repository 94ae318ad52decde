"""The examples run as a user runs them, and say what they promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from examples import imports
from tests.layout import ROOT

EXPECTED = {
    "01_tasks": r"pi is about 3\.14",
    "02_actors": r"\d+ of 2000 transfers; total 1000 -> 1000",
    "03_stream_wordcount": r"11,\d+ lines|different words; the most frequent:\n +\d+  object",
    "04_windows": r"4,320 windows, [1-9]\d* late readings",
    "05_pagerank": r"65,536 vertices, 1,048,576 edges",
    "06_vertex_program": r"291 km  Genf",
}


@pytest.mark.processes
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.usefixtures("leak_check")
def test_example(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"examples.{name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert re.search(EXPECTED[name], run.stdout), run.stdout


def test_every_example_is_run_here_and_short() -> None:
    files = {path.stem: path for path in (ROOT / "examples").glob("[0-9]*.py")}
    assert set(files) == set(EXPECTED)
    long = [name for name, path in files.items() if len(path.read_text().splitlines()) > 60]
    assert not long


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("leak_check")
def test_demo() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "examples.imports"],
        cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "graph: PageRank" in run.stdout


@pytest.mark.parametrize(
    ("code", "package", "found"),
    [
        ("import os, a.b as c", "x", ["os", "a.b"]),
        ("from a import b, c", "x", ["a.b", "a"]),
        ("from . import c", "a.d", ["a.d"]),
        ("from .. import b", "a.d", ["a.b"]),
        ("from .e import f", "a.d", ["a.d.e"]),
        ("def f():\n  try:\n    import m\n  except E:\n    import n", "x", ["m", "n"]),
        ("match x:\n  case 1:\n    import m\n  case _:\n    import n", "x", ["m", "n"]),
        ("x = lambda: 1\nif x:\n  pass\nelse:\n  import m", "x", ["m"]),
    ],
)
def test_imports_are_found_wherever_they_stand(code: str, package: str, found: list[str]) -> None:
    known = frozenset({"a", "a.b", "a.d", "a.d.e"})
    assert sorted(imports.imported_by(ast.parse(code), package, known)) == sorted(found)


def test_sources_have_module_names() -> None:
    names = dict(imports.sources())
    assert names[ast.__file__] == "ast"
    assert names[imports.pa.__file__] == "pyarrow"
