"""Static graphs of members and channels with credits and epochs (public API)."""

from engine.session import preload as _preload
from engine.topology import memory as _memory
from engine.topology.errors import (
    CheckpointError,
    TopologyError,
    TopologyFailedError,
    TopologyStalledError,
)
from engine.topology.handle import MemberStatistics, TopologyHandle
from engine.topology.hooks import connect as _connect
from engine.topology.inline import InlineHandle
from engine.topology.member import Member, MemberContext
from engine.topology.partition import (
    Partitioning,
    broadcast,
    custom,
    forward,
    hashed,
    key_groups,
    rebalance,
)
from engine.topology.policy import Checkpoints, External
from engine.topology.shared import SharedArray
from engine.topology.spec import ChannelSpec, MemberSpec, Topology
from engine.topology.statistics import CheckpointStatistics

_preload("engine.topology.process:preload")
_connect(allocate=_memory.allocate, attach=_memory.attach, resolve=_memory.resolve)

__all__ = [
    "ChannelSpec",
    "CheckpointError",
    "CheckpointStatistics",
    "Checkpoints",
    "External",
    "InlineHandle",
    "Member",
    "MemberContext",
    "MemberSpec",
    "MemberStatistics",
    "Partitioning",
    "SharedArray",
    "Topology",
    "TopologyError",
    "TopologyFailedError",
    "TopologyHandle",
    "TopologyStalledError",
    "broadcast",
    "custom",
    "forward",
    "hashed",
    "key_groups",
    "rebalance",
]
