"""From a `Topology` to one `MemberPlan` a copy: pure data that a process needs to run it.

Every copy of every member gets a *copy id*, counted through the whole topology in order of
declaration; it is the address a `Transport` sends to. Channels are numbered in order of
declaration. A channel is *feedback* when it lies on a cycle (a channel of a member to itself
is the smallest one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.topology.errors import MemberError, expected
from engine.topology.hooks import resolve
from engine.topology.member import Member
from engine.topology.partition import Forward, Partitioning

if TYPE_CHECKING:
    from engine.topology.spec import ChannelSpec, MemberSpec, Topology

__all__ = ["InputPlan", "MemberPlan", "OutputPlan", "construct", "plan_topology"]


@dataclass(frozen=True, slots=True)
class InputPlan:
    """One input channel of one copy.

    `senders` holds (index of the sending copy, its copy id) pairs.
    """

    channel: int
    port: str
    senders: tuple[tuple[int, int], ...]
    capacity_rows: int
    capacity_bytes: int
    feedback: bool


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """One output channel of one copy.

    `receivers` holds (index of the receiving copy, its copy id) pairs.
    """

    channel: int
    name: str
    partitioning: Partitioning
    receivers: tuple[tuple[int, int], ...]
    capacity_rows: int
    capacity_bytes: int
    feedback: bool


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """All that is needed to run one copy; picklable when class, arguments and functions are.

    Attributes:
        topology: name of the topology.
        copy: copy id, the address of this copy.
        name, index, parallelism: the member, and which copy of it.
        member_class, args, kwargs: what to construct. References among the top-level arguments
            are resolved to values by whoever constructs.
        num_cpus, resources: what to reserve for it.
        inputs, outputs: its channels.
    """

    topology: str
    copy: int
    name: str
    index: int
    parallelism: int
    member_class: type[Member]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    num_cpus: float
    resources: Mapping[str, float]
    inputs: tuple[InputPlan, ...]
    outputs: tuple[OutputPlan, ...]

    @property
    def peers(self) -> frozenset[int]:
        """Copy ids this copy exchanges frames with, in either direction; may include itself."""
        senders = {copy for plan in self.inputs for _, copy in plan.senders}
        receivers = {copy for plan in self.outputs for _, copy in plan.receivers}
        return frozenset(senders | receivers)

    @property
    def is_root(self) -> bool:
        """Whether it has no inputs: then epochs reach it by `Trigger`, not by `Marker`."""
        return not self.inputs


def plan_topology(topology: Topology) -> list[MemberPlan]:
    """One plan a copy, in order of copy ids.

    Raises:
        TopologyError: the topology is not complete (see `Topology.validate`).
    """
    topology.validate()
    first_copy: dict[str, int] = {}
    copies = 0
    for member in topology.members:
        first_copy[member.name] = copies
        copies += member.parallelism
    feedback = _feedback_channels(topology.members, topology.channels)
    return [
        _plan_copy(topology, member, index, first_copy, feedback)
        for member in topology.members
        for index in range(member.parallelism)
    ]


def construct(plan: MemberPlan) -> Member:
    """The member of one copy, its top-level `ObjectRef` arguments resolved to values.

    Raises:
        MemberError: the constructor raised, or a reference could not be resolved.
    """
    try:
        args = [resolve(argument) for argument in plan.args]
        kwargs = {name: resolve(argument) for name, argument in plan.kwargs.items()}
        member = plan.member_class(*args, **kwargs)
        if not isinstance(member, Member):
            raise expected("a Member", type(member).__name__, "do not override __new__")
        return member
    except Exception as error:  # the user's constructor may raise anything
        raise MemberError(plan.name, plan.index, "__init__") from error


def _plan_copy(
    topology: Topology,
    member: MemberSpec,
    index: int,
    first_copy: Mapping[str, int],
    feedback: frozenset[int],
) -> MemberPlan:
    inputs = tuple(
        InputPlan(
            channel=number,
            port=channel.port,
            senders=_partners(channel, channel.sender, index, first_copy),
            capacity_rows=channel.capacity_rows,
            capacity_bytes=channel.capacity_bytes,
            feedback=number in feedback,
        )
        for number, channel in enumerate(topology.channels)
        if channel.receiver is member
    )
    outputs = tuple(
        OutputPlan(
            channel=number,
            name=channel.name,
            partitioning=channel.partitioning,
            receivers=_partners(channel, channel.receiver, index, first_copy),
            capacity_rows=channel.capacity_rows,
            capacity_bytes=channel.capacity_bytes,
            feedback=number in feedback,
        )
        for number, channel in enumerate(topology.channels)
        if channel.sender is member
    )
    return MemberPlan(
        topology=topology.name,
        copy=first_copy[member.name] + index,
        name=member.name,
        index=index,
        parallelism=member.parallelism,
        member_class=member.member_class,
        args=member.args,
        kwargs=member.kwargs,
        num_cpus=member.num_cpus,
        resources=member.resources,
        inputs=inputs,
        outputs=outputs,
    )


def _partners(
    channel: ChannelSpec, partner: MemberSpec, index: int, first_copy: Mapping[str, int]
) -> tuple[tuple[int, int], ...]:
    first = first_copy[partner.name]
    if isinstance(channel.partitioning, Forward):
        return ((index, first + index),)
    return tuple((i, first + i) for i in range(partner.parallelism))


def _feedback_channels(
    members: tuple[MemberSpec, ...], channels: tuple[ChannelSpec, ...]
) -> frozenset[int]:
    """Channels on a cycle: those whose sender can be reached from their receiver."""
    successors: dict[str, set[str]] = {member.name: set() for member in members}
    for channel in channels:
        successors[channel.sender.name].add(channel.receiver.name)
    reach = {member.name: _reachable(member.name, successors) for member in members}
    return frozenset(
        number
        for number, channel in enumerate(channels)
        if channel.sender.name in reach[channel.receiver.name]
    )


def _reachable(start: str, successors: Mapping[str, set[str]]) -> set[str]:
    seen = {start}
    frontier = [start]
    while frontier:
        for name in successors[frontier.pop()]:
            if name not in seen:
                seen.add(name)
                frontier.append(name)
    return seen
