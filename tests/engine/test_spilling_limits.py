"""Spilling at its limits: no disk, a full one, a broken one, and deaths in the middle of it."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import engine
from engine.config import Config
from engine.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError
from tests.engine.support import eventually, family, gone, home, kill9, run_script
from tests.engine.test_spilling import MIB, STORE, fill, is_numbered, numbered, on_disk

SECONDS = 20


@pytest.fixture
def start(leak_check: None, tmp_path: Path) -> Iterator[Any]:
    """A way to start an engine with 32 MiB and little patience, and some limits."""

    folder = tmp_path / "spill"
    folder.mkdir()

    def begin(directory: Path = folder, **limits: Any) -> Any:
        limits = {"store_patience_seconds": 0.05, "store_wait_seconds": 0.4, **limits}
        engine.init(
            num_cpus=1,
            object_store_memory=STORE,
            object_spilling_directory=str(directory),
            config=Config(spill_retry_seconds=0.1, **limits),
        )
        return engine

    assert not engine.is_initialized()
    yield begin
    gc.collect()
    engine.shutdown()
    assert not list(folder.iterdir()), "files have no names, at no time"


def put_more(refs: list[Any], count: int) -> None:
    """Put, and keep in `refs` what could be put."""
    for _ in range(count):
        refs.append(engine.put(numbered(len(refs))))


# ---------------------------------------------------------------------- no disk, or not enough


def test_without_spilling_a_full_store_is_an_error_after_waiting(start: Any) -> None:
    small = start(spilled_bytes_max=0)
    refs = fill(STORE // MIB - 4)
    began = time.monotonic()
    with pytest.raises(ObjectStoreFullError) as caught:
        small.put(numbered(1, 8 * MIB))
    assert 0.3 < time.monotonic() - began < 5
    text = str(caught.value)
    assert f"bytes are in use (the driver (pid {os.getpid()}) holds" in text
    assert "0 of the 0 bytes that may be spilled are in use" in text
    assert "Release references" in text
    assert not any(on_disk(ref) for ref in refs)
    del refs[:10], caught
    assert is_numbered(small.get(small.put(numbered(1, 8 * MIB))), 1, 8 * MIB)
    for number, ref in enumerate(refs, 10):
        assert is_numbered(small.get(ref), number)


def test_memory_that_becomes_free_in_time_is_waited_for(start: Any) -> None:
    small = start(spilled_bytes_max=0, store_wait_seconds=10.0)

    @small.remote
    class Holder:
        def hold(self, array: np.ndarray) -> int:
            self.array = array
            return len(array)

        def drop(self, seconds: float) -> None:
            time.sleep(seconds)
            self.array = None

    holder = Holder.remote()
    small.get(holder.hold.remote(numbered(3, 20 * MIB)), timeout=SECONDS)
    dropped = holder.drop.remote(0.3)
    began = time.monotonic()
    ref = small.put(numbered(4, 20 * MIB))
    assert 0.2 < time.monotonic() - began < 5
    assert is_numbered(small.get(ref), 4, 20 * MIB)
    small.get(dropped)


def test_what_is_in_use_is_named(start: Any) -> None:
    small = start(spilled_bytes_max=0)
    arrays = small.get(fill(STORE // MIB - 4))
    with pytest.raises(ObjectStoreFullError) as caught:
        small.put(numbered(1, 8 * MIB))
    found = str(caught.value)
    assert "arrays made from them are alive, or calls that take them are under way: " in found
    assert f"of the driver (pid {os.getpid()})" in found
    del arrays, caught


def test_the_limit_on_disk_is_kept(start: Any) -> None:
    small = start(spilled_bytes_max=16 * MIB)
    refs = []
    with pytest.raises(ObjectStoreFullError, match=r"of the 16,777,216 bytes that may be spilled"):
        put_more(refs, 3 * STORE // MIB)
    assert STORE // MIB < len(refs) <= (STORE + 16 * MIB) // MIB
    assert small.nodes()[0]["disk_used"] <= 16 * MIB
    for number, ref in enumerate(refs):
        assert is_numbered(small.get(ref), number)
    del refs[:20]
    refs += fill(8)


def _limit_files(nbytes: int) -> None:
    """Writes of this process beyond so many bytes of a file fail, as on a full disk."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))


@pytest.fixture
def full_disk() -> Iterator[Any]:
    soft, _hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield _limit_files
    _limit_files(soft)


def test_a_disk_that_takes_no_more_is_an_error_and_loses_nothing(
    start: Any, full_disk: Any, tmp_path: Path
) -> None:
    small = start()
    full_disk(4 * MIB)
    refs = []
    began = time.monotonic()
    with pytest.raises(OutOfDiskError) as caught:
        put_more(refs, 3 * STORE // MIB)
    assert time.monotonic() - began < 10
    text = str(caught.value)
    assert f"bytes cannot be written to {tmp_path / 'spill'}: [Errno 27] File too large" in text
    assert "bytes are free there" in text
    assert "object_spilling_directory" in text
    assert any(on_disk(ref) for ref in refs)
    for number, ref in enumerate(refs):
        assert is_numbered(small.get(ref), number)
    full_disk(resource.RLIM_INFINITY)  # there is space again
    put_more(refs, STORE // MIB)
    for number, ref in enumerate(refs):
        assert is_numbered(small.get(ref), number)
    del caught


def test_a_waiting_value_goes_through_when_there_is_space_again(
    start: Any, full_disk: Any
) -> None:
    small = start(store_wait_seconds=10.0)
    refs = fill(STORE // MIB)
    full_disk(4096)
    signal.signal(signal.SIGALRM, lambda *_: full_disk(resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    began = time.monotonic()
    ref = small.put(numbered(9, 8 * MIB))
    assert 0.4 < time.monotonic() - began < 8
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert is_numbered(small.get(ref), 9, 8 * MIB)
    assert all(is_numbered(small.get(one), number) for number, one in enumerate(refs))


def test_a_result_that_finds_no_place_is_the_tasks_error(start: Any) -> None:
    small = start()

    @small.remote
    def make(number: int) -> np.ndarray:
        _limit_files(4096)
        return numbered(number, 8 * MIB)

    arrays = small.get(fill(STORE // MIB - 4))
    with pytest.raises(OutOfDiskError, match="File too large"):
        small.get(make.remote(1), timeout=SECONDS)
    del arrays
    assert is_numbered(small.get(make.remote(2), timeout=SECONDS), 2, 8 * MIB)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        folder.rmdir()
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def test_a_full_file_system(tiny_disk: Path, start: Any) -> None:
    small = start(tiny_disk, spilled_disk_share=100.0)
    refs: list[Any] = []
    with pytest.raises(OutOfDiskError, match=r"No space left on device; .* bytes are free there"):
        put_more(refs, 3 * STORE // MIB)
    assert sum(on_disk(ref) for ref in refs) >= 5
    assert all(is_numbered(small.get(ref), number) for number, ref in enumerate(refs))
    refs.clear()
    gc.collect()
    refs = fill(STORE // MIB + 4)
    assert all(is_numbered(small.get(ref), number) for number, ref in enumerate(refs))


def test_a_directory_that_vanishes(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    small = start(folder)
    shutil.rmtree(folder)
    with pytest.raises(OutOfDiskError, match="No such file or directory"):
        fill(2 * STORE // MIB)
    folder.mkdir()
    refs = fill(2 * STORE // MIB)
    assert is_numbered(small.get(refs[0]), 0)
    del refs
    engine.shutdown()
    folder.rmdir()


@pytest.mark.parametrize("wrong", ["/nowhere/at/all", __file__])
def test_a_directory_that_cannot_be_is_refused_by_init(leak_check: None, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"object_spilling_directory=.*expected a directory"):
        engine.init(num_cpus=1, object_spilling_directory=wrong)
    assert not engine.is_initialized()


# ---------------------------------------------------------------------- deaths


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


SCRIPT = """
import sys
import numpy as np
import engine
from engine.config import Config

engine.init(num_cpus=1, object_store_memory=32 << 20, object_spilling_directory=sys.argv[1])

@engine.remote
class Filler:
    def fill(self):
        self.refs = []
        while True:
            self.refs.append(engine.put(np.ones(1 << 20, np.uint8)))
            if len(self.refs) == 40:
                print("worker", flush=True)

filler = Filler.remote()
if sys.argv[2] == "worker":
    filler.fill.remote()
    engine.get(engine.put(1))
    import time
    time.sleep(60)
refs = []
while True:
    refs.append(engine.put(np.ones(1 << 20, np.uint8)))
    if len(refs) == 40:
        print("driver", flush=True)
"""


@pytest.mark.parametrize("spiller", ["driver", "worker"])
@pytest.mark.parametrize("victim", ["driver", "node"])
def test_nothing_is_left_when_processes_die_while_they_spill(
    tmp_path: Path, spiller: str, victim: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    process = run_script(SCRIPT, tmp_path, str(folder), spiller, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it is in the middle of it
        driver = psutil.Process(process.pid)
        members = driver.children(recursive=True)
        pids = [one.pid for one in members]
        kill9(process.pid if victim == "driver" else pids[0])
        if victim == "node":
            eventually(lambda: gone(pids), what="its workers end")
            kill9(process.pid)
        process.wait(SECONDS)
        eventually(lambda: gone(pids), what="all processes gone")
    finally:
        process.kill()
        process.communicate()
    assert not list(folder.iterdir())
    assert not _open_files(folder)


def _open_files(folder: Path) -> list[str]:
    """Files of a folder that any process still has open, names or not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
        except OSError:  # it has just been closed, or belongs to another user
            continue
        if target.startswith(str(folder)):
            found.append(f"{path}: {target}")
    return found


def test_a_worker_that_dies_while_it_spills_leaves_nothing(start: Any, tmp_path: Path) -> None:
    small = start()

    @small.remote
    class Filler:
        def fill(self, count: int) -> int:
            self.refs = [engine.put(numbered(number)) for number in range(count)]
            return os.getpid()

    ref = small.put(numbered(5))
    for _ in range(3):
        filler = Filler.remote()
        pid = small.get(filler.fill.remote(2 * STORE // MIB), timeout=SECONDS)
        filler.fill.remote(10_000)
        kill9(pid)
        eventually(lambda pid=pid: gone([pid]))
    del filler
    eventually(lambda: small.nodes()[0]["disk_used"] <= 64 * MIB, what="only ours is left")
    refs = fill(2 * STORE // MIB)
    assert is_numbered(small.get(ref), 5)
    assert all(is_numbered(small.get(one), number) for number, one in enumerate(refs))


def test_a_result_outlives_the_worker_that_wrote_it_to_disk(start: Any) -> None:
    small = start()

    @small.remote
    class Maker:
        def make(self) -> np.ndarray:
            return numbered(6, 8 * MIB)

        def pid(self) -> int:
            return os.getpid()

    maker = Maker.remote()
    pid = small.get(maker.pid.remote(), timeout=SECONDS)
    arrays = small.get(fill(STORE // MIB - 4))
    ref = maker.make.remote()
    small.wait([ref], timeout=SECONDS)
    assert on_disk(ref)
    assert home().locate(ref).block.holder != home().id
    kill9(pid)
    eventually(lambda: gone([pid]))
    assert is_numbered(small.get(ref), 6, 8 * MIB)
    del arrays
    del ref
    gc.collect()
    small.put(0)
    eventually(lambda: small.nodes()[0]["spilled_bytes"] == 0)


def test_borrowers_of_a_dead_owner_hear_of_it(start: Any) -> None:
    small = start()

    @small.remote
    class Owner:
        def lend(self) -> list[Any]:
            self.refs = [engine.put(numbered(number)) for number in range(2 * STORE // MIB)]
            return self.refs[:2]

        def pid(self) -> int:
            return os.getpid()

    owner = Owner.remote()
    pid = small.get(owner.pid.remote(), timeout=SECONDS)
    refs = small.get(owner.lend.remote(), timeout=SECONDS)
    assert is_numbered(small.get(refs[0], timeout=SECONDS), 0)
    kill9(pid)
    eventually(lambda: gone([pid]))
    for ref in refs:
        with pytest.raises(ObjectLostError):
            eventually(lambda ref=ref: small.get(ref, timeout=SECONDS) is None)


def test_shutdown_in_the_middle_of_spilling(start: Any, tmp_path: Path) -> None:
    start()
    refs = fill(2 * STORE // MIB)
    machine = home().owner.spill
    with home().lock:
        machine.spill(STORE, time.perf_counter())
    pids = [one.pid for one in family()]
    engine.shutdown()
    eventually(lambda: gone(pids))
    del refs
    gc.collect()
    assert not _open_files(tmp_path)
