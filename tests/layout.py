"""What the layout tests know about the tree: files, imports and the table of layers.

Everything here reads source text with `ast`; nothing of the project is imported, so a broken
module is reported by its own tests and not by a collection error here.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    *("LAYERS", "ROOT", "Import", "forget", "imports_of", "layer_of", "module_name", "nodes"),
    *("parse", "sources"),
]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engine", "streaming", "graph")
PROGRAMS = ("benchmarks", "examples")

# Bottom to top. A module belongs to the row with the longest prefix of its name and may import
# its own row and those above it in this list (that is: lower layers).
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("foundation", ("engine.exceptions", "engine.config")),
    ("core", ("engine.core",)),
    ("edges", ("engine.store", "engine.wire")),
    ("runtime", ("engine.runtime",)),
    (
        "calls",
        (
            *("engine.session", "engine.signatures", "engine.functions", "engine.actor"),
            *("engine.api", "engine.context", "engine.generators", "engine.state"),
            *("engine.options", "engine.runtime_env", "engine.strategies", "engine.scheduling"),
            *("engine.machine", "engine.arguments", "engine.logs", "engine.keeper"),
            "engine.scopes",
        ),
    ),
    ("topology", ("engine.topology",)),
    ("public", ("engine",)),
    ("packages", ("streaming", "graph")),
    ("programs", PROGRAMS),
)


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, as a dotted name, and how it is imported."""

    module: str
    line: int
    lazy: bool  # inside a function: runs when the function is called
    typing_only: bool  # under `if TYPE_CHECKING`: never runs


def sources(*roots: str) -> list[Path]:
    """Python files under the given top-level folders, sorted; a missing folder has none."""
    return sorted(
        path
        for root in roots
        for path in (ROOT / root).rglob("*.py")
        if "__pycache__" not in path.parts
    )


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree: every rule looks at them."""
    return list(ast.walk(parse(path)))


def module_name(path: Path) -> str:
    """`engine/core/ids.py` -> `engine.core.ids`; a package's `__init__` has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int | None:
    """Index of a module's row in LAYERS, None for modules from elsewhere."""
    best: tuple[int, int] | None = None
    for index, (_, prefixes) in enumerate(LAYERS):
        for prefix in prefixes:
            if module == prefix or module.startswith(prefix + "."):
                best = max(best or (0, 0), (len(prefix), index))
    return best[1] if best else None


@functools.cache
def imports_of(path: Path) -> list[Import]:
    """All imports of a file; `from package import name` names the submodule if it is one."""
    return list(_walk(parse(path), path, lazy=False, typing_only=False))


def forget() -> None:
    """Let go of all trees: every garbage collection would walk through them."""
    for cached in (parse, nodes, imports_of):
        cached.cache_clear()


def _walk(node: ast.AST, path: Path, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, lazy, typing_only)
        elif isinstance(child, ast.ImportFrom):
            for name in _targets(child, path):
                yield Import(name, child.lineno, lazy, typing_only)
        elif isinstance(child, ast.If) and _is_typing_guard(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), path, lazy=lazy, typing_only=True)
            for statement in child.orelse:
                yield from _walk(
                    ast.Module([statement], []), path, lazy=lazy, typing_only=typing_only
                )
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, path, lazy=lazy or inside, typing_only=typing_only)


def _is_typing_guard(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _targets(node: ast.ImportFrom, path: Path) -> set[str]:
    """Modules that `from base import a, b` makes available."""
    base = node.module or ""
    if node.level:
        package = module_name(path).split(".")
        if path.name != "__init__.py":
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, base] if base else package)
    return {
        f"{base}.{alias.name}" if _is_module(f"{base}.{alias.name}") else base
        for alias in node.names
    }


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
