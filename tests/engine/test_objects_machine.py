"""The borrower protocol as a state machine: never freed while held, always freed at the end."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from engine.core.messages import BorrowAck, DropBorrower, Fetch
from engine.core.objects import ObjectTable
from engine.core.values import ObjectValue, Value
from tests.engine.network import Network, Process

few = st.integers(0, 7)
WALKS = 1100
WALK_STEPS = 200


class Borrowing(RuleBasedStateMachine):
    """Three processes put, nest, pass on, fetch and drop references, under any delay."""

    deaths = False

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(3, deaths=self.deaths)

    def process(self, at: int) -> Process:
        names = sorted(self.network.processes)
        return self.network.processes[names[at % len(names)]]

    @rule(who=few)
    def put(self, who: int) -> None:
        process = self.process(who)
        process.held.append(process.put([]))

    @rule(who=few, inner=st.lists(few, min_size=1, max_size=2))
    def put_a_container(self, who: int, inner: list[int]) -> None:
        process = self.process(who)
        if process.held:
            chosen = [process.held[at % len(process.held)] for at in inner]
            process.held.append(process.put(chosen))

    @rule(
        who=few,
        whom=few,
        what=st.lists(few, min_size=1, max_size=2),
        keep=st.booleans(),
        back=st.lists(few, max_size=2),
    )
    def call(self, who: int, whom: int, what: list[int], keep: bool, back: list[int]) -> None:
        caller, callee = self.process(who), self.process(whom)
        if caller is not callee and caller.held:
            refs = [caller.held[at % len(caller.held)] for at in what]
            caller.invoke(callee, refs, keep, back)

    @rule(who=few, at=few)
    def fetch(self, who: int, at: int) -> None:
        process = self.process(who)
        if process.held:
            ref = process.held[at % len(process.held)]
            process.table.when_ready(ref.id, lambda _value: None)

    @rule(who=few, at=few)
    def drop(self, who: int, at: int) -> None:
        process = self.process(who)
        if process.held:
            process.held.pop(at % len(process.held))

    @rule(who=few)
    def drain(self, who: int) -> None:
        self.process(who).drain()

    @precondition(lambda self: self.network.busy())
    @rule(at=few, count=st.integers(1, 4))
    def deliver(self, at: int, count: int) -> None:
        for _ in range(count):
            busy = self.network.busy()
            if busy:
                self.network.deliver(busy[at % len(busy)])

    def teardown(self) -> None:
        self.network.end()


class BorrowingWithDeaths(Borrowing):
    """The same while processes die: no more can be promised than that nothing is left behind."""

    deaths = True

    @precondition(lambda self: len(self.network.processes) > 1)
    @rule(who=few)
    def kill(self, who: int) -> None:
        self.network.kill(self.process(who).id)


TestBorrowing = Borrowing.TestCase
TestBorrowing.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBorrowingWithDeaths = BorrowingWithDeaths.TestCase
TestBorrowingWithDeaths.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("deaths", [False, True])
def test_random_walks(deaths: bool) -> None:
    """Longer walks than hypothesis takes, by seed; what fails names its seed."""
    machine = BorrowingWithDeaths if deaths else Borrowing
    for seed in range(WALKS):
        draw = random.Random(seed)
        walk = machine()
        try:
            for _ in range(WALK_STEPS):
                _step(walk, draw, deaths)
            walk.teardown()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, deaths {deaths}: {error}") from error


def _step(walk: Borrowing, draw: random.Random, deaths: bool) -> None:
    def few() -> int:
        return draw.randrange(8)

    choice = draw.random()
    if choice < 0.08:
        walk.put(few())
    elif choice < 0.14:
        walk.put_a_container(few(), [few(), few()])
    elif choice < 0.4:
        back = [few() for _ in range(draw.randrange(3))]
        walk.call(few(), few(), [few()], draw.random() < 0.3, back)
    elif choice < 0.45:
        walk.fetch(few(), few())
    elif choice < 0.6:
        walk.drop(few(), few())
    elif choice < 0.62:
        walk.drain(few())
    elif deaths and choice < 0.63 and len(walk.network.processes) > 1:
        walk.kill(few())
    elif walk.network.busy():
        walk.deliver(few(), 1 + draw.randrange(2))


def test_an_acknowledgement_of_an_earlier_registration_does_not_settle_a_later_one() -> None:
    """Borrow, drop, borrow again: the first ack must not release who handed over the second."""
    network = Network(3)
    owner, middle, last = network.processes.values()
    middle_ref = owner.put([])
    owner.held.append(middle_ref)
    owner.invoke(middle, [middle_ref], True, [])
    network.settle()
    del middle_ref
    owner.forget()  # only the middle holds it now
    network.settle()
    middle.invoke(last, [middle.held[0]], False, [])  # registers, drops
    middle.invoke(last, [middle.held[0]], True, [])  # registers again and keeps
    middle.held.clear()
    to_last = (middle.id, last.id)
    to_owner = (last.id, owner.id)
    network.deliver(to_last)  # AddBorrower, DropBorrower leave
    network.deliver(to_owner)  # the owner registers and acknowledges ...
    network.deliver(to_last)  # ... and before that arrives, AddBorrower leaves again
    network.deliver((owner.id, last.id))  # the acknowledgement of the first
    while network.queues.get((last.id, middle.id)):
        network.deliver((last.id, middle.id))  # both replies: the middle lets go
    middle.drain()
    while network.queues.get((middle.id, owner.id)):
        network.deliver((middle.id, owner.id))
    network.settle()
    assert len(last.held) == 1
    network.end()


def _table() -> tuple[ObjectTable, list[tuple[bytes, object]], list[object]]:
    sent: list[tuple[bytes, object]] = []
    freed: list[object] = []
    table = ObjectTable(b"owner---", lambda *item: sent.append(item), freed.append, list)
    return table, sent, freed


def test_a_value_lent_twice_to_the_same_process_is_freed_after_the_second_drop() -> None:
    """Two channels may carry one value to the same receiver; it may drop one before the other."""
    network = Network(2)
    owner, borrower = network.processes.values()
    object_id = owner.ids.new()
    block = network.new_block(owner.id, object_id)
    owner.table.lend(object_id, Value(b"", None, None, block), borrower.id)
    borrower.table.accept_loan(object_id)
    borrower.table.release(object_id)  # DropBorrower is on its way
    assert owner.table.lend_again(object_id, borrower.id)
    network.settle()  # it arrives while the second loan is on its way
    assert block in network.blocks, "freed under the second loan"
    borrower.table.accept_loan(object_id)
    borrower.table.release(object_id)
    network.settle()
    assert block not in network.blocks


def test_a_late_reference_to_a_released_object_is_a_named_error() -> None:
    table, sent, _freed = _table()
    table.hold(b"owner---" + bytes(8))
    entry = table.entries[b"owner---" + bytes(8)]
    assert entry.value is not None
    assert b"already released by its owner" in entry.value.data
    assert sent == []


def test_a_borrower_that_comes_too_late_is_told() -> None:
    table, _sent, _freed = _table()
    other = b"other---" + bytes(8)
    table.hold(other)
    table.on_borrow_ack(BorrowAck(other, False))
    value = table.entries[other].value
    assert value is not None
    assert b"ObjectFreedError" in value.data


def test_the_death_of_an_owner_fails_what_is_pending_and_keeps_what_is_here() -> None:
    table, _sent, _freed = _table()
    pending, there = b"other---" + bytes(8), b"other---" + bytes([1] * 8)
    table.hold(pending)
    table.hold(there)
    table.resolve(there, Value(b"x"))
    table.on_process_died(b"other---", "(pid 7) was killed by SIGKILL")
    lost = table.entries[pending].value
    assert lost is not None
    assert b"OwnerDiedError" in lost.data
    assert b"pid 7" in lost.data
    kept = table.entries[there].value
    assert kept is not None
    assert kept.data == b"x"
    assert not table.unsettled


def test_the_death_of_the_last_borrower_frees() -> None:
    table, _sent, freed = _table()
    object_id = b"owner---" + bytes(8)
    network = Network(1)
    block = network.new_block(b"owner---", object_id)
    table.lend(object_id, Value(b"", None, None, block), b"other---")
    table.on_process_died(b"other---", "died")
    assert freed == [block]
    assert not table.entries


def test_an_answer_does_not_overtake_one_that_waits_for_a_registration() -> None:
    """A generator's end before its last item would be the end of that item."""
    table, sent, _freed = _table()
    inner, peer = b"third---" + bytes(8), b"other---"
    table.hold(inner)
    assert table.after_settled([inner], peer, "item", in_order=True)
    table.release(inner)
    assert table.after_settled([], peer, "end", in_order=True)
    assert not table.after_settled([], b"fourth--", "end", in_order=True)
    table.on_borrow_ack(BorrowAck(inner, True))
    assert [message for to, message in sent if to == peer] == ["item", "end"]


def test_dropping_a_borrowed_container_waits_for_its_contents_to_be_registered() -> None:
    table, sent, _freed = _table()
    container, inner = b"other---" + bytes(8), b"third---" + bytes(8)
    table.hold(container)
    table.on_borrow_ack(BorrowAck(container, True))
    table.make_refs = lambda ids: [table.hold(one) for one in ids]
    table.resolve(container, Value(b"", None, [inner]))
    table.release(container)
    assert (b"other---", DropBorrower(container)) not in sent
    table.on_borrow_ack(BorrowAck(inner, True))
    assert sent[-1] == (b"other---", DropBorrower(container))


def test_an_answer_to_a_fetch_of_an_earlier_borrowing_does_not_count() -> None:
    """Fetch, let go, borrow again: what was answered then may lie elsewhere by now."""
    table, sent, _freed = _table()
    object_id = b"other---" + bytes(8)
    table.hold(object_id)
    assert not table.when_ready(object_id, lambda _value: None)
    first = next(message for _, message in sent if isinstance(message, Fetch))
    table.release(object_id)
    table.hold(object_id)
    late = ObjectValue(object_id, Value(b"old"), first.number)
    table.on_value(late)
    assert table.entries[object_id].value is None
    assert not table.when_ready(object_id, lambda _value: None)
    table.on_value(late)
    assert table.entries[object_id].value is None
    second = [message for _, message in sent if isinstance(message, Fetch)][-1]
    table.on_value(ObjectValue(object_id, Value(b"new"), second.number))
    found = table.entries[object_id].value
    assert found is not None
    assert found.data == b"new"
