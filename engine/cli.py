"""The command line: `penstock run`, `bench`, `info`, and what `engine.cli_node` adds."""

from __future__ import annotations

import json
import platform
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

import engine
from engine.cli_node import register

__all__ = ["app", "main"]

app = typer.Typer(
    help="Tasks, actors, streams and graphs on one engine.",
    no_args_is_help=True,
    add_completion=False,
)
register(app)
_console = Console()
_Cpus = Annotated[float | None, typer.Option(help="Logical CPUs; default: those usable here.")]


@app.command()
def info() -> None:
    """Show what the engine would use on this machine."""
    with engine.init() as context:
        table = Table("what", "value")
        table.add_row("penstock", engine.__version__)
        table.add_row("Python", platform.python_version())
        for name, amount in context["resources"].items():
            table.add_row(f"resource {name}", f"{amount:g}")
        limit = engine.nodes()[0]["object_store_limit"]
        table.add_row("memory", f"{psutil.virtual_memory().total:,} bytes")
        table.add_row("object store, at most", f"{limit:,} bytes")
        table.add_row("TCP ports opened", "none")
    _console.print(table)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Python program.")],
    num_cpus: _Cpus = None,
) -> None:
    """Run a program with the engine started: it need not call engine.init().

    What follows the script's name is passed on to it as sys.argv[1:].
    """
    sys.argv = [str(script), *context.args]
    sys.path.insert(0, str(script.resolve().parent))
    with engine.init(num_cpus=num_cpus):
        runpy.run_path(str(script), run_name="__main__")


@app.command()
def bench(
    seconds: Annotated[float, typer.Option(help="Time for each row.")] = 1.0,
    num_cpus: _Cpus = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure calls a second on this machine (the full comparison is in benchmarks/)."""
    rates: dict[str, float] = {}
    with engine.init(num_cpus=num_cpus):
        for name, (calls, once) in _rows().items():
            rates[name] = _rate(calls, once, seconds)
    if as_json:
        typer.echo(json.dumps(rates))
        return
    table = Table("row", "a second")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    _console.print(table)


def _rows() -> dict[str, tuple[int, Callable[[], Any]]]:
    @engine.remote
    def nothing() -> None:
        return None

    @engine.remote
    class Echo:
        def nothing(self) -> None:
            return None

    echo = Echo.remote()  # type: ignore[attr-defined]
    stored = engine.put(0)
    return {
        "tasks, one at a time": (1, lambda: engine.get(nothing.remote())),
        "tasks, 1000 at a time": (
            1000, lambda: engine.get([nothing.remote() for _ in range(1000)])
        ),
        "actor calls, one at a time": (1, lambda: engine.get(echo.nothing.remote())),
        "actor calls, 1000 at a time": (
            1000, lambda: engine.get([echo.nothing.remote() for _ in range(1000)])
        ),
        "get of a small value": (1, lambda: engine.get(stored)),
        "put of a small value": (1, lambda: engine.put(0)),
    }


def _rate(calls: int, once: Callable[[], Any], seconds: float) -> float:
    for _ in range(3):
        once()
    count, start = 0, perf_counter()
    while (spent := perf_counter() - start) < seconds:
        once()
        count += 1
    return calls * count / spent


def main() -> None:
    """Entry point of the `penstock` command."""
    app()
