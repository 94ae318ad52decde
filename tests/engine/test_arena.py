"""The arena against a model: blocks never overlap, neighbours merge, all is free at the end."""

from __future__ import annotations

import itertools
import mmap
import os

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.core.values import Block
from engine.exceptions import ObjectStoreFullError
from engine.store.arena import Arena

SEGMENT_BYTES = 64 * 1024
LIMIT_BYTES = 8 * SEGMENT_BYTES


class _Lender:
    """The node's part: memfds within a limit."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.left = limit
        self.fds: dict[int, int] = {}
        self.sizes: dict[int, int] = {}

    def __call__(self, size: int) -> tuple[int, int, int]:
        if size > self.left:
            raise ObjectStoreFullError(f"{size} bytes do not fit, {self.left} are left")
        self.left -= size
        fd = os.memfd_create("test", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        number = len(self.sizes) + 1
        self.fds[number], self.sizes[number] = fd, size
        return number, os.dup(fd), size

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


class ArenaMachine(RuleBasedStateMachine):
    """Random allocations and frees; the model is the list of live blocks and their content."""

    def __init__(self) -> None:
        super().__init__()
        self.lender = _Lender()
        self.arena = Arena(b"process1", SEGMENT_BYTES, self.lender)
        self.live: list[tuple[Block, bytes]] = []
        self.stamp = 0

    @rule(size=st.one_of(st.integers(0, 300), st.integers(0, 3 * SEGMENT_BYTES)))
    def allocate(self, size: int) -> None:
        try:
            block = self.arena.allocate(size)
        except ObjectStoreFullError:
            assert size > 64, "a tiny block must fit unless the limit is used up"
            return
        assert block.size >= size
        assert block.offset % 64 == 0
        assert block.offset + block.size <= self.lender.sizes[block.segment]
        assert block.holder == b"process1"
        self.stamp = (self.stamp + 1) % 251
        mark = bytes([self.stamp]) * 16
        view = self.arena.view(block)
        view[:16] = mark
        view[-16:] = mark
        self.live.append((block, mark))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        block, mark = self.live.pop(index)
        view = self.arena.view(block)
        assert bytes(view[:16]) == mark, "somebody else wrote into the block"
        assert bytes(view[-16:]) == mark
        del view
        self.arena.free(block)

    @rule()
    def give_up_empty_segments(self) -> None:
        used = {block.segment for block, _ in self.live}
        for segment in self.arena.release_free_segments():
            assert segment not in used
            self.lender.left += self.lender.sizes[segment]
            os.close(self.lender.fds.pop(segment))

    @invariant()
    def blocks_are_disjoint(self) -> None:
        spans = sorted((b.segment, b.offset, b.offset + b.size) for b, _ in self.live)
        for (one, _, end), (other, start, _) in itertools.pairwise(spans):
            assert one != other or end <= start

    @invariant()
    def the_books_are_right(self) -> None:
        assert self.arena.bytes_live == sum(block.size for block, _ in self.live)
        for number, segment in self.arena.segments.items():
            assert segment.used == sum(1 for block, _ in self.live if block.segment == number)

    @invariant()
    def free_neighbours_are_merged(self) -> None:
        for (segment, end), _offset in self.arena._by_end.items():
            assert (segment, end) not in self.arena._by_start

    def teardown(self) -> None:
        for block, _ in self.live:
            self.arena.free(block)
        assert self.arena.bytes_live == 0
        freed = {(segment, size) for size, segment, _ in self.arena._by_size}
        for number in self.arena.segments:
            assert (number, self.lender.sizes[number]) in freed, "one free block a segment"
        self.arena.release_free_segments()
        assert not self.arena.segments
        self.lender.close()


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.fixture
def arena():
    lender = _Lender(1 << 20)
    yield Arena(b"process1", SEGMENT_BYTES, lender)
    lender.close()


def test_a_freed_block_is_given_out_again_warm(arena: Arena) -> None:
    first = arena.allocate(10_000)
    arena.allocate(64)
    arena.free(first)
    assert arena.allocate(10_000) == first


def test_best_fit_takes_the_smallest_hole(arena: Arena) -> None:
    holes = [arena.allocate(size) for size in (8192, 64, 1024, 64, 4096, 64)]
    for hole in holes[::2]:
        arena.free(hole)
    assert arena.allocate(1000).offset == holes[2].offset
    assert arena.allocate(4000).offset == holes[4].offset


def test_freeing_twice_asserts(arena: Arena) -> None:
    block = arena.allocate(100)
    arena.free(block)
    with pytest.raises(AssertionError, match="not allocated here"):
        arena.free(block)


def test_a_block_larger_than_a_segment_gets_one_of_its_own(arena: Arena) -> None:
    block = arena.allocate(3 * SEGMENT_BYTES)
    segment = arena.segments[block.segment]
    assert segment.size == 3 * SEGMENT_BYTES
    assert segment.size % mmap.PAGESIZE == 0


def test_near_the_limit_a_smaller_segment_is_tried() -> None:
    lender = _Lender(8 * 4096)
    arena = Arena(b"process1", SEGMENT_BYTES, lender)
    block = arena.allocate(5000)
    assert lender.sizes[block.segment] == 8192
    with pytest.raises(ObjectStoreFullError):
        arena.allocate(40_000)
    arena.allocate(5000)  # a failure leaves it usable
    lender.close()


def test_a_view_outlives_the_closing_of_its_segment(arena: Arena) -> None:
    block = arena.allocate(1000)
    view = arena.view(block)
    view[:5] = b"hello"
    arena.free(block)
    assert arena.release_free_segments() == [block.segment]
    assert bytes(view[:5]) == b"hello"
