"""The content of the events: bids, auctions, persons as record batches.

Distributions follow the Nexmark generator of Apache Beam: hot bidders and sellers with p = 3/4,
hot auctions with p = 1/2, log-uniform prices. Bidders are FIRST_ID + their number, added once (one
widely used implementation adds it twice). Only the columns asked for are made. All columns are
pure functions of the event number; the filler text `extra` repeats every few ten thousand events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from benchmarks.nexmark.events import (
    AUCTIONS,
    BIDS,
    FIRST_ID,
    PERSONS,
    Kind,
    Settings,
    epochs,
    events_of,
    times_ms,
)
from benchmarks.nexmark.random_bits import Bits, Ints, below, bits, unit

__all__ = ["auctions", "bids", "persons"]

_HOT = 100  # the hot auction, seller and bidder change every so many auctions or persons
_RECENT_AUCTIONS = 100
_RECENT_PERSONS = 1000
_LEAD = 10
_CHANNELS = 10_000
_HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
_CITIES = (
    *("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland"),
    *("Bend", "Redmond", "Seattle", "Kent", "Cheyenne"),
)
_STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
_FIRST_NAMES = (
    *("Peter", "Paul", "Luke", "John", "Saul", "Vicky"),
    *("Kate", "Julie", "Sarah", "Deiter", "Walter"),
)
_LAST_NAMES = (
    *("Shultz", "Abrams", "Spencer", "White", "Bartels"),
    *("Walton", "Smith", "Jones", "Noris"),
)
_FILLER_PERIOD = 60_000

# Streams of random bits, one for each use.
_WHO, _WHAT, _TEXT, _CARD = range(4)


class _Block:
    """Events of one kind with what their columns are made of, each made when first needed."""

    def __init__(self, kind: Kind, start: int, n: int, settings: Settings) -> None:
        self.events = events_of(kind, start, n, settings)
        self.settings = settings
        self._bits: dict[int, Bits] = {}
        self._epochs: Ints | None = None

    def bits(self, use: int) -> Bits:
        if use not in self._bits:
            self._bits[use] = bits(self.events, use)
        return self._bits[use]

    def epochs(self) -> Ints:
        if self._epochs is None:
            self._epochs = epochs(self.events)
        return self._epochs


_Column = Callable[[_Block], pa.Array]


def bids(
    start: int, n: int, columns: Sequence[str] | None = None, *, settings: Settings
) -> pa.RecordBatch:
    """The bids among the events at start..start+n-1."""
    return _batch(_BID_COLUMNS, _Block(BIDS, start, n, settings), columns)


def auctions(
    start: int, n: int, columns: Sequence[str] | None = None, *, settings: Settings
) -> pa.RecordBatch:
    """The auctions among the events at start..start+n-1."""
    return _batch(_AUCTION_COLUMNS, _Block(AUCTIONS, start, n, settings), columns)


def persons(
    start: int, n: int, columns: Sequence[str] | None = None, *, settings: Settings
) -> pa.RecordBatch:
    """The persons among the events at start..start+n-1."""
    return _batch(_PERSON_COLUMNS, _Block(PERSONS, start, n, settings), columns)


def _batch(
    makers: dict[str, _Column], block: _Block, columns: Sequence[str] | None
) -> pa.RecordBatch:
    names = list(makers) if columns is None else list(columns)
    return pa.RecordBatch.from_arrays([makers[name](block) for name in names], names=names)


def _date_time(block: _Block) -> pa.Array:
    times = times_ms(block.events, block.settings)
    return pa.array(times).view(pa.timestamp("ms"))


# ------------------------------------------------------------------------------------ bids


def _bid_auction(block: _Block) -> pa.Array:
    random = block.bits(_WHO)
    newest = block.epochs() * 3
    newest += 2
    oldest = np.maximum(newest - _RECENT_AUCTIONS, 0)
    chosen = oldest + below(random, newest - oldest + (1 + _LEAD), shift=40)
    hot = newest // _HOT
    hot *= _HOT
    is_hot = (random & np.uint64(1)).view(np.int64) == 0
    result = np.where(is_hot, hot, chosen)
    result += FIRST_ID
    return pa.array(result)


def _bid_bidder(block: _Block) -> pa.Array:
    random = block.bits(_WHO)
    newest = block.epochs()
    hot = newest // _HOT
    hot *= _HOT
    hot += 1
    is_hot = (random & np.uint64(6)) != 0
    result = np.where(is_hot, hot, _recent_person(newest, random))
    result += FIRST_ID
    return pa.array(result)


def _recent_person(newest: Ints, random: Bits) -> Ints:
    """One of the last thousand persons, or of the ten that come next."""
    active = np.minimum(newest + 1, _RECENT_PERSONS)
    return newest + 1 - active + below(random, active + _LEAD, shift=16)


def _price(random: Bits) -> Ints:
    # round(10 ** (6 * U) * 100); exp is several times faster than power.
    prices: Ints = np.rint(np.exp(unit(random) * (6 * np.log(10))) * 100).astype(np.int64)
    return prices


def _bid_price(block: _Block) -> pa.Array:
    return pa.array(_price(block.bits(_WHAT)))


def _channel_numbers(block: _Block) -> Ints:
    """0..3: a hot channel (half of the bids); 4..: one of the others."""
    random = block.bits(_WHAT)
    is_hot = (random & np.uint64(1)) == 0
    hot = ((random >> np.uint64(1)) & np.uint64(3)).view(np.int64)
    return np.where(is_hot, hot, below(random, _CHANNELS, shift=4) + len(_HOT_CHANNELS))


def _bid_channel(block: _Block) -> pa.Array:
    return _channels()[0].take(pa.array(_channel_numbers(block)))


def _bid_url(block: _Block) -> pa.Array:
    return _channels()[1].take(pa.array(_channel_numbers(block)))


@cache
def _channels() -> tuple[pa.Array, pa.Array]:
    """Names and addresses of all channels; nine in ten of the cold ones carry their number."""
    names = [*_HOT_CHANNELS, *(f"channel-{i}" for i in range(_CHANNELS))]
    numbers = np.arange(len(names))
    random = bits(numbers, 77)
    paths = below(random, 26**3, shift=8).tolist()
    carries = below(random, 10, shift=32).tolist()
    urls = []
    for number, (path, carry) in enumerate(zip(paths, carries, strict=True)):
        letters = "".join(chr(97 + path // 26**place % 26) for place in range(3))
        url = f"https://www.nexmark.com/{letters}/{letters[::-1]}/item.htm?query=1"
        if number >= len(_HOT_CHANNELS) and carry:
            url += f"&channel_id={number - len(_HOT_CHANNELS)}"
        urls.append(url)
    return pa.array(names), pa.array(urls)


# -------------------------------------------------------------------------------- auctions


def _auction_number(block: _Block) -> Ints:
    return block.epochs() * 3 + block.events % 50 - 1


def _auction_id(block: _Block) -> pa.Array:
    return pa.array(_auction_number(block) + FIRST_ID)


def _auction_seller(block: _Block) -> pa.Array:
    random = block.bits(_WHO)
    newest = block.epochs()
    is_hot = (random & np.uint64(6)) != 0
    chosen = np.where(is_hot, newest // _HOT * _HOT, _recent_person(newest, random))
    return pa.array(chosen + FIRST_ID)


def _auction_category(block: _Block) -> pa.Array:
    return pa.array(below(block.bits(_WHO), 5, shift=40) + 10)


def _initial_bid(block: _Block) -> pa.Array:
    return pa.array(_price(block.bits(_WHAT)))


def _reserve(block: _Block) -> pa.Array:
    return pa.array(_price(block.bits(_WHAT)) + _price(block.bits(_CARD)))


def _expires(block: _Block) -> pa.Array:
    # Up to twice the time in which a hundred auctions are made.
    horizon_ms = max(1, _RECENT_AUCTIONS * 50 // 3 * 1000 // block.settings.rate)
    length = 1 + below(block.bits(_TEXT), 2 * horizon_ms)
    times = times_ms(block.events, block.settings) + length
    return pa.array(times).view(pa.timestamp("ms"))


# --------------------------------------------------------------------------------- persons


def _person_id(block: _Block) -> pa.Array:
    return pa.array(block.epochs() + FIRST_ID)


@cache
def _names() -> pa.Array:
    return pa.array([f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES])


@cache
def _addresses() -> pa.Array:
    users = ("ann", "bob", "cleo", "dan", "eve", "finn", "gil", "hal")
    hosts = ("alpha", "beta", "gamma", "delta", "omega")
    return pa.array([f"{user}@{host}.com" for user in users for host in hosts])


def _chosen(table: Callable[[], pa.Array], use: int, shift: int) -> _Column:
    def column(block: _Block) -> pa.Array:
        values = table()
        return values.take(pa.array(below(block.bits(use), len(values), shift=shift)))

    return column


def _credit_card(block: _Block) -> pa.Array:
    random = block.bits(_CARD)
    groups = [below(random, 10_000, shift=shift).tolist() for shift in (0, 13, 26, 39)]
    rows = zip(*groups, strict=True)
    return pa.array([f"{a:04d} {b:04d} {c:04d} {d:04d}" for a, b, c, d in rows], pa.string())


# ------------------------------------------------------------------------------------ text


def _filler(mean_length: int) -> _Column:
    """Letters, in lengths within a fifth of the mean; event n has text n mod period."""

    def column(block: _Block) -> pa.Array:
        texts, events = _texts(mean_length), block.events
        in_order = block.settings.group == 1 and len(events) > 0
        if in_order and events[-1] - events[0] == len(events) - 1:
            return texts.slice(int(events[0]) % _FILLER_PERIOD, len(events))
        return texts.take(pa.array(events % _FILLER_PERIOD))

    return column


def _bid_filler(block: _Block) -> pa.Array:
    """As `_filler`, by the number of the bid: consecutive bids have consecutive texts, no copy."""
    if block.settings.group > 1 or not len(block.events):
        return _filler(68)(block)
    first = int(block.events[0])
    ordinal = first // 50 * BIDS.count + first % 50 - BIDS.first
    texts = _texts(68)
    if len(block.events) <= _FILLER_PERIOD:
        return texts.slice(ordinal % _FILLER_PERIOD, len(block.events))
    numbers = np.arange(ordinal, ordinal + len(block.events)) % _FILLER_PERIOD
    return texts.take(pa.array(numbers))


@cache
def _texts(mean_length: int) -> pa.Array:
    """Two periods end to end, so that a block anywhere is one slice."""
    numbers = np.arange(2 * _FILLER_PERIOD) % _FILLER_PERIOD
    spread = max(1, mean_length * 2 // 5)
    lengths = below(bits(numbers, 99), spread) + (mean_length - spread // 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    period = int(offsets[_FILLER_PERIOD])
    letters = (below(bits(np.arange(period), 98), 26) + 97).astype(np.uint8).tobytes()
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(letters * 2)]
    return pa.Array.from_buffers(pa.string(), len(lengths), buffers)


_BID_COLUMNS: dict[str, _Column] = {
    "auction": _bid_auction,
    "bidder": _bid_bidder,
    "price": _bid_price,
    "channel": _bid_channel,
    "url": _bid_url,
    "date_time": _date_time,
    "extra": _bid_filler,
}
_AUCTION_COLUMNS: dict[str, _Column] = {
    "id": _auction_id,
    "item_name": _filler(14),
    "description": _filler(80),
    "initial_bid": _initial_bid,
    "reserve": _reserve,
    "date_time": _date_time,
    "expires": _expires,
    "seller": _auction_seller,
    "category": _auction_category,
    "extra": _filler(300),
}
_PERSON_COLUMNS: dict[str, _Column] = {
    "id": _person_id,
    "name": _chosen(_names, _WHO, 8),
    "email_address": _chosen(_addresses, _WHAT, 8),
    "credit_card": _credit_card,
    "city": _chosen(lambda: pa.array(_CITIES), _TEXT, 8),
    "state": _chosen(lambda: pa.array(_STATES), _TEXT, 32),
    "date_time": _date_time,
    "extra": _filler(120),
}
