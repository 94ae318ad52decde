"""Demands that find no room on their own node go to one that has some."""

from __future__ import annotations

from typing import Any

from engine.config import Config
from engine.core.between import View
from engine.core.control import LeaseGrant, LeaseRequest
from engine.core.ids import process_id
from engine.core.node import NodeMachine
from engine.core.spillback import Spillback

CONFIG = Config()
OWNER, AWAY = process_id(b"owner-", 1), process_id(b"worker", 2)
SHAPE = b"shape"
ALL = {1: "a", 2: "b", 3: "c"}


class Edge:
    """A node that starts no workers."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def made(cpus: float = 0.0) -> tuple[Spillback, NodeMachine, list[tuple[int, int]]]:
    sent: list[tuple[int, int]] = []
    machine = NodeMachine({"CPU": cpus}, CONFIG, Edge())
    spillback = Spillback(
        machine, CONFIG, lambda number, owner, message: sent.append((number, message.wanted))
    )
    return spillback, machine, sent


def views(two: float, three: float) -> list[View]:
    free = {1: 0.0, 2: two, 3: three}
    return [
        View(number, {"CPU": 40_000}, {"CPU": int(10_000 * cpus)}, 0)
        for number, cpus in free.items()
    ]


def ask(wanted: int) -> LeaseRequest:
    return LeaseRequest(SHAPE, {"CPU": 1.0}, wanted)


def here(machine: NodeMachine) -> int:
    demand = machine.demands.get((OWNER, SHAPE))
    return 0 if demand is None else demand.wanted


def test_what_finds_room_here_stays() -> None:
    spillback, machine, sent = made(4.0)
    spillback.on_views(views(4, 4))
    spillback.on_request(OWNER, ask(2), 0.0)
    spillback.look(ALL, 1, 1.0)
    assert not sent
    assert here(machine) == 2


def test_as_much_goes_as_fits_there() -> None:
    spillback, machine, sent = made()
    spillback.on_views(views(1, 2))
    spillback.on_request(OWNER, ask(5), 0.0)
    spillback.look(ALL, 1, 1.0)
    spillback.look(ALL, 1, 1.0)
    assert sent == [(3, 2), (2, 1)]
    assert here(machine) == 2
    spillback.on_request(OWNER, ask(4), 1.0)
    assert here(machine) == 1, "what is away counts"


def test_a_grant_from_there_is_one_less_to_come() -> None:
    spillback, machine, sent = made()
    spillback.on_views(views(2, 0))
    spillback.on_request(OWNER, ask(2), 0.0)
    spillback.look(ALL, 1, 1.0)
    spillback.on_grant(OWNER, LeaseGrant(SHAPE, AWAY, 7), 1.0)
    spillback.on_request(OWNER, ask(1), 1.0)
    assert here(machine) == 0
    spillback.on_request(OWNER, ask(0), 1.0)
    assert sent == [(2, 2), (2, 0)], "and the rest is called back"


def test_what_nobody_grants_is_called_back_and_may_go_elsewhere() -> None:
    spillback, machine, sent = made()
    spillback.on_views(views(2, 0))
    spillback.on_request(OWNER, ask(2), 0.0)
    spillback.look(ALL, 1, 1.0)
    spillback.on_views(views(0, 2))
    spillback.look(ALL, 1, 1.0 + 5 * CONFIG.lease_quantum_seconds)
    assert sent == [(2, 2), (2, 0), (3, 2)]
    assert here(machine) == 0


def test_what_was_sent_to_a_dead_node_is_wanted_here_again() -> None:
    spillback, machine, _sent = made()
    spillback.on_views(views(2, 0))
    spillback.on_request(OWNER, ask(3), 0.0)
    spillback.look(ALL, 1, 1.0)
    assert here(machine) == 1
    spillback.on_node_down(2, 2.0)
    assert here(machine) == 3
