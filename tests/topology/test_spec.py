"""Declarations: each mistake is raised by the call that makes it, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.topology import Member, Topology, TopologyError, forward, hashed, rebalance
from tests.topology.members import Numbers, Relay


def topology() -> Topology:
    made = Topology("t")
    made.member("a", Numbers, 10, (1,), parallelism=2)
    made.member("b", Relay, parallelism=3)
    return made


WRONG: list[tuple[Callable[[Topology], Any], str]] = [
    (lambda t: Topology(""), "non-empty string as name of the topology, found ''"),
    (lambda t: t.member("", Relay), "non-empty string as name of a member"),
    (lambda t: t.member("a", Relay), "member name not yet used, found 'a' twice"),
    (lambda t: t.member("c", object), "subclass of Member for 'c', found <class 'object'>"),
    (lambda t: t.member("c", Relay()), "subclass of Member for 'c', found <.*pass the class"),
    (lambda t: t.member("c", Relay, parallelism=0), r"integer in 1\.\.4096.*found 0"),
    (lambda t: t.member("c", Relay, parallelism=4097), r"integer in 1\.\.4096.*found 4097"),
    (lambda t: t.member("c", Relay, parallelism=True), r"integer in 1\.\.4096.*found True"),
    (lambda t: t.member("c", Relay, parallelism=2.0), r"integer in 1\.\.4096.*found 2.0"),
    (lambda t: t.member("c", Relay, num_cpus=-1), "number >= 0 as num_cpus of member 'c'"),
    (lambda t: t.member("c", Relay, num_cpus="1"), "number >= 0 as num_cpus.*found '1'"),
    (lambda t: t.member("c", Relay, resources={"disk": -1}), "resource 'disk' of member 'c'"),
    (lambda t: t.member("c", Relay, resources=["disk"]), "mapping as resources of 'c'"),
    (lambda t: t.member("c", Relay, cpus=1), "unexpected keyword argument 'cpus'.*num_cpus"),
    (lambda t: t.member("c", Numbers), "missing a required argument: 'rows'"),
    (lambda t: t.channel("a", "zz", rebalance()), r"member of topology 't', found 'zz'.*\['a'"),
    (lambda t: t.channel("zz", "b", rebalance()), "member of topology 't', found 'zz'"),
    (lambda t: t.channel(7, "b", rebalance()), "member of topology 't', found 7"),
    (
        lambda t: t.channel(topology().members[0], "b", rebalance()),
        "member of topology 't', found 'a'",
    ),
    (lambda t: t.channel("a", "b", forward), "a partitioning.*call it"),
    (lambda t: t.channel("a", "b", forward()), "equal parallelism.*found 2 and 3.*rebalance"),
    (lambda t: t.channel("a", "b", rebalance(), capacity_rows=0), "capacity_rows of channel 'b'"),
    (lambda t: t.channel("a", "b", rebalance(), capacity_bytes=-1), "capacity_bytes.*found -1"),
    (lambda t: t.channel("a", "b", rebalance(), capacity_rows=1.5), "capacity_rows.*found 1.5"),
    (lambda t: t.channel("a", "b", rebalance(), name=""), "as name of a channel, found ''"),
    (lambda t: t.channel("a", "b", rebalance(), port=3), "as name of a port, found 3"),
    (lambda t: t.channel("a", "b", hashed()), "names of key columns"),
]


@pytest.mark.parametrize(("declare", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_mistakes_are_refused_where_they_are_made(
    declare: Callable[[Topology], Any], message: str
) -> None:
    with pytest.raises(TopologyError, match=message) as caught:
        declare(topology())
    assert "expected" in str(caught.value)
    assert "found" in str(caught.value)


def test_a_refused_declaration_leaves_no_trace() -> None:
    made = topology()
    for declare, _ in WRONG:
        with pytest.raises(TopologyError):
            declare(made)
    assert [member.name for member in made.members] == ["a", "b"]
    assert made.channels == ()


def test_names_and_ports_default_to_the_partner() -> None:
    made = topology()
    first = made.channel("a", "b", rebalance())
    assert (first.name, first.port) == ("b", "a")
    with pytest.raises(TopologyError, match="one outgoing channel 'b' of member 'a', found two"):
        made.channel("a", "b", rebalance())
    with pytest.raises(TopologyError, match="one input port 'a' of member 'b', found two"):
        made.channel("a", "b", rebalance(), name="again")
    second = made.channel("a", "b", rebalance(), name="again", port="again")
    assert made.channels == (first, second)
    assert repr(made) == "Topology('t', 2 members, 2 channels)"


def test_completeness_is_checked_at_deployment() -> None:
    with pytest.raises(TopologyError, match="members in topology 'empty', found none"):
        Topology("empty").deploy(inline=True)
    unfed = topology()
    with pytest.raises(TopologyError, match=r"input channel or a poll\(\) for member 'b'"):
        unfed.deploy(inline=True)
    ring = Topology("ring")
    ring.member("r", Relay)
    ring.channel("r", "r", forward())
    with pytest.raises(TopologyError, match="a source in topology 'ring'"):
        ring.deploy(inline=True)


class Table(Member, dict):  # type: ignore[type-arg]
    """A constructor in C, of which Python knows no signature."""


def test_a_constructor_without_a_signature_checks_for_itself() -> None:
    made = Topology("t")
    assert made.member("c", Table, [(1, 2)]).args == ([(1, 2)],)


def test_arguments_are_kept_by_value_of_the_declaration() -> None:
    made = Topology("t")
    spec = made.member("c", Numbers, 5, batch_rows=(1, 2), num_cpus=0.5, resources={"disk": 1})
    assert spec.args == (5,)
    assert spec.kwargs == {"batch_rows": (1, 2)}
    assert (spec.num_cpus, spec.resources, spec.parallelism) == (0.5, {"disk": 1}, 1)
    assert spec.is_polled
