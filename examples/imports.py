"""Who imports whom? Tasks, a stream and a graph over all the Python of this interpreter.

Parallel *tasks* parse every file of the standard library and the installed packages, a *stream*
counts the imports (in all, and by the 30 days their file is from), and the *graph* of modules is
ranked: a module is important if important modules import it.
"""

from __future__ import annotations

import ast
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from rich import print
from rich.table import Table

import engine
import graph
import streaming as st

FILES_PER_TASK = 100
TEXT, TIME = pa.string(), pa.timestamp("us")
COLUMNS = {"importer": TEXT, "imported": TEXT, "package": TEXT, "modified": TIME}


def sources() -> list[tuple[str, str]]:
    """All Python files of this interpreter, each once, with their modules' dotted names."""
    paths, found = sysconfig.get_paths(), {}
    for root in (paths["stdlib"], paths["purelib"], paths["platlib"]):
        for path in Path(root).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if not {"site-packages", "dist-packages"} & set(parts):
                found[str(path)] = ".".join(parts).removesuffix(".__init__")
    return sorted(found.items())


@engine.remote
def find_imports(files: list[tuple[str, str]], known: frozenset[str]) -> tuple[pa.Table, int]:
    """The imports in these files as a table, and how many of the files do not parse."""
    rows, unparsable = [], 0
    for name, module in files:
        path = Path(name)
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):  # templates, and tests of parsers
            unparsable += 1
            continue
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        modified = int(path.stat().st_mtime * 1e6)
        for target in imported_by(tree, package, known):
            rows.append((module, target, target.partition(".")[0], modified))
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return pa.Table.from_pylist(named, schema=pa.schema(COLUMNS)), unparsable


def imported_by(tree: ast.Module, package: str, known: frozenset[str]) -> Iterator[str]:
    """Names of the modules imported; `from a import b` is a.b if there is such a module."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            inner = (f"{module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else module for name in inner)
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, block, ())


def count_imports(imports: pa.Table) -> st.JobResult:
    """Per package: imports in all, and in each 30 days by the date of the importing file."""
    job = st.Job("imports")
    found = st.from_arrow(imports.sort_by("modified"))
    packages = job.source(found, event_time="modified", out_of_orderness="1d").key_by("package")
    packages.aggregate(n=st.count()).sink(st.collect(), name="all")
    packages.window(st.tumble("30d")).agg(n=st.count()).sink(st.collect(), name="by date")
    return job.run(parallelism=2)


def lap(start: float, what: str, amount: int, unit: str) -> float:
    """Say how long a step took that began at `start`, and at what rate; the time now."""
    now = time.perf_counter()
    rate = amount / (now - start)
    print(f"{what:20}{amount:9,} {unit:6}{now - start:6.2f} s{rate:11,.0f} {unit}/s")
    return now


def main() -> None:
    """Parse, count, rank; then the results."""
    engine.init()
    clock = time.perf_counter()
    files = sources()
    known = engine.put(frozenset(module for _, module in files))
    batches = [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    parsed = engine.get([find_imports.remote(batch, known) for batch in batches])
    imports = pa.concat_tables(table for table, _ in parsed)
    clock = lap(clock, "tasks: parse", len(files), "files")
    counts = count_imports(imports)
    clock = lap(clock, "stream: count", imports.num_rows, "rows")
    modules = graph.from_edges(imports["importer"], imports["imported"])
    clock = lap(clock, "graph: build", modules.num_edges, "edges")
    ranks = graph.pagerank(modules)
    clock = lap(clock, "graph: PageRank", modules.num_edges * ranks.supersteps, "edges")
    components = Counter(label for _, label in graph.wcc(modules)).most_common()
    lap(clock, "graph: components", modules.num_edges, "edges")
    engine.shutdown()

    most = [("n", "descending"), ("package", "ascending")]
    total, dated = (counts[name].sort_by(most).to_pylist() for name in ("all", "by date"))
    peak = {row["package"]: row for row in reversed(dated)}
    table = Table("package", "imports", "most in 30 days", "module", "PageRank")
    for row, (module, rank) in zip(total[:10], ranks.top(10), strict=True):
        dates = "{window_start:%Y-%m-%d}: {n:,}".format(**peak[row["package"]])
        table.add_row(row["package"], f"{row['n']:,}", dates, module, f"{rank:.4f}")
    print(table)
    print(f"{modules.num_vertices:,} modules, {components[0][1]:,} of them in the largest of")
    print(f"{len(components)} components; {sum(bad for _, bad in parsed)} files do not parse.")


if __name__ == "__main__":
    main()
