"""The node's book of shared memory: limits, empty segments, the census of a dead holder."""

from __future__ import annotations

from typing import Any

from engine.core.control import Census, CensusReply, ReleaseSegments
from engine.core.store import StoreMachine
from engine.core.values import Block

A, B, C = b"process1", b"process2", b"process3"


class Edge:
    """Notes every effect."""

    def __init__(self) -> None:
        self.alive = [A, B, C]
        self.sent: list[tuple[bytes, Any]] = []
        self.memory: set[int] = set()
        self.attached: dict[tuple[bytes, int], int] = {}
        self.refused: dict[tuple[bytes, int], str] = {}

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def members(self) -> list[bytes]:
        return list(self.alive)

    def create_segment(self, segment: int, size: int) -> None:
        self.memory.add(segment)

    def drop_segment(self, segment: int) -> None:
        self.memory.remove(segment)

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        self.attached[process, number] = segment

    def refuse(self, process: bytes, number: int, text: str) -> None:
        self.refused[process, number] = text


def made(limit: int = 100) -> tuple[StoreMachine, Edge]:
    edge = Edge()
    return StoreMachine(limit, edge), edge


def test_memory_is_given_within_the_limit() -> None:
    store, edge = made()
    store.on_request(A, 1, 60, 0.0)
    store.on_request(B, 1, 40, 0.0)
    assert store.used == 100
    assert set(edge.attached) == {(A, 1), (B, 1)}


def test_short_of_memory_everybody_is_asked_first() -> None:
    store, edge = made()
    store.on_request(A, 1, 60, 0.0)
    store.on_request(B, 1, 60, 0.0)
    asked = [one for one, message in edge.sent if isinstance(message, ReleaseSegments)]
    assert asked == [A, C]
    assert not edge.refused
    store.on_returned(C, [])
    assert not edge.refused
    store.on_returned(A, [edge.attached[A, 1]])
    assert (B, 1) in edge.attached
    assert store.used == 60


def test_refused_when_nobody_has_any_to_give() -> None:
    store, edge = made()
    store.on_request(A, 1, 60, 0.0)
    store.on_request(B, 7, 60, 0.0)
    store.on_returned(A, [])
    store.on_returned(C, [])
    assert "60 bytes do not fit" in edge.refused[B, 7]
    assert "60 of 100 bytes are in use" in edge.refused[B, 7]


def test_what_can_never_fit_is_refused_at_once() -> None:
    store, edge = made()
    store.on_request(B, 1, 101, 0.0)
    assert (B, 1) in edge.refused
    assert not edge.sent


def test_a_process_that_does_not_answer_is_not_waited_for() -> None:
    store, edge = made()
    store.on_request(A, 1, 60, 0.0)
    store.on_request(B, 1, 60, 10.0)
    look = store.tick(10.0)
    assert look is not None
    assert not edge.refused
    store.tick(look)
    assert (B, 1) in edge.refused


def test_the_death_of_one_that_was_asked_counts_as_an_answer() -> None:
    store, edge = made()
    store.on_request(A, 1, 60, 0.0)
    store.on_request(B, 1, 60, 0.0)
    store.on_returned(C, [])
    edge.alive.remove(A)
    store.on_died(A)  # nobody owns anything in its segment
    store.on_census(B, CensusReply([1], []))
    store.on_census(C, CensusReply([1], []))
    assert (B, 1) in edge.attached or (B, 1) in edge.refused
    assert 1 not in edge.memory


def test_a_segment_outlives_its_holder_as_long_as_somebody_owns_a_block() -> None:
    store, edge = made()
    store.on_request(A, 1, 50, 0.0)
    edge.alive.remove(A)
    store.on_died(A)
    assert [one for one, message in edge.sent if isinstance(message, Census)] == [B, C]
    store.on_census(B, CensusReply([1], [(1, 0), (1, 64)]))
    store.on_free(Block(1, 0, 64, A))
    store.on_census(C, CensusReply([1], [(1, 128)]))
    assert edge.memory == {1}
    store.on_free(Block(1, 128, 64, A))
    assert edge.memory == {1}
    store.on_free(Block(1, 64, 64, A))
    assert edge.memory == set()
    assert store.used == 0


def test_a_block_freed_before_the_census_was_answered_is_not_counted() -> None:
    store, edge = made()
    store.on_request(A, 1, 50, 0.0)
    edge.alive.remove(A)
    store.on_died(A)
    store.on_free(Block(1, 0, 64, A))  # overtook nothing: B's answer no longer names it
    store.on_census(B, CensusReply([1], []))
    assert edge.memory == {1}, "C has not answered"
    store.on_census(C, CensusReply([1], []))
    assert edge.memory == set()


def test_an_owner_that_dies_during_the_census() -> None:
    store, edge = made()
    store.on_request(A, 1, 50, 0.0)
    edge.alive.remove(A)
    store.on_died(A)
    store.on_census(B, CensusReply([1], []))
    edge.alive.remove(C)
    store.on_died(C)
    assert edge.memory == set()


def test_an_owner_that_dies_after_the_census_lets_its_blocks_go() -> None:
    store, edge = made()
    store.on_request(A, 1, 50, 0.0)
    edge.alive.remove(A)
    store.on_died(A)
    store.on_census(B, CensusReply([1], [(1, 0)]))
    store.on_census(C, CensusReply([1], []))
    assert edge.memory == {1}
    edge.alive.remove(B)
    store.on_died(B)
    assert edge.memory == set()
