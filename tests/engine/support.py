"""Helpers that the engine's tests share: waiting without sleeping blindly, processes, memory."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from engine.runtime import client, driver

ROOT = Path(__file__).resolve().parent.parent.parent
_POLL_SECONDS = 0.002


def eventually(check: Callable[[], Any], seconds: float = 5.0, what: str = "") -> Any:
    """The first true value of `check()`; fails when none came within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or check}; last: {found!r}")
        time.sleep(_POLL_SECONDS)


def node_pid() -> int:
    """The node process of this process's engine."""
    assert driver._driver is not None
    return driver._driver.node.pid


def family() -> list[psutil.Process]:
    """All processes of this process's engine, the driver left out."""
    node = psutil.Process(node_pid())
    return [node, *node.children(recursive=True)]


def zygote_pids() -> list[int]:
    """The zygotes: children of the node that are no workers.

    Those offer themselves to the kernel should it run out of memory. There may be two zygotes: the
    second takes over when it has loaded what packages want loaded.
    """
    found = []
    for child in psutil.Process(node_pid()).children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "0":
                found.append(child.pid)
    return found


def kill_zygotes() -> None:
    """SIGKILL to both; when one is dead, the node may end the other before we come to it."""
    for pid in zygote_pids():
        with contextlib.suppress(ProcessLookupError):
            kill9(pid)


def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs any more (a zombie does not)."""
    return not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill9(pid: int) -> None:
    """SIGKILL, to one process."""
    os.kill(pid, signal.SIGKILL)


def home() -> client.Runtime:
    """The runtime of this process."""
    found = client.current()
    assert found is not None
    return found


def bytes_live() -> int:
    """Bytes of shared memory that hold values of this process."""
    gc.collect()
    runtime = home()
    with runtime.lock:
        runtime.drain()
    return runtime.values.bytes_live()


@contextlib.contextmanager
def interrupt_in(function: str) -> Iterator[None]:
    """Raise KeyboardInterrupt in this thread (the main one) once it waits in a function so named.

    Given up when the block ends.
    """
    main, ended = threading.main_thread().ident, threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            frame = sys._current_frames().get(main or 0)
            names = []
            while frame is not None:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            if {function, "wait_until"} <= set(names):
                signal.pthread_kill(main or 0, signal.SIGINT)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_script(text: str, folder: Path, *args: str, **popen: Any) -> subprocess.Popen[str]:
    """Start a driver script of its own; its standard output is a pipe."""
    path = folder / "script.py"
    path.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, str(path), *args],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **popen,
    )


def finished_script(text: str, folder: Path, *args: str, seconds: float = 30.0) -> str:
    """Run a driver script to its end; its standard output. Fails on a non-zero exit code."""
    process = run_script(text, folder, *args, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def attempts(path: Path) -> int:
    """How many lines processes have appended to a file."""
    return len(path.read_text().splitlines()) if path.exists() else 0
