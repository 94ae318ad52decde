"""Files of spilled values: whatever the disk does to them is noticed, and none of it kills."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config
from engine.core.control import Reply
from engine.core.values import Block
from engine.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError
from engine.runtime.disk import Disk
from engine.store.spill import DiskSegment

SEGMENT_BYTES = 1 << 20
DAMAGES = 1_000


class Node:
    """The node's part: files without names, within a limit."""

    def __init__(self, folder: Path, limit: int = 4 * SEGMENT_BYTES) -> None:
        self.folder = folder
        self.left = limit
        self.files: dict[int, Any] = {}
        self.count = 0

    def request(self, what: str, **args: Any) -> Any:
        if what == "map":
            number = args["segment"]
            if number not in self.files:
                return Reply(1, {"kind": "ObjectLostError"}, "segment is gone")
            size = SEGMENT_BYTES
        else:
            size = args["wish"]
            if size > self.left:
                return Reply(1, {"kind": "ObjectStoreFullError"}, "no more may be spilled")
            self.left -= size
            self.count += 1
            number = -self.count
            self.files[number] = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        return number, os.dup(self.files[number].fileno()), size

    def given_up(self, segments: list[int]) -> None:
        for one in segments:
            self.files.pop(one).close()
            self.left += SEGMENT_BYTES


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    for file in made.files.values():
        file.close()


@pytest.fixture
def disk(node: Node) -> Iterator[Disk]:
    made = Disk(
        b"process1", Config(), SEGMENT_BYTES, str(node.folder), node.request, node.given_up
    )
    yield made
    made.close()


def value(seed: int, size: int = 4096) -> memoryview:
    return memoryview(random.Random(seed).randbytes(size))


def test_what_was_written_is_read(disk: Disk, node: Node) -> None:
    written = [(value(seed, size), seed) for seed, size in enumerate((1, 64, 4095, 300_000))]
    blocks = [disk.write(data) for data, _ in written]
    for (data, _), block in zip(written, blocks, strict=True):
        assert disk.read(block).tobytes() == data.tobytes()
    reader = Disk(
        b"process2", Config(), SEGMENT_BYTES, str(node.folder), node.request, node.given_up
    )
    assert reader.read(blocks[3]).tobytes() == written[3][0].tobytes()
    reader.close()


def test_space_is_used_again_and_given_back(disk: Disk, node: Node) -> None:
    one, two = disk.write(value(1)), disk.write(value(2))
    disk.free(one)
    again = disk.write(value(3))
    assert (again.segment, again.offset) == (one.segment, one.offset)
    disk.free(two)
    disk.free(again)
    assert not node.files
    assert node.left == 4 * SEGMENT_BYTES


def test_readers_share_what_they_look_at(disk: Disk) -> None:
    block = disk.write(value(1))
    one = disk.read(block)
    assert disk.read(block) is one
    assert one.ctypes.data % 64 == 0


class Spoiler:
    """Damages a value in a file, in any way that a disk or a file system may."""

    def __init__(self, disk: Disk, node: Node, seed: int = 7) -> None:
        self.draw = random.Random(seed)
        self.disk = disk
        first, self.other = disk.write(value(1)), disk.write(value(2))
        disk.free(first)
        self.block = disk.write(value(3))
        assert self.block.offset == first.offset
        self.fd = node.files[self.block.segment].fileno()
        self.right = value(3).tobytes()

    def spoiled(self) -> bytes:
        """The value, damaged: flipped bits, pieces cut off, other values, earlier values."""
        draw, right, size = self.draw, self.right, self.block.size
        kind = draw.randrange(4)
        if kind == 0:  # some bits
            found = bytearray(right)
            for _ in range(draw.randint(1, 4)):
                found[draw.randrange(size)] ^= 1 << draw.randrange(8)
            return bytes(found)
        if kind == 1:  # a write that reached the disk in part, the rest is what lay there before
            at = draw.randrange(size)
            return right[:at] + value(1).tobytes()[at:]
        if kind == 2:  # a hole
            at = draw.randrange(size)
            return (right[:at] + bytes(512) + right[at + 512 :])[:size]
        return [value(1), value(2), memoryview(right[1:] + right[:1])][draw.randrange(3)].tobytes()

    def missed(self, damages: int) -> int:
        """Damage so many times; how often it was taken for the truth."""
        missed = done = 0
        while done < damages:
            spoiled = self.spoiled()
            if spoiled == self.right:
                continue  # the flips undid each other
            done += 1
            os.pwrite(self.fd, spoiled, self.block.offset)
            with contextlib.suppress(ObjectLostError):  # as it should be
                self.disk.read(self.block)
                missed += 1
        return missed


def test_every_damage_is_noticed(disk: Disk, node: Node) -> None:
    spoiler = Spoiler(disk, node)
    assert spoiler.missed(DAMAGES) == 0
    block, right, fd = spoiler.block, spoiler.right, spoiler.fd
    with pytest.raises(ObjectLostError, match="damaged there: its checksum is"):
        disk.read(block)
    os.pwrite(fd, right, block.offset)
    assert disk.read(block).tobytes() == right
    os.ftruncate(fd, block.offset + 100)
    with pytest.raises(ObjectLostError, match="the file ends 3,996 bytes too early"):
        disk.read(block)


class Failing:
    """`os.pwrite` that fails from the n-th call on, so many times; else it writes little."""

    def __init__(self, first: int, times: int, number: int) -> None:
        self.write = os.pwrite
        self.first, self.times, self.number = first, times, number
        self.calls = 0

    def __call__(self, fd: int, data: Any, offset: int) -> int:
        self.calls += 1
        if self.first <= self.calls < self.first + self.times:
            raise OSError(self.number, os.strerror(self.number))
        return self.write(fd, memoryview(data)[:1000], offset)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("first", [1, 2, 3, 4, 5])
def test_a_write_that_fails_is_tried_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, number: int, first: int
) -> None:
    failing = Failing(first, 1, number)
    monkeypatch.setattr(os, "pwrite", failing)
    block = disk.write(value(1))
    assert disk.read(block).tobytes() == value(1).tobytes()


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_disk_that_keeps_failing_is_given_up_and_may_recover(
    disk: Disk, node: Node, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    failing = Failing(first, 100, errno.ENOSPC)
    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OutOfDiskError) as caught:
        disk.write(value(1))
    text = str(caught.value)
    assert "4,096 bytes cannot be written to" in text
    assert str(node.folder) in text
    assert "No space left on device" in text
    assert failing.calls == first - 1 + Config().spill_attempts_max
    assert not node.files, "nothing is kept for what failed"
    monkeypatch.setattr(os, "pwrite", failing.write)
    assert disk.read(disk.write(value(1))).tobytes() == value(1).tobytes()


def test_an_error_while_reading_is_a_lost_object(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = disk.write(value(1))

    def broken(_fd: int, _into: Any, _offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ObjectLostError, match=r"cannot be read back: .*Input/output error"):
        disk.read(block)


def test_the_limit_is_the_nodes(disk: Disk) -> None:
    blocks = [disk.write(value(seed, SEGMENT_BYTES)) for seed in range(4)]
    with pytest.raises(ObjectStoreFullError, match="no more may be spilled"):
        disk.write(value(9))
    disk.free(blocks[0])
    disk.write(value(9))


def test_a_segment_that_is_gone(disk: Disk) -> None:
    with pytest.raises(ObjectLostError, match="segment is gone"):
        disk.read(Block(-99, 0, 64, b"process9"))


def test_a_closed_segment_is_an_error_and_no_other_file(tmp_path: Path) -> None:
    """The number of its descriptor may belong to another file by now."""
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        segment = DiskSegment(-1, os.dup(file.fileno()), 4096)
        check = segment.write(0, value(1))
        assert segment.read(0, 4096, check).tobytes() == value(1).tobytes()
        segment.close()
        segment.close()
        with pytest.raises(ObjectLostError, match="the file is closed"):
            segment.read(0, 4096, check)
