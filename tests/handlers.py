"""`python -m tests.handlers [pytest arguments]`: runs the suite, lists `except` bodies never run.

The tests run in a copy of the tree in which each body of an `except` in `engine` begins by setting
a byte of a file that is mapped into every process of the run. A coverage tool would have to save
what it has found when a process ends, but ours are forked, leave by `os._exit`, and are killed with
SIGKILL; a byte in a shared mapping stays, whatever becomes of who has written it. Setting it
needs neither a descriptor nor memory nor a system call, so it works when just these have run out.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.layout import ROOT, parse, sources

__all__ = ["Handler", "copy_tree", "executed", "handlers", "marked"]

Handler = tuple[str, int]  # a file of the tree, and the line of an `except`
PACKAGE = "engine"
# What the copied modules import; they all have this line.
FUTURE = "from __future__ import annotations\n"
MODULE = '''"""One byte for each body of an `except`."""

import mmap

with open({path!r}, "r+b") as file:
    ran = mmap.mmap(file.fileno(), 0)
'''
# These look at the source text, which is not the same in the copy.
_LEFT_OUT = ("tests/test_layout.py", "tests/test_exports.py", "tests/test_handlers.py")
_IGNORED = shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info")


def handlers(path: Path) -> Iterator[ast.ExceptHandler]:
    """The `except` clauses of a file, from top to bottom."""
    found = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
    yield from sorted(found, key=lambda node: node.lineno)


def marked(text: str, bodies: list[tuple[int, ast.stmt]]) -> str:
    """A module's text with a line before each first statement that sets the byte given for it."""
    lines = text.splitlines(keepends=True)
    for number, first in sorted(bodies, key=lambda body: -body[1].lineno):
        lines.insert(first.lineno - 1, f"{' ' * first.col_offset}_except_ran[{number}] = 1\n")
    lines.insert(lines.index(FUTURE) + 1, f"from {PACKAGE}._ran import ran as _except_ran\n")
    return "".join(lines)


def copy_tree(to: Path, record: Path) -> list[Handler]:
    """Copy the tree, with every body marked; a body's place in the list is that of its byte."""
    shutil.copytree(ROOT, to, ignore=_IGNORED)
    found: list[Handler] = []
    for path in sources(PACKAGE):
        name, bodies = path.relative_to(ROOT), []
        for node in handlers(path):
            bodies.append((len(found), node.body[0]))
            found.append((name.as_posix(), node.lineno))
        if bodies:
            (to / name).write_text(marked(path.read_text(), bodies))
    record.write_bytes(bytes(len(found)))
    (to / PACKAGE / "_ran.py").write_text(MODULE.format(path=str(record)))
    return found


def executed(found: list[Handler], record: Path) -> dict[Handler, bool]:
    """Which bodies have run, in order of file and line."""
    return dict(zip(found, map(bool, record.read_bytes()), strict=True))


def main(arguments: list[str]) -> int:
    """Run and report. The exit code is 0 when the tests pass and every body has run."""
    with tempfile.TemporaryDirectory(prefix="handlers-") as folder:
        tree, record = Path(folder) / "tree", Path(folder) / "record"
        found = copy_tree(tree, record)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        left_out = [f"--ignore={path}" for path in _LEFT_OUT]
        code = subprocess.run([*command, *left_out, *arguments], cwd=tree, check=False).returncode
        result = executed(found, record)
    for (path, line), ran in result.items():
        if not ran:
            text = (ROOT / path).read_text().splitlines()[line - 1].strip()
            print(f"{path}:{line}: never run: {text}")
    print(f"{sum(result.values())} of {len(result)} except bodies in {PACKAGE} were run")
    return code or not all(result.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
