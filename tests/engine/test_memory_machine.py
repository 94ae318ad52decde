"""Who ends when memory is short: the pure choice, and the gauges on made-up files."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.memory import Holder, Level, choose, explain, next_look
from engine.runtime.memory_watch import cgroup_gauges, machine_gauge, private_bytes

MB = 1 << 20
TIGHT = Level("this machine", 1010 * MB, 1000 * MB)


def holder(name: str, kind: str, nbytes: int, owner: str = "d", since: float = 0.0) -> Holder:
    return Holder(name.encode(), 1, name, kind, owner.encode(), since, nbytes * MB)


def chosen(*holders: Holder, level: Level = TIGHT) -> str:
    found = choose(level, holders)
    return found.name if found is not None else ""


def test_what_can_run_again_goes_first_and_actors_last() -> None:
    actor, idle = holder("actor", "actor", 500), holder("idle", "idle", 600)
    task, again = holder("task", "task", 200), holder("again", "retriable", 100)
    assert chosen(idle, actor, task, again) == "again"
    assert chosen(idle, actor, task) == "task"
    assert chosen(idle, actor) == "actor"
    assert chosen(idle) == "idle"


def test_the_newest_of_the_owner_with_most() -> None:
    assert (
        chosen(
            holder("old", "retriable", 100, "a", 1.0),
            holder("new", "retriable", 100, "a", 2.0),
            holder("other", "retriable", 300, "b", 3.0),
        )
        == "new"
    )


def test_a_hog_is_found_among_the_small() -> None:
    small = [holder(f"s{n}", "retriable", 10, since=9.0) for n in range(5)]
    assert chosen(*small, holder("hog", "retriable", 400)) == "hog"
    assert chosen(*small, holder("hog", "actor", 400)) == "hog", "their end would change nothing"


def test_many_small_ones_are_together_a_hog() -> None:
    small = [holder(f"s{n}", "retriable", 20, since=float(n)) for n in range(40)]
    assert chosen(*small) == "s39"
    assert chosen(*small[:39], holder("tiny", "retriable", 1, since=99.0)) == "s38"


def test_nobody_when_it_is_not_ours() -> None:
    assert chosen(holder("small", "retriable", 10)) == ""
    assert chosen() == ""


_HOLDERS = st.lists(
    st.builds(
        holder,
        st.text("abc", min_size=1, max_size=4),
        st.sampled_from(["retriable", "task", "actor", "idle"]),
        st.integers(0, 800),
        st.sampled_from("xyz"),
        st.floats(0, 9),
    ),
    max_size=12,
)


@given(_HOLDERS, st.integers(0, 400))
def test_the_chosen_matters(holders: list[Holder], excess: int) -> None:
    level = Level("m", (1000 + excess) * MB, 1000 * MB)
    victim = choose(level, holders)
    worth = max(excess, 50) * MB
    if victim is None:
        assert sum(one.nbytes for one in holders) < worth
        return
    assert victim in holders
    assert victim.nbytes >= min(worth, max(one.nbytes for one in holders) / 2)


def test_the_pace_follows_the_room() -> None:
    assert next_look(100 << 30, 4e9, 0.1, 1.0) == 1.0
    assert next_look(2_000_000_000, 4e9, 0.1, 1.0) == 0.5
    assert next_look(-5, 4e9, 0.1, 1.0) == 0.1


def test_the_report_names_everything() -> None:
    hog, actor = holder("hog", "retriable", 400), holder("Model", "actor", 300)
    text = explain(TIGHT, hog, [actor, hog], 7)
    assert text.startswith("was stopped by the memory watch: hog held 419,430,400 bytes")
    assert "this machine used 1,059,061,760 of at most 1,048,576,000 bytes" in text
    assert "hog (pid 1) 419,430,400, Model (pid 1) 314,572,800; the object store: 7" in text


# ---------------------------------------------------------------------------------- gauges


def test_the_machine_is_measured() -> None:
    what, used, total = machine_gauge()
    assert what == "this machine"
    assert 0 < used < total


def test_private_memory_grows_with_what_is_touched() -> None:
    before = private_bytes(os.getpid())
    # Pages that are new for certain: an allocator may have kept some from earlier tests.
    with mmap.mmap(-1, 32 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert private_bytes(os.getpid()) - before > 30 * MB
    assert private_bytes(0) == 0, "nobody"


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize("version", [1, 2])
def test_every_limit_on_the_way_up_counts(tmp_path: Path, version: int) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    if version == 2:
        names, base, none, prefix = ("memory__max", "memory__current"), root, "max\n", ""
        own.write_text("0::/pod/box\n")
    else:
        names = ("memory__limit_in_bytes", "memory__usage_in_bytes")
        base, none, prefix = root / "memory", "9223372036854771712\n", "total_"
        own.write_text("5:devices:/\n4:cpu,memory:/pod/box\n")
    stat = f"{prefix}inactive_file 300\n{prefix}active_file 200\n"
    if version == 1:  # without those below it
        stat = "active_file 1\n" + stat
    groups = {"": (none, "9999"), "pod": ("5000", "4000"), "pod/box": (none, "9")}
    for folder, values in groups.items():
        _write(base / folder, **dict(zip(names, values, strict=True)), memory__stat=stat)
    (gauge,) = cgroup_gauges(str(root), str(own))
    what, used, limit = gauge()
    assert what.endswith("/pod")
    assert (used, limit) == (3500, 5000)


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/elsewhere/on/the/host\n")
    _write(tmp_path / "fs", memory__max="100", memory__current="50",
           memory__stat="inactive_file 1\nactive_file 2\n")  # fmt: skip
    (gauge,) = cgroup_gauges(str(tmp_path / "fs"), str(tmp_path / "cgroup"))
    assert gauge()[1:] == (47, 100)


def test_no_cgroups_no_gauges(tmp_path: Path) -> None:
    assert cgroup_gauges(str(tmp_path), str(tmp_path / "none")) == []
