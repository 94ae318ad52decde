"""The log of steps, against a plain list."""

from __future__ import annotations

from itertools import chain, repeat

from hypothesis import given
from hypothesis import strategies as hs

from engine.core import determinants
from engine.core.determinants import POLL, TRIGGER, Repeat, Steps, joined

ENTRIES = hs.sampled_from([POLL, TRIGGER, 0, 1])


def listed(runs: list[int]) -> list[int]:
    """One entry a step."""
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return list(chain.from_iterable(repeat(entry, count) for entry, count in pairs))


@given(hs.lists(hs.tuples(ENTRIES, hs.booleans(), hs.lists(hs.integers(0, 2), max_size=2))))
def test_receivers_learn_what_they_lack(steps: list[tuple[int, bool, list[int]]]) -> None:
    """Some steps are taken back; now and then one of three receivers is told of the news."""
    log, model = Steps(), list[int]()
    told = [0, 0, 0]
    learnt = [Steps(), Steps(), Steps()]
    for entry, is_undone, receivers in steps:
        log.append(entry)
        if is_undone:
            log.undo()
            continue
        model.append(entry)
        for one in receivers:
            if told[one] < log.count:
                learnt[one].learn(log.since(told[one]))
                told[one] = log.count
    assert listed(log.runs) == model
    assert log.count == len(model)
    for one in range(3):
        assert listed(learnt[one].runs) == model[: told[one]]
        assert learnt[one].count == told[one]


@given(hs.lists(ENTRIES, min_size=1), hs.data())
def test_what_is_told_again_is_skipped_and_a_gap_is_noticed(
    model: list[int], data: hs.DataObject
) -> None:
    log = Steps()
    for entry in model:
        log.append(entry)
    known = data.draw(hs.integers(0, len(model)))
    first = data.draw(hs.integers(0, len(model) - 1))
    learnt = Steps()
    for entry in model[:known]:
        learnt.append(entry)
    learnt.learn(log.since(first))
    assert learnt.lost == (first > known)
    if not learnt.lost:
        assert listed(learnt.runs) == model
        repeated, again = Repeat(learnt.runs), list[int]()
        more = True
        while more:
            again.append(repeated.entry)
            more = repeated.advance()
        assert again == model


def test_a_log_that_is_too_long_is_lost_for_this_epoch() -> None:
    log, learnt = Steps(), Steps()
    for number in range(determinants._NUMBERS_MAX):
        log.append(number % 2)
    assert log.lost
    log.append(0)
    log.undo()
    learnt.learn(log.since(0))
    assert learnt.lost
    assert joined([Steps(), learnt]) is None
    assert joined([Steps(), Steps()]) == []
