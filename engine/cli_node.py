"""The command line about nodes that stand: `penstock start`, `stop`, `status`, `list`, `scope`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import engine
from engine.config import Config
from engine.machine import resources_here
from engine.runtime.address import ADDRESS, default_directory, directory_of
from engine.runtime.driver import begin
from engine.runtime.standing import halt, launch
from engine.session import _spill_directory, _store_memory, observe, runtime

__all__ = ["register"]

_console = Console()
_Address = Annotated[
    str,
    typer.Option(
        envvar=ADDRESS,
        help='Which node: "auto" for the one of this host, or what `penstock start` printed.',
    ),
]
_KINDS = ("actors", "jobs", "nodes", "objects", "placement_groups", "tasks", "topologies",
          "workers")  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands to a command line."""
    for command in (start, stop, status):
        app.command()(command)
    app.command("list")(list_)
    scope = typer.Typer(help="Scopes: what outlives the programs that made it.")
    scope.command("ls")(scope_ls)
    scope.command("rm")(scope_rm)
    app.add_typer(scope, name="scope")


def start(
    head: Annotated[
        bool, typer.Option("--head", help="Start the first node (the only one: one host).")
    ] = False,
    num_cpus: Annotated[
        float | None, typer.Option(help="Logical CPUs; default: those usable here.")
    ] = None,
    num_gpus: Annotated[
        float | None, typer.Option(help="GPUs; default: those that the machine shows.")
    ] = None,
    resources: Annotated[
        str | None, typer.Option(help='Further resources as JSON: \'{"disk": 1}\'.')
    ] = None,
    object_store_memory: Annotated[
        int | None, typer.Option(help="Bytes of shared memory at most; default 30 % of all.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Where the node lives; default a private place of this user on this host. Made "
            "if need be, and for you alone (0700).",
        ),
    ] = None,
) -> None:
    """Start a node that stays, for programs that come and go.

    A program connects with engine.init(address="auto"), several at a time. What one has begun ends
    with it, but for detached actors and scopes (engine.detached). Those stay until the node is
    stopped; with --directory a node that starts there next has them again, and after a crash so
    has one without.

    Nobody but you can connect: the node has a Unix socket in a directory that is yours alone, no
    TCP port, and wants the token that lies beside it.

    Example: penstock start --head --num-cpus 4 && python script.py && penstock stop
    """
    if not head:
        _refuse("say --head: several hosts are not there yet, so there is no node to join")
    try:
        named = None if resources is None else json.loads(resources)
        total, devices = resources_here(num_cpus, num_gpus, named)
        config = Config()
        what = begin(
            total,
            _store_memory(object_store_memory),
            _spill_directory(None),
            "default",
            [],
            config,
            devices=devices,
        )
        where = (directory or default_directory()).absolute()
        pid = launch(where, what, config)
    except (ValueError, TypeError, OSError, engine.exceptions.EngineError) as error:
        _refuse(str(error))
    address = "auto" if directory is None else f"unix:{where}"
    typer.echo(f"A node runs in {where} (pid {pid}).")
    typer.echo(f'To connect:  engine.init(address="{address}"), or {ADDRESS}=unix:{where}')
    option = "" if directory is None else f" --address unix:{where}"
    typer.echo(f"To look:     penstock status{option}")
    typer.echo(f"To stop:     penstock stop{option}")


def stop(address: _Address = "auto") -> None:
    """Stop a node, and with it everything that runs on it."""
    try:
        typer.echo(halt(directory_of(address)))
    except OSError as error:
        _refuse(str(error))


def status(address: _Address = "auto") -> None:
    """Show a node: its programs, what is in use, what runs."""
    with _connected(address):
        total, free = engine.cluster_resources(), engine.available_resources()
        (node,) = engine.nodes()
        jobs = engine.state.list_jobs(filters=[("status", "=", "RUNNING")])
        actors = engine.state.list_actors(filters=[("state", "!=", "DEAD")], detail=True)
        scopes, told = engine.list_scopes(), runtime().ask("journal")
    typer.echo(f"node {node['NodeID']} in {directory_of(address)}")
    table = Table("resource", "in use", "of")
    for name in total:
        if name != "object_store_memory":
            table.add_row(name, f"{total[name] - free.get(name, 0.0):,g}", f"{total[name]:,g}")
    used, limit = node["object_store_used"], node["object_store_limit"]
    table.add_row("object store (bytes)", f"{used:,}", f"{limit:,}")
    _console.print(table)
    typer.echo(f"programs: {len(jobs)}")
    for job in jobs:
        typer.echo(f"  pid {job.driver_info['pid']}: {job.entrypoint}")
    typer.echo(f"scopes: {', '.join(scopes) or 'none'}")
    actors = [one for one in actors if one.class_name != "Keeper"]
    detached = sum(one.is_detached for one in actors)
    typer.echo(f"actors: {len(actors)}, {detached} of them detached")
    for one in actors:
        if one.is_detached:
            typer.echo(f"  {one.class_name} {one.name!r} in {one.ray_namespace!r}: {one.state}")
    for text in told:
        typer.echo(f"trouble: {text}")


def scope_ls(address: _Address = "auto") -> None:
    """Show the scopes and what they hold."""
    with _connected(address):
        for name in engine.list_scopes():
            typer.echo(f"{name}: {', '.join(engine.get_scope(name)) or 'empty'}")


def scope_rm(name: str, address: _Address = "auto") -> None:
    """Delete a scope: its values and results go, its actors end."""
    with _connected(address):
        try:
            engine.get_scope(name).delete()
        except ValueError as error:
            _refuse(str(error))


def list_(
    what: Annotated[str, typer.Argument(help=", ".join(_KINDS))],
    address: _Address = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    limit: Annotated[int, typer.Option(help="Records at most.")] = 100,
) -> None:
    """List what a node has: tasks, actors, objects and so on (as `engine.state` does)."""
    if what not in _KINDS:
        _refuse(f"{what!r}: expected one of {', '.join(_KINDS)}")
    with _connected(address):
        found = getattr(engine.state, f"list_{what}")(limit=limit)
    if as_json:
        typer.echo(json.dumps(found, default=str))
        return
    if not found:
        typer.echo(f"no {what}")
        return
    table = Table(*found[0])
    for record in found:
        table.add_row(*(str(value) for value in record.values()))
    _console.print(table)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    try:
        observe(address)
    except OSError as error:
        _refuse(str(error))
    try:
        yield
    finally:
        engine.shutdown()


def _refuse(text: str) -> Any:
    typer.echo(f"penstock: {text}", err=True)
    raise typer.Exit(1)
