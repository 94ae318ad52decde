"""The coordinator of epochs: what it asks for, what counts, what a death leads to."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.core.epochs import (
    Abort,
    Commit,
    Effect,
    Epochs,
    GiveUp,
    Recover,
    RollBack,
    Store,
    Take,
)

COPIES = (0, 1, 2)


def machine(**options: Any) -> Epochs:
    given_options = {"every": 1.0, "timeout": 5.0, "restarts": 2, "restart_seconds": 60.0}
    return Epochs(COPIES, **{**given_options, **options})


def report_all(epochs: Epochs, epoch: int, now: float) -> list[Effect]:
    effects: list[Effect] = []
    for copy in COPIES:
        assert effects == []
        effects = epochs.on_durable(epochs.attempt, copy, epoch, f"{copy}@{epoch}", now)
    return effects


def test_an_epoch_is_taken_stored_and_committed_in_time() -> None:
    epochs = machine()
    assert epochs.due() is None
    assert epochs.begin(10.0) == []
    assert epochs.due() == 11.0
    assert epochs.tick(10.9) == []
    assert epochs.tick(11.0) == [Take(1, 0)]
    assert epochs.due() == 16.0
    reports = {copy: f"{copy}@1" for copy in COPIES}
    assert report_all(epochs, 1, 11.2) == [Store(1, reports)]
    assert epochs.on_stored(1, 11.3) == [Commit(1, reports, False)]
    assert epochs.due() == 12.0
    assert epochs.tick(12.0) == [Take(2, 1)]
    assert "no state of [0, 1, 2]" in repr(epochs)


def test_an_epoch_that_took_long_is_not_followed_at_once() -> None:
    epochs = machine()
    epochs.begin(0.0)
    epochs.tick(1.0)
    report_all(epochs, 1, 4.0)
    epochs.on_stored(1, 4.0)
    assert epochs.due() == 4.5


def test_an_epoch_on_request_follows_the_one_under_way() -> None:
    epochs = machine(every=None)
    assert epochs.request(0.0) == []
    assert epochs.begin(0.0) == [Take(1, 0)]
    assert epochs.request(0.1) == []
    report_all(epochs, 1, 0.2)
    commit, take = epochs.on_stored(1, 0.3)
    assert (type(commit), take) == (Commit, Take(2, 1))
    report_all(epochs, 2, 0.4)
    epochs.on_stored(2, 0.5)
    assert epochs.due() is None
    assert epochs.request(9.0) == [Take(3, 2)]


def test_a_late_epoch_is_aborted_and_what_comes_of_it_is_dropped() -> None:
    epochs = machine()
    epochs.begin(0.0)
    epochs.tick(1.0)
    epochs.on_durable(1, 1, 1, "state", 1.5)
    [abort] = epochs.tick(6.0)
    assert abort == Abort(1, "not complete within 5 s: no state of [0, 2]")
    assert epochs.on_durable(1, 0, 1, "state", 6.1) == []
    assert (epochs.dropped, epochs.aborts, epochs.committed) == (1, 1, 0)
    assert epochs.tick(6.5) == [Take(2, 0)]


def test_a_copy_that_cannot_store_aborts_the_epoch_once() -> None:
    epochs = machine()
    epochs.begin(0.0)
    epochs.tick(1.0)
    assert epochs.on_failed(1, 1, "disk full", 1.1) == [Abort(1, "disk full")]
    assert epochs.on_failed(1, 1, "disk full", 1.2) == []
    assert (epochs.last_abort, epochs.aborts, epochs.dropped) == ("disk full", 1, 1)
    epochs.tick(2.0)
    report_all(epochs, 2, 2.1)
    assert epochs.on_failed(1, 2, "no manifest", 2.2) == [Abort(2, "no manifest")]


def test_a_death_takes_all_back_and_nothing_of_the_old_attempt_counts() -> None:
    epochs = machine()
    epochs.begin(0.0)
    epochs.tick(1.0)
    report_all(epochs, 1, 1.1)
    epochs.on_stored(1, 1.2)
    epochs.tick(2.0)
    epochs.on_durable(1, 0, 2, "state", 2.1)
    assert epochs.on_death(1, "killed", 2.2) == [Abort(2, "killed"), RollBack(2, 1)]
    assert epochs.on_death(1, "another of the same attempt", 2.2) == []
    assert epochs.on_durable(1, 1, 2, "state", 2.3) == []
    assert epochs.due() is None
    epochs.begin(3.0)
    assert epochs.tick(4.0) == [Take(3, 1)]
    assert epochs.on_durable(1, 1, 3, "of a ghost", 4.1) == []
    assert len(report_all(epochs, 3, 4.2)) == 1


def test_one_that_comes_back_alone_reports_again() -> None:
    epochs = machine(restarts=2, restart_seconds=10.0)
    epochs.begin(0.0)
    [take] = epochs.request(1.0)
    assert take == Take(1, 0)
    first, *others = sorted(COPIES)
    assert epochs.on_durable(1, first, 1, "before", 1.1) == []
    assert epochs.on_lost(1, first, "killed", 1.2) == [Recover(first, 0)]
    for copy in others:
        assert epochs.on_durable(1, copy, 1, "state", 1.3) == []
    [store] = epochs.on_durable(1, first, 1, "again", 1.4)
    assert isinstance(store, Store)
    assert store.reports[first] == "again"
    # A manifest is being written that names its state: it must not go back behind that.
    assert epochs.on_lost(1, first, "killed", 1.5) == [Abort(1, "killed"), RollBack(2, 0)]
    epochs.begin(2.0)
    assert epochs.on_lost(1, first, "of the same attempt", 2.1) == []
    [end] = epochs.on_lost(2, first, "the third", 2.2)
    assert isinstance(end, GiveUp)
    assert (epochs.recoveries, epochs.rollbacks) == (1, 1)


def test_one_that_cannot_come_back_alone_has_died_once() -> None:
    epochs = machine(restarts=1, restart_seconds=10.0)
    epochs.begin(0.0)
    assert epochs.on_lost(1, 1, "killed", 1.0) == [Recover(1, 0)]
    assert epochs.on_not_recovered(1, "its neighbour died", 1.1) == [RollBack(2, 0)]
    assert epochs.on_not_recovered(1, "late news", 1.2) == []
    assert (epochs.recoveries, epochs.rollbacks) == (1, 1)


def test_too_many_deaths_in_a_while_are_the_end_and_their_story_is_told() -> None:
    epochs = machine(restarts=2, restart_seconds=10.0)
    for attempt, now in ((1, 0.0), (2, 9.0), (3, 18.0)):  # never three within ten seconds
        epochs.begin(now)
        assert epochs.on_death(attempt, f"death {attempt}", now) == [RollBack(attempt + 1, 0)]
    [end] = epochs.on_death(4, "the last", 18.5)
    assert end == GiveUp("  9.5 s ago: death 2\n  0.5 s ago: death 3\n  0.0 s ago: the last")
    assert epochs.rollbacks == 3


def test_a_long_story_keeps_its_end() -> None:
    epochs = machine(restarts=29)
    for attempt in range(1, 30):
        epochs.on_death(attempt, f"death {attempt}", 0.0)
    [end] = epochs.on_death(30, "death 30", 0.0)
    assert isinstance(end, GiveUp)
    lines = end.story.splitlines()
    assert lines[0] == "  (10 earlier ones)"
    assert (lines[1][-8:], lines[-1][-8:], len(lines)) == ("death 11", "death 30", 21)


def test_an_ended_copy_is_part_of_every_later_epoch() -> None:
    epochs = machine()
    epochs.begin(0.0)
    assert epochs.on_ended(1, 1, "result 1", 0.5) == []
    epochs.tick(1.0)
    epochs.on_durable(1, 0, 1, "a", 1.1)
    assert epochs.on_durable(1, 2, 1, "c", 1.2) == [Store(1, {0: "a", 1: "result 1", 2: "c"})]
    assert epochs.on_stored(1, 1.3)[0] == Commit(1, {0: "a", 1: "result 1", 2: "c"}, False)
    for copy in (0, 2):
        epochs.on_ended(1, copy, f"result {copy}", 1.4)
    results = {copy: f"result {copy}" for copy in COPIES}
    assert epochs.request(1.5) == [Store(2, results)]
    assert epochs.on_stored(2, 1.6) == [Commit(2, results, True)]
    assert epochs.due() is None


def test_an_end_that_cannot_be_stored_aborts_what_is_under_way() -> None:
    epochs = machine()
    epochs.begin(0.0)
    assert epochs.on_failed(1, 0, "disk full", 0.5) == []
    epochs.tick(1.0)
    assert epochs.on_failed(1, 0, "disk full", 1.5) == [Abort(1, "disk full")]
    assert (epochs.dropped, epochs.aborts) == (1, 1)


def test_a_copy_that_ends_during_an_epoch_completes_it_by_ending() -> None:
    epochs = machine()
    epochs.begin(0.0)
    epochs.tick(1.0)
    epochs.on_durable(1, 0, 1, "a", 1.1)
    epochs.on_ended(1, 0, "after its state", 1.1)
    epochs.on_ended(1, 1, "b", 1.2)
    [store] = epochs.on_ended(1, 2, "c", 1.3)
    assert store == Store(1, {0: "a", 1: "b", 2: "c"})
    assert epochs.on_stored(1, 1.4)[0] == Commit(1, {0: "a", 1: "b", 2: "c"}, False)


def test_self_paced_copies_number_the_epochs() -> None:
    epochs = machine(every=None, self_paced=True)
    assert epochs.begin(0.0) == [Take(1, 0)]
    assert epochs.request(0.0) == []
    assert epochs.due() is None
    [store] = report_all(epochs, 7, 1.0)
    assert store.epoch == 7  # type: ignore[union-attr]
    assert epochs.on_stored(7, 1.1)[1] == Take(8, 7)
    epochs.on_durable(1, 0, 14, "a", 2.0)
    assert epochs.due() == 7.0
    assert epochs.on_failed(1, 14, "disk full", 2.1) == [Abort(14, "disk full"), Take(15, 7)]
    assert epochs.on_durable(1, 1, 14, "b", 2.2) == []
    assert epochs.on_failed(1, 21, "disk full", 3.0) == [Abort(21, "disk full"), Take(22, 7)]
    assert epochs.on_death(1, "killed", 4.0) == [RollBack(2, 7)]
    assert epochs.begin(5.0) == [Take(8, 7)]
    [store] = report_all(epochs, 14, 6.0)  # the same point of their work again
    epochs.on_stored(14, 6.1)
    for copy in (0, 1):
        assert epochs.on_ended(2, copy, copy, 7.0) == []
    [store] = epochs.on_ended(2, 2, 2, 7.0)
    assert store == Store(15, {0: 0, 1: 1, 2: 2})
    assert epochs.on_stored(15, 7.1) == [Commit(15, {0: 0, 1: 1, 2: 2}, True)]


def test_the_last_manifest_is_tried_again_and_not_at_once() -> None:
    epochs = machine(every=None, self_paced=True)
    epochs.begin(0.0)
    for copy in COPIES:
        effects = epochs.on_ended(1, copy, copy, 1.0)
    assert effects == [Store(1, {0: 0, 1: 1, 2: 2})]
    assert epochs.on_failed(1, 1, "disk full", 1.1) == [Abort(1, "disk full")]
    assert epochs.due() == 2.1
    assert epochs.tick(2.1) == [Store(2, {0: 0, 1: 1, 2: 2})]
    assert epochs.on_stored(2, 2.2) == [Commit(2, {0: 0, 1: 1, 2: 2}, True)]


def test_a_checkpoint_that_cannot_be_read_means_the_one_before() -> None:
    epochs = machine(committed=5, highest=9)
    epochs.fall_back(3)
    epochs.begin(0.0)
    assert epochs.tick(1.0) == [Take(10, 3)]
    paced = machine(committed=5, self_paced=True)
    paced.fall_back(3)
    assert paced.begin(0.0) == [Take(4, 3)]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "durable", "ended", "failed", "death", "request", "store"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(EVENTS, st.booleans())
def test_whatever_happens_what_commits_is_whole_and_newer(
    events: list[tuple[str, int, int]], paced: bool
) -> None:
    """Safety: each commit has one report a copy, of this epoch (or an end) and this attempt."""
    epochs = machine(restarts=1000, self_paced=paced)
    now, committed, asked = 0.0, 0, epochs.begin(0.0)
    ended: set[int] = set()
    for kind, copy, back in events:
        now += 0.7
        attempt = epochs.attempt - (back == 3)
        epoch = max(1, (epochs.pending or epochs._highest + 1) - back % 3)
        effects: list[Effect] = []
        if kind == "wait":
            effects = epochs.tick(now)
        elif kind == "durable" and copy not in ended:
            effects = epochs.on_durable(attempt, copy, epoch, (attempt, epoch), now)
        elif kind == "ended":
            effects = epochs.on_ended(attempt, copy, (attempt, None), now)
            ended.add(copy)
        elif kind == "failed":
            effects = epochs.on_failed(attempt, epoch, "no", now)
        elif kind == "death":
            effects = epochs.on_death(attempt, "killed", now)
        elif kind == "request":
            effects = epochs.request(now)
        while effects:
            effect = effects.pop(0)
            if isinstance(effect, Store):
                assert set(effect.reports) == set(COPIES)
                assert {one for one, _ in effect.reports.values()} == {epochs.attempt}
                assert {one for _, one in effect.reports.values()} <= {effect.epoch, None}
                effects += epochs.on_stored(effect.epoch, now)
            elif isinstance(effect, Commit):
                assert effect.epoch > committed
                committed = effect.epoch
                if effect.final:
                    return
            elif isinstance(effect, RollBack):
                assert effect.epoch == committed
                ended = set()
                effects += epochs.begin(now)
            elif isinstance(effect, Take):
                assert effect.committed == committed
    assert epochs.committed == committed
    assert asked is not None
