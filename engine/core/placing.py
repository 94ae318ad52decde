"""Where a task or an actor may run, decided by the caller and told to the node."""

from __future__ import annotations

import msgspec

__all__ = ["Placing"]


class Placing(msgspec.Struct, frozen=True, array_like=True):
    """Resources, placement group and environment.

    `bundle` -1 means any bundle of the group; `capture`: children go into the group too; `spread`:
    never behind another task in the same worker.

    `speculative`: how many times the median of its siblings a task may run before it gets a second
    copy (0: never); `siblings` then tells which they are.
    """

    resources: dict[str, float]
    group: bytes = b""
    bundle: int = -1
    environment: bytes = b""
    spread: bool = False
    capture: bool = False
    speculative: float = 0.0
    siblings: bytes = b""

    def key(self) -> bytes:
        """The same bytes for the same placing: tasks of one key share leases."""
        rest = (
            *(self.group, self.bundle, self.environment, self.spread, self.capture),
            *(self.speculative, self.siblings),
        )
        return msgspec.msgpack.encode([sorted(self.resources.items()), *rest])
