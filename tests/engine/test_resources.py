"""Resource vectors and devices: never given twice, fractions packed, all of it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.groups import INFEASIBLE, Group, Groups
from engine.core.resources import GPU, UNIT, Devices, Pool, from_units, is_exact, to_units

WANTED = st.sampled_from([0.0001, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0])


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**9).map(lambda n: n / UNIT)))
def test_amounts_survive_units_exactly(amounts: dict[str, float]) -> None:
    assert from_units(to_units(amounts)) == {name: one for name, one in amounts.items() if one}


@pytest.mark.parametrize(
    ("amount", "exact"),
    [(0.1, True), (0.0001, True), (1 / 3, False), (0.00005, False), (2e9 + 0.5, True), (7, True)],
)
def test_granularity(amount: float, exact: bool) -> None:
    assert is_exact(amount) == exact


def test_a_fraction_goes_where_there_is_least_room_for_it() -> None:
    devices = Devices({"0": UNIT, "1": UNIT, "2": UNIT})
    assert devices.take(6000) == {"0": 6000}
    assert devices.take(5000) == {"1": 5000}
    assert devices.take(4000) == {"0": 4000}
    assert devices.take(5000) == {"1": 5000}
    assert devices.take(UNIT) == {"2": UNIT}
    assert devices.take(1) is None


class Sharing(RuleBasedStateMachine):
    """Shares of devices against a list of who holds what."""

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.devices = Devices({str(index): UNIT for index in range(count)})
        self.held: list[dict[str, int]] = []

    @rule(amount=WANTED)
    def take(self, amount: float) -> None:
        units = to_units({GPU: amount})[GPU]
        before = dict(self.devices.free)
        shares = self.devices.take(units)
        if shares is None:
            assert before == self.devices.free
            if units < UNIT:
                assert max(before.values()) < units
            else:
                assert sum(free == UNIT for free in before.values()) < units // UNIT
            return
        assert sum(shares.values()) == units
        if units < UNIT:
            ((name, _share),) = shares.items()
            fitting = [free for free in before.values() if free >= units]
            assert before[name] == min(fitting), "as few devices as possible are broken"
        else:
            assert all(before[name] == UNIT for name in shares), "whole devices are exclusive"
        self.held.append(shares)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.devices.give(self.held.pop(index))

    @invariant()
    def nothing_is_given_twice(self) -> None:
        if not hasattr(self, "held"):
            return
        for name, total in self.devices.total.items():
            used = sum(shares.get(name, 0) for shares in self.held)
            assert self.devices.free[name] == total - used >= 0


TestSharing = Sharing.TestCase

BUNDLE = st.fixed_dictionaries(
    {"CPU": st.sampled_from([0.5, 1.0, 2.0])},
    optional={GPU: st.sampled_from([0.3, 0.5, 1.0, 2.0]), "disk": st.just(1.0)},
)
BUNDLES = st.lists(BUNDLE, min_size=1, max_size=4)


@given(st.lists(st.tuples(BUNDLES, st.booleans()), max_size=12))
def test_groups_are_all_or_nothing_in_turn_and_give_everything_back(
    steps: list[tuple[list[dict[str, float]], bool]],
) -> None:
    pool = Pool(to_units({"CPU": 4, GPU: 2, "disk": 2}))
    groups = Groups(pool)
    for number, (bundles, remove) in enumerate(steps):
        group = Group(b"%d" % number, b"", bundles)
        groups.add(group)
        groups.place()
        if remove:
            groups.remove(next(iter(groups.all)))
            groups.place()
        placed = [one for one in groups.all.values() if one.pools]
        waiting = [one for one in groups.all.values() if not one.pools and one.state != INFEASIBLE]
        for name, total in pool.total.items():
            reserved = sum(unit.get(name, 0) for one in placed for unit in one.units)
            assert pool.free[name] == total - reserved >= 0
        for device, total in pool.devices.total.items():
            shares = [pool_.devices.total.get(device, 0) for one in placed for pool_ in one.pools]
            assert pool.devices.free[device] == total - sum(shares) >= 0
        for one in placed:
            assert [pool_.total for pool_ in one.pools] == one.units
            for pool_, units in zip(one.pools, one.units, strict=True):
                assert sum(pool_.devices.total.values()) == units.get(GPU, 0)
        if placed and waiting:  # in turn: whoever waits was made after all that stand
            first = min(int(one.id) for one in waiting)
            assert all(int(one.id) < first for one in placed)
    for group_id in list(groups.all):
        groups.remove(group_id)
    assert pool.free == pool.total
    assert pool.devices.free == pool.devices.total


def test_a_group_whose_shares_fit_on_no_device_is_infeasible() -> None:
    groups = Groups(Pool(to_units({GPU: 2})))
    group = Group(b"g", b"", [{GPU: 0.6}, {GPU: 0.6}, {GPU: 0.6}])
    groups.add(group)
    assert group.state == INFEASIBLE
    assert groups.place() == []


def test_names_are_unique_in_a_namespace() -> None:
    groups = Groups(Pool(to_units({"CPU": 1})))
    first = Group(b"1", b"", [{"CPU": 1}], name="n", namespace="a")
    assert groups.add(first) is None
    assert groups.add(Group(b"2", b"", [{"CPU": 1}], name="n", namespace="a")) is first
    assert groups.add(Group(b"3", b"", [{"CPU": 1}], name="n", namespace="b")) is None
    groups.remove(b"1")
    assert groups.add(Group(b"4", b"", [{"CPU": 1}], name="n", namespace="a")) is None
