"""The driver dies, forks, exits: what is left is nothing. And no TCP port is ever opened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine.support import eventually, finished_script, gone, kill9, run_script

GONE_SECONDS_MAX = 2.0

BUSY_DRIVER = """
import json, os, sys, time
import numpy as np
import psutil
import engine

engine.init(num_cpus=2)

@engine.remote
def sleep():
    time.sleep(600)

@engine.remote
def nested():
    return engine.get(sleep.remote())

@engine.remote
class Actor:
    def __init__(self):
        self.big = engine.put(np.ones(1 << 22))
    def pid(self):
        return os.getpid()
    def sleep(self):
        time.sleep(600)

actors = [Actor.remote() for _ in range(2)]
detached = Actor.options(name="d", lifetime="detached").remote()
engine.get([a.pid.remote() for a in actors] + [detached.pid.remote()])
big = [engine.put(np.ones(1 << 22)) for _ in range(3)]
refs = [sleep.remote(), nested.remote(), actors[0].sleep.remote()]
time.sleep(0.2)
pids = [p.pid for p in psutil.Process().children(recursive=True)]
print(json.dumps(pids), flush=True)
engine.get(refs)
"""


def _start(tmp_path: Path) -> tuple[Any, list[int]]:
    process = run_script(BUSY_DRIVER, tmp_path)
    pids = json.loads(process.stdout.readline())
    assert len(pids) >= 6
    return process, pids


def _segments(pids: list[int]) -> list[str]:
    found = []
    for pid in pids:
        try:
            for one in psutil.Process(pid).memory_maps():
                if "memfd:penstock" in one.path:
                    found.append(f"{pid}: {one.path}")
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_driver_leaves_nothing(tmp_path: Path, number: int) -> None:
    before = set(os.listdir("/dev/shm"))
    process, pids = _start(tmp_path)
    try:
        assert _segments(pids)
        start = time.monotonic()
        process.send_signal(number)
        process.wait(5)
        eventually(lambda: gone(pids), GONE_SECONDS_MAX, "processes gone")
        assert time.monotonic() - start < GONE_SECONDS_MAX
        assert not _segments(pids)
        assert set(os.listdir("/dev/shm")) <= before
        assert not [path for path in tmp_path.rglob("*") if path.is_socket()]
    finally:
        process.kill()
        process.communicate()


def test_an_interrupted_driver_leaves_nothing(tmp_path: Path) -> None:
    process, pids = _start(tmp_path)
    try:
        process.send_signal(signal.SIGINT)
        process.wait(5)
        eventually(lambda: gone(pids), GONE_SECONDS_MAX, "processes gone")
    finally:
        process.kill()
        process.communicate()


def test_a_driver_killed_in_the_middle_of_init_leaves_nothing(tmp_path: Path) -> None:
    script = "import engine\nprint('here', flush=True)\nengine.init(num_cpus=2)\ninput()\n"
    for delay in (0.0, 0.02, 0.05, 0.1):
        process = run_script(script, tmp_path, stdin=-1)
        process.stdout.readline()
        parent = psutil.Process(process.pid)
        deadline = time.monotonic() + delay
        pids: set[int] = set()
        while time.monotonic() < deadline:
            pids |= {one.pid for one in parent.children(recursive=True)}
        pids |= {one.pid for one in parent.children(recursive=True)}
        kill9(process.pid)
        process.communicate()
        eventually(lambda pids=pids: gone(list(pids)), GONE_SECONDS_MAX, f"after {delay} s")


def test_a_driver_that_ends_without_shutdown_leaves_nothing_and_says_nothing(
    tmp_path: Path,
) -> None:
    process = run_script(
        BUSY_DRIVER.replace("engine.get(refs)\n", ""), tmp_path, stderr=-1
    )
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert err == ""
    eventually(lambda: gone(json.loads(out)), GONE_SECONDS_MAX)


def test_short_lived_engines_are_silent(tmp_path: Path) -> None:
    script = (
        "import engine\n"
        "for _ in range(5):\n    engine.init(num_cpus=2)\n    engine.shutdown()\n"
    )
    process = run_script(script, tmp_path, stderr=-1)
    _out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_no_process_of_ours_has_a_tcp_socket(tmp_path: Path) -> None:
    process, pids = _start(tmp_path)
    try:
        assert _inet_inodes([process.pid, *pids]) == []
    finally:
        process.kill()
        process.communicate()
    with socket.create_server(("127.0.0.1", 0)):
        assert _inet_inodes([os.getpid()]), "the check itself sees a port"


def _inet_inodes(pids: list[int]) -> list[str]:
    inet = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        path = Path("/proc/net") / table
        if path.exists():
            inet |= {line.split()[9] for line in path.read_text().splitlines()[1:]}
    found = []
    for pid in pids:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            target = os.readlink(entry.path)
            if target.startswith("socket:[") and target[8:-1] in inet:
                found.append(f"{pid}: {target}")
    return found


def test_a_fork_of_the_driver_does_not_break_the_parent(tmp_path: Path) -> None:
    out = finished_script(
        """
import concurrent.futures, multiprocessing, os
import engine

engine.init(num_cpus=2)

@engine.remote
def f(x):
    return x + 1

def square(x):
    return x * x

ref = engine.put(list(range(50000)))
print(engine.get(f.remote(1)))
context = multiprocessing.get_context("fork")
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    print(list(pool.map(square, range(3))))
pid = os.fork()
if pid == 0:
    engine.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
child = context.Process(target=lambda: None)  # ends through atexit handlers
child.start(); child.join()
print(engine.get(f.remote(2)), len(engine.get(ref)))
""",
        tmp_path,
    )
    assert out.splitlines() == ["2", "[0, 1, 4]", "3 50000"]


def test_a_fork_that_uses_the_engine_gets_one_of_its_own_or_an_error(tmp_path: Path) -> None:
    out = finished_script(
        """
import os, sys
import engine

engine.init(num_cpus=1)

@engine.remote
def f(x):
    return x + 1

print(engine.get(f.remote(1)), flush=True)
pid = os.fork()
if pid == 0:
    try:
        engine.get(f.remote(1), timeout=5)
    except Exception as error:
        os._exit(0 if "fork" in str(error) else 2)
    os._exit(0)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
print(engine.get(f.remote(2), timeout=5))
""",
        tmp_path,
    )
    assert out.splitlines() == ["2", "0", "3"]


def test_workers_inherit_path_and_environment(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 42\n")
    out = finished_script(
        """
import os
os.environ["PENSTOCK_TEST"] = "yes"
import engine
import beside

@engine.remote
def f():
    return beside.VALUE, os.environ["PENSTOCK_TEST"], os.getcwd()

value, flag, folder = engine.get(f.remote())
print(value, flag, folder == os.getcwd())
""",
        tmp_path,
    )
    assert out.split() == ["42", "yes", "True"]


def test_init_and_shutdown_again_and_again(leak_check: None) -> None:
    import engine

    for number in range(4):
        with engine.init(num_cpus=1):
            assert engine.is_initialized()
            assert engine.get(engine.put(number)) == number
        assert not engine.is_initialized()
    engine.shutdown()


def test_shutdown_while_tasks_run_wakes_who_waits(leak_check: None, tmp_path: Path) -> None:
    import threading

    import engine

    engine.init(num_cpus=1)

    @engine.remote
    def sleep(path: str) -> None:
        open(path, "w").close()
        time.sleep(600)

    ref = sleep.remote(str(tmp_path / "started"))
    eventually((tmp_path / "started").exists)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            engine.get(ref)
        except BaseException as error:  # looked at below
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    start = time.monotonic()
    engine.shutdown()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - start < 5
    assert isinstance(caught[0], engine.exceptions.EngineError)


def _parents(processes: list[psutil.Process]) -> set[int]:
    found = set()
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # the one in between has just ended
            found.add(one.ppid())
    return found


def test_init_starts_node_zygote_and_warm_workers(leak_check: None) -> None:
    import engine
    from tests.engine.support import family

    start = time.monotonic()
    engine.init(num_cpus=2)
    assert time.monotonic() - start < 5
    try:
        eventually(lambda: len(family()) >= 4, what="node, zygote, two workers")
        node = psutil.Process(family()[0].pid)
        assert node.ppid() == os.getpid()
        # The process between the zygote and a worker is soon gone; then the worker is the node's.
        eventually(lambda: _parents(family()[1:]) == {node.pid})
    finally:
        engine.shutdown()
