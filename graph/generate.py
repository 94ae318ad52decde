"""Random graphs with a seed: Kronecker (skewed, like a social network) and uniform.

Kronecker follows Graph500 and GAP: A = .57, B = C = .19, D = .05, 16 edges a vertex, vertex numbers
shuffled so that hubs are spread. All edges are drawn level by level of the recursive matrix, in
blocks of whole columns; the same seed gives the same edges on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["kronecker", "uniform"]

Edges = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
A, B, C = 0.57, 0.19, 0.19
EDGES_PER_VERTEX = 16
BLOCK_EDGES = 1 << 18
SCALE_MAX = 30


def kronecker(scale: int, k: int = EDGES_PER_VERTEX, seed: int = 27491095) -> Edges:
    """``k * 2**scale`` directed edges over ``2**scale`` vertices; repeats and loops occur."""
    src, dst = _empty(scale, k)
    for block, random in _blocks(src.size, seed):
        row = np.zeros(block.stop - block.start, np.int32)
        column = np.zeros_like(row)
        for _ in range(scale):
            x = random.random(row.size, np.float32)
            low = x >= A + B
            # Quadrants A | B over C | D, laid out on the unit interval in the order A, B, C, D.
            right = np.where(low, x >= A + B + C, x >= A)
            row = (row << 1) | low
            column = (column << 1) | right
        src[block], dst[block] = row, column
    names = np.random.default_rng([seed, 1]).permutation(1 << scale).astype(np.int32)
    return names[src], names[dst]


def uniform(scale: int, k: int = EDGES_PER_VERTEX, seed: int = 27491095) -> Edges:
    """``k * 2**scale`` directed edges between uniformly drawn vertices out of ``2**scale``."""
    src, dst = _empty(scale, k)
    for block, random in _blocks(src.size, seed):
        src[block] = random.integers(0, 1 << scale, block.stop - block.start, np.int32)
        dst[block] = random.integers(0, 1 << scale, block.stop - block.start, np.int32)
    return src, dst


def _empty(scale: int, k: int) -> Edges:
    """Room for the edges, after a check of the sizes."""
    if not 0 <= scale <= SCALE_MAX:
        raise ValueError(f"scale must be in 0..{SCALE_MAX}, found {scale}")
    if k < 0:
        raise ValueError(f"k (edges per vertex) must be >= 0, found {k}")
    edges = k << scale
    return np.empty(edges, np.int32), np.empty(edges, np.int32)


def _blocks(edges: int, seed: int) -> Iterator[tuple[slice, np.random.Generator]]:
    """Slices of the edges, each with a random stream of its own."""
    for number, start in enumerate(range(0, edges, BLOCK_EDGES)):
        stop = min(start + BLOCK_EDGES, edges)
        yield slice(start, stop), np.random.default_rng([seed, 0, number])
