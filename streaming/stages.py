"""From the plan to stages: each stage is one member, a source or a shuffle followed by a chain.

Steps that look at one row at a time, sinks included, are fused into the stage of their input:
between them rows move by a method call. A new stage begins where rows must change place: before
a keyed step (unless its key already decides where rows are, or there is one copy only), and
where streams meet. Before a keyed shuffle a first aggregation is added to the sending stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from engine.topology import Partitioning, broadcast, forward, hashed
from streaming.operator import LATE, MAIN, Emitter, Operator, OperatorSpec
from streaming.operators.aggregate import PrePartialsOperator, RunningAggregateOperator
from streaming.operators.map import BatchMapOperator, FlatMapOperator, RowMapOperator
from streaming.operators.project import FilterOperator, ProjectOperator, WithColumnsOperator
from streaming.operators.sink import SinkOperator
from streaming.operators.window import PreAggregateOperator, WindowOperator, WindowSpec
from streaming.optimise import Needs
from streaming.plan import (
    AggregateNode,
    FilterNode,
    FunctionNode,
    LateNode,
    Node,
    ProjectNode,
    SinkNode,
    SourceNode,
    UnionNode,
    WindowNode,
    WithColumnsNode,
    in_flow_order,
)

__all__ = ["Link", "Stage", "Stages"]

FROM_HEAD = -1

_FUNCTIONS: dict[str, Callable[..., Operator]] = {
    "map": RowMapOperator,
    "flat_map": FlatMapOperator,
    "map_batches": BatchMapOperator,
}


@dataclass(eq=False)
class Link:
    """A channel between two stages; its name is that of the emitter and of the port."""

    name: str
    sender: Stage
    partitioning: Partitioning
    label: str


@dataclass(eq=False)
class Stage:
    """One member to be: reads `source`, or what comes by `links`; `roots` receive it."""

    name: str
    parallelism: int
    source: SourceNode | None = None
    links: list[Link] = field(default_factory=list)
    specs: list[OperatorSpec] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Place:
    """An output inside a stage; `keys`: equal values of these are in the same copy."""

    stage: Stage
    position: int
    output: str = MAIN
    keys: tuple[str, ...] | None = None


class Stages:
    """The stages of a plan, in flow order."""

    def __init__(self, sinks: list[SinkNode], parallelism: int) -> None:
        self.needs = Needs(sinks)
        self.stages: list[Stage] = []
        self._parallelism = parallelism
        self._places: dict[int, _Place] = {}
        for node in in_flow_order(sinks):
            if not isinstance(node, UnionNode):  # placed when it is known who reads it
                self._places[id(node)] = self._place(node)

    def _place(self, node: Node) -> _Place:
        if isinstance(node, SourceNode):
            return _Place(self._new_stage(node.name, self._parallelism, source=node), FROM_HEAD)
        if isinstance(node, LateNode):
            place = self._places[id(node.inputs[0])]
            return _Place(place.stage, place.position, LATE, None)
        if isinstance(node, WindowNode | AggregateNode):
            return self._place_aggregation(node)
        place = self._place_of(node.inputs[0])
        position = self._append(place, self._spec_of(node))
        return _Place(place.stage, position, MAIN, self._keys_after(node, place.keys))

    def _spec_of(self, node: Node) -> OperatorSpec:
        """The operator of a step that is fused with its input."""
        if isinstance(node, FilterNode):
            kept = self.needs.columns(node)
            keep = None if kept == self.needs.columns(node.inputs[0]) else kept
            build: Callable[[], Operator] = partial(FilterOperator, node.predicate, keep)
            dropped = "" if keep is None else f" -> {', '.join(keep)}"
            return OperatorSpec(node.name, f"filter {node.predicate}{dropped}", build)
        if isinstance(node, ProjectNode):
            needed = self.needs.columns(node)
            columns = [c for c in node.columns if needed is None or c[0] in needed]
            label = ", ".join(n if e is None else f"{n}={e}" for n, e in columns)
            return OperatorSpec(node.name, f"select {label}", partial(ProjectOperator, columns))
        if isinstance(node, WithColumnsNode):
            needed = self.needs.columns(node)
            new = [(n, e) for n, e in node.columns if needed is None or n in needed]
            label = ", ".join(f"{n}={e}" for n, e in new)
            build = partial(WithColumnsOperator, new)
            return OperatorSpec(node.name, f"with_columns {label}", build)
        if isinstance(node, FunctionNode):
            return _function_spec(node)
        assert isinstance(node, SinkNode)
        build = partial(SinkOperator, node.name, node.sink)
        return OperatorSpec(
            node.name, f"sink {node.name!r}: {node.sink.describe()}", build, sink=node.name
        )

    def _place_aggregation(self, node: WindowNode | AggregateNode) -> _Place:
        keys = node.keys
        places = self._inputs_of(node.inputs[0])
        spec, first = _aggregation_specs(node)
        target = self._parallelism if keys else 1
        if len(places) == 1 and _needs_no_shuffle(places[0], keys, target):
            position = self._append(places[0], spec)
            return _Place(places[0].stage, position, MAIN, keys or None)
        stage = self._new_stage(node.name, target)
        partitioning = hashed(*keys) if keys else broadcast()
        label = f"hash({', '.join(keys)})" if keys else "all to one copy"
        for place in places:
            before = self._append(place, first())
            self._link(_Place(place.stage, before), stage, partitioning, label)
        stage.roots.append(0)
        stage.specs.append(spec)
        return _Place(stage, 0, MAIN, keys or None)

    def _inputs_of(self, node: Node) -> list[_Place]:
        """Where the rows of a node are; a union that is only shuffled needs no stage of its own."""
        if isinstance(node, UnionNode) and id(node) not in self._places:
            return [place for one in node.inputs for place in self._inputs_of(one)]
        return [self._place_of(node)]

    def _place_of(self, node: Node) -> _Place:
        place = self._places.get(id(node))
        if place is None:
            assert isinstance(node, UnionNode)
            place = self._places[id(node)] = self._place_union(node)
        return place

    def _place_union(self, node: UnionNode) -> _Place:
        places = [place for one in node.inputs for place in self._inputs_of(one)]
        widths = {place.stage.parallelism for place in places}
        # Copies of unequal number meet in one: the narrow side bounds the flow in any case.
        target = widths.pop() if len(widths) == 1 else 1
        stage = self._new_stage(node.name, target)
        for place in places:
            same = place.stage.parallelism == target
            partitioning = forward() if same else broadcast()
            label = "forward" if same else "all to one copy"
            self._link(place, stage, partitioning, label)
        return _Place(stage, FROM_HEAD)

    def _link(self, place: _Place, stage: Stage, partitioning: Partitioning, label: str) -> None:
        name = f"{place.stage.name}->{stage.name}"
        repeated = sum(link.name.split("#")[0] == name for link in stage.links)
        if repeated:
            name = f"{name}#{repeated + 1}"
        self._append(place, OperatorSpec(name, f"send {label}", partial(Emitter, name)))
        stage.links.append(Link(name, place.stage, partitioning, label))

    def _append(self, place: _Place, spec: OperatorSpec) -> int:
        """Add an operator as a consumer of an output; its position in the stage."""
        stage = place.stage
        position = len(stage.specs)
        stage.specs.append(spec)
        if place.position == FROM_HEAD:
            stage.roots.append(position)
        else:
            stage.specs[place.position].consumers.setdefault(place.output, []).append(position)
        return position

    def _new_stage(self, name: str, parallelism: int, source: SourceNode | None = None) -> Stage:
        stage = Stage(name, parallelism, source)
        self.stages.append(stage)
        return stage

    @staticmethod
    def _keys_after(node: Node, keys: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The keys rows are placed by, if the step leaves those columns as they are."""
        if keys is None or isinstance(node, FunctionNode):
            return None
        if isinstance(node, ProjectNode):
            kept = {name for name, expression in node.columns if expression is None}
            return keys if kept.issuperset(keys) else None
        if isinstance(node, WithColumnsNode):
            return None if {name for name, _ in node.columns} & set(keys) else keys
        return keys


def _needs_no_shuffle(place: _Place, keys: tuple[str, ...], target: int) -> bool:
    if place.stage.parallelism != target:
        return False
    if target == 1:
        return True
    return place.keys is not None and set(place.keys) <= set(keys)


def _function_spec(node: FunctionNode) -> OperatorSpec:
    called = getattr(node.function, "__name__", type(node.function).__name__)
    what = f"{node.name}({called})"
    build = partial(_FUNCTIONS[node.kind], what, node.function, node.declared)
    is_row_path = node.kind != "map_batches"
    note = "row path: one Python call per row" if is_row_path else "one Python call per batch"
    return OperatorSpec(
        node.name, f"{node.kind} {called}   [{note}]", build, is_row_path=is_row_path
    )


def _aggregation_specs(
    node: WindowNode | AggregateNode,
) -> tuple[OperatorSpec, Callable[[], OperatorSpec]]:
    """The aggregation itself, and what makes the first stage before a shuffle."""
    listed = ", ".join(f"{name}={aggregate}" for name, aggregate in node.aggregates.items())
    by = f" by {', '.join(node.keys)}" if node.keys else ""
    if isinstance(node, WindowNode):
        [source] = node.inputs
        assert source.time is not None
        spec = WindowSpec(node.keys, node.shape, node.aggregates, source.time)
        final = OperatorSpec(
            node.name, f"window {node.shape}{by}: {listed}", partial(WindowOperator, spec)
        )
        label = f"pre-aggregate per batch and slice{by}: {listed}"
        return final, lambda: OperatorSpec(
            f"{node.name}-partial", label, partial(PreAggregateOperator, spec)
        )
    build = partial(RunningAggregateOperator, node.keys, node.aggregates, node.updates)
    mode = "updates" if node.updates else "final"
    final = OperatorSpec(node.name, f"aggregate ({mode}){by}: {listed}", build)
    first = partial(PrePartialsOperator, node.keys, node.aggregates)
    label = f"pre-aggregate per batch{by}: {listed}"
    return final, lambda: OperatorSpec(f"{node.name}-partial", label, first)
