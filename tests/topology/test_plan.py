"""Planning: addresses, partners and cycles, on topologies whose plans can be written by hand."""

from __future__ import annotations

import pickle

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.topology import Topology, TopologyError, broadcast, forward, hashed
from engine.topology.errors import MemberError
from engine.topology.hooks import connect
from engine.topology.plan import construct, plan_topology
from tests.topology.members import Numbers, Relay


def line() -> Topology:
    made = Topology("line")
    made.member("a", Numbers, 10, (1,), parallelism=2)
    made.member("b", Relay, parallelism=2)
    made.member("c", Relay, parallelism=3)
    made.channel("a", "b", forward(), capacity_rows=7, capacity_bytes=70)
    made.channel("b", "c", hashed("key"), name="out", port="in")
    return made


def test_copies_are_numbered_and_connected() -> None:
    plans = plan_topology(line())
    assert [(p.copy, p.name, p.index, p.parallelism) for p in plans] == [
        (0, "a", 0, 2),
        (1, "a", 1, 2),
        (2, "b", 0, 2),
        (3, "b", 1, 2),
        (4, "c", 0, 3),
        (5, "c", 1, 3),
        (6, "c", 2, 3),
    ]
    assert plans[1].outputs[0].receivers == ((1, 3),)
    assert plans[3].inputs[0].senders == ((1, 1),)
    assert (plans[3].inputs[0].capacity_rows, plans[1].outputs[0].capacity_bytes) == (7, 70)
    assert plans[3].outputs[0].receivers == ((0, 4), (1, 5), (2, 6))
    assert (plans[3].outputs[0].name, plans[4].inputs[0].port) == ("out", "in")
    assert plans[6].inputs[0].senders == ((0, 2), (1, 3))
    assert plans[3].peers == {1, 4, 5, 6}
    assert [p.is_root for p in plans] == [True] * 2 + [False] * 5


def test_plans_can_be_shipped() -> None:
    plans = plan_topology(line())
    shipped = pickle.loads(pickle.dumps(plans))
    assert shipped == plans


def test_an_incomplete_topology_has_no_plan() -> None:
    with pytest.raises(TopologyError, match="members in topology"):
        plan_topology(Topology("empty"))


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_channels_on_a_cycle_are_feedback(edges: set[tuple[int, int]]) -> None:
    made = Topology("random")
    for number in range(6):
        made.member(str(number), Numbers, 1, (1,))
    ordered = sorted(edges)
    for sender, receiver in ordered:
        made.channel(str(sender), str(receiver), broadcast())
    graph = networkx.DiGraph(ordered)
    component = {
        node: number
        for number, nodes in enumerate(networkx.strongly_connected_components(graph))
        for node in nodes
    }
    for plan in plan_topology(made):
        for output in plan.outputs:
            sender, receiver = ordered[output.channel]
            assert output.feedback == (component[sender] == component[receiver])


def test_members_are_constructed_with_resolved_arguments() -> None:
    made = Topology("t")
    made.member("a", Numbers, "ref:7", batch_rows="ref:3")
    (plan,) = plan_topology(made)
    before = connect(resolve=lambda value: int(str(value).removeprefix("ref:")))
    try:
        member = construct(plan)
    finally:
        connect(**before)
    assert isinstance(member, Numbers)
    assert (member.rows, member.batch_rows) == (7, 3)


class Broken(Numbers):
    def __init__(self) -> None:
        raise KeyError("nothing here")


def test_a_constructor_that_raises_is_named() -> None:
    made = Topology("t")
    made.member("a", Broken)
    (plan,) = plan_topology(made)
    with pytest.raises(MemberError, match=r"member 'a' copy 0 failed in __init__\(\)") as caught:
        construct(plan)
    assert isinstance(caught.value.__cause__, KeyError)
