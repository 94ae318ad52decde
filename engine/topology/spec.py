"""The declaration of a topology: members and channels, checked where they are declared.

A `Topology` is data and does nothing until `deploy`. Every mistake that can be seen in the
declaration is raised by the call that makes it, with what was expected, what was found, and what
to do about it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from engine.topology.errors import TopologyError, expected
from engine.topology.hashing import GROUPS
from engine.topology.member import Member
from engine.topology.partition import Forward, Partitioning

if TYPE_CHECKING:
    from engine.topology.handle import TopologyHandle
    from engine.topology.policy import Checkpoints, External

__all__ = ["CAPACITY_BYTES", "CAPACITY_ROWS", "ChannelSpec", "MemberSpec", "Topology"]

# Two of the largest recommended batches (64 Ki rows) in flight between two copies: one is worked
# on while the next travels.
CAPACITY_ROWS = 131_072
CAPACITY_BYTES = 16 << 20

# A copy beyond the number of key groups could never own one.
_PARALLELISM_MAX = GROUPS


@dataclass(frozen=True, slots=True, eq=False)
class MemberSpec:
    """A declared member; made by `Topology.member`."""

    name: str
    member_class: type[Member]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    parallelism: int
    num_cpus: float
    resources: Mapping[str, float]

    @property
    def is_polled(self) -> bool:
        """Whether the class overrides `poll`."""
        return self.member_class.poll is not Member.poll


@dataclass(frozen=True, slots=True, eq=False)
class ChannelSpec:
    """A declared channel; made by `Topology.channel`."""

    name: str
    port: str
    sender: MemberSpec
    receiver: MemberSpec
    partitioning: Partitioning
    capacity_rows: int
    capacity_bytes: int


class Topology:
    """A static graph of members and channels.

    Args:
        name: shown in statistics and errors.

    Raises:
        TopologyError: the name is no string or empty.
    """

    def __init__(self, name: str) -> None:
        self.name = _checked_name("the topology", name)
        self._members: dict[str, MemberSpec] = {}
        self._channels: list[ChannelSpec] = []

    @property
    def members(self) -> tuple[MemberSpec, ...]:
        """The members in order of declaration."""
        return tuple(self._members.values())

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """The channels in order of declaration."""
        return tuple(self._channels)

    def member(
        self,
        name: str,
        member_class: type[Member],
        /,
        *args: Any,
        parallelism: int = 1,
        num_cpus: float = 0,
        resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> MemberSpec:
        """Declare a member: `parallelism` copies of `member_class(*args, **kwargs)`.

        Args:
            name: unique in the topology.
            member_class: a subclass of `Member`.
            args, kwargs: for the constructor, shipped by value to every copy. Top-level
                `ObjectRef` arguments arrive as values.
            parallelism: number of copies, 1..4096.
            num_cpus, resources: what each copy reserves.

        Raises:
            TopologyError: what is wrong with the declaration.
        """
        _checked_name("a member", name)
        if name in self._members:
            raise expected("a member name not yet used", f"'{name}' twice", "rename one of them")
        if not (isinstance(member_class, type) and issubclass(member_class, Member)):
            raise expected(
                f"a subclass of Member for '{name}'",
                repr(member_class),
                "pass the class itself, followed by the arguments of its constructor",
            )
        _check_int(f"parallelism of member '{name}'", parallelism, 1, _PARALLELISM_MAX)
        _check_amount(f"num_cpus of member '{name}'", num_cpus)
        if not isinstance(resources, Mapping | None):
            raise expected(f"a mapping as resources of '{name}'", repr(resources), "use a dict")
        amounts = dict(resources or {})
        for resource, amount in amounts.items():
            _check_amount(f"resource '{resource}' of member '{name}'", amount)
        _check_arguments(name, member_class, args, kwargs)
        spec = MemberSpec(name, member_class, args, kwargs, parallelism, num_cpus, amounts)
        self._members[name] = spec
        return spec

    def channel(
        self,
        sender: MemberSpec | str,
        receiver: MemberSpec | str,
        partitioning: Partitioning,
        *,
        name: str | None = None,
        port: str | None = None,
        capacity_rows: int = CAPACITY_ROWS,
        capacity_bytes: int = CAPACITY_BYTES,
    ) -> ChannelSpec:
        """Declare a channel from every copy of `sender` to the copies of `receiver`.

        Args:
            sender, receiver: members of this topology, or their names; may be the same.
            partitioning: `forward()`, `hashed(...)`, `broadcast()`, `rebalance()`, `custom(f)`.
            name: how the sender calls it; unique among the sender's channels. Default: the
                receiver's name.
            port: how the receiver calls it; unique among the receiver's inputs. Default: the
                sender's name.
            capacity_rows, capacity_bytes: what may be in flight from each sending copy to each
                receiving copy; one item more may be, whatever its size.

        Raises:
            TopologyError: what is wrong with the declaration.
        """
        source, target = self._known(sender), self._known(receiver)
        if not isinstance(partitioning, Partitioning):
            raise expected(
                f"a partitioning for the channel '{source.name}' -> '{target.name}'",
                repr(partitioning),
                "call it: forward(), hashed('key'), broadcast(), rebalance() or custom(function)",
            )
        if isinstance(partitioning, Forward) and source.parallelism != target.parallelism:
            raise expected(
                f"equal parallelism for forward '{source.name}' -> '{target.name}'",
                f"{source.parallelism} and {target.parallelism}",
                "make them equal, or use rebalance()",
            )
        name = _checked_name("a channel", target.name if name is None else name)
        port = _checked_name("a port", source.name if port is None else port)
        _check_int(f"capacity_rows of channel '{name}'", capacity_rows, 1, 1 << 62)
        _check_int(f"capacity_bytes of channel '{name}'", capacity_bytes, 1, 1 << 62)
        for other in self._channels:
            if other.sender is source and other.name == name:
                raise expected(
                    f"one outgoing channel '{name}' of member '{source.name}'",
                    "two",
                    "give one of them another name=",
                )
            if other.receiver is target and other.port == port:
                raise expected(
                    f"one input port '{port}' of member '{target.name}'",
                    "two",
                    "give one of the channels another port=",
                )
        spec = ChannelSpec(name, port, source, target, partitioning, capacity_rows, capacity_bytes)
        self._channels.append(spec)
        return spec

    def validate(self) -> None:
        """Check what can only be seen when all is declared; `deploy` calls it.

        Raises:
            TopologyError: no member, a member without inputs that cannot poll, or no source.
        """
        if not self._members:
            raise expected(
                f"members in topology '{self.name}'", "none", "declare them with member()"
            )
        fed = {channel.receiver.name for channel in self._channels}
        for member in self._members.values():
            if member.name not in fed and not member.is_polled:
                raise expected(
                    f"an input channel or a poll() for member '{member.name}'",
                    "neither",
                    "connect a channel to it, or override poll() to make it a source",
                )
        if not any(member.is_polled for member in self._members.values()):
            raise expected(
                f"a source in topology '{self.name}'",
                "only members that wait for input",
                "override poll() in one of them",
            )

    def deploy(
        self,
        inline: bool = False,
        *,
        checkpoints: Checkpoints | None = None,
        external: External | None = None,
    ) -> TopologyHandle:
        """Start the topology.

        Args:
            inline: all members in this process and thread, deterministic; they run while
                `handle.wait()` is called. Otherwise one process a copy.
            checkpoints: keep it restartable: deaths of processes are survived, and so is that of
                this one, by deploying again with the same directory.
            external: where effects that members hand over become visible.

        Raises:
            TopologyError: the topology is not complete (see `validate`).
            CheckpointError: the checkpoint directory cannot be used.
        """
        if inline:
            from engine.topology.inline import InlineHandle

            return InlineHandle(self, checkpoints=checkpoints, external=external)
        from engine.topology import deploy

        handle: TopologyHandle = deploy.deploy(self, checkpoints, external)
        return handle

    def __repr__(self) -> str:
        return (
            f"Topology({self.name!r}, {len(self._members)} members, {len(self._channels)} channels)"
        )

    def _known(self, member: MemberSpec | str) -> MemberSpec:
        if isinstance(member, str):
            found = self._members.get(member)
        elif isinstance(member, MemberSpec):
            found = member if self._members.get(member.name) is member else None
        else:
            found = None
        if found is None:
            raise expected(
                f"a member of topology '{self.name}'",
                repr(member.name if isinstance(member, MemberSpec) else member),
                f"declare it first; declared are {sorted(self._members)}",
            )
        return found


def _checked_name(what: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise expected(f"a non-empty string as name of {what}", repr(name), "give it a name")
    return name


def _check_int(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise expected(f"an integer in {low}..{high} as {what}", repr(value), "correct it")


def _check_amount(what: str, value: object) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise expected(f"a number >= 0 as {what}", repr(value), "correct it")


def _check_arguments(
    name: str, member_class: type[Member], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(member_class)
    except ValueError:  # a constructor in C without a signature: it will check for itself
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TopologyError(
            f"expected arguments for {member_class.__name__}{signature} in member '{name}', found "
            f"{error}; options of member() itself are parallelism, num_cpus and resources"
        ) from error
