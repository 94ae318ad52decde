"""What is done about errors that few programs ever meet: each is made to happen here."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine import exceptions
from engine.config import Config
from engine.runtime.cancelling import drop
from engine.runtime.coroutines import LoopGroup
from engine.runtime.inventory import Inventory
from engine.runtime.process import exit_cause
from engine.runtime.segments import SegmentFiles
from engine.runtime.worker import Worker
from engine.runtime.zygote import _preload
from engine.store import codec
from tests.engine.support import finished_script, interrupt_in, node_pid

SECONDS = 10.0


@pytest.fixture
def own(leak_check: None) -> Iterator[Callable[..., Any]]:
    """Starts an engine of this test alone."""
    assert not engine.is_initialized()
    yield engine.init
    engine.shutdown()


# ---------------------------------------------------------------------- processes


def test_the_cause_of_a_death_is_known_where_ends_of_children_are_ignored(tmp_path: Path) -> None:
    """Who ignores SIGCHLD passes that on to the programs it starts, and they to theirs."""
    script = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
import engine
engine.init(num_cpus=1)
@engine.remote(max_retries=0)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
try:
    engine.get(die.remote(), timeout=10)
except engine.exceptions.WorkerCrashedError as error:
    print(error)
engine.shutdown()
"""
    assert "was killed by SIGKILL" in finished_script(script, tmp_path)


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    number = signal.SIGRTMIN + 1
    process.send_signal(number)
    _pid, status = os.waitpid(process.pid, 0)
    process.returncode = 0  # it has been waited for
    assert exit_cause(status) == f"was killed by signal {number}"


def test_a_node_that_does_not_come_up_is_told_and_gone(leak_check: None) -> None:
    with pytest.raises(exceptions.EngineError, match="the node process did not start"):
        engine.init(num_cpus=1, config=Config(start_timeout_seconds=1e-4))
    assert not engine.is_initialized()


def test_a_node_whose_driver_is_dead_before_it_looks_ends(tmp_path: Path) -> None:
    script = """
import os
import engine
dead = os.posix_spawn("/bin/true", ["true"], {})
os.waitpid(dead, 0)
os.getpid = lambda: dead
try:
    engine.init(num_cpus=1)
except engine.exceptions.EngineError as error:
    print(error)
"""
    assert "the node process did not start" in finished_script(script, tmp_path)


BEFORE_IT_BEGINS = """
import os, socket, sys
from engine.core.control import Fork
from engine.runtime import worker, zygote
mine, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    mine.close()
    {child}
theirs.close()
{parent}
mine.close()
print("exit code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("child", "parent", "code"),
    [
        ("os._exit(worker.main(theirs, b'process1'))", "mine.recv(1)", 0),
        ("os._exit(worker.main(theirs, b'process1'))", "mine.recv(1 << 20)", 0),
        ("zygote._loop(theirs, os.getppid(), 1 << 20)", "", 0),
        (
            "zygote._become_worker(theirs.detach(), Fork(b'process1'))",
            "mine.recv(1); mine.send(b'\\x01\\x00\\x00\\x00\\xc1')",
            1,
        ),
    ],
    ids=["a worker's line is reset", "is closed", "a zygote's is closed", "nobody understands"],
)
def test_before_a_worker_begins(tmp_path: Path, child: str, parent: str, code: int) -> None:
    found = finished_script(BEFORE_IT_BEGINS.format(child=child, parent=parent), tmp_path)
    assert f"exit code {code}" in found


def test_what_cannot_be_preloaded_is_told() -> None:
    assert _preload(["no_such_module:load"]).startswith("ModuleNotFoundError: No module named")


def test_a_driver_that_has_just_ended_has_no_command_line() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    processes = [(b"driver--", "driver", gone.pid, 0.0)]
    node: Any = MagicMock(processes=lambda: processes)
    (job,) = Inventory(node)._jobs()
    assert (job["entrypoint"], job["driver_info"]["pid"]) == ("", str(gone.pid))


def test_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    script = """
import io, sys
import engine
terminal, sys.stdout = sys.stdout, io.StringIO()
sys.stdout.close()
engine.init(num_cpus=1)
@engine.remote
def speak():
    print("nobody hears this")
    return 5
found = engine.get(speak.remote())
engine.shutdown()
terminal.write(f"found {found}")
"""
    assert finished_script(script, tmp_path) == "found 5"


def test_a_node_that_does_not_answer_is_not_asked_for_ever(own: Callable[..., Any]) -> None:
    own(num_cpus=1)

    @engine.remote(num_cpus=2, resources={"none": 1})
    def never() -> None:
        return None

    @engine.remote(num_cpus=1)
    def busy(path: str) -> None:
        signal.pause()

    first = busy.remote("")
    second = busy.remote("")
    os.kill(node_pid(), signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.GetTimeoutError, match="objects were not there within"):
            engine.get([first, second], timeout=0.1)
    finally:
        os.kill(node_pid(), signal.SIGCONT)


# ---------------------------------------------------------------------- between threads


class Taken:
    """A call that another thread takes out of its queue while this one looks at it."""

    def __init__(self, queue: deque[Any]) -> None:
        self._queue = queue

    @property
    def id(self) -> bytes:
        self._queue.clear()
        return b"call"


class Stale(deque[Any]):
    """A queue that was emptied since it was asked whether there is anything in it."""

    def __bool__(self) -> bool:
        return True


def test_a_call_that_is_taken_meanwhile_is_not_dropped() -> None:
    queue: deque[tuple[bytes, Any]] = deque()
    queue.append((b"peer", Taken(queue)))
    answered: Any = SimpleNamespace()  # would fail: nothing is to be answered
    assert not drop(queue, b"call", answered)


def test_a_queue_that_is_emptied_meanwhile() -> None:
    group = LoopGroup.__new__(LoopGroup)
    group._calls, group.running, group._limit = Stale(), 0, 1
    group._look()
    assert group.running == 0
    worker = Worker.__new__(Worker)
    worker.queue = deque()
    worker._next()


# ---------------------------------------------------------------------- memory and disk


def test_a_thread_that_is_interrupted_while_it_waits_for_memory(own: Callable[..., Any]) -> None:
    config = Config(store_patience_seconds=30.0)
    own(num_cpus=1, object_store_memory=16 << 20, config=config)
    held = engine.get([engine.put(np.zeros(1 << 20, np.uint8)) for _ in range(15)])
    with interrupt_in("request_unless"), pytest.raises(KeyboardInterrupt):
        engine.put(np.zeros(8 << 20, np.uint8))
    del held
    assert len(engine.get(engine.put(np.zeros(8 << 20, np.uint8)))) == 8 << 20


def test_a_segment_that_cannot_be_made_leaves_no_descriptor(tmp_path: Path) -> None:
    files = SegmentFiles(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        for number in (1, -1):
            with pytest.raises(OSError, match="File too large"):
                files.create(number, 1 << 17)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_error_of_who_keeps_a_part_of_a_state_is_its_own() -> None:
    def keep(value: Any, part: Any) -> int:
        with open("/dev/full", "wb", buffering=0) as file:
            return file.write(b"x")

    with pytest.raises(OSError, match="No space left"):
        codec.encode_durable({"table": pa.table({"n": np.arange(1000)})}, keep)


# ---------------------------------------------------------------------- errors of the user's


class Final(Exception):
    """Lets nobody inherit from it."""

    def __init_subclass__(cls) -> None:
        raise TypeError("this class is final")


class Demanding(Exception):
    """Is not made without its argument."""

    def __new__(cls, what: str) -> Demanding:
        return super().__new__(cls, what)


@pytest.mark.parametrize("cls", [Final, Demanding])
def test_an_error_that_cannot_be_of_two_classes_is_a_task_error(cluster: Any, cls: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise cls("reason")

    with pytest.raises(exceptions.TaskError, match="reason") as caught:
        cluster.get(fail.remote(), timeout=SECONDS)
    assert type(caught.value) is exceptions.TaskError
    assert isinstance(caught.value.cause, cls)
