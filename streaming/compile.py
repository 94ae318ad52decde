"""From stages to an `engine.topology.Topology`: one member a stage, one channel a link."""

from __future__ import annotations

import engine
from engine.topology import Topology
from streaming.member import ChannelMember, SourceMember
from streaming.stages import Stages

__all__ = ["to_topology"]


def to_topology(name: str, stages: Stages, is_inline: bool) -> Topology:
    """Declare members and channels. In-memory sources go to the object store, unless inline."""
    topology = Topology(name)
    for stage in stages.stages:
        if stage.source is None:
            topology.member(
                stage.name,
                ChannelMember,
                stage.specs,
                stage.roots,
                is_inline,
                parallelism=stage.parallelism,
            )
        else:
            node = stage.source
            payload = node.source.payload()
            if payload is not None and not is_inline:
                payload = engine.put(payload)
            topology.member(
                stage.name,
                SourceMember,
                node.source,
                payload,
                stages.needs.pruned(node),
                node.time if stages.needs.uses_time(node) else None,
                stage.specs,
                stage.roots,
                is_inline,
                parallelism=stage.parallelism,
            )
    for stage in stages.stages:
        for link in stage.links:
            topology.channel(
                link.sender.name, stage.name, link.partitioning, name=link.name, port=link.name
            )
    return topology
