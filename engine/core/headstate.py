"""The head's registry as plain data: for a snapshot, and to compare two of them.

A friend of `core.head`: it reads and writes all of its fields.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from engine.config import Config
from engine.core.control import Checkpoint, CreateActor
from engine.core.head import ActorRecord, HeadMachine
from engine.core.intensity import Deaths
from engine.core.values import Value

__all__ = ["HeadState", "dump", "load"]


class _Story(msgspec.Struct, array_like=True):
    recent: list[tuple[float, int, str]]
    count: int
    by_memory: int


class _Actor(msgspec.Struct, array_like=True):
    create: CreateActor
    state: str
    process: bytes
    pid: int
    watchers: list[bytes]
    restarts_left: int
    name: tuple[str, str] | None
    failure: Value | None
    cause: str
    why_killed: str
    deaths: _Story | None
    checkpoint: Checkpoint | None
    witnesses: list[bytes]
    former: list[bytes]


class HeadState(msgspec.Struct, array_like=True):
    """Everything that a head knows of actors and names."""

    actors: list[_Actor]
    names: list[tuple[str, str, bytes]]
    reserved: list[tuple[bytes, dict[str, Any]]]
    by_process: list[tuple[bytes, bytes]]
    hosts: list[tuple[bytes, bytes]]
    dead: list[bytes]
    tombs: list[tuple[bytes, str]]
    dead_processes: list[tuple[bytes, str]]
    early: list[tuple[bytes, list[bytes]]]
    delayed: list[tuple[float, bytes]]


_PLAIN = ("create", "state", "process", "pid", "restarts_left", "name", "failure", "cause",
          "why_killed", "checkpoint", "former")  # fmt: skip


def dump(head: HeadMachine) -> HeadState:
    """All of it. Shares what does not change with the head: encode it before it goes on."""
    return HeadState(
        [_dump(record) for record in head.actors.values()],
        [(*key, actor) for key, actor in head.names.items()],
        list(head._reserved.items()),
        list(head._by_process.items()),
        list(head._hosts.items()),
        list(head._dead),
        list(head._tombs.items()),
        list(head._dead_processes.items()),
        [(actor, list(watchers)) for actor, watchers in head._early.items()],
        [(when, record.create.id) for when, record in head._delayed],
    )


def _dump(record: ActorRecord) -> _Actor:
    deaths = record.deaths
    story = None
    if deaths is not None:
        story = _Story(list(deaths._recent), deaths.count, deaths.by_memory)
    plain = {name: getattr(record, name) for name in _PLAIN}
    return _Actor(
        **plain, watchers=list(record.watchers), deaths=story, witnesses=list(record.witnesses)
    )


def load(head: HeadMachine, state: HeadState, config: Config) -> None:
    """Give a new head this state."""
    head.actors = {one.create.id: _load(one, config) for one in state.actors}
    head.names = {(namespace, name): actor for namespace, name, actor in state.names}
    head._reserved = dict(state.reserved)
    head._by_process = dict(state.by_process)
    head._hosts = dict(state.hosts)
    head._dead = deque(state.dead)
    head._tombs = dict(state.tombs)
    head._dead_processes = dict(state.dead_processes)
    head._early = {actor: dict.fromkeys(watchers) for actor, watchers in state.early}
    head._delayed = [(when, head.actors[actor]) for when, actor in state.delayed]


def _load(one: _Actor, config: Config) -> ActorRecord:
    record = ActorRecord(one.create)
    for name in _PLAIN:
        setattr(record, name, getattr(one, name))
    record.watchers = dict.fromkeys(one.watchers)
    record.witnesses = dict.fromkeys(one.witnesses)
    if one.deaths is not None:
        record.deaths = Deaths(config.restart_deaths_max, config.restart_window_seconds)
        record.deaths._recent.extend(one.deaths.recent)
        record.deaths.count, record.deaths.by_memory = one.deaths.count, one.deaths.by_memory
    return record
