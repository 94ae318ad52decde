"""Damage to what is kept: topologies' checkpoints, actors' checkpoints, spilled values."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from unittest import mock

import engine.topology.statefile as statefile
from engine.config import Config
from engine.runtime.disk import Disk
from engine.topology.checkpoint import CheckpointDirectory
from tests.chaos.trial import Found, trial
from tests.engine.test_disk import SEGMENT_BYTES, Node, Spoiler
from tests.engine.test_replay import undetected
from tests.topology import test_checkpoint as checkpoints

__all__ = ["actor_damage", "checkpoint_damage", "spill_damage"]


@trial("R17", unit="damages", short=0, long=10_000, minutes=2)
def checkpoint_damage(count: int) -> Found:
    """Flipped, cut, swapped, stale files of a topology's checkpoint: the epoch before is loaded."""
    wrong = {"taken for the truth": 0}
    draw = random.Random(41)
    with (
        tempfile.TemporaryDirectory() as folder,
        # So that the small tables here are in files of their own.
        mock.patch.object(statefile, "PART_BYTES_MIN", 1000),
    ):
        directory = CheckpointDirectory(Path(folder), keep=3)
        for epoch in (1, 2, 3):
            checkpoints.write_epoch(directory, epoch)
        original = checkpoints.originals(directory)
        for _ in range(count):
            try:
                checkpoints.damage_once(draw, directory, original)
            except Exception:  # an assertion, or it was looked at before it was verified
                wrong["taken for the truth"] += 1
                for path, content in original.items():
                    path.write_bytes(content)
        wrong["not as before"] = int(checkpoints.check(checkpoints.load(directory)) != 3)
        directory.close()
    return Found(count, wrong)


@trial("R17", unit="damages", short=0, long=10_000, minutes=0.5)
def actor_damage(count: int) -> Found:
    """Flipped, cut, stale and half-written checkpoints of an actor are noticed."""
    return Found(count, {"taken for the truth": undetected(count, seed=42)})


@trial("R17", unit="damages", short=0, long=10_000, minutes=0.5)
def spill_damage(count: int) -> Found:
    """Flipped, torn, stale and swapped values on disk are noticed."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        disk = Disk(b"process1", Config(), SEGMENT_BYTES, folder, node.request, node.given_up)
        missed = Spoiler(disk, node, seed=43).missed(count)
        disk.close()
        for file in node.files.values():
            file.close()
    return Found(count, {"taken for the truth": missed})
