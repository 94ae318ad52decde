"""The tidy test: size limits, layers, bans and presence of docs, checked on the source text.

One case a file and rule, so that a failure names the file. What a rule allows by exception stands
in a table with its reason; a table entry that is no longer needed fails too.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layout import (
    LAYERS,
    PACKAGES,
    PROGRAMS,
    ROOT,
    forget,
    imports_of,
    layer_of,
    module_name,
    nodes,
    parse,
    sources,
)

FILE_LINES_MAX = 600
FILE_LINES_GOAL = 500
FILES_ABOVE_GOAL_SHARE_MAX = 0.1
FUNCTION_LINES_MAX = 60
LINE_COLUMNS_MAX = 100

# What the pure core may import besides itself: no time, random, os, socket, threading, pickle.
CORE_IMPORTS = {
    *("__future__", "abc", "bisect", "collections", "collections.abc", "dataclasses", "enum"),
    *("heapq", "math", "msgspec", "operator", "sortedcontainers", "struct", "typing", "zlib"),
}
PURE_ENGINE_MODULES = {"engine.config", "engine.exceptions"}
# The engine's public face for the packages above it.
PUBLIC_MODULES = frozenset({"engine", "engine.topology", "engine.exceptions"})
PICKLE_HOME = "engine/store/codec.py"
PICKLES = ("pickle", "cloudpickle", "_pickle", "marshal", "dill")

# (importing module, imported module) -> why this import may point upwards. Only inside functions.
UPWARD_LAZY: dict[tuple[str, str], str] = {
    ("engine.runtime.zygote", "engine"): "warms up what workers forked from it will have imported",
}
# (file, function) -> why it is longer than the limit.
LONG_FUNCTIONS: dict[tuple[str, str], str] = {}
# Files that read the wall clock -> what for. Decisions are made by monotonic clocks.
WALL_CLOCK: dict[str, str] = {
    "engine/runtime/inventory.py": "times that people read",
    "engine/runtime/jobs.py": "when drivers came and went, for people",
    "engine/runtime/node.py": "when the node was started, for people",
    "engine/runtime/record.py": "when a process was started, for people",
    "engine/runtime/views.py": "times that people read",
    "engine/util/replayed.py": "the time that a replayed actor asks for, and is told again",
}
WALL_CLOCKS = {
    *("time.time", "time.time_ns", "time.localtime", "time.ctime", "datetime.now"),
    *("datetime.utcnow", "datetime.today", "date.today"),
}
_WALL_CLOCK_ENDS = {name.split(".")[1] for name in WALL_CLOCKS}
# Files that print because printing is what they are for.
PRINTERS = ("engine/cli.py", "engine/cli/", "benchmarks/", "examples/")

LIBRARY = sources(*PACKAGES)
CODE = sources(*PACKAGES, *PROGRAMS)
EVERYTHING = sources(*PACKAGES, *PROGRAMS, "tests")


@pytest.fixture(scope="module", autouse=True)
def trees_are_dropped() -> Iterator[None]:
    yield
    forget()


def relative(path: Path) -> str:
    """Path as the repository names it: the id of a case."""
    return path.relative_to(ROOT).as_posix()


def each(files: list[Path]) -> pytest.MarkDecorator:
    """One case a file."""
    return pytest.mark.parametrize("path", files, ids=relative)


def is_script(path: Path) -> bool:
    """Examples and `__main__` are run, not imported: they export nothing."""
    return path.name == "__main__.py" or relative(path).startswith("examples/")


# ---------------------------------------------------------------------------------- layers


@each(CODE)
def test_imports_point_downwards(path: Path) -> None:
    module = module_name(path)
    own = layer_of(module)
    assert own is not None
    wrong = []
    for imported in imports_of(path):
        other = layer_of(imported.module)
        if other is None or other <= own or imported.typing_only:
            continue
        if imported.lazy and (module, imported.module) in UPWARD_LAZY:
            continue
        wrong.append(
            f"line {imported.line}: {LAYERS[own][0]} imports {imported.module} "
            f"of the higher layer {LAYERS[other][0]}"
        )
    assert not wrong, "\n".join(wrong)


@each(sources("streaming", "graph"))
def test_packages_know_only_the_public_engine(path: Path) -> None:
    package = relative(path).split("/")[0]
    for imported in imports_of(path):
        top = imported.module.split(".")[0]
        if top == "engine":
            assert imported.module in PUBLIC_MODULES, f"line {imported.line}: {imported.module}"
        elif top in (*PACKAGES, *PROGRAMS, "tests"):
            assert top == package, f"line {imported.line}: {imported.module}"


@each(sources("engine"))
def test_engine_knows_nothing_above_it(path: Path) -> None:
    above = {"streaming", "graph", "tests", *PROGRAMS}
    for imported in imports_of(path):
        assert imported.module.split(".")[0] not in above, f"line {imported.line}"


@each(sources("engine/core"))
def test_core_is_pure(path: Path) -> None:
    for imported in imports_of(path):
        name = imported.module
        ours = name.startswith("engine.core") or name in PURE_ENGINE_MODULES
        assert ours or name in CORE_IMPORTS, f"line {imported.line}: {name} is not pure"


def test_only_monotonic_clocks_decide() -> None:
    """Whatever reads the wall clock stands in the table, and nothing else does."""
    assert {relative(path) for path in LIBRARY if _wall_clocks(path)} == set(WALL_CLOCK)


def _wall_clocks(path: Path) -> set[str]:
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names}
        elif isinstance(node, ast.Attribute) and node.attr in _WALL_CLOCK_ENDS:
            found.add(".".join(ast.unparse(node).split(".")[-2:]))
    return found & WALL_CLOCKS


@each([path for path in CODE if relative(path) != PICKLE_HOME])
def test_only_the_codec_pickles(path: Path) -> None:
    for imported in imports_of(path):
        assert imported.module.split(".")[0] not in PICKLES, f"line {imported.line}"


def test_upward_imports_in_the_table_exist() -> None:
    found = {
        (module_name(path), imported.module)
        for path in LIBRARY
        for imported in imports_of(path)
        if imported.lazy
    }
    assert set(UPWARD_LAZY) <= found
    assert all(UPWARD_LAZY.values())


# ----------------------------------------------------------------------------------- sizes


@each(EVERYTHING)
def test_file_and_line_lengths(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES_MAX, f"{len(lines)} lines: split the concept"
    long = [number for number, line in enumerate(lines, 1) if len(line) > LINE_COLUMNS_MAX]
    assert not long, f"lines above {LINE_COLUMNS_MAX} columns: {long}"


def test_few_files_exceed_the_goal() -> None:
    above = [relative(path) for path in CODE if _line_count(path) > FILE_LINES_GOAL]
    assert len(above) <= max(1, FILES_ABOVE_GOAL_SHARE_MAX * len(CODE)), above


@each(CODE)
def test_function_lengths(path: Path) -> None:
    long = {
        name: length
        for name, length in _functions(path)
        if length > FUNCTION_LINES_MAX and (relative(path), name) not in LONG_FUNCTIONS
    }
    assert not long


def test_long_functions_in_the_table_are_long() -> None:
    found = {
        (relative(path), name)
        for path in CODE
        for name, length in _functions(path)
        if length > FUNCTION_LINES_MAX
    }
    assert set(LONG_FUNCTIONS) <= found


def _line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function; its docstring is documentation and not counted."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                doc = node.body[0]
                assert doc.end_lineno is not None
                length -= doc.end_lineno - doc.lineno + 1
            yield node.name, length


# ---------------------------------------------------------------------------- documentation


@each(EVERYTHING)
def test_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(parse(path))


@each([path for path in CODE if not is_script(path)])
def test_module_has_an_export_list(path: Path) -> None:
    tree = parse(path)
    exported = _string_list(tree, "__all__")
    assert exported is not None, "no __all__"
    assert len(exported) == len(set(exported)), "a name is listed twice"


@each(LIBRARY)
def test_public_functions_and_classes_have_docstrings(path: Path) -> None:
    missing = []
    exported = set(_string_list(parse(path), "__all__") or ())
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name not in exported:
                continue
            if not ast.get_docstring(node):
                missing.append(node.name)
    assert not missing


def _string_list(tree: ast.Module, name: str) -> list[str] | None:
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = node.value
            assert isinstance(value, ast.List | ast.Tuple), f"{name} is not a plain list"
            return [ast.literal_eval(item) for item in value.elts]
    return None


# ------------------------------------------------------------------------------------ bans


@each([path for path in CODE if not relative(path).startswith(PRINTERS)])
def test_nothing_prints(path: Path) -> None:
    calls = [
        node.lineno
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls, f"print on lines {calls}"


@each(EVERYTHING)
def test_no_loose_ends(path: Path) -> None:
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    lines = path.read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if words.search(line)]
    assert not found, f"loose ends on lines {found}"


@each(CODE)
def test_nothing_is_left_unimplemented(path: Path) -> None:
    # Ray's generators define send, throw and close as refused; ours simply have no such methods.
    found = [
        node.lineno
        for node in nodes(path)
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node)
    ]
    assert not found, f"NotImplementedError on lines {found}"


@each(EVERYTHING)
def test_exceptions_are_named_and_handled(path: Path) -> None:
    wrong = []
    for node in nodes(path):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            wrong.append(f"line {node.lineno}: bare except")
        if all(isinstance(step, ast.Pass) for step in node.body) and not _says_why(path, node):
            wrong.append(f"line {node.lineno}: an error is swallowed without saying why")
    assert not wrong, "\n".join(wrong)


@each(LIBRARY)
def test_errors_that_are_swallowed_or_of_every_kind_say_why(path: Path) -> None:
    """A comment in the clause: where nothing is done about an error, or any error is meant."""
    wrong = []
    for node in nodes(path):
        if not isinstance(node, ast.ExceptHandler):
            continue
        acts = ast.Call | ast.Raise | ast.Assign
        idle = not any(isinstance(step, acts) for step in ast.walk(node))
        broad = {"Exception", "BaseException"} & {
            one.id for one in ast.walk(node.type or node) if isinstance(one, ast.Name)
        }
        if (idle or broad) and not _says_why(path, node):
            wrong.append(f"line {node.lineno}: {', '.join(broad) or 'nothing is done'}")
    assert not wrong, "\n".join(wrong)


def _says_why(path: Path, node: ast.ExceptHandler) -> bool:
    """Whether there is a comment in a clause."""
    last = node.body[-1].end_lineno or node.lineno
    return bool(_comment_lines(path).intersection(range(node.lineno, last + 1)))


@functools.cache
def _comment_lines(path: Path) -> set[int]:
    reader = io.StringIO(path.read_text()).readline
    return {
        token.start[0]
        for token in tokenize.generate_tokens(reader)
        if token.type == tokenize.COMMENT
    }


def _texts() -> list[Path]:
    """Every text file of the repository: what git knows or would add, else all the code."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        return EVERYTHING
    files = sorted({ROOT / line for line in listing.stdout.splitlines()})
    return [path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:4096]]


@each(_texts())
def test_nothing_names_a_machine(path: Path) -> None:
    """No path of somebody's machine, no host of a package index."""
    places = "|".join(("work", "root", "home/[a-z]+", "opt", "mnt"))
    hosts = "|".join(("py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.", "conda" + r"\."))
    pattern = re.compile(rf"(?<![\w.~$)}}\]/-])/({places})/|{hosts}")
    found = [
        f"line {number}: {match.group()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n".join(found)
