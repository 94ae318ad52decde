"""Failure detection and fencing: nobody is dead for the head whose own door is still open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.core.membership import Detector, Door

CONFIG = Config()


def test_default_times_keep_the_promise() -> None:
    """Suspected within 2 s and dead within 5 s; the lease ends well before, and renews in time."""
    assert CONFIG.node_suspected_seconds + CONFIG.heartbeat_seconds <= 2.0
    assert CONFIG.node_dead_seconds + CONFIG.heartbeat_seconds <= 5.0
    assert CONFIG.node_lease_seconds + 1.0 <= CONFIG.node_dead_seconds
    assert CONFIG.heartbeat_seconds * 10 <= CONFIG.node_lease_seconds


def test_a_silent_node_is_suspected_then_dead() -> None:
    detector = Detector(CONFIG)
    detector.watch(1, 10.0)
    detector.watch(2, 10.0)
    assert detector.next_look() == 14.5
    assert detector.on_heartbeat(2, 12.0)
    assert not detector.suspected(1, 11.4)
    assert detector.suspected(1, 11.5)
    assert detector.dead(14.4) == []
    assert detector.dead(14.5) == [1]
    assert not detector.on_heartbeat(1, 14.6), "a returning zombie is told"
    assert detector.next_look() == 16.5


def test_a_door_shuts_and_opens_again() -> None:
    door = Door(CONFIG)
    assert not door.open(0.0)
    assert door.beat(0.0)
    assert not door.beat(0.1)
    door.joined(7, 0.0)
    assert door.open(2.9)
    assert not door.open(3.0)
    door.on_answer(6, 2.5)  # for an earlier life
    assert not door.open(3.0)
    door.on_answer(7, 2.5)
    assert door.open(3.0)
    assert not door.orphaned(62.4)
    assert door.orphaned(62.5)
    door.fenced()
    assert not door.open(3.0)
    assert door.beat(3.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 3.0),  # until the node takes its next turn (it may be stopped)
            st.floats(0.0, 6.0),  # the heartbeat's way
            st.floats(0.0, 6.0),  # the answer's way
            st.booleans(),
            st.booleans(),  # lost?
        ),
        max_size=40,
    )
)
def test_no_open_door_of_a_dead_node(
    turns: list[tuple[float, float, float, bool, bool]],
) -> None:
    """Whatever is delayed, lost or overtaken: whoever is dead for the head has shut its door."""
    detector, door = Detector(CONFIG), Door(CONFIG)
    door.joined(1, 0.0)
    detector.watch(1, 0.0)
    now = 0.0
    events: list[tuple[float, int, str, float, float, bool]] = []
    for at, (pause, there, back, lost_there, lost_back) in enumerate(turns):
        now += pause
        if not lost_there:
            events.append((now + there, at, "heartbeat", now, back, lost_back))
        events.append((now, at, "turn", now, 0.0, False))
    dead = False
    while events:
        events.sort()
        when, at, what, sent, back, lost = events.pop(0)
        dead = dead or detector.dead(when) == [1]
        if dead:
            assert not door.open(when)
        if what == "heartbeat" and detector.on_heartbeat(1, when) and not lost:
            events.append((when + back, at, "answer", sent, 0.0, False))
        elif what == "answer":
            door.on_answer(1, sent)
