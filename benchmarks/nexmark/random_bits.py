"""Counter-based random numbers: pure functions of (event, column), vectorised.

The value for an event does not depend on which other events are made with it, so any block of the
stream can be made anywhere and again. The mixing is the finaliser of SplitMix64 (Steele, Lea,
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Bits", "Ints", "below", "bits", "unit"]

Bits = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def bits(events: Ints, column: int) -> Bits:
    """64 random bits for each event; `column` chooses an independent stream."""
    state = events.astype(np.uint64)
    state *= np.uint64(_GAMMA)
    state += np.uint64(column * 0xD1B54A32D192ED03 & _MASK)
    state ^= state >> np.uint64(30)
    state *= _MIX_1
    state ^= state >> np.uint64(27)
    state *= _MIX_2
    state ^= state >> np.uint64(31)
    return state


def below(random: Bits, limit: int | Ints, shift: int = 32) -> Ints:
    """0 <= value < limit from 24 of the bits, beginning at `shift`; limit < 2**24."""
    value = random >> np.uint64(shift)
    value &= np.uint64(0xFFFFFF)
    scaled = value.view(np.int64) * limit
    scaled >>= 24
    return scaled


def unit(random: Bits, shift: int = 32) -> npt.NDArray[np.float64]:
    """0 <= value < 1 from 32 of the bits, beginning at `shift`."""
    value = random >> np.uint64(shift)
    value &= np.uint64(0xFFFFFFFF)
    return value.astype(np.float64) * (1.0 / (1 << 32))
