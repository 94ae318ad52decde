"""Values that lie on other nodes: asked for, sent in parts, read into the reader's own memory.

As what lies on disk is read (`core.spill`), and for the same reason: nobody waits for memory in
order to read. The reader holds a registered reference and counts as looking until the last part has
come, so the block stays where it is. The parts share the node's session with everything else, and
are made only while that has room.

Pure: effects leave through the `PullEdge` and `send(number, body)`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from engine.core.between import Part, Pull
from engine.core.ids import node_of
from engine.core.values import Block

__all__ = ["PullEdge", "Pulls"]


class PullEdge(Protocol):
    """What the pulls have done for them."""

    def read(self, block: Block, offset: int, size: int) -> bytes | None:
        """Bytes of a block of this node; None when it is not there, or cannot be read."""

    def piece(self, process: bytes, number: int, data: bytes, left: int) -> None:
        """A part for the request of a process of this node; `left` -1: the value is lost."""


class Pulls:
    """What the processes of one node read elsewhere, and others here."""

    def __init__(self, edge: PullEdge, send: Callable[[int, Any], None], size: int) -> None:
        self._edge = edge
        self._send = send
        self._size = size
        self._count = 0
        self.asked: dict[int, tuple[int, bytes, int]] = {}  # pull -> node, process, its request
        self.serving: dict[int, deque[tuple[Pull, int]]] = {}  # node -> (pull, offset)

    def ask(self, process: bytes, request: int, block: Block) -> None:
        """A process of ours wants what lies in a block of another node."""
        self._count += 1
        number = node_of(block.holder)
        self.asked[self._count] = (number, process, request)
        self._send(number, Pull(self._count, block))

    def on_part(self, number: int, message: Part) -> None:
        """A part has come."""
        found = self.asked.get(message.number)
        if found is None or found[0] != number:
            return
        if message.left <= 0:
            del self.asked[message.number]
        self._edge.piece(found[1], found[2], message.data, message.left)

    def on_pull(self, number: int, message: Pull) -> None:
        """Another node wants what lies in a block of ours."""
        self.serving.setdefault(number, deque()).append((message, 0))

    def serve(self, number: int, room: Callable[[], bool]) -> None:
        """Send parts to a node while its session has room."""
        queue = self.serving.get(number)
        while queue and room():
            pull, offset = queue.popleft()
            block = pull.block
            size = min(self._size, block.size - offset)
            data = self._edge.read(block, offset, size)
            left = -1 if data is None else block.size - offset - size
            self._send(number, Part(pull.number, data or b"", left))
            if left > 0:
                queue.append((pull, offset + size))  # in turn: a small one is not held up
        if not queue:
            self.serving.pop(number, None)

    def on_node_down(self, number: int) -> None:
        """Another node is dead, and what lay there is lost."""
        self.serving.pop(number, None)
        for key, (where, process, request) in list(self.asked.items()):
            if where == number:
                del self.asked[key]
                self._edge.piece(process, request, b"", -1)
