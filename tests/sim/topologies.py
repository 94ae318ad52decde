"""A small topology of a seed: crashes, power failures and a full disk, at random steps.

`InlineHandle` runs the loops, credits and epochs that processes run, on a clock that is moved by
hand. The checkpoint directory is a real one, on a *disk* that notes what was synced: when the power
fails, a name that was changed since its directory was synced shows the old or the new file, and a
file that was written to since it was synced is torn. What comes out must be what an undisturbed run
gives: each row is visible once.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

from engine.exceptions import GetTimeoutError
from engine.topology import (
    Checkpoints,
    External,
    InlineHandle,
    Member,
    MemberContext,
    Topology,
    broadcast,
    coordinator,
    durable,
    forward,
    hashed,
)
from tests.sim.member import Violation
from tests.topology.members import HandClock, Numbers, Relay, ids_of

__all__ = ["Disk", "run_topology"]

_DEATHS_MAX = 15
# Turns after which something that still runs goes round in circles.
_TURNS_MAX = 50_000


class Disk:
    """What of a directory would be there after the power failed."""

    def __init__(self, root: Path, draw: Random) -> None:
        self._root = root
        self._draw = draw
        self._synced: dict[int, bytes] = {}  # inode -> content when it was last synced
        self._held: dict[int, int] = {}  # descriptors of those: so no inode is used for another
        self._names: dict[Path, dict[str, bytes]] = {}  # of each directory, when it was synced
        self.fails = 0.0  # share of syncs for which there is no room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        """As `os.fsync`, of a file or of a directory."""
        if self._draw.random() < self.fails:
            raise OSError(28, "no space is left")
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            if path == self._root or path.parent == self._root:  # others have more in them
                names = sorted(os.listdir(path))
                self._names[path] = {one: self._content(path / one) for one in names}
        else:
            self._note(path)

    def _note(self, path: Path) -> None:
        """What a file holds now is safe."""
        inode = path.stat().st_ino
        self._synced[inode] = path.read_bytes()
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)

    def let_go(self) -> None:
        """Of all files. (`close` is that of `os`.)"""
        while self._held:
            os.close(self._held.popitem()[1])

    def _content(self, path: Path) -> bytes:
        """What of a file is safe: what was synced, and an unknown part of the rest."""
        if not path.is_file():
            return b""
        found = path.read_bytes()
        synced = self._synced.get(path.stat().st_ino)
        if synced == found:
            return found
        return found[: self._draw.randrange(len(found) + 1)]

    def fail(self) -> None:
        """The power fails and comes back."""
        for folder in (self._root, self._root / "states"):
            if not folder.is_dir():
                continue
            before = self._names.get(folder, {})
            files = sorted(one for one in folder.iterdir() if one.is_file())
            now = {one.name: self._content(one) for one in files}
            for name in sorted(before.keys() | now.keys()):
                path = folder / name
                if path.is_dir():
                    continue
                old, new = before.get(name), now.get(name)
                left = old if old != new and self._draw.random() < 0.5 else new
                path.unlink(missing_ok=True)
                if left is not None:
                    path.write_bytes(left)
                    self._note(path)


class _Chance:
    """Stands for `secrets`, so that a seed is a run."""

    def __init__(self, draw: Random) -> None:
        self._draw = draw

    def token_hex(self, count: int) -> str:
        """As `secrets.token_hex`."""
        return self._draw.randbytes(count).hex()


class _Output(External):
    """The world outside: what is prepared, and what is visible."""

    def __init__(self) -> None:
        self.prepared: dict[str, list[int]] = {}
        self.visible: dict[str, list[int]] = {}

    def commit(self, tokens: Sequence[Any]) -> None:
        for token in tokens:
            if token in self.prepared:
                if token in self.visible:
                    raise Violation(f"{token} was committed twice")
                self.visible[token] = self.prepared.pop(token)
            elif token not in self.visible:
                raise Violation(f"{token} is committed and was never made durable")

    def undo(self, epoch: int) -> None:
        self.prepared.clear()

    def rows(self) -> Counter[int]:
        """How often each row is visible."""
        return Counter(row for part in self.visible.values() for row in part)


class _Sink(Member):
    """Hands over what it gets in parts, one an epoch; their names are never used twice."""

    output: _Output  # of the run under way: members are made by their class alone
    name: Callable[[], str]

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx
        self.part: list[int] = []

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if value is not None:
            self.part.extend(ids_of(value))

    def _prepare(self) -> None:
        if self.part:
            token, part, output = type(self).name(), self.part, self.output
            self.ctx.hand_over(token, lambda: output.prepared.update({token: part}))
            self.part = []

    def snapshot(self) -> Any:
        self._prepare()

    def restore(self, state: Any) -> None:
        pass

    def close(self) -> int:
        self._prepare()
        return 0


def _drawn(draw: Random) -> tuple[Topology, Counter[int]]:
    """A topology, and how often each row must be visible."""
    made = Topology("drawn")
    rows, copies, width = draw.randrange(1, 25), draw.choice([1, 2]), draw.choice([1, 2, 3])
    made.member("numbers", Numbers, rows, (draw.randrange(1, 6),), parallelism=copies)
    wanted = Counter(range(rows * copies))
    made.member("relay", Relay, draw.choice([1, 2]), parallelism=width)
    made.channel("numbers", "relay", hashed("key"), capacity_rows=draw.choice([1, 3, 50]))
    if draw.random() < 0.5:
        made.member("few", Numbers, 5, (2,), 1000)
        made.channel("few", "relay", broadcast(), capacity_rows=draw.choice([1, 50]))
        wanted.update({1000 + row: width for row in range(5)})
    last = "relay"
    if draw.random() < 0.4:
        made.member("second", Relay, 1, parallelism=width)
        made.channel("relay", "second", forward(), capacity_rows=draw.choice([1, 4]))
        last = "second"
    made.member("sink", _Sink, parallelism=draw.choice([1, 2]))
    made.channel(last, "sink", hashed("id"), capacity_rows=draw.choice([1, 6, 50]))
    return made, wanted


@contextmanager
def _on_disk(disk: Disk, chance: _Chance) -> Any:
    former = durable.os, durable.secrets, coordinator.secrets
    patched: Any = durable
    patched.os, patched.secrets = disk, chance
    coordinator.secrets = chance  # type: ignore[assignment]
    try:
        yield
    finally:
        durable.os, durable.secrets, coordinator.secrets = former


def run_topology(seed: int, marks: Counter[str]) -> str:
    """Run one; a digest of what happened. Raises Violation, or whatever a machine raises."""
    draw = Random(f"topology {seed}")
    with tempfile.TemporaryDirectory(prefix="penstock-sim-") as folder:
        root = Path(folder)
        disk = Disk(root, draw)
        try:
            with _on_disk(disk, _Chance(draw)):
                return _Run(draw, root, disk, marks).go()
        finally:
            disk.let_go()


class _Run:
    """One topology from its first start to its end."""

    def __init__(self, draw: Random, root: Path, disk: Disk, marks: Counter[str]) -> None:
        self._draw, self._root, self._disk, self._marks = draw, root, disk, marks
        self._clock = HandClock()
        self._output = _Output()
        self._topology, self._wanted = _drawn(draw)
        self._hash = blake2b(digest_size=8)
        self._parts = 0
        _Sink.output = self._output
        _Sink.name = self._part_name  # type: ignore[method-assign, assignment]

    def _part_name(self) -> str:
        self._parts += 1
        return f"part {self._parts}"

    def _mark(self, what: str) -> None:
        self._marks[what] += 1
        self._hash.update(f"{self._clock.now:.6f} {what};".encode())

    def _start(self) -> InlineHandle:
        every, timeout = self._draw.choice([None, 0.5, 5.0]), self._draw.choice([2.0, 40.0])
        return InlineHandle(
            self._topology,
            seed=self._draw.randrange(1 << 30),
            clock=self._clock,
            sleep=self._clock.sleep,
            checkpoints=Checkpoints(
                directory=self._root, every=every, timeout=timeout, restarts=1000
            ),
            external=self._output,
        )

    def go(self) -> str:
        """Faults for a while, then the end; the digest."""
        draw, rate = self._draw, self._draw.choice([0.0, 0.005, 0.03])
        handle, deaths = self._start(), 0
        self._disk.fails = draw.choice([0.0, 0.0, 0.05])
        for _turn in range(_TURNS_MAX):
            self._clock.now += draw.random() * 0.1
            worked = handle.run_turn()
            handle.check_credits()
            if not worked and handle._is_done():
                break
            if draw.random() < rate and deaths < _DEATHS_MAX:
                deaths += 1
                handle = self._die(handle)
            elif draw.random() < 0.03:
                found = handle._with_checkpoints()
                handle._carry_out(found.request(self._clock.now))
        else:
            raise Violation(f"a topology has not ended after {_TURNS_MAX} turns")
        self._disk.fails = 0.0
        try:
            handle.wait(timeout=1e6)
        except GetTimeoutError as error:
            raise Violation(f"a topology does not end: {error}") from error
        if handle.checkpoint_statistics().commits:
            self._mark("topology: epochs were committed")
        self._check()
        return self._hash.hexdigest()

    def _die(self, handle: InlineHandle) -> InlineHandle:
        """One process dies, or all of them, with or without the machine."""
        kind = self._draw.choice(["crash", "program", "power"])
        self._mark(f"topology: {kind}")
        if kind == "crash":
            try:
                handle.crash()
            except OSError:  # whether a failed commit counts cannot be settled: the job ends
                self._mark("topology: no room to go on")
            else:
                return handle
        handle._with_checkpoints().directory.close()  # the kernel releases its locks
        if kind == "power":
            self._disk.fail()
        fails, self._disk.fails = self._disk.fails, 0.0  # a start needs room
        handle = self._start()
        self._disk.fails = fails
        return handle

    def _check(self) -> None:
        found = self._output.rows()
        if found != self._wanted:
            raise Violation(f"rows visible too often or seldom: {(found - self._wanted)}, "
                            f"{self._wanted - found}")  # fmt: skip
        if self._output.prepared:
            raise Violation(f"prepared and neither committed nor undone: {self._output.prepared}")
        left = sorted(path.name for path in self._root.rglob("*"))
        if left != ["driver.lock", "members.lock", "states"]:
            raise Violation(f"left in the checkpoint directory: {left}")
        self._mark("topology: a result was compared")
