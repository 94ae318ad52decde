"""The superstep machine under every order of delivery that the copies can produce."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.superstep import ProtocolError, Supersteps, Tally, add


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_all_copies_see_the_same_tallies(copies: int, steps: int, data: st.DataObject) -> None:
    machines = [Supersteps(i, copies) for i in range(copies)]
    seen: list[list[Tally]] = [[] for _ in range(copies)]
    wires: dict[tuple[int, int], list[tuple[int, float, str]]] = {
        (a, b): [] for a in range(copies) for b in range(copies)
    }

    def speak(copy: int) -> None:
        step = machines[copy].step
        for other in range(copies):
            wires[copy, other].append((step, 0.1 * copy + step, f"{copy}->{other}@{step}"))

    for copy in range(copies):
        speak(copy)
    while True:
        ready = sorted(pair for pair, wire in wires.items() if wire)
        if not ready:
            break
        sender, receiver = data.draw(st.sampled_from(ready))
        step, value, message = wires[sender, receiver].pop(0)
        tally = machines[receiver].vote(sender, step, [value], message)
        if tally is not None:
            seen[receiver].append(tally)
            if machines[receiver].step < steps:
                speak(receiver)
    for copy in range(copies):
        assert [tally.step for tally in seen[copy]] == list(range(steps))
        for tally, first in zip(seen[copy], seen[0], strict=True):
            assert add(tally.values) == add(first.values)
            assert tally.messages == tuple(
                f"{other}->{copy}@{tally.step}" for other in range(copies)
            )


def test_what_cannot_be_is_refused() -> None:
    machine = Supersteps(0, 2)
    machine.vote(1, 0, [1])
    with pytest.raises(ProtocolError, match="twice"):
        machine.vote(1, 0, [1])
    with pytest.raises(ProtocolError, match="superstep 2 during 0"):
        machine.vote(1, 2, [1])
    with pytest.raises(ProtocolError, match="copy 5"):
        machine.vote(5, 0, [1])
    with pytest.raises(ProtocolError, match="copy 2 of 2"):
        Supersteps(2, 2)
    assert "waits for votes of copies [0]" in machine.story()


def test_a_copy_may_be_one_superstep_ahead() -> None:
    machine = Supersteps(0, 2)
    machine.vote(1, 0, [1])
    assert machine.vote(1, 1, [10]) is None
    assert machine.vote(0, 0, [2]) == Tally(0, ([2], [1]), (None, None))
    assert machine.vote(0, 1, [20]) == Tally(1, ([20], [10]), (None, None))
