"""The node's memory watch: measures, stops a worker before the kernel stops anybody, recycles.

How much is in use is read from `/proc/meminfo`, from the memory cgroups (v1 or v2) that limit this
process, and, when `init(memory_limit=)` was given, from the workers themselves; whichever is
tightest counts. Who is to end is decided by `core.memory`. While there is plenty of room this costs
a few file reads a second.

What a worker holds for itself is its anonymous memory, less what it shares with the zygote it was
forked from: two lines of `/proc/<pid>/status`, where the exact figure would cost a walk through its
page tables. Shared memory is the object store's, which has a limit of its own, and is reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING

from engine.core.memory import Holder, Level, choose, explain, next_look

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["MemoryWatch", "cgroup_gauges", "machine_gauge", "private_bytes"]

_Gauge = Callable[[], tuple[str, int, int]]  # whose memory, bytes used, bytes there are
# What one core can take into use; the machine measured first touches 0.2 to 1.3 GiB a second.
_FILL_BYTES_PER_SECOND = 2 << 30
_LOOK_SECONDS_MAX = 1.0
# Looking may take this share of a core: with a thousand workers it happens less often.
_COST_SHARE_MAX = 0.05
# A victim whose memory is not free after so long does not keep the watch from its next choice.
_DYING_SECONDS_MAX = 2.0


def private_bytes(pid: int) -> int:
    """Anonymous memory of a process, swapped or not; 0 when it is gone."""
    text = _read(f"/proc/{pid}/status")
    return _field(text, b"RssAnon:") + _field(text, b"VmSwap:")


def _field(text: bytes, name: bytes, unit: int = 1024) -> int:
    """A figure of a file of the kernel's, in bytes; 0 when it is missing (a zombie)."""
    _before, found, after = text.partition(name)
    return int(after.split(None, 1)[0]) * unit if found else 0


def machine_gauge() -> tuple[str, int, int]:
    """Memory of the machine: what cannot be made available, and all there is."""
    text = _read("/proc/meminfo")
    total = _field(text, b"MemTotal:")
    return "this machine", total - _field(text, b"MemAvailable:"), total


def cgroup_gauges(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> list[_Gauge]:
    """One gauge for each memory cgroup that limits this process, its ancestors included."""
    gauges = []
    for folder, limit_name, used_name, prefix in _cgroup_folders(Path(root), Path(own)):
        limit = _number(folder / limit_name)
        if 0 < limit < 1 << 60:  # no limit is "max" in v2, and a huge number in v1
            gauges.append(_cgroup_gauge(folder, limit_name, used_name, prefix))
    return gauges


def _cgroup_folders(root: Path, own: Path) -> Iterator[tuple[Path, str, str, str]]:
    for line in _read(str(own)).decode().splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        folder = base / path.lstrip("/")
        if not folder.is_dir():  # a container sees its own group as the root
            folder = base
        for one in (folder, *folder.parents):
            if not one.is_relative_to(base):
                break
            yield one, *names


def _cgroup_gauge(folder: Path, limit_name: str, used_name: str, prefix: str) -> _Gauge:
    names = [f"\n{prefix}{kind}_file ".encode() for kind in ("active", "inactive")]

    def gauge() -> tuple[str, int, int]:
        # Pages of files can be dropped and read again: they are not in the way.
        stat = b"\n" + _read(f"{folder}/memory.stat")
        files = sum(_field(stat, name, 1) for name in names)
        used, limit = _number(folder / used_name), _number(folder / limit_name)
        return f"the cgroup {folder}", used - files, limit or 1 << 62

    return gauge


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # the process, or the group, is gone; or this kernel has no such thing
        return b""


def _number(path: Path) -> int:
    text = _read(str(path)).strip()
    return int(text) if text.isdigit() else 0  # v2 writes "max"


class MemoryWatch:
    """Looks at the memory of one node, again and again."""

    def __init__(self, node: Node, limit: int | None) -> None:
        self._node = node
        self._limit = limit  # for the workers together
        self._gauges: list[_Gauge] = [machine_gauge, *cgroup_gauges()]
        self._due = 0.0
        self._victim, self._victim_until = b"", 0.0
        self._began: dict[bytes, tuple[bytes, float]] = {}  # by worker: what it runs, seen since
        self._fill = _FILL_BYTES_PER_SECOND * len(os.sched_getaffinity(0))

    def tick(self, now: float) -> float:
        """Look if it is time; returns the time of the next look."""
        if now < self._due:
            return self._due
        config = self._node.config
        start = thread_time()  # on a crowded machine the time of others must not count
        holders = self._holders(now) if self._limit is not None else []
        level = self._tightest(holders)
        if level.excess > 0:
            self._relieve(level, holders or self._holders(now), now)
        self._recycle()
        pause = next_look(-level.excess, self._fill, config.memory_watch_seconds, _LOOK_SECONDS_MAX)
        self._due = now + max(pause, (thread_time() - start) / _COST_SHARE_MAX)
        return self._due

    def _tightest(self, holders: list[Holder]) -> Level:
        share = self._node.config.memory_used_share_max
        levels = [
            Level(what, used, int(there * share))
            for what, used, there in (gauge() for gauge in self._gauges)
        ]
        if self._limit is not None:
            used = sum(one.nbytes for one in holders)
            what = "the workers under init(memory_limit=)"
            levels.append(Level(what, used, self._limit))
        return max(levels, key=lambda level: level.excess)

    def _holders(self, now: float) -> list[Holder]:
        node = self._node
        began, self._began = self._began, {}
        holders = []
        for worker in node.machine.workers.values():
            notebook, shared = node.notes(worker.process)
            running = notebook.running
            seen, since = began.get(worker.process, (running, worker.since))
            since = max(worker.since, since if seen == running else now)
            self._began[worker.process] = running, since
            kind = {"lease": "task" if notebook.final else "retriable", "actor": "actor"}
            holders.append(
                Holder(
                    worker.process, worker.pid, notebook.title, kind.get(worker.use, "idle"),
                    worker.owner, since, max(0, private_bytes(worker.pid) - shared),
                )
            )  # fmt: skip
        return holders

    def _relieve(self, level: Level, holders: list[Holder], now: float) -> None:
        """Stop somebody, unless the last victim is still giving its memory back."""
        node = self._node
        if self._victim in node.machine.workers and now < self._victim_until:
            return
        victim = choose(level, holders)
        if victim is not None:
            self._victim, self._victim_until = victim.process, now + _DYING_SECONDS_MAX
            cause = explain(level, victim, holders, node.store.touched())
            node.kill(victim.process, cause, "OutOfMemoryError")

    def _recycle(self) -> None:
        """Replace idle workers that hold much memory of their own."""
        node = self._node
        for worker in node.machine.roster.unweighed():
            _notebook, shared = node.notes(worker.process)
            private = private_bytes(worker.pid) - shared
            if shared and private > node.config.worker_recycle_bytes:
                node.machine.roster.replace(worker)
