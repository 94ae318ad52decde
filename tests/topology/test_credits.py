"""Credits: a channel whose two ends only learn of each other by messages never loses any."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.credits import CreditError, ReceiveAccount, SendWindow

Size = tuple[int, int]


class Channel(RuleBasedStateMachine):
    """Both ends and the wires between them; what is where is counted independently."""

    @initialize(rows=st.integers(1, 50), nbytes=st.integers(1, 500))
    def start(self, rows: int, nbytes: int) -> None:
        self.capacity = (rows, nbytes)
        self.window = SendWindow(rows, nbytes)
        self.account = ReceiveAccount(rows, nbytes)
        self.forth: deque[Size] = deque()
        self.queue: deque[Size] = deque()
        self.back: deque[Size] = deque()
        self.largest = (0, 0)

    @precondition(lambda self: self.window.may_send())
    @rule(rows=st.integers(0, 200), nbytes=st.integers(1, 2000))
    def send(self, rows: int, nbytes: int) -> None:
        self.window.on_sent(rows, nbytes)
        self.forth.append((rows, nbytes))
        self.largest = (max(self.largest[0], rows), max(self.largest[1], nbytes))

    @precondition(lambda self: not self.window.may_send())
    @rule()
    def refuse(self) -> None:
        with pytest.raises(CreditError, match="without credit"):
            self.window.on_sent(1, 1)

    @precondition(lambda self: self.forth)
    @rule()
    def arrive(self) -> None:
        size = self.forth.popleft()
        self.account.on_received(*size)
        self.queue.append(size)

    @precondition(lambda self: self.queue)
    @rule()
    def consume(self) -> None:
        credit = self.account.on_consumed(*self.queue.popleft())
        if credit is not None:
            self.back.append(credit)

    @precondition(lambda self: self.back)
    @rule()
    def refill(self) -> None:
        self.window.on_credit(*self.back.popleft())

    @invariant()
    def credits_and_flight_are_the_capacity(self) -> None:
        for axis in (0, 1):
            due = (self.account.due_rows, self.account.due_bytes)[axis]
            places = (*self.forth, *self.queue, *self.back)
            flight = due + sum(size[axis] for size in places)
            credit = (self.window.credit_rows, self.window.credit_bytes)[axis]
            assert credit + flight == self.capacity[axis]
            assert flight < self.capacity[axis] + max(1, self.largest[axis])

    @invariant()
    def a_receiver_that_consumed_all_never_starves_the_sender(self) -> None:
        if not (self.forth or self.queue or self.back):
            assert self.window.may_send()


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_item_larger_than_the_capacity_passes_alone() -> None:
    window = SendWindow(10, 1000)
    assert window.on_sent(1000, 10) is False
    assert window.credit_rows == -990
    assert window.on_credit(1000, 10) is True


def test_credit_comes_back_in_chunks_of_a_quarter() -> None:
    account = ReceiveAccount(100, 1 << 30)
    for _ in range(99):
        account.on_received(1, 1)
    returned = [account.on_consumed(1, 1) for _ in range(99)]
    assert [credit for credit in returned if credit] == [(25, 25)] * 3


@pytest.mark.parametrize("capacity", [(0, 1), (1, 0), (-5, 1)])
@pytest.mark.parametrize("end", [SendWindow, ReceiveAccount])
def test_a_capacity_is_positive(
    end: type[SendWindow] | type[ReceiveAccount], capacity: Size
) -> None:
    with pytest.raises(CreditError, match="expected a capacity > 0"):
        end(*capacity)


def test_credit_from_nowhere_is_refused() -> None:
    window, account = SendWindow(10, 10), ReceiveAccount(10, 10)
    window.on_sent(1, 1)
    account.on_received(1, 1)
    with pytest.raises(CreditError, match="in flight were only 1 rows"):
        window.on_credit(2, 1)
    with pytest.raises(CreditError, match="consumed 1 rows and 2 bytes"):
        account.on_consumed(1, 2)
    with pytest.raises(CreditError, match="sizes >= 0"):
        window.on_sent(-1, 1)
    with pytest.raises(CreditError, match="sizes >= 0"):
        account.on_received(1, -1)


def test_an_item_sent_without_credit_is_refused_by_the_receiver() -> None:
    account = ReceiveAccount(10, 1000)
    account.on_received(10, 5)
    with pytest.raises(CreditError, match="received 1 rows and 1 bytes without credit"):
        account.on_received(1, 1)
