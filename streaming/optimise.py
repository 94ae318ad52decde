"""What the plan need not do: columns nobody reads, event time nobody uses.

`Needs` answers, for every node, which of its columns some later step reads. Sources then produce
only those, filters copy only those, and projections compute only those. Where columns are not
known (behind Python functions), all are needed.
"""

from __future__ import annotations

from streaming.expressions import references
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

__all__ = ["Needs"]

# None: every column.
_Columns = set[str] | None


class Needs:
    """Needed columns of every node that leads to one of the sinks."""

    def __init__(self, sinks: list[SinkNode]) -> None:
        self._columns: dict[int, _Columns] = {}
        self._with_late: set[int] = set()
        self._timed: set[int] = set()
        nodes = list(in_flow_order(sinks))
        self._with_late = {id(n.inputs[0]) for n in nodes if isinstance(n, LateNode)}
        for node in reversed(nodes):
            self._columns.setdefault(id(node), None if isinstance(node, SinkNode) else set())
            for source in node.inputs:
                self._demand(source, self._demanded_by(node, source))
            if isinstance(node, WindowNode) or id(node) in self._timed:
                self._timed.update(id(source) for source in node.inputs)

    def columns(self, node: Node) -> list[str] | None:
        """The needed columns in the order of the schema; None when all are, or may be."""
        needed = self._columns[id(node)]
        if needed is None or node.schema is None:
            return None
        names = [name for name in node.schema.names if name in needed]
        # Rows without columns cannot be counted.
        return names or node.schema.names[:1]

    def pruned(self, node: Node) -> list[str] | None:
        """As `columns`, but None too when nothing is saved."""
        names = self.columns(node)
        return None if node.schema is None or names == node.schema.names else names

    def uses_time(self, source: SourceNode) -> bool:
        """Whether a window makes use of this source's watermarks."""
        return id(source) in self._timed

    def _demand(self, node: Node, columns: _Columns) -> None:
        known = self._columns.setdefault(id(node), set())
        if columns is None or known is None or node.schema is None:
            self._columns[id(node)] = None
        else:
            known.update(columns)

    def _demanded_by(self, node: Node, source: Node) -> _Columns:
        """The columns of `source` that `node` reads, to produce its own needed ones."""
        needed = self._columns[id(node)]
        if source.schema is None or isinstance(node, SinkNode | FunctionNode):
            return None
        if isinstance(node, LateNode):
            return set()
        if isinstance(node, WindowNode | AggregateNode):
            return self._demanded_by_aggregation(node)
        if needed is None:
            needed = set(node.schema.names) if node.schema is not None else set()
        if isinstance(node, FilterNode):
            return needed | set(references(node.predicate, source.schema))
        if isinstance(node, ProjectNode | WithColumnsNode):
            computed = dict(node.columns)
            read = {name for name in needed if computed.get(name) is None}
            for name, expression in node.columns:
                if expression is not None and name in needed:
                    read.update(references(expression, source.schema))
            return read
        assert isinstance(node, UnionNode)
        return needed

    def _demanded_by_aggregation(self, node: WindowNode | AggregateNode) -> _Columns:
        if id(node) in self._with_late:
            return None  # late rows are handed on whole
        read = set(node.keys) | {a.column for a in node.aggregates.values() if a.column}
        [source] = node.inputs
        if isinstance(node, WindowNode) and source.time is not None:
            read.add(source.time.column)
        return read
