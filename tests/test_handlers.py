"""The tool that finds `except` bodies which no test runs: even a killed process has told."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.handlers import MODULE, copy_tree, executed, handlers, marked
from tests.layout import ROOT, sources

CODE = '''"""A module."""

from __future__ import annotations

import os, signal

def divide(n):
    try:
        return 1 // n
    except ZeroDivisionError as error:
        # A comment, and a statement of several lines.
        if n == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    except (TypeError,
            ValueError):
        return None
'''


def test_what_a_killed_process_has_run_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "record"
    record.write_bytes(bytes(2))
    package = tmp_path / "engine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ran.py").write_text(MODULE.format(path=str(record)))
    clauses = [node for node in ast.walk(ast.parse(CODE)) if isinstance(node, ast.ExceptHandler)]
    (package / "code.py").write_text(
        marked(CODE, [(number, node.body[0]) for number, node in enumerate(clauses)])
    )
    command = "from engine.code import divide; divide(1); divide(0)"
    status = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=False)
    assert status.returncode == -signal.SIGKILL
    assert list(executed([("code", 10), ("code", 14)], record).values()) == [True, False]


def test_every_module_can_be_marked(tmp_path: Path) -> None:
    tree, record = tmp_path / "tree", tmp_path / "record"
    found = copy_tree(tree, record)
    assert len(found) == sum(len(list(handlers(path))) for path in sources("engine"))
    assert not any(executed(found, record).values())
    for path in sources("engine"):
        text = (tree / path.relative_to(ROOT)).read_text()
        compile(text, str(path), "exec")
        assert text.count("_except_ran[") == len(list(handlers(path)))
