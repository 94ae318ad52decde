"""Losing objects on purpose, in the process that owns them: a driver or a worker."""

from __future__ import annotations

import gc
import os
from time import perf_counter
from typing import Any

from tests.engine.support import eventually, home

__all__ = ["damage", "lose", "lose_all", "move_to_disk"]


def move_to_disk(ref: Any) -> None:
    """Have the owner (this process) move all that it may to disk, `ref` among it."""
    gc.collect()

    def moved() -> bool:
        runtime = home()
        with runtime.lock:
            runtime.drain()
            runtime.owner.spill.spill(1 << 60, perf_counter())
        return bool(runtime.locate(ref).block.segment < 0)

    eventually(moved, what="the object is on disk")


def damage(ref: Any) -> None:
    """Overwrite some bytes of an object that lies on disk."""
    block = home().locate(ref).block
    assert block is not None
    assert block.segment < 0, "it lies in memory"
    fd = home().values.disk.duplicate(block)
    at = block.offset + block.size // 2
    os.pwrite(fd, bytes(one ^ 0xFF for one in os.pread(fd, 16, at)), at)
    os.close(fd)


def lose(ref: Any) -> None:
    """Damage the only copy of an object of this process."""
    move_to_disk(ref)
    damage(ref)


def lose_all(refs: list[Any]) -> None:
    """`lose` each of them; first all are moved, since what moves later may take freed places."""
    for ref in refs:
        move_to_disk(ref)
    for ref in refs:
        damage(ref)
