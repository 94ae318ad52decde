"""Think like a vertex: the class a user writes, and what its ``compute`` is given.

    class ShortestPaths(graph.VertexProgram):
        value = graph.float64(default=float("inf"))
        message = graph.float64(combine="min")

        def __init__(self, source):
            self.source = source

        def compute(self, v, messages, ctx):
            best = min(messages, default=0.0 if v.id == self.source else float("inf"))
            if best < v.value:
                v.value = best
                for e in v.out_edges:
                    v.send(e.target, best + e.weight)
            v.vote_to_halt()

G. Malewicz et al.: Pregel (SIGMOD'10). All vertices are active in superstep 0. A message sent in
superstep k arrives in k + 1 and wakes a vertex that voted to halt; the run ends when no vertex is
active and no message is under way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from graph.types import COMBINERS, Field

if TYPE_CHECKING:
    from graph.interpreter import Interpreter

__all__ = ["Context", "Edge", "Vertex", "VertexProgram", "check_program"]


class VertexProgram(ABC):
    """Base class of vertex programs: declare ``value`` and ``message``, write ``compute``.

    ``aggregators`` names global sums: ``{"error": "max"}``; a name that is not listed is a sum.
    Every copy has its own instance: what ``compute`` stores in ``self`` is seen by the
    vertices of that partition only. The order of a vertex's messages is that of their senders.
    """

    value: ClassVar[Field]
    message: ClassVar[Field]
    aggregators: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def compute(self, v: Vertex, messages: Sequence[Any], ctx: Context) -> None:
        """Called for every active vertex in every superstep, in vertex order per partition."""


class Edge(NamedTuple):
    """An out-edge as a program sees it."""

    target: Any
    """The id of the vertex it leads to."""
    weight: float
    """1.0 in a graph without weights."""


class Vertex:
    """The vertex being computed. One object serves all vertices in turn: do not keep it."""

    __slots__ = ("_engine", "_halted", "_kind", "_local", "_messages", "_targets", "id", "value")

    id: Any
    """The user's id of this vertex."""
    value: Any
    """The vertex value, of the declared type; kept when ``compute`` returns."""

    def __init__(self, engine: Interpreter) -> None:
        """``engine`` holds the partition; its lists collect what vertices send."""
        self._engine = engine
        self._kind = engine.message.exact
        self._targets = engine.mail.targets
        self._messages = engine.mail.messages
        self._halted = False
        self._local = 0

    @property
    def out_degree(self) -> int:
        """The number of out-edges."""
        offsets = self._engine.offsets
        return offsets[self._local + 1] - offsets[self._local]

    @property
    def out_edges(self) -> list[Edge]:
        """The out-edges, by target."""
        return self._engine.edges(self._local)

    def send(self, target: Any, message: Any) -> None:
        """Send to the vertex with this id; it need not be a neighbour.

        Raises ``KeyError`` if there is no such vertex and ``TypeError`` for a message that is not
        of the declared type.
        """
        if type(message) is not self._kind:
            message = self._engine.message.convert(message, f"message of vertex {self.id!r}")
        self._targets.append(self._engine.locate(target))
        self._messages.append(message)

    def send_to_neighbors(self, message: Any) -> None:
        """Send the same along every out-edge (along parallel edges several times)."""
        if type(message) is not self._kind:
            message = self._engine.message.convert(message, f"message of vertex {self.id!r}")
        self._engine.mail.spread(self._local, message)

    def vote_to_halt(self) -> None:
        """Do not compute this vertex again until a message arrives."""
        self._halted = True


class Context:
    """What a vertex can know beyond itself."""

    def __init__(self, num_vertices: int, num_edges: int, operations: Mapping[str, str]) -> None:
        """``num_edges`` counts stored out-edges: an undirected edge twice."""
        self.superstep = 0
        """The present superstep, from 0."""
        self.num_vertices = num_vertices
        self.num_edges = num_edges
        self._operations = operations
        self._before: dict[str, Any] = {}
        self._now: dict[str, Any] = {}

    def aggregate(self, name: str, x: Any) -> None:
        """Contribute a number to a global sum (or min, max: see ``aggregators``)."""
        if isinstance(x, np.generic):
            x = x.item()
        if not isinstance(x, int | float):
            raise TypeError(f"aggregate({name!r}) takes a number, found {x!r:.80}")
        now = self._now
        now[name] = x if name not in now else merge(self._operations.get(name, "sum"), now[name], x)

    def aggregated(self, name: str) -> Any:
        """The total of the superstep before; if nobody contributed 0 for sums, otherwise None."""
        empty = 0 if self._operations.get(name, "sum") == "sum" else None
        return self._before.get(name, empty)

    def turn(self, superstep: int, totals: dict[str, Any]) -> None:
        """Begin a superstep with the totals of the last one."""
        self.superstep, self._before, self._now = superstep, totals, {}

    def contributed(self) -> dict[str, Any]:
        """What this partition's vertices gave in the present superstep."""
        return self._now


def merge(operation: str, a: Any, b: Any) -> Any:
    """Two contributions to an aggregator as one."""
    if operation == "sum":
        return a + b
    if operation in ("any", "all"):
        return bool(COMBINERS[operation](a, b))
    return min(a, b) if operation == "min" else max(a, b)


def check_program(program: Any) -> None:
    """Complain about a program that cannot run, with what is missing."""
    if isinstance(program, type) and issubclass(program, VertexProgram):
        raise TypeError(f"expected a program, found its class; write {program.__name__}(...)")
    if not isinstance(program, VertexProgram):
        raise TypeError(f"expected a graph.VertexProgram, found {type(program).__name__}")
    for name in ("value", "message"):
        declared = getattr(program, name, None)
        if not isinstance(declared, Field):
            raise TypeError(
                f"{type(program).__name__} must declare `{name}`, for example "
                f"`{name} = graph.float64()`; found {declared!r}"
            )
    for name, operation in program.aggregators.items():
        if operation not in COMBINERS:
            known = ", ".join(map(repr, COMBINERS))
            raise ValueError(f"aggregator {name!r}: {operation!r} is not one of {known}")
