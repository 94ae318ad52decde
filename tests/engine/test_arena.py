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
from engine.store.arena import Arena, Segment

SEGMENT_BYTES = 64 * 1024
LIMIT_BYTES = 8 * SEGMENT_BYTES


class Lender:
    """The node's part: memfds within a limit, brought to an arena when it has no room."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self.left = limit
        self.arena = Arena(b"process1")
        self.sizes: dict[int, int] = {}

    def allocate(self, size: int) -> Block | None:
        block = self.arena.allocate(size)
        if block is not None:
            return block
        wanted = max(SEGMENT_BYTES, (size + mmap.PAGESIZE - 1) & -mmap.PAGESIZE)
        if wanted > self.left:
            return None
        self.left -= wanted
        fd = os.memfd_create("test", os.MFD_CLOEXEC)
        os.ftruncate(fd, wanted)
        number = len(self.sizes) + 1
        self.sizes[number] = wanted
        self.arena.add(Segment(number, fd, wanted))
        return self.arena.allocate(size)

    def view(self, block: Block) -> memoryview:
        segment: Segment = self.arena.segments[block.segment]
        return segment.view(block.offset, block.size)


class ArenaMachine(RuleBasedStateMachine):
    """Random allocations and frees; the model is the list of live blocks and their content."""

    def __init__(self) -> None:
        super().__init__()
        self.lender = Lender()
        self.arena = self.lender.arena
        self.live: list[tuple[Block, bytes]] = []
        self.given_up = 0
        self.stamp = 0

    @rule(size=st.one_of(st.integers(0, 300), st.integers(0, 3 * SEGMENT_BYTES)))
    def allocate(self, size: int) -> None:
        block = self.lender.allocate(size)
        if block is None:
            assert size > 64 or self.given_up, "a tiny block must fit unless the limit is used up"
            return
        assert block.size >= size
        assert block.offset % 64 == 0
        assert block.offset + block.size <= self.lender.sizes[block.segment]
        assert block.holder == b"process1"
        self.stamp = (self.stamp + 1) % 251
        mark = bytes([self.stamp]) * 16
        view = self.lender.view(block)
        view[:16] = mark
        view[-16:] = mark
        self.live.append((block, mark))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        block, mark = self.live.pop(index)
        view = self.lender.view(block)
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

    @rule(enough=st.integers(1, 2 * SEGMENT_BYTES))
    def give_up_pieces(self, enough: int) -> None:
        free = sum(self.lender.sizes[one] for one in self.arena.segments) - self.arena.bytes_live
        for segment, nbytes in self.arena.discard_free_pieces(enough):
            assert nbytes % mmap.PAGESIZE == 0
            assert segment in self.arena.segments
            self.given_up += nbytes
            free -= nbytes
        assert free >= 0, "only free pieces are given up"

    @invariant()
    def blocks_are_disjoint(self) -> None:
        spans = sorted((b.segment, b.offset, b.offset + b.size) for b, _ in self.live)
        for (one, _, end), (other, start, _) in itertools.pairwise(spans):
            assert one != other or end <= start

    @invariant()
    def the_books_are_right(self) -> None:
        assert self.arena.bytes_live == sum(block.size for block, _ in self.live)
        for number, space in self.arena._spaces.items():
            assert space.used == sum(1 for block, _ in self.live if block.segment == number)

    @invariant()
    def free_neighbours_are_merged(self) -> None:
        for space in self.arena._spaces.values():
            assert not space.by_end.keys() & space.by_start.keys()

    def teardown(self) -> None:
        for block, mark in self.live:
            assert bytes(self.lender.view(block)[:16]) == mark
            self.arena.free(block)
        assert self.arena.bytes_live == 0
        if not self.given_up:
            freed = {(segment, size) for size, segment, _ in self.arena._by_size}
            for number in self.arena.segments:
                assert (number, self.lender.sizes[number]) in freed, "one free block a segment"
        self.arena.release_free_segments()
        assert not self.arena.segments
        assert not self.arena._by_size


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.fixture
def lender() -> Lender:
    return Lender(1 << 20)


def test_a_freed_block_is_given_out_again_warm(lender: Lender) -> None:
    first = lender.allocate(10_000)
    assert first is not None
    lender.allocate(64)
    lender.arena.free(first)
    assert lender.allocate(10_000) == first


def test_best_fit_takes_the_smallest_hole(lender: Lender) -> None:
    holes = [lender.allocate(size) for size in (8192, 64, 1024, 64, 4096, 64)]
    for hole in holes[::2]:
        assert hole is not None
        lender.arena.free(hole)
    for size, hole in ((1000, holes[2]), (4000, holes[4])):
        found = lender.allocate(size)
        assert found is not None
        assert hole is not None
        assert found.offset == hole.offset


def test_freeing_twice_asserts(lender: Lender) -> None:
    block = lender.allocate(100)
    assert block is not None
    lender.arena.free(block)
    with pytest.raises(AssertionError, match="not allocated here"):
        lender.arena.free(block)


def test_pieces_given_up_cost_no_memory() -> None:
    """The pages in the middle of a segment go back to the system; the neighbours stay."""
    arena = Arena(b"process1")
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(fd, 1 << 20)
    memory = os.dup(fd)
    segment = Segment(1, fd, 1 << 20)
    arena.add(segment)
    blocks = [block for _ in range(3) if (block := arena.allocate(340_000)) is not None]
    for block in blocks:
        segment.view(block.offset, block.size)[:] = b"x" * block.size
    full = os.fstat(memory).st_blocks * 512
    arena.free(blocks[1])
    ((number, nbytes),) = arena.discard_free_pieces(1)
    assert (number, nbytes) == (1, 335_872)
    assert os.fstat(memory).st_blocks * 512 == full - nbytes
    for block in blocks[::2]:
        assert bytes(segment.view(block.offset, block.size)) == b"x" * block.size
    assert arena.allocate(300_000) is None, "what was given up is not used again"
    os.close(memory)


def test_a_view_outlives_the_closing_of_its_segment(lender: Lender) -> None:
    block = lender.allocate(1000)
    assert block is not None
    view = lender.view(block)
    view[:5] = b"hello"
    lender.arena.free(block)
    assert lender.arena.release_free_segments() == [block.segment]
    assert bytes(view[:5]) == b"hello"
