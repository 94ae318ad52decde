"""The book of lineage against a model: what is kept, what is forgotten, and what it costs."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.core.dispatch import Task
from engine.core.lineage import (
    CROWDED_OUT,
    DISABLED,
    EVICTED,
    GONE,
    NO_RETRIES,
    PUT,
    SPENT,
    Lineage,
    Record,
)
from engine.core.messages import Call

few = st.integers(0, 30)
ARGUMENT_BYTES = 100


def task_of(name: int, returns: list[bytes], retries: int = 3, attempts: int = 0) -> Task:
    task = Task(Call(returns[0], b"key", b""), f"task {name}", returns, retries, None)
    task.attempts = attempts
    return task


class Book(RuleBasedStateMachine):
    """Tasks with one or two results, out of earlier results and of values that were put."""

    limit = 1 << 30

    def __init__(self) -> None:
        super().__init__()
        self.book = Lineage(self.limit)
        self.count = 0
        self.live: list[bytes] = []  # results that somebody refers to
        self.put: dict[bytes, int] = {}  # size of values that were put
        self.needs: dict[bytes, list[bytes]] = {}  # of each result, ever

    def new_id(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(16, "big")

    @rule(size=st.integers(0, 5000))
    def put_value(self, size: int) -> None:
        self.put[self.new_id()] = size

    @rule(what=st.lists(few, max_size=3), two=st.booleans())
    def run(self, what: list[int], two: bool) -> None:
        known = [*self.put, *self.live]
        chosen = {known[at % len(known)] for at in what} if known else set()
        returns = [self.new_id() for _ in range(1 + two)]
        self.keep(task_of(self.count, returns), sorted(chosen))
        self.live += returns
        self.needs.update(dict.fromkeys(returns, sorted(chosen)))

    def keep(self, task: Task, chosen: list[bytes], live: set[bytes] | None = None) -> None:
        needs: dict[bytes, tuple[Any, int]] = {
            one: (object(), self.put.get(one, 64)) for one in chosen
        }
        live = set(task.returns) if live is None else live
        self.book.keep(task, chosen, live, needs, ARGUMENT_BYTES)

    @precondition(lambda self: self.live)
    @rule(at=few)
    def drop(self, at: int) -> None:
        self.book.forget(self.live.pop(at % len(self.live)))

    @precondition(lambda self: self.live)
    @rule(at=few)
    def run_again(self, at: int) -> None:
        record = self.book.record_of(self.live[at % len(self.live)])
        if record is not None:
            live = {one for one in record.task.returns if one in self.live}
            self.keep(record.task, record.needs, live)

    @invariant()
    def adds_up(self) -> None:
        records = list(self.book._records.values())
        held: dict[bytes, int] = {}
        for record in records:
            for one in record.held:
                held[one] = held.get(one, 0) + 1
        assert {one: count for one, (count, _size) in self.book._held.items()} == held
        sizes = sum(size for _count, size in self.book._held.values())
        assert self.book.nbytes == sum(one.nbytes for one in records) + sizes
        assert self.book.nbytes <= self.limit
        for record in records:
            users = sum(other.makers.count(record) for other in records)
            assert record.users == users
            assert record.live or users, "kept for nobody"
            assert record.live <= set(self.live)
            for maker in record.makers:
                assert maker.forgotten is not None or maker in records
        for one in self.live:
            assert self.book.record_of(one) is not None or EVICTED in self.book.why_not(one)

    def teardown(self) -> None:
        for one in self.live:
            self.book.forget(one)
        assert not self.book.known
        assert not self.book._records
        assert not self.book._held
        assert self.book.nbytes == 0


class Roomy(Book):
    """With room for all: whatever is referred to can be made from what was put."""

    @invariant()
    def everything_can_be_made(self) -> None:
        todo, seen = list(self.live), set()
        while todo:
            one = todo.pop()
            if one in self.put or one in seen:
                continue
            seen.add(one)
            record = self.book.record_of(one)
            assert record is not None
            assert record.needs == self.needs[one]
            assert set(record.held) == {need for need in record.needs if need in self.put}
            todo += record.needs


class Tight(Book):
    """With room for a few: the oldest are forgotten."""

    limit = 10_000


TestRoomy = Roomy.TestCase
TestRoomy.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTight = Tight.TestCase
TestTight.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def ids(count: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in range(1, count + 1)]


def test_reasons() -> None:
    book = Lineage(1 << 20)
    never, spent, put = ids(3)
    book.keep(task_of(1, [never], retries=0), None, {never}, {}, 0)
    book.keep(task_of(2, [spent], retries=0, attempts=2), None, {spent}, {}, 0)
    assert book.why_not(never) == NO_RETRIES
    assert book.why_not(spent) == SPENT
    assert book.why_not(put) == PUT
    book.forget(never)
    book.forget(spent)
    assert not book.known
    off = Lineage(0)
    off.keep(task_of(1, [never]), None, {never}, {}, 0)
    assert off.why_not(never) == DISABLED


def test_a_task_that_has_used_up_its_retries_is_forgotten() -> None:
    book = Lineage(1 << 20)
    one, two = ids(2)
    book.keep(task_of(1, [one], retries=1), None, {one}, {}, 0)
    book.keep(task_of(2, [two]), [one], {two}, {one: (None, 64)}, 0)
    book.keep(task_of(1, [one], retries=0, attempts=1), None, {one}, {}, 0)
    assert book.why_not(one) == SPENT
    book.forget(one)
    record = book.record_of(two)
    assert record is not None
    assert SPENT in book.why_needs_are_missing(record, one)


def test_what_is_not_to_be_held_is_missed() -> None:
    book = Lineage(1 << 20)
    actor, huge, result = ids(3)
    needs = {actor: (None, -1), huge: (None, 1 << 19)}
    book.keep(task_of(1, [result]), None, {result}, needs, 0)
    record = book.record_of(result)
    assert record is not None
    assert not record.held
    for one in (actor, huge):
        assert GONE in book.why_needs_are_missing(record, one)


def test_a_long_chain_goes_at_once() -> None:
    """No recursion: chains are as long as programs run."""
    book = Lineage(1 << 30)
    before: bytes | None = None
    for one in ids(20_000):
        needs = {} if before is None else {before: (None, 64)}
        book.keep(task_of(1, [one]), None, {one}, needs, 0)
        if before is not None:
            book.forget(before)
        before = one
    assert len(book._records) == 20_000
    assert before is not None
    book.forget(before)
    assert not book._records
    assert book.nbytes == 0


def test_values_held_are_given_up_when_there_is_no_room_at_all() -> None:
    book = Lineage(1 << 20)
    results = ids(6)
    for at, one in enumerate(results):
        needs = {b"put%d" % at: (None, 1000)} if at % 2 else {}
        book.keep(task_of(1, [one]), None, {one}, needs, 0)
    book.give_up(1500)
    assert [type(book.known[one]) is Record for one in results] == [
        *(True, False, True, False, True, True)
    ]
    assert book.why_not(results[1]) == CROWDED_OUT
    book.give_up(1 << 30)
    assert not book._held
    assert len(book._records) == 3


def test_the_oldest_is_forgotten_with_what_it_held() -> None:
    book = Lineage(10_000)
    put = b"p" * 16
    results = ids(8)
    for one in results:
        book.keep(task_of(1, [one]), None, {one}, {put: (None, 2000)}, 0)
    kept = [one for one in results if type(book.known[one]) is Record]
    assert kept == results[-5:], "the held value counts once"
    assert EVICTED in book.why_not(results[0])
    assert book.evicted == 3
