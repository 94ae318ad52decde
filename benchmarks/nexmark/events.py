"""Which events there are: numbers, kinds, ids and times. No content yet.

Of every 50 events (an *epoch*) the first is a person, the next three are auctions, the rest bids.
Event n happens at n / rate seconds after the base time. With a group size g > 1 the events of
each group of g come in another order, so that the stream is out of order by less than g events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.nexmark.random_bits import Ints

__all__ = [
    "AUCTIONS",
    "BIDS",
    "EPOCH",
    "FIRST_ID",
    "PERSONS",
    "Kind",
    "Settings",
    "epochs",
    "events_of",
    "times_ms",
]

EPOCH = 50
FIRST_ID = 1000
# 2015-07-15T00:00:00Z, as in the first implementations.
_BASE_MS = 1_436_918_400_000
# A prime: i * 953 mod g is a permutation of a group unless g is a multiple of it.
_STRIDE = 953


@dataclass(frozen=True)
class Settings:
    """`rate`: events per second of event time. `group`: events within which order is mixed."""

    rate: int = 100_000
    group: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.group <= 0 or self.group % _STRIDE == 0:
            raise ValueError(f"expected positive rate and group (no multiple of 953), found {self}")

    @property
    def disorder_ms(self) -> int:
        """How late a row may come, at most."""
        return 0 if self.group == 1 else -(-self.group * 1000 // self.rate)


@dataclass(frozen=True)
class Kind:
    """The events whose number mod 50 is in first..first+count-1."""

    first: int
    count: int


PERSONS = Kind(0, 1)
AUCTIONS = Kind(1, 3)
BIDS = Kind(4, 46)


def events_of(kind: Kind, start: int, n: int, settings: Settings) -> Ints:
    """Numbers of the events of a kind at the places start..start+n-1 of the stream."""
    if settings.group == 1:
        ordinals = np.arange(_before(kind, start), _before(kind, start + n))
        if kind.count == 1:
            return ordinals * EPOCH + kind.first
        # ordinal // count * 50 + first + ordinal % count, with one division.
        return ordinals // kind.count * (EPOCH - kind.count) + ordinals + kind.first
    places = np.arange(start, start + n)
    within = places % settings.group
    numbers = places - within + within * _STRIDE % settings.group
    remainder = numbers % EPOCH
    return numbers[(remainder >= kind.first) & (remainder < kind.first + kind.count)]


def _before(kind: Kind, event: int) -> int:
    """How many events of a kind there are before an event."""
    epoch, place = divmod(event, EPOCH)
    return epoch * kind.count + min(max(place - kind.first, 0), kind.count)


def epochs(events: Ints) -> Ints:
    """The epoch of each event, which is also the number of the newest person."""
    return events // EPOCH


def times_ms(events: Ints, settings: Settings) -> Ints:
    """When each event happens, in milliseconds since 1970."""
    return events * 1000 // settings.rate + _BASE_MS
