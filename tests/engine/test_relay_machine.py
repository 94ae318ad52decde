"""Lines between processes of different nodes, and values read from there."""

from __future__ import annotations

from typing import Any

from engine.core.between import Carry, Gone, Open, Part, Pull
from engine.core.control import WorkerDied
from engine.core.ids import process_id
from engine.core.pulls import Pulls
from engine.core.relay import Relay
from engine.core.values import Block

HERE, THERE = process_id(b"here--", 1), process_id(b"there-", 2)


class Edge:
    """Notes the effects."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.buried: dict[bytes, WorkerDied] = {}
        self.content: bytes | None = bytes(range(10))

    def open_line(self, local: bytes, remote: bytes, pid: int) -> None:
        self.done.append(("open", local, remote, pid))

    def write(self, local: bytes, remote: bytes, frame: bytes) -> None:
        self.done.append(("write", frame))

    def close_line(self, local: bytes, remote: bytes) -> None:
        self.done.append(("close", local, remote))

    def tell_death(self, local: bytes, died: WorkerDied) -> None:
        self.done.append(("death", local, died.process))

    def death_of(self, local: bytes) -> WorkerDied | None:
        return self.buried.get(local)

    def pid_of(self, local: bytes) -> int:
        return 7

    def read(self, block: Block, offset: int, size: int) -> bytes | None:
        return None if self.content is None else self.content[offset : offset + size]

    def piece(self, process: bytes, number: int, data: bytes, left: int) -> None:
        self.done.append(("piece", number, data, left))


def made() -> tuple[Relay, Edge, list[tuple[int, Any]]]:
    sent: list[tuple[int, Any]] = []
    edge = Edge()
    return Relay(edge, lambda number, body: sent.append((number, body))), edge, sent


def test_a_line_carries_frames_both_ways_until_a_death() -> None:
    relay, edge, sent = made()
    relay.connect(HERE, THERE)
    relay.connect(HERE, THERE)
    assert sent == [(2, Open(HERE, THERE, 7))]
    relay.on_frame(HERE, THERE, b"call")
    relay.on_carry(Carry(THERE, HERE, b"answer"))
    assert sent[1:] == [(2, Carry(HERE, THERE, b"call"))]
    relay.on_gone(WorkerDied(THERE, 9, "was killed"))
    assert [what[0] for what in edge.done] == ["open", "write", "close", "death"]
    assert not relay.remotes()
    relay.on_carry(Carry(THERE, HERE, b"late"))
    relay.connect(HERE, THERE)
    assert edge.done[4:] == [("death", HERE, THERE)]


def test_both_may_ask_for_the_same_line_at_once() -> None:
    relay, edge, _sent = made()
    relay.connect(HERE, THERE)
    relay.on_open(2, Open(THERE, HERE, 9))
    assert len(edge.done) == 1


def test_all_nodes_that_know_a_process_hear_of_its_death() -> None:
    relay, _edge, sent = made()
    relay.touched(HERE, 3)
    relay.on_open(2, Open(THERE, HERE, 9))
    died = WorkerDied(HERE, 7, "was killed")
    relay.on_died(died)
    assert sent == [(3, Gone(died)), (2, Gone(died))]
    assert not relay.lines


def test_who_had_a_line_to_the_last_that_died_may_own_what_it_held() -> None:
    relay, _edge, _sent = made()
    other, second = process_id(b"other-", 3), process_id(b"second", 1)
    relay.connect(HERE, THERE)
    relay.connect(HERE, other)
    relay.on_died(WorkerDied(HERE, 7, "was killed"))
    assert relay.remotes() == [THERE, other]
    relay.on_gone(WorkerDied(other, 9, "was killed"))
    assert relay.remotes() == [THERE]
    relay.on_node_down(2)
    assert not relay.remotes()
    relay.connect(HERE, other)
    relay.on_died(WorkerDied(second, 8, "was killed"))
    assert not relay.remotes()


def test_a_line_to_the_dead_is_answered_with_their_death() -> None:
    relay, edge, sent = made()
    edge.buried[HERE] = WorkerDied(HERE, 7, "was killed")
    relay.on_open(2, Open(THERE, HERE, 9))
    assert sent == [(2, Gone(edge.buried[HERE]))]


def test_a_dead_node_closes_its_lines_only() -> None:
    relay, edge, _sent = made()
    other = process_id(b"other-", 3)
    relay.connect(HERE, THERE)
    relay.connect(HERE, other)
    relay.on_node_down(2)
    assert edge.done[2:] == [("close", HERE, THERE)]
    assert relay.remotes() == [other]


def test_values_come_in_parts_and_take_turns() -> None:
    sent: list[tuple[int, Any]] = []
    edge = Edge()
    pulls = Pulls(edge, lambda number, body: sent.append((number, body)), 6)
    block = Block(1, 0, 10, HERE)
    pulls.on_pull(2, Pull(1, block))
    pulls.on_pull(2, Pull(2, Block(1, 0, 3, HERE)))
    room = iter([True, True, True, False])
    pulls.serve(2, lambda: next(room))
    assert [(part.number, part.left) for _, part in sent] == [(1, 4), (2, 0), (1, 0)]
    assert not pulls.serving
    edge.content = None
    pulls.on_pull(2, Pull(3, block))
    pulls.serve(2, lambda: True)
    assert sent[-1] == (2, Part(3, b"", -1))


def test_who_waits_for_a_value_of_a_dead_node_is_told() -> None:
    sent: list[tuple[int, Any]] = []
    edge = Edge()
    pulls = Pulls(edge, lambda number, body: sent.append((number, body)), 6)
    pulls.ask(HERE, 5, Block(1, 0, 10, THERE))
    pulls.ask(HERE, 6, Block(1, 0, 2, THERE))
    pulls.on_part(3, Part(1, b"false", 0))  # of another node than was asked
    pulls.on_part(2, Part(2, b"ab", 0))
    pulls.on_node_down(2)
    assert edge.done == [("piece", 6, b"ab", 0), ("piece", 5, b"", -1)]
    assert not pulls.asked
