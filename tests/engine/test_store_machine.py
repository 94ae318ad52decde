"""The node's book of segments: what is left of those whose holder is dead."""

from __future__ import annotations

from typing import Any

from engine.core.control import Census, CensusReply
from engine.core.store import SegmentBook
from engine.core.values import Block

A, B, C = b"process1", b"process2", b"process3"


class Edge:
    """Notes every effect."""

    def __init__(self) -> None:
        self.alive = [A, B, C]
        self.sent: list[tuple[bytes, Any]] = []
        self.memory: set[int] = set()
        self.attached: dict[tuple[bytes, int], tuple[int, int]] = {}
        self.refused: dict[tuple[bytes, int], str] = {}

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append((process, message))

    def members(self) -> list[bytes]:
        return list(self.alive)

    def owners(self, process: bytes) -> list[bytes]:
        return self.members()

    def kept(self, segment: int) -> list[int]:
        """Nothing is kept beyond its owner."""
        return []

    def title(self, process: bytes) -> str:
        return process.decode()

    def create_segment(self, segment: int, size: int) -> None:
        self.memory.add(segment)

    def drop_segment(self, segment: int) -> None:
        self.memory.remove(segment)

    def attach(self, process: bytes, number: int, segment: int, size: int) -> None:
        self.attached[process, number] = (segment, size)

    def refuse(self, process: bytes, number: int, text: str) -> None:
        self.refused[process, number] = text


def made(limit: int = 100) -> tuple[SegmentBook, Edge]:
    edge = Edge()
    return SegmentBook(limit, edge), edge


def test_what_is_given_back_counts_no_longer() -> None:
    book, edge = made()
    one, two = book.lease(A, 60), book.lease(B, 40)
    assert book.used == 100
    assert book.holders() == {A: 60, B: 40}
    book.give_back([two], [(one, 50)])
    assert book.used == 10
    assert book.size(one) == 60, "it is mapped whole"
    assert edge.memory == {one}
    book.give_back([one], [])
    assert book.used == 0


def test_the_numbers_of_two_books_differ() -> None:
    edge = Edge()
    memory, disk = SegmentBook(100, edge), SegmentBook(100, edge, sign=-1)
    assert memory.lease(A, 10) > 0 > disk.lease(A, 10)
    disk.give_back([1, -1], [])
    assert edge.memory == {1}


def test_a_segment_outlives_its_holder_as_long_as_somebody_owns_a_block() -> None:
    book, edge = made()
    book.lease(A, 50)
    edge.alive.remove(A)
    book.on_died(A)
    assert [one for one, message in edge.sent if isinstance(message, Census)] == [B, C]
    book.on_census(B, CensusReply([1], [(1, 0), (1, 64)]))
    book.on_free(Block(1, 0, 64, A))
    book.on_census(C, CensusReply([1], [(1, 128)]))
    assert edge.memory == {1}
    book.on_free(Block(1, 128, 64, A))
    assert edge.memory == {1}
    book.on_free(Block(1, 64, 64, A))
    assert edge.memory == set()
    assert book.used == 0


def test_a_block_freed_before_the_census_was_answered_is_not_counted() -> None:
    book, edge = made()
    book.lease(A, 50)
    edge.alive.remove(A)
    book.on_died(A)
    book.on_free(Block(1, 0, 64, A))  # overtook nothing: B's answer no longer names it
    book.on_census(B, CensusReply([1], []))
    assert edge.memory == {1}, "C has not answered"
    book.on_census(C, CensusReply([1], []))
    assert edge.memory == set()


def test_an_owner_that_dies_during_the_census() -> None:
    book, edge = made()
    book.lease(A, 50)
    edge.alive.remove(A)
    book.on_died(A)
    book.on_census(B, CensusReply([1], []))
    edge.alive.remove(C)
    book.on_died(C)
    assert edge.memory == set()


def test_an_owner_that_dies_after_the_census_lets_its_blocks_go() -> None:
    book, edge = made()
    book.lease(A, 50)
    edge.alive.remove(A)
    book.on_died(A)
    book.on_census(B, CensusReply([1], [(1, 0)]))
    book.on_census(C, CensusReply([1], []))
    assert edge.memory == {1}
    edge.alive.remove(B)
    book.on_died(B)
    assert edge.memory == set()
