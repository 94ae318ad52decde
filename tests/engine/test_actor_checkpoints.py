"""The protocol of an actor's checkpoints: the last safe one is never written to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.core.actor_checkpoints import ActorCheckpoints
from engine.core.control import Checkpoint
from engine.core.ids import process_id
from engine.core.messages import Keep

CREATOR = process_id(b"maker-", 1)
ACTOR = CREATOR + bytes(8)


def begun(ids: list[bytes], dead: bool = False) -> tuple[ActorCheckpoints, Keep | None]:
    protocol = ActorCheckpoints(ACTOR)
    protocol.begin()
    return protocol, protocol.on_written(10, 7, ids, "references", dead)


def test_without_references_nobody_is_asked() -> None:
    protocol, keep = begun([])
    assert keep is None
    assert protocol.on_holding(1) == Checkpoint(ACTOR, 1, 10, 7)
    assert protocol.on_holding(1) is None, "it counts once"
    assert protocol.on_counted() == [Checkpoint(ACTOR, 1, 10, 7)]
    assert protocol.under_way
    protocol.on_kept(1, looks=True)
    assert not protocol.under_way


def test_what_the_last_one_held_is_let_go() -> None:
    protocol, keep = begun([b"object"])
    assert keep == Keep(ACTOR, 1, [b"object"])
    protocol.on_holding(1)
    protocol.on_counted()
    protocol.on_kept(1)
    protocol.begin()
    assert protocol.on_written(10, 7, [], None, False) == Keep(ACTOR, 2, [])
    protocol.on_holding(2)
    protocol.on_counted()
    protocol.on_kept(2)
    protocol.begin()
    assert protocol.on_written(10, 7, [], None, False) is None


def test_a_dead_creator_is_not_waited_for() -> None:
    assert begun([b"object"], dead=True)[1] is None
    protocol, _keep = begun([b"object"])
    assert protocol.on_death(b"another") is None
    assert protocol.on_death(CREATOR) == Checkpoint(ACTOR, 1, 10, 7)
    assert protocol.on_death(CREATOR) is None


def test_what_waits_for_the_first_one_comes_behind_it() -> None:
    protocol, _keep = begun([b"object"])
    assert not protocol.put_behind("alive")
    counted = protocol.on_holding(1)
    assert protocol.on_counted() == [counted, "alive"]
    assert protocol.put_behind("now")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12))
def test_the_last_safe_one_stays_whole(rounds: list[tuple[bool, bool, bool]]) -> None:
    """Each round: with references or none, the creator dead or not, the node looks or is told."""
    protocol, memories, safe = ActorCheckpoints(ACTOR), [0, 0], 0
    looked: set[int] = set()
    for refers, dead, looks in rounds:
        place = protocol.begin()
        assert memories[place] != safe or safe == 0, "the last safe one would be written over"
        memories[place] = 0
        protocol.on_written(1, 2, [b"object"] if refers else [], None, dead)
        assert protocol.on_holding(protocol.number - 1) is None, "another one's answer"
        counted = protocol.on_holding(protocol.number)
        assert counted is not None
        memories[place] = counted.number
        told = protocol.on_counted()
        assert (told == []) == (place in looked), "told, unless the node looks there"
        if told:
            assert protocol.under_way
            protocol.on_kept(counted.number, looks)
            if looks:
                looked.add(place)
        assert not protocol.under_way
        safe = counted.number
