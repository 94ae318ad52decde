"""Spilling as a state machine: never freed or moved while viewed, always readable, never leaked."""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.core.messages import AddBorrower, Evict, Evicted, Fetch
from engine.core.objects import ObjectTable
from engine.core.spill import READ, WRITE
from engine.core.values import Block, Value
from tests.engine.network import Ref
from tests.engine.spilling import SpillNetwork, SpillProcess

few = st.integers(0, 7)
WALKS = 600
WALK_STEPS = 300
OBJECTS_MAX = 2  # owned by a process: few, so that much happens to each


class Spilling(RuleBasedStateMachine):
    """Three processes put, call, look, hold on and spill, under any delay."""

    deaths = False

    def __init__(self) -> None:
        super().__init__()
        self.network = SpillNetwork(3, deaths=self.deaths)
        self.now = 0.0

    def process(self, at: int) -> SpillProcess:
        names = sorted(self.network.processes)
        return self.network.processes[names[at % len(names)]]

    def known(self, process: SpillProcess) -> list[Ref]:
        """References whose values this process knows."""
        entries = process.table.entries
        return [ref for ref in process.held if entries[ref.id].value is not None]

    @rule(who=few)
    def put(self, who: int) -> None:
        process = self.process(who)
        if len(process.machine.held) < OBJECTS_MAX:
            process.held.append(process.put([]))

    @rule(who=few, whom=few, at=few, keep=st.booleans())
    def pass_nested(self, who: int, whom: int, at: int, keep: bool) -> None:
        caller, callee = self.process(who), self.process(whom)
        if caller is not callee and caller.held:
            caller.invoke(callee, [caller.held[at % len(caller.held)]], keep, [])

    @rule(who=few, whom=few, at=few, keep=st.booleans())
    def pass_value(self, who: int, whom: int, at: int, keep: bool) -> None:
        caller, callee = self.process(who), self.process(whom)
        found = self.known(caller)
        if caller is not callee and found:
            caller.bring(callee, found[at % len(found)], keep)

    @rule(who=few)
    def run(self, who: int) -> None:
        if self.process(who).inbox:
            self.process(who).run()

    @rule(who=few, at=few)
    def fetch(self, who: int, at: int) -> None:
        process = self.process(who)
        if process.held:
            process.table.when_ready(process.held[at % len(process.held)].id, lambda _value: None)

    @rule(who=few, at=few)
    def look(self, who: int, at: int) -> None:
        process = self.process(who)
        found = self.known(process)
        if found:
            ref = found[at % len(found)]
            value = process.table.entries[ref.id].value
            if value is not None and value.block is not None:
                process.look(ref, value.block)

    @rule(who=few, at=few)
    def unlook(self, who: int, at: int) -> None:
        process = self.process(who)
        if process.views:
            process.unlook(process.views[at % len(process.views)])
            process.drain()

    @rule(who=few, at=few)
    def drop(self, who: int, at: int) -> None:
        process = self.process(who)
        if process.held:
            process.held.pop(at % len(process.held))
            process.drain()

    @rule(who=few, count=st.integers(1, 4))
    def spill(self, who: int, count: int) -> None:
        self.now += 0.5
        self.process(who).machine.spill(64 * count, self.now)

    @rule(who=few, works=st.booleans())
    def copy(self, who: int, works: bool) -> None:
        if self.process(who).jobs:
            self.process(who).copy(works, self.now)

    @precondition(lambda self: self.network.busy())
    @rule(at=few, count=st.integers(1, 4))
    def deliver(self, at: int, count: int) -> None:
        for _ in range(count):
            busy = self.network.busy()
            if busy:
                self.network.deliver(busy[at % len(busy)])

    @invariant()
    def every_known_place_is_true(self) -> None:
        """What an entry says is where the object lies: nobody is ever without a way to read it."""
        for process in self.network.processes.values():
            for object_id, entry in process.table.entries.items():
                block = None if entry.value is None else entry.value.block
                owner = self.network.processes.get(object_id[:8])
                if block is not None and owner is not None:
                    assert self.network.blocks.get(block) == object_id

    @invariant()
    def the_books_are_right(self) -> None:
        for process in self.network.processes.values():
            machine = process.machine
            lying = [one.size for one in machine.held.values() if one.memory is not None]
            assert machine.resident == sum(lying)
            views = sum(view.block.segment > 0 for view in process.views)
            carried = sum(len(ids) for _, ids in process.carried.values())
            assert sum(machine.uses.values()) == views + carried

    def teardown(self) -> None:
        self.network.end()


class SpillingWithDeaths(Spilling):
    """The same while processes die."""

    deaths = True

    @precondition(lambda self: len(self.network.processes) > 1)
    @rule(who=few)
    def kill(self, who: int) -> None:
        self.network.kill(self.process(who).id)


TestSpilling = Spilling.TestCase
TestSpilling.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestSpillingWithDeaths = SpillingWithDeaths.TestCase
TestSpillingWithDeaths.settings = settings(max_examples=25, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("deaths", [False, True])
def test_random_walks(deaths: bool) -> None:
    """Longer walks than hypothesis takes, by seed; what fails names its seed."""
    for seed in range(WALKS):
        walk_from(seed, deaths)


def walk_from(seed: int, deaths: bool) -> SpillNetwork:
    draw = random.Random(seed)
    walk = SpillingWithDeaths() if deaths else Spilling()
    try:
        for step in range(WALK_STEPS):
            _step(walk, draw, deaths)
            if step % 10 == 0:
                walk.every_known_place_is_true()
                walk.the_books_are_right()
        walk.teardown()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, deaths {deaths}: {error}") from error
    return walk.network


def _step(walk: Spilling, draw: random.Random, deaths: bool) -> None:
    def few() -> int:
        return draw.randrange(8)

    steps: list[tuple[float, Any]] = [
        (0.04, lambda: walk.put(few())),
        (0.06, lambda: walk.pass_nested(few(), few(), few(), draw.random() < 0.7)),
        (0.08, lambda: walk.pass_value(few(), few(), few(), draw.random() < 0.4)),
        (0.10, lambda: walk.run(few())),
        (0.06, lambda: walk.fetch(few(), few())),
        (0.02, lambda: walk.look(few(), few())),
        (0.08, lambda: walk.unlook(few(), few())),
        (0.05, lambda: walk.drop(few(), few())),
        (0.08, lambda: walk.spill(few(), 1 + draw.randrange(3))),
        (0.10, lambda: walk.copy(few(), draw.random() < 0.9)),
    ]
    if deaths and len(walk.network.processes) > 1:
        steps.append((0.005, lambda: walk.kill(few())))  # type: ignore[attr-defined]
    choice = draw.random()
    for weight, step in steps:
        choice -= weight
        if choice < 0:
            step()
            return
    if walk.network.busy():
        walk.deliver(few(), 1 + draw.randrange(2))


# ---------------------------------------------------------------------- one decision at a time

ME, PEER, OTHER = b"owner---", b"borrower", b"another-"


class Table:
    """An object table whose effects are noted."""

    def __init__(self, me: bytes = ME) -> None:
        self.me = me
        self.sent: list[tuple[bytes, Any]] = []
        self.freed: list[Block] = []
        self.jobs: list[tuple[str, bytes, Block]] = []
        self.table = ObjectTable(
            me, lambda *item: self.sent.append(item), self.freed.append, list
        )
        self.machine = self.table.spill
        self.machine.work = lambda *job: self.jobs.append(job)
        self.count = 0

    def add(self, size: int = 64) -> bytes:
        self.count += 1
        object_id = self.me + self.count.to_bytes(8, "big")
        self.table.add(object_id, Value(block=Block(1, 1000 * self.count, size, self.me)))
        return object_id

    def at(self, object_id: bytes) -> Block:
        value = self.table.entries[object_id].value
        assert value is not None
        assert value.block is not None
        return value.block

    def write(self) -> Block:
        """Finish the oldest copy."""
        kind, object_id, block = self.jobs.pop(0)
        assert kind == WRITE
        copy = Block(-1, block.offset, block.size, self.me, 7)
        self.machine.on_written(object_id, block, copy, 0.0)
        return copy


def test_the_least_recently_used_go_and_of_those_the_large_ones() -> None:
    one = Table()
    ids = [one.add(size) for size in (10, 100, 20, 50, 200)]
    one.machine.look(ids[0], one.at(ids[0]))
    one.machine.unuse(ids[0])
    one.machine.spill(150, 0.0)  # the coldest are 1, 2, 3: of those the two large ones suffice
    assert [job[1] for job in one.jobs] == [ids[1], ids[3]]
    assert one.machine.spilling(0.0) == 150
    assert one.machine.spillable(10_000, 0.0) == 10 + 20 + 200
    assert one.machine.spillable(15, 0.0) <= 30


def test_a_copy_on_disk_is_made_once() -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.machine.spill(1, 0.0)
    disk = one.write()
    assert one.at(object_id) == disk
    assert one.freed == [memory]
    one.machine.carry(object_id, disk)
    one.machine.carry(object_id, disk)
    kind, _, block = one.jobs.pop()
    assert (kind, block) == (READ, disk)
    again = Block(1, 9, 64, ME)
    one.machine.on_read(object_id, block, again)
    assert one.at(object_id) == again
    one.machine.spill(1, 0.0)
    assert not one.jobs
    assert one.at(object_id) == disk
    assert one.freed == [memory, again]
    one.table.release(object_id)
    assert one.freed == [memory, again, disk]


def test_a_copy_of_what_was_made_again_meanwhile_does_not_count() -> None:
    one = Table()
    object_id = one.add()
    first = one.at(object_id)
    one.machine.spill(1, 0.0)
    _, _, source = one.jobs.pop()
    one.table.release(object_id)  # the copy may be torn from now on
    one.count -= 1
    assert one.add() == object_id
    one.machine.spill(1, 0.0)
    torn = Block(-1, 0, 64, ME, 8)
    one.machine.on_written(object_id, source, torn, 0.0)
    assert one.freed == [first, torn]
    assert one.at(object_id) == first  # the same place, with another value
    disk = one.write()
    assert one.at(object_id) == disk


def test_nothing_is_brought_back_while_memory_is_short_and_one_at_a_time() -> None:
    one = Table()
    ids = [one.add() for _ in range(2)]
    one.machine.spill(128, 0.0)
    places = [one.write(), one.write()]
    one.machine.short = True
    for object_id, place in zip(ids, places, strict=True):
        for _ in range(3):
            one.machine.look(object_id, place)
    assert not one.jobs
    one.machine.short = False
    for object_id, place in zip(ids, places, strict=True):
        one.machine.look(object_id, place)
    assert len(one.jobs) == 1
    one.machine.on_read(*one.jobs.pop()[1:], None)  # there was no room
    one.machine.look(ids[1], places[1])
    assert len(one.jobs) == 1


def test_after_a_failure_nothing_is_written_for_a_while() -> None:
    one = Table()
    ids = [one.add() for _ in range(2)]
    one.machine.spill(64, 0.0)
    one.machine.on_write_failed(*one.jobs.pop()[1:], "the disk is full", 5.0)
    assert one.machine.trouble == "the disk is full"
    assert one.machine.spillable(1000, 4.9) == 0
    one.machine.spill(1000, 4.9)
    assert not one.jobs
    assert one.machine.spillable(1000, 5.0) == 128
    one.machine.spill(1000, 5.0)
    one.write()
    assert one.machine.trouble == ""
    one.write()
    assert all(one.at(object_id).segment < 0 for object_id in ids)


def test_what_is_used_again_before_its_copy_is_there_stays() -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.machine.spill(64, 0.0)
    assert one.machine.look(object_id, memory) == memory
    one.write()
    assert one.at(object_id) == memory
    assert not one.freed


def test_a_borrower_that_uses_it_keeps_it_and_says_when_not() -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.table.on_add_borrower(PEER, AddBorrower(object_id))
    one.machine.spill(64, 0.0)
    disk = one.write()
    assert one.sent[-1] == (PEER, Evict(object_id, Value(block=disk)))
    assert one.machine.spilling(0.5) == 64
    assert one.machine.spilling(1.5) == 0, "a borrower that does not answer is not counted on"
    one.machine.on_evicted(PEER, Evicted(object_id, False))
    assert one.at(object_id) == memory
    assert one.machine.spillable(1000, 2.0) == 0
    one.machine.on_evicted(PEER, Evicted(object_id, True))
    assert one.at(object_id) == memory, "it may have looked again meanwhile: it is asked"
    one.machine.spill(64, 2.0)
    one.machine.on_evicted(PEER, Evicted(object_id, True))
    assert one.at(object_id) == disk


@pytest.mark.parametrize("what", ["fetch", "register"])
def test_a_location_that_is_handed_out_during_the_round_stays_true(what: str) -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.table.on_add_borrower(PEER, AddBorrower(object_id))
    one.machine.spill(64, 0.0)
    one.write()
    if what == "fetch":
        one.table.on_fetch(PEER, Fetch(object_id, 1))
    else:
        one.table.on_add_borrower(OTHER, AddBorrower(object_id))
    one.machine.on_evicted(PEER, Evicted(object_id, True))
    assert one.at(object_id) == memory
    assert not one.freed


def test_the_death_of_the_last_borrower_ends_the_round() -> None:
    one = Table()
    object_id = one.add()
    for peer in (PEER, OTHER):
        one.table.on_add_borrower(peer, AddBorrower(object_id))
    one.machine.spill(64, 0.0)
    disk = one.write()
    one.machine.on_evicted(PEER, Evicted(object_id, True))
    one.table.on_process_died(OTHER, "was killed")
    assert one.at(object_id) == disk


def test_a_borrower_takes_the_owners_word_before_what_a_call_brings() -> None:
    """It has said that the old place is gone; a call that left before still names it."""
    one = Table(PEER)
    object_id = ME + bytes(8)
    memory, disk = Block(1, 0, 64, ME), Block(-1, 0, 64, ME)
    one.table.hold(object_id)
    one.table.resolve(object_id, Value(block=memory))
    one.table.on_evict(ME, Evict(object_id, Value(block=disk)))
    assert one.sent[-1] == (ME, Evicted(object_id, True))
    assert one.machine.look(object_id, memory) == disk


def test_a_borrower_that_waits_for_the_value_has_it_then() -> None:
    one = Table(PEER)
    object_id = ME + bytes(8)
    disk = Block(-1, 0, 64, ME)
    one.table.hold(object_id)
    woken: list[Value] = []
    one.table.when_ready(object_id, woken.append)
    one.table.on_evict(ME, Evict(object_id, Value(block=disk)))
    assert [value.block for value in woken] == [disk]


def test_views_that_are_gone_count_when_it_matters() -> None:
    one = Table(PEER)
    object_id = ME + bytes(8)
    memory = Block(1, 0, 64, ME)
    one.table.hold(object_id)
    one.table.resolve(object_id, Value(block=memory))
    one.machine.look(object_id, memory)
    one.machine.look(object_id, memory)
    one.table.on_evict(ME, Evict(object_id, Value(block=Block(-1, 0, 64, ME))))
    assert one.sent[-1] == (ME, Evicted(object_id, False))
    one.machine.unseen.extend([object_id, object_id])
    one.machine.settle()
    assert one.sent[-1] == (ME, Evicted(object_id, True))
    assert not one.machine.uses


def test_memory_that_others_write_to_never_moves() -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.machine.fix(object_id)
    one.machine.spill(1000, 0.0)
    assert not one.jobs
    assert one.machine.resident == 0
    one.table.release(object_id)
    assert one.freed == [memory]


@pytest.mark.parametrize("when", ["written", "asked"])
def test_a_release_in_the_middle_frees_everything_once(when: str) -> None:
    one = Table()
    object_id = one.add()
    memory = one.at(object_id)
    one.machine.spill(64, 0.0)
    if when == "written":
        one.table.release(object_id)
        assert one.freed == [memory], "the block on disk is still being written to"
        disk = one.write()
    else:
        one.table.on_add_borrower(PEER, AddBorrower(object_id))
        disk = one.write()
        one.table.release(object_id)
        one.table.on_process_died(PEER, "was killed")
    assert one.freed == [memory, disk]
    assert not one.machine.held
    assert one.machine.resident == one.machine.spilling(0.0) == 0


def test_the_census_names_both_copies() -> None:
    one = Table()
    object_id = one.add()
    one.table.on_add_borrower(PEER, AddBorrower(object_id))
    one.machine.spill(64, 0.0)
    one.write()
    assert sorted(one.table.blocks_in({1, -1})) == [(-1, 1000), (1, 1000)]
