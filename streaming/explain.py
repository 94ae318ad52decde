"""Plans in words: members, what is fused in them, and how rows travel between them."""

from __future__ import annotations

from collections.abc import Iterator

from streaming.operator import LATE, OperatorSpec
from streaming.stages import Stage, Stages
from streaming.time import format_duration

__all__ = ["explain"]


def explain(name: str, stages: Stages) -> str:
    """A tree, one member after the other, the operators of a member indented under it."""
    lines = [f"job {name!r}"]
    for stage in stages.stages:
        lines.append("")
        lines.append(_heading(stage))
        lines.extend(f"    {line}" for line in _inputs(stage, stages))
        heads = [(root, "") for root in stage.roots]
        lines.extend(f"    {line}" for line in _operators(stage, heads, 0))
    return "\n".join(lines) + "\n"


def _heading(stage: Stage) -> str:
    copies = "1 copy" if stage.parallelism == 1 else f"{stage.parallelism} copies"
    rows = sum(spec.is_row_path for spec in stage.specs)
    note = f", {rows} on the row path" if rows else ""
    return f"member {stage.name!r} ({copies}, {len(stage.specs)} operators fused{note})"


def _inputs(stage: Stage, stages: Stages) -> Iterator[str]:
    for link in stage.links:
        yield f"receive from {link.sender.name!r}, {link.label}"
    node = stage.source
    if node is None:
        return
    yield f"read {node.source.describe()}"
    pruned = stages.needs.pruned(node)
    if pruned is not None and node.schema is not None:
        unread = [column for column in node.schema.names if column not in pruned]
        yield f"columns {', '.join(pruned)}   [pushed down; not read: {', '.join(unread)}]"
    elif node.schema is not None:
        yield f"columns {', '.join(node.schema.names)}"
    if node.time is not None:
        tick_ns = node.time.tick_ns(node.time.type) or 1
        bound = format_duration(node.time.out_of_orderness * tick_ns)
        use = "" if stages.needs.uses_time(node) else "   [no window uses it: no watermarks]"
        yield f"event time {node.time.column} ({node.time.type}), out of order by {bound}{use}"


def _operators(stage: Stage, siblings: list[tuple[int, str]], depth: int) -> Iterator[str]:
    """A chain goes straight down; what follows one of several siblings is indented under it."""
    for position, mark in siblings:
        spec: OperatorSpec = stage.specs[position]
        yield f"{'  ' * depth}-> {mark}{spec.label}"
        consumers = [
            (consumer, "[late] " if output == LATE else "")
            for output, positions in spec.consumers.items()
            for consumer in positions
        ]
        deeper = depth + (len(siblings) > 1 or len(consumers) > 1)
        yield from _operators(stage, consumers, deeper)
