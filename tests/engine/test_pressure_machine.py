"""Who gets memory when there is not enough: asking, spilling, waiting, refusing."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.config import Config
from engine.core.control import MemoryEased, ReleaseSegments, SegmentsReturned
from engine.core.pressure import AT_ALL, AT_ONCE, IF_SOON, Pressure
from engine.core.store import SegmentBook
from tests.engine.test_store_machine import A, B, C, Edge

PAGE = 4096
CONFIG = Config(store_wait_seconds=10.0, store_patience_seconds=0.2, spill_batch_bytes=0)


class Book:
    """The machine with its edge, and short ways to speak to it."""

    def __init__(self, pages: int = 100, config: Config = CONFIG, reserve: int = 0) -> None:
        self.edge = Edge()
        self.book = SegmentBook(pages * PAGE, self.edge, reserve=reserve * PAGE)
        self.machine = Pressure(self.book, self.edge, config)
        self.numbers = 0

    def ask(
        self,
        process: bytes,
        pages: int,
        hurry: int = IF_SOON,
        now: float = 0.0,
        recovery: bool = False,
    ) -> int:
        self.numbers += 1
        size = pages * PAGE
        self.machine.on_request(process, self.numbers, size, size, hurry, now, recovery)
        return self.numbers

    def answer(self, process: bytes, now: float = 0.0, **given: Any) -> None:
        """Answer the oldest question to a process."""
        question = self.questions(process)[0]
        self.edge.sent.remove((process, question))
        report = SegmentsReturned(given.pop("segments", []), answer=question.number, **given)
        self.machine.on_report(process, report, now)

    def questions(self, process: bytes) -> list[ReleaseSegments]:
        sent = self.edge.sent
        return [
            one for who, one in sent if who == process and isinstance(one, ReleaseSegments)
        ]

    def granted(self, process: bytes, number: int) -> bool:
        return (process, number) in self.edge.attached

    def refused(self, process: bytes, number: int) -> str:
        return self.edge.refused.get((process, number), "")


def test_memory_is_given_within_the_limit() -> None:
    book = Book()
    assert book.granted(A, book.ask(A, 60))
    assert book.granted(B, book.ask(B, 40))
    assert book.book.used == 100 * PAGE
    assert not book.edge.sent


def test_near_the_limit_less_is_given_than_wished_for() -> None:
    book = Book()
    book.ask(A, 60)
    book.machine.on_request(B, 7, PAGE, 64 * PAGE, IF_SOON, 0.0)
    assert book.edge.attached[B, 7][1] == 40 * PAGE


def test_the_reserve_is_for_what_was_lost() -> None:
    book = Book(reserve=10)
    segments = [book.edge.attached[A, book.ask(A, 50)][0] for _ in range(2)]
    waits = book.ask(B, 5, AT_ALL)
    assert not book.granted(B, waits)
    assert book.granted(C, book.ask(C, 8, recovery=True)), "beyond the limit, past who waits"
    large = book.ask(C, 60, AT_ALL, recovery=True)
    assert not book.granted(C, large)
    book.machine.on_report(A, SegmentsReturned(segments[:1]), 0.0)
    assert not book.granted(B, waits), "those that make it again are first in line"
    book.machine.on_report(A, SegmentsReturned(segments[1:]), 0.0)
    assert book.granted(C, large)
    assert book.granted(B, waits)


def test_short_of_memory_everybody_is_asked_first() -> None:
    book = Book()
    first = book.ask(A, 60)
    second = book.ask(B, 60)
    assert all(len(book.questions(one)) == 1 for one in (A, B, C))
    assert book.questions(A)[0].missing == 20 * PAGE
    book.answer(C)
    assert not book.edge.refused
    book.answer(A, segments=[book.edge.attached[A, first][0]])
    assert book.granted(B, second)
    eased = [who for who, one in book.edge.sent if isinstance(one, MemoryEased)]
    assert eased == [A, B, C]


def test_bytes_out_of_segments_are_enough() -> None:
    book = Book()
    book.ask(A, 60)
    second = book.ask(B, 60)
    book.answer(A, shrunk=[(1, 20 * PAGE)])
    assert book.granted(B, second)


def test_those_who_own_most_are_asked_to_spill() -> None:
    book = Book()
    book.ask(A, 100)
    book.ask(B, 30)
    book.answer(A, spillable=20 * PAGE)
    book.answer(C, spillable=5 * PAGE)
    # As soon as something is known to help it is begun; the rest when more is known.
    assert book.questions(A)[0].spill == 20 * PAGE
    assert book.questions(C)[0].spill == 5 * PAGE
    book.answer(B, spillable=25 * PAGE)
    assert book.questions(B)[0].spill == 5 * PAGE


def test_one_that_spills_is_waited_for() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10)
    for one in (B, C):
        book.answer(one)
    book.answer(A, spillable=50 * PAGE)
    book.answer(A, spilling=10 * PAGE)
    book.machine.tick(0.9)
    book.answer(A, 0.9, spilling=10 * PAGE)
    assert not book.refused(B, number)
    book.machine.on_report(A, SegmentsReturned([], [(1, 10 * PAGE)]), 1.0)
    assert book.granted(B, number)


def test_without_hope_a_request_that_can_do_without_is_refused_soon() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10)
    for one in (A, B, C):
        book.answer(one, pinned=7 * PAGE)
    assert not book.refused(B, number), "the calls under way may be about to end"
    for now in (0.1, 0.21):
        book.machine.tick(now)
        for one in (A, B, C):
            book.answer(one, now, pinned=7 * PAGE)
    text = book.refused(B, number)
    assert "40,960 bytes do not fit" in text
    assert "409,600 of 409,600 bytes are in use (process1 holds 409,600)" in text
    assert "28,672 of process1" in text
    assert "object_store_memory" in text


def test_the_next_ones_are_not_kept_waiting_until_something_becomes_free() -> None:
    book = Book()
    book.ask(A, 100)
    book.ask(B, 10)
    book.machine.tick(5.0)  # nobody answers
    numbers = []
    for now in (5.0, 5.1):
        numbers.append(book.ask(B, 10, now=now))
        assert book.refused(B, numbers[-1])
    book.answer(A, 5.2, shrunk=[(1, PAGE)])
    number = book.ask(B, 10, now=5.3)
    assert not book.refused(B, number), "there is hope again"


def test_one_that_has_no_other_way_waits_for_its_full_time() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10, AT_ALL)
    for one in (A, B, C):
        book.answer(one)
    book.machine.tick(9.9)
    assert not book.refused(B, number)
    book.machine.tick(10.0)
    assert book.refused(B, number)


def test_its_full_time_is_over_at_its_date() -> None:
    book, since = Book(), 6.01
    assert since + CONFIG.store_wait_seconds - since < CONFIG.store_wait_seconds, "rounded"
    book.ask(A, 100)
    number = book.ask(B, 10, AT_ALL, now=since)
    book.machine.tick(since + CONFIG.store_wait_seconds)
    assert book.refused(B, number)


def test_trouble_with_the_disk_is_told() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10, AT_ALL)
    book.answer(A, trouble="the disk is full")
    book.machine.tick(10.0)
    assert "Nothing more can be moved to disk: the disk is full" in book.refused(B, number)


def test_what_can_never_fit_is_refused_at_once() -> None:
    book = Book()
    for hurry in (AT_ONCE, IF_SOON, AT_ALL):
        assert book.refused(B, book.ask(B, 101, hurry))
    assert not book.edge.sent


def test_one_in_no_need_never_makes_others_give() -> None:
    book = Book()
    book.ask(A, 95)
    assert book.refused(B, book.ask(B, 10, AT_ONCE))
    assert not book.edge.sent
    book.ask(C, 10)
    assert book.refused(B, book.ask(B, 5, AT_ONCE)), "others wait"


def test_requests_are_granted_in_order() -> None:
    book = Book()
    book.ask(A, 100)
    large, small = book.ask(B, 50), book.ask(C, 1)
    book.answer(A, shrunk=[(1, 20 * PAGE)])
    assert not book.granted(C, small), "else the large one would never get its turn"
    book.machine.on_report(A, SegmentsReturned([], [(1, 31 * PAGE)]), 0.0)
    assert book.granted(B, large)
    assert book.granted(C, small)


def test_a_request_that_is_withdrawn_is_answered_once() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10)
    book.machine.on_withdrawn(B, number, 0.0)
    assert book.refused(B, number)
    book.machine.on_withdrawn(B, number, 0.0)
    book.answer(A, shrunk=[(1, 50 * PAGE)])
    assert not book.granted(B, number)


def test_a_late_answer_does_not_count_for_a_later_question() -> None:
    book = Book()
    book.ask(A, 100)
    number = book.ask(B, 10)
    late = book.questions(C)[0]
    book.machine.on_withdrawn(B, number, 0.0)
    book.ask(B, 10, now=1.5)
    book.machine.tick(1.6)
    book.machine.on_report(C, SegmentsReturned([], answer=late.number, spillable=PAGE), 1.7)
    assert book.questions(C)[-1].spill == PAGE


def test_the_death_of_a_holder_makes_room() -> None:
    book = Book()
    book.ask(A, 60)
    number = book.ask(B, 60)
    book.edge.alive.remove(A)
    book.book.give_back([1], [])
    book.machine.on_died(A, 0.0)
    assert book.granted(B, number)


class UnderPressure(RuleBasedStateMachine):
    """Whatever is asked, answered, freed and left unanswered, every request ends, within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(20, reserve=3)
        self.now = 0.0
        self.open: set[tuple[bytes, int]] = set()

    def collect(self) -> None:
        edge = self.book.edge
        self.open -= edge.attached.keys() | edge.refused.keys()

    @rule(
        who=st.sampled_from([A, B, C]),
        pages=st.integers(1, 22),
        hurry=st.sampled_from([AT_ONCE, IF_SOON, AT_ALL]),
        recovery=st.booleans(),
    )
    def request(self, who: bytes, pages: int, hurry: int, recovery: bool) -> None:
        number = self.book.ask(who, pages, hurry, self.now, recovery)
        self.open.add((who, number))

    @rule(who=st.sampled_from([A, B, C]), data=st.data())
    def give_back(self, who: bytes, data: st.DataObject) -> None:
        attached = self.book.edge.attached
        mine = [
            segment
            for (process, _), (segment, _size) in attached.items()
            if process == who and self.book.book.size(segment)
        ]
        if mine:
            gone = data.draw(st.sampled_from(mine))
            self.book.machine.on_report(who, SegmentsReturned([gone]), self.now)

    @rule(who=st.sampled_from([A, B, C]), spillable=st.integers(0, 9), spilling=st.integers(0, 9))
    def answer(self, who: bytes, spillable: int, spilling: int) -> None:
        if self.book.questions(who):
            sizes = {"spillable": spillable * PAGE, "spilling": spilling * PAGE}
            self.book.answer(who, self.now, **sizes)

    @precondition(lambda self: self.open)
    @rule(at=st.integers(0, 9))
    def withdraw(self, at: int) -> None:
        chosen = sorted(self.open)[at % len(self.open)]
        self.book.machine.on_withdrawn(*chosen, self.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.book.machine.tick(self.now)

    @invariant()
    def within_the_limit(self) -> None:
        self.collect()
        book = self.book.book
        assert 0 <= book.used <= book.limit + book.reserve
        assert len(self.book.questions(A)) <= 1, "one question at a time"
        assert not self.book.edge.attached.keys() & self.book.edge.refused.keys()

    def teardown(self) -> None:
        self.book.machine.tick(self.now + CONFIG.store_wait_seconds)
        self.collect()
        assert not self.open, "nobody waits for ever"
        assert self.book.machine.tick(self.now + CONFIG.store_wait_seconds) is None


TestUnderPressure = UnderPressure.TestCase
TestUnderPressure.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
