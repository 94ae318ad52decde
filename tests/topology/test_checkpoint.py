"""The checkpoint directory: whatever happens to its files, nothing wrong is ever accepted."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as hyp
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

import engine.topology.checkpoint as checkpoint
import engine.topology.durable as durable
import engine.topology.statefile as statefile
from engine.topology.checkpoint import CheckpointDirectory, Manifest
from engine.topology.durable import Lock, digest_of, write_durably
from engine.topology.errors import CheckpointError
from engine.topology.statefile import StateWriter, read_state
from tests.topology.members import Faulty

COPIES = 3
States = dict[int, dict[int, Any]]


def state_of(epoch: int, copy: int) -> dict[str, Any]:
    """Something with inline and out-of-band parts."""
    table = pa.table({"n": np.arange(300) + 1000 * epoch + copy})
    return {"who": (epoch, copy), "array": np.arange(40) + 1000 * epoch + copy, "table": table}


def write_epoch(directory: CheckpointDirectory, epoch: int) -> Manifest:
    states = []
    for copy in range(COPIES):
        writer = StateWriter(directory.path, copy, f"member-{copy}", f"{epoch:08x}")
        states.append(writer.write(epoch, state_of(epoch, copy))[0])
    return directory.commit(epoch, "shape", states, [["sink", epoch]])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointDirectory:
    # So that the small tables here are in files of their own.
    monkeypatch.setattr(statefile, "PART_BYTES_MIN", 1000)
    made = CheckpointDirectory(tmp_path / "ck", keep=3)
    for epoch in (1, 2, 3):
        write_epoch(made, epoch)
    return made


def load(directory: CheckpointDirectory) -> tuple[int, list[Any]] | None:
    """What a restart does: the newest epoch all of which can be read."""
    below = None
    while True:
        manifest, _wrong = directory.latest(below)
        if manifest is None:
            return None
        try:
            found = [read_state(directory.path, state) for state in manifest.states]
        except CheckpointError:
            below = manifest.epoch
            continue
        assert manifest.decode_tokens() == [["sink", manifest.epoch]]
        return manifest.epoch, found


def check(found: tuple[int, list[Any]] | None) -> int:
    """That what was loaded is whole and of one epoch; its number, 0 for nothing."""
    if found is None:
        return 0
    epoch, states = found
    for copy, state in enumerate(states):
        assert state["who"] == (epoch, copy)
        assert np.array_equal(state["array"], state_of(epoch, copy)["array"])
        assert state["table"].equals(state_of(epoch, copy)["table"])
    return epoch


def test_the_newest_whole_epoch_is_loaded_and_may_be_written_to(
    directory: CheckpointDirectory,
) -> None:
    found = load(directory)
    assert check(found) == 3
    assert found is not None
    found[1][0]["array"][0] = 7  # a member may go on with what it is given


# --- damage -----------------------------------------------------------------------------------


def flip(draw: random.Random, path: Path, _others: list[Path]) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(draw: random.Random, path: Path, _others: list[Path]) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def lengthen(draw: random.Random, path: Path, _others: list[Path]) -> None:
    with open(path, "ab") as file:
        file.write(draw.randbytes(draw.randint(1, 5000)))


def swap(draw: random.Random, path: Path, others: list[Path]) -> None:
    other = draw.choice([one for one in others if one != path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def stale(draw: random.Random, path: Path, others: list[Path]) -> None:
    path.write_bytes(draw.choice([one for one in others if one != path]).read_bytes())


def zero(draw: random.Random, path: Path, _others: list[Path]) -> None:
    """A block that was never written: what is left of a torn write."""
    data = bytearray(path.read_bytes())
    at = draw.randrange(len(data))
    end = min(len(data), at + draw.randint(1, 512))
    while data[at:end] == bytes(end - at):
        end = len(data)
        at = draw.randrange(len(data))
    data[at:end] = bytes(end - at)
    path.write_bytes(data)


def remove(_draw: random.Random, path: Path, _others: list[Path]) -> None:
    path.unlink()


DAMAGES: list[Callable[[random.Random, Path, list[Path]], None]] = [
    flip, truncate, lengthen, swap, stale, zero, remove,
]  # fmt: skip


def damage_once(
    draw: random.Random, directory: CheckpointDirectory, original: dict[Path, bytes]
) -> None:
    """Damage one file of the newest epoch; the epoch before (or what is left) must be loaded."""
    files = sorted(original)
    newest = [path for path in files if path.name.startswith(("manifest-00000003", "00000003"))]
    kind = draw.choice(DAMAGES)
    path = draw.choice(newest)
    # Mostly a file of the same kind in place of another: the likeliest to be taken for it.
    same = [one for one in files if one.parent == path.parent]
    kind(draw, path, same if draw.random() < 0.7 else files)
    epoch = check(load(directory))
    assert epoch != 3, (kind.__name__, path.name)
    if kind is not swap:  # which may have damaged an older epoch as well
        assert epoch == 2, (kind.__name__, path.name)
    for name in files:
        if not name.exists() or name.read_bytes() != original[name]:
            name.write_bytes(original[name])


def originals(directory: CheckpointDirectory) -> dict[Path, bytes]:
    """Every file of three epochs, as it is."""
    found = {
        path: path.read_bytes()
        for path in directory.path.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    assert len(found) == 3 + 3 * 2 * COPIES
    return found


def test_every_damage_is_noticed_and_the_epoch_before_is_loaded(
    directory: CheckpointDirectory,
) -> None:
    original, draw = originals(directory), random.Random(1)
    for _ in range(600):
        damage_once(draw, directory, original)
    assert check(load(directory)) == 3


def test_nothing_is_unpickled_before_it_is_verified(
    directory: CheckpointDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = directory.latest()
    assert manifest is not None
    path = directory.path / "states" / manifest.states[1].name
    data = bytearray(path.read_bytes())
    data[-70] ^= 1
    path.write_bytes(data)
    decoded: list[Any] = []
    monkeypatch.setattr("engine.store.codec.decode_durable", lambda *args: decoded.append(args))
    with pytest.raises(CheckpointError, match="is damaged: its checksum is not"):
        read_state(directory.path, manifest.states[1])
    assert decoded == []


json_values = hyp.recursive(
    hyp.none() | hyp.booleans() | hyp.integers() | hyp.floats() | hyp.text(max_size=9),
    lambda inner: hyp.lists(inner, max_size=4)
    | hyp.dictionaries(hyp.sampled_from(["epoch", "states", "tokens", "copy", "x"]), inner),
    max_leaves=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hyp.binary(max_size=200) | json_values.map(msgspec.json.encode))
def test_a_manifest_that_says_nonsense_is_refused_whatever_its_checksum(
    directory: CheckpointDirectory, body: bytes
) -> None:
    head = b"penstock-checkpoint 1 " + digest_of([body]).encode()
    (directory.path / "manifest-00000003").write_bytes(head + b"\n" + body)
    manifest, wrong = directory.latest()
    assert manifest is not None
    assert manifest.epoch == 2
    assert len(wrong) == 1


# --- crashes in the middle of writing -----------------------------------------------------------


class Crash(BaseException):
    """The process is gone at this system call."""


@pytest.mark.parametrize("error", [Crash(), OSError(28, "No space left on device")])
def test_a_commit_that_stops_at_any_call_leaves_the_old_epoch_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for at in range(1, 100):
        folder = tmp_path / str(at)
        directory = CheckpointDirectory(folder, keep=2)
        write_epoch(directory, 1)
        stopped = False
        with monkeypatch.context() as broken:
            broken.setattr(durable, "os", Faulty(error, at))
            try:
                write_epoch(directory, 2)
            except (Crash, OSError):
                stopped = True
        directory.close()
        again = CheckpointDirectory(folder, keep=2)
        assert check(load(again)) in ((1, 2) if stopped else (2,))
        again.collect(everything=True)
        assert check(load(again)) in ((1, 2) if stopped else (2,))
        assert not list(folder.rglob(f"*{durable.TEMPORARY}*"))
        again.close()
        if not stopped:
            assert at > 10
            return
    raise AssertionError("it never passed untouched")


# --- retention ----------------------------------------------------------------------------------


def test_old_epochs_go_and_what_newer_ones_name_stays(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path, keep=2)
    first = write_epoch(directory, 1)
    for epoch in (2, 3, 4):
        # Copy 0 has not changed: its file of epoch 1 is named again.
        states = [first.states[0]]
        states.append(StateWriter(tmp_path, 1, "m", "s").write(epoch, [epoch])[0])
        directory.commit(epoch, "shape", states, [])
    StateWriter(tmp_path, 1, "m", "s").write(5, "being written")
    StateWriter(tmp_path, 1, "m", "s").write(0, "an end")
    directory.collect()
    assert directory.epochs() == [4, 3]
    names = {path.name.split("-")[0] for path in (tmp_path / "states").iterdir()}
    assert names == {"00000001", "00000003", "00000004", "00000005", "end"}
    assert directory.highest() == 5
    directory.collect(everything=True)
    assert len(list((tmp_path / "states").iterdir())) == 3
    directory.clear()
    assert directory.latest() == (None, [])
    assert list((tmp_path / "states").iterdir()) == []


def test_an_equal_state_is_not_written_again(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, keep=2)
    writer = StateWriter(tmp_path, 0, "m-0", "a")
    first, written = writer.write(1, state_of(1, 0))
    assert written == first.nbytes
    assert writer.write(2, state_of(1, 0))[0] != first  # nobody has said that it counts
    writer.on_committed(first)
    assert writer.write(3, state_of(1, 0)) == (first, 0)
    assert writer.write(4, state_of(2, 0))[0].name != first.name


def big(first: int) -> pa.Table:
    return pa.table({"n": np.arange(100_000) + first})


def test_a_large_table_that_is_still_there_is_not_written_again(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path, keep=1)
    writer = StateWriter(tmp_path, 0, "m-0", "a")
    old, new = big(0), big(1)
    first, written = writer.write(1, [old, "one"])
    assert written > 800_000
    directory.commit(1, "shape", [first], [])
    writer.on_committed(first)
    second, written = writer.write(2, [old, new, "two"])
    assert 800_000 < written < 1_000_000
    assert second.parts[0] == first.parts[0]
    third, written = writer.write(3, [old, new, "three"])  # epoch 2 was never committed
    assert written > 800_000
    directory.commit(3, "shape", [third], [])
    directory.collect()
    writer.on_committed(third)
    fourth, written = writer.write(4, [old, new, "four"])
    assert written == fourth.nbytes < 2_000
    directory.commit(4, "shape", [fourth], [])
    directory.collect()
    found = read_state(tmp_path, fourth)
    assert found[0].equals(old)
    assert found[1].equals(new)
    assert len(list((tmp_path / "states").iterdir())) == 3
    os.truncate(tmp_path / "states" / fourth.parts[0].name, 100)
    with pytest.raises(CheckpointError, match="has 100 bytes instead of"):
        read_state(tmp_path, fourth)


def test_an_object_in_the_place_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, keep=1)
    writer = StateWriter(tmp_path, 0, "m-0", "a")
    for epoch in range(1, 30):  # the allocator gives the same address again and again
        state, _ = writer.write(epoch, [big(epoch)])
        writer.on_committed(state)
        assert read_state(tmp_path, state)[0].equals(big(epoch))


def test_a_slice_is_written_without_the_table_it_was_cut_from(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, keep=1)
    table = pa.table({"a": np.arange(200_000), "s": [str(i) for i in range(200_000)]})
    value = {"rows": [table.slice(50_000, 3), table.to_batches()[0].slice(7, 2)]}
    state, _ = StateWriter(tmp_path, 0, "m-0", "a").write(1, value)
    assert state.nbytes < 5_000
    found = read_state(tmp_path, state)
    assert found["rows"][0].equals(table.slice(50_000, 3))
    assert found["rows"][1].to_pylist() == table.slice(7, 2).to_pylist()


def test_names_of_members_are_safe_in_names_of_files(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, keep=1)
    state, _ = StateWriter(tmp_path, 0, "../a b/ü->" + "x" * 200, "salt").write(1, None)
    assert (tmp_path / "states" / state.name).is_file()
    assert len(state.name) < 100


# --- locks and small things ---------------------------------------------------------------------


def test_a_directory_has_one_driver(tmp_path: Path) -> None:
    first = CheckpointDirectory(tmp_path, keep=1)
    with pytest.raises(CheckpointError, match="that another driver runs with"):
        CheckpointDirectory(tmp_path, keep=1)
    first.close()
    first.close()
    second = CheckpointDirectory(tmp_path, keep=1)
    member = Lock(tmp_path / "members.lock", exclusive=False)
    other = Lock(tmp_path / "members.lock", exclusive=False)
    with pytest.raises(BlockingIOError):
        Lock(tmp_path / "members.lock", exclusive=True)
    member.release()
    other.release()
    second.wait_for_members()


def test_members_that_do_not_end_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.topology.checkpoint._MEMBERS_SECONDS", 0.02)
    first = CheckpointDirectory(tmp_path, keep=1)
    Lock(tmp_path / "members.lock", exclusive=True).release()
    held = Lock(tmp_path / "members.lock", exclusive=False)
    with pytest.raises(CheckpointError, match=r"still\s+hold|still hold"):
        first.wait_for_members()
    held.release()


def test_an_export_is_a_checkpoint_of_its_own(
    directory: CheckpointDirectory, tmp_path: Path
) -> None:
    other = CheckpointDirectory(tmp_path / "save", keep=1)
    manifest, _ = directory.latest()
    assert manifest is not None
    directory.export(manifest, other)
    shutil.rmtree(directory.path)
    assert check(load(other)) == 3


def test_a_damaged_state_is_not_exported(directory: CheckpointDirectory, tmp_path: Path) -> None:
    other = CheckpointDirectory(tmp_path / "save", keep=1)
    manifest, _ = directory.latest()
    assert manifest is not None
    os.truncate(directory.path / "states" / manifest.states[0].name, 10)
    with pytest.raises(CheckpointError, match="expected to copy epoch 3"):
        directory.export(manifest, other)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, [b"old"])
    with monkeypatch.context() as broken:
        broken.setattr(durable, "os", Faulty(OSError(5, "Input/output error"), 1))
        with pytest.raises(OSError, match="Input/output"):
            write_durably(path, [b"new", b"er"])
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
    assert digest_of([b"o", b"ld"]) == digest_of([b"old"])


def test_tokens_are_plain_data(tmp_path: Path) -> None:
    directory = CheckpointDirectory(tmp_path, keep=1)
    with pytest.raises(CheckpointError, match="expected tokens of plain data"):
        directory.commit(1, "shape", [], [np.arange(3)])


def test_a_manifest_that_is_found_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer failed at the last sync; whoever finds it shows its effects because of it."""
    made = CheckpointDirectory(tmp_path, keep=1)
    monkeypatch.setattr(durable, "sync_directory", _no_room)
    with pytest.raises(OSError, match="no room"):
        made.commit(1, "shape", [], [])
    synced: list[Path] = []
    monkeypatch.setattr(checkpoint, "sync_directory", synced.append)
    manifest, wrong = made.latest()
    assert manifest is not None
    assert not wrong
    assert synced == [tmp_path]
    made.close()


def _no_room(_path: Path) -> None:
    raise OSError("no room")
