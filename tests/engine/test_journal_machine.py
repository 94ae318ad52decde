"""The journal: events make a state, and what is written is what is read, or said to be damaged."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.control import Checkpoint
from engine.core.journal import (
    ActorGone,
    ActorMade,
    CheckpointStored,
    Dropped,
    Entry,
    Event,
    Journal,
    Made,
    Ready,
    ScopeGone,
    decode_event,
    encode_event,
)
from engine.core.store import SegmentBook
from engine.core.values import Block, Value
from engine.runtime import journal
from engine.runtime.checkpoint_memory import memory_of, read_memory
from engine.runtime.journal import JOURNAL, JournalFile
from tests.engine.support import eventually
from tests.engine.test_store_machine import Edge

KEYS = ("a", "b", "c")


def _value(number: int) -> Value:
    return Value(block=Block(number, 0, 8, b"holder--"))


@st.composite
def histories(draw: Any) -> list[Event]:
    """Events as keepers and a node make them: numbers rise, and needs are of what is there."""
    count, events, live = 0, [], Journal()
    for place in range(draw(st.integers(0, 40))):
        scope = draw(st.sampled_from(["s", "t"]))
        entries = live.scopes.get(scope, {})
        kind = draw(st.sampled_from("mmmmrrddgaec"))
        event: Event
        if kind == "m":
            count += 1
            needs = draw(st.lists(st.sampled_from(sorted(entries)), max_size=2, unique=True)) if (
                entries
            ) else []
            recipe = draw(st.sampled_from([b"", b"recipe"]))
            value = _value(count) if draw(st.booleans()) else None
            made = [Entry(count, draw(st.sampled_from(KEYS)), recipe, needs, value)]
            if draw(st.booleans()):  # with arguments of its own
                count += 1
                made[0].number = count
                made.insert(0, Entry(count - 1, "", b"", [], _value(count + 1000)))
                made[1].needs = [*needs, count - 1]
            event = Made(scope, made)
        elif kind == "r":
            number = draw(st.integers(1, max(1, count)))
            event = Ready(scope, number, draw(st.sampled_from([None, _value(place + 5000)])))
        elif kind == "d":
            event = Dropped(scope, draw(st.sampled_from(KEYS)))
        elif kind == "g":
            event = ScopeGone(scope)
        else:
            actor = draw(st.sampled_from([b"x", b"y"]))
            event = {
                "a": ActorMade(actor, b"create"),
                "e": ActorGone(actor),
                "c": CheckpointStored(Checkpoint(actor, draw(st.integers(1, 9)), 5, 7)),
            }[kind]
        live.apply(decode_event(encode_event(event)))
        events.append(event)
    return events


def _seen(state: Journal) -> Any:
    scopes = {name: entries for name, entries in state.scopes.items() if entries}
    return encode_event([sorted(scopes.items()), state.actors, state.checkpoints])


def _replay(events: Any) -> Journal:
    state = Journal()
    for event in events:
        state.apply(decode_event(encode_event(event)))
    return state


@given(histories())
def test_replay_is_the_state_that_was(events: list[Event]) -> None:
    live = _replay(events)
    assert _seen(_replay(events)) == _seen(live)
    short = list(live.events())
    assert _seen(_replay(short)) == _seen(live)
    assert len(short) <= len(events)


@given(histories())
def test_every_block_is_named_or_was_given_up(events: list[Event]) -> None:
    state, named = Journal(), []
    for event in events:
        before = list(state.blocks())
        if isinstance(event, Made):
            before += [one.value.block for one in event.entries if one.value and one.value.block]
        elif isinstance(event, Ready) and event.value and event.value.block:
            before.append(event.value.block)
        gone = state.apply(event)
        named = list(state.blocks())
        assert sorted(map(repr, {*gone, *named})) == sorted(map(repr, set(before)))
        assert not set(gone) & set(named)


@given(histories())
def test_what_is_needed_is_there(events: list[Event]) -> None:
    state = _replay(events)
    for entries in state.scopes.values():
        needed = {number for one in entries.values() for number in one.needs}
        keys = [one.key for one in entries.values() if one.key]
        assert len(keys) == len(set(keys))
        for number, one in entries.items():
            assert one.key or number in needed
        assert needed <= set(entries)


def test_what_lay_in_memory_is_forgotten_with_the_node() -> None:
    state = Journal()
    state.apply(Made("s", [Entry(1, "a", b"", [], Value(b"small")), Entry(2, "b", b"r", [])]))
    state.apply(Ready("s", 2, _value(7)))
    state.forget_memory()
    assert state.scopes["s"][1].value == Value(b"small")
    assert state.scopes["s"][2].value is None
    assert state.scopes["s"][2].recipe == b"r"


# ------------------------------------------------------------------------------- kept blocks


class KeepingEdge(Edge):
    """A store's edge whose journal names blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[int, list[int]] = {}

    def kept(self, segment: int) -> list[int]:
        """What the journal names."""
        return self.named.get(segment, [])


def test_a_block_that_is_kept_outlives_owner_after_owner() -> None:
    edge = KeepingEdge()
    edge.alive = [b"keeper1-", b"keeper2-"]
    book = SegmentBook(1 << 20, edge)
    segment = book.lease(b"keeper1-", 1 << 10)
    edge.named = {segment: [64]}
    edge.alive = []
    book.on_died(b"keeper1-")
    assert book.size(segment), "nobody else is there, and it stays"
    book.on_died(b"keeper2-")
    assert book.size(segment)
    book.no_longer_kept(Block(segment, 64, 8, b"keeper1-"), b"keeper3-")
    edge.named = {}
    assert book.size(segment), "its owner still has it"
    book.on_died(b"keeper3-")
    assert not book.size(segment)


def test_a_block_named_after_its_holder_died_is_kept_as_well() -> None:
    from engine.core.control import CensusReply

    edge = KeepingEdge()
    edge.alive = [b"keeper1-"]
    book = SegmentBook(1 << 20, edge)
    segment = book.lease(b"worker--", 1 << 10)
    book.on_died(b"worker--")
    book.on_census(b"keeper1-", CensusReply([segment], [(segment, 0), (segment, 64)]))
    edge.named = {segment: [64]}
    book.on_died(b"keeper1-")
    assert book.size(segment)
    book.on_free(Block(segment, 64, 8, b"worker--"))
    assert not book.size(segment)


# ------------------------------------------------------------------------------- the file


class Ends:
    """Counts what a file says is done."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def _open(path: Path, events_max: int = 1000) -> JournalFile:
    return JournalFile(path, events_max, Ends())


def _write(file: JournalFile, *events: Event) -> None:
    file.write(list(events), ["end"], [])
    eventually(lambda: "end" in file.done)
    file.done.clear()


def _made(number: int) -> Event:
    return Made("s", [Entry(number, f"key{number}", b"", [], Value(b"v" * 100))])


def test_a_file_goes_on_where_it_was_left(tmp_path: Path) -> None:
    file = _open(tmp_path)
    _write(file, _made(1), _made(2))
    _write(file, Dropped("s", "key1"), ActorMade(b"x", b"create"))
    file.close()
    again = _open(tmp_path)
    assert sorted(again.state.scopes["s"]) == [2]
    assert again.state.actors == {b"x": b"create"}
    assert again.told == []
    _write(again, ScopeGone("s"), ActorGone(b"x"))
    again.close()
    assert list(tmp_path.iterdir()) == [], "a journal that says nothing is removed"


def test_a_copy_of_a_file_in_use_is_what_was_written(tmp_path: Path) -> None:
    """As after a kill: nothing was closed."""
    file = _open(tmp_path)
    _write(file, _made(1), _made(2))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob(JOURNAL + "*"):
        (copy / path.name).write_bytes(path.read_bytes())
    killed = _open(copy)
    assert sorted(killed.state.scopes["s"]) == [1, 2]
    killed.close()
    file.close()


def test_a_journal_is_written_anew_when_it_is_long(tmp_path: Path) -> None:
    file = _open(tmp_path, events_max=10)
    for number in range(1, 100):
        _write(file, Made("s", [Entry(number, "key", b"", [], Value(b"v"))]))
    file.close()
    with sqlite3.connect(tmp_path / JOURNAL) as read:
        (count,) = read.execute("SELECT count(*) FROM events").fetchone()
    read.close()
    assert count <= 11
    again = _open(tmp_path)
    assert list(again.state.scopes["s"]) == [99]
    again.close()


def _flip(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("UPDATE events SET event = replace(event, 'key3', 'KEY3') WHERE number = 3")
        file.execute("UPDATE events SET event = CAST(event AS BLOB)")
    file.close()


def _swap(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("UPDATE events SET number = 99 WHERE number = 3")
        file.execute("UPDATE events SET number = 3 WHERE number = 4")
        file.execute("UPDATE events SET number = 4 WHERE number = 99")
    file.close()


def _lose(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM events WHERE number = 3")
    file.close()


def _scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"key3")
    data[at : at + 4] = b"KEY3"
    path.write_bytes(data)


def _say_nothing(path: Path) -> None:
    """As a mistake of ours would: the sum is right, and it is no event."""
    data = b"no event"
    with sqlite3.connect(path) as file:
        row = journal._sum(3, data), data
        file.execute("UPDATE events SET sum = ?, event = ? WHERE number = 3", row)
    file.close()


@pytest.mark.parametrize("damage", [_flip, _swap, _lose, _scribble, _say_nothing])
def test_damage_is_told_and_not_believed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = _open(tmp_path)
    _write(file, *map(_made, range(1, 6)))
    file.close()
    damage(tmp_path / JOURNAL)
    again = _open(tmp_path)
    assert sorted(again.state.scopes["s"]) == [1, 2]
    (told,) = again.told
    assert "record 3" in told
    assert list(tmp_path.glob("journal.damaged-*")), "put aside"
    again.close()
    third = _open(tmp_path)
    assert third.told == []
    assert sorted(third.state.scopes["s"]) == [1, 2]
    third.close()


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_a_file_cut_short_or_of_another_kind(tmp_path: Path, size: int) -> None:
    file = _open(tmp_path)
    _write(file, *map(_made, range(1, 60)))
    file.close()
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:size])
    again = _open(tmp_path)
    assert len(again.state.scopes.get("s", {})) < 59
    assert bool(again.told) == bool(size), "an empty file is an empty journal to SQLite"
    again.close()


@pytest.mark.parametrize("lost", [False, True])
def test_checkpoints_are_files_with_checksums(tmp_path: Path, lost: bool) -> None:
    file = _open(tmp_path)
    _write(file, ActorMade(b"x", b"create"))
    for number in (1, 2):
        data = b"state%d" % number
        found = Checkpoint(b"x", number, len(data), zlib.crc32(data))
        file.write([], ["end"], [(found, memory_of(found, data))])
        eventually(lambda: file.done)
        file.done.clear()
    torn = Checkpoint(b"x", 3, 6, 1)
    file.write([], ["end"], [(torn, memory_of(torn, b"state3"))])  # written to meanwhile
    eventually(lambda: file.done)
    file.close()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1
    again = _open(tmp_path)
    assert again.state.checkpoints[b"x"].number == 2
    found = again.state.checkpoints[b"x"]
    assert read_memory(again.load(found), found) == b"state2"
    again.close()
    (path,) = tmp_path.glob("checkpoint-*")
    if lost:
        path.unlink()
    else:
        path.write_bytes(b"STATE2")
    third = _open(tmp_path)
    assert third.state.checkpoints == {}
    assert "checkpoint of actor" in third.told[0]
    third.close()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    file = _open(tmp_path)
    _write(file, _made(1))
    with sqlite3.connect(tmp_path / JOURNAL) as other:
        other.execute("DROP TABLE events")
    other.close()
    file.write([_made(2)], ["end"], [])
    eventually(lambda: file.done)  # who waits for it is answered
    assert "cannot be written" in file.trouble
    file.write([_made(3)], ["later"], [])
    assert "later" in file.done
    file.close()
