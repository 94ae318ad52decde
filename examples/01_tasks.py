"""Tasks: functions that run in parallel, and futures that feed other functions.

Estimates pi by throwing darts. Each batch of darts is a task; batches are added up pairwise by
further tasks as soon as two are there, so nothing waits for the slowest and no value passes
through this process.
"""

from __future__ import annotations

import numpy as np

import engine

BATCHES = 64
DARTS = 1_000_000


@engine.remote
def throw(seed: int, darts: int) -> int:
    """How many of `darts` land inside the quarter circle."""
    x, y = np.random.default_rng(seed).random((2, darts))
    return int(np.count_nonzero(x * x + y * y < 1.0))


@engine.remote
def add(a: int, b: int) -> int:
    """The arguments are futures where this is called and values where it runs."""
    return a + b


def main() -> None:
    """Throw, add up in a tree, print."""
    with engine.init():
        sums = [throw.remote(seed, DARTS) for seed in range(BATCHES)]
        while len(sums) > 1:
            ready, rest = engine.wait(sums, num_returns=2)
            sums = [*rest, add.remote(*ready)]
        inside = engine.get(sums[0])
        print(f"pi is about {4 * inside / (BATCHES * DARTS):.5f}")


if __name__ == "__main__":
    main()
