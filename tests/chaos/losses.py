"""The only copy of an object is damaged on disk; it is made again, and what it was made of too."""

from __future__ import annotations

import tempfile
import time
from collections import Counter

import numpy as np

import engine
from tests.chaos.trial import Found, own_engine, trial
from tests.engine.losses import lose_all

__all__ = ["lost_objects"]

MIB = 1 << 20
ROUND = 16  # objects that are lost at a time, of which each second one is made of the one before


@engine.remote
def make(number: int) -> np.ndarray:
    """About a millisecond and a MiB."""
    return np.random.default_rng(number).integers(0, 256, MIB, np.uint8)


@engine.remote
def turn(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()


@trial("R8", unit="objects", short=16, long=1024, minutes=2)
def lost_objects(count: int) -> Found:
    """Objects of 1 MiB, half of them made of others, are lost; all are made again, rightly."""
    wrong = Counter[str]({"wrong values": 0, "errors": 0})
    first, again, done = 0.0, 0.0, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        own_engine(object_store_memory=80 * MIB, object_spilling_directory=folder),
    ):
        while done < count:
            start = time.perf_counter()
            made = [make.remote(done + number) for number in range(ROUND // 2)]
            refs = [*made, *(turn.remote(ref) for ref in made)]
            engine.wait(refs, num_returns=len(refs), timeout=60)
            first += time.perf_counter() - start
            wanted = [np.array(array) for array in engine.get(refs)]
            lose_all(refs)
            start = time.perf_counter()
            for ref, value in zip(refs, wanted, strict=True):
                try:
                    wrong["wrong values"] += not np.array_equal(engine.get(ref, timeout=60), value)
                except engine.exceptions.EngineError:
                    wrong["errors"] += 1
            again += time.perf_counter() - start
            done += len(refs)
            del made, refs, ref
    figures = {
        "made first, ms each": round(1000 * first / done, 2),
        "made again, ms each": round(1000 * again / done, 2),
    }
    return Found(done, dict(wrong), figures)
