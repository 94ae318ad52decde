"""Fixtures and profiles shared by all tests.

`cluster` is the engine with two CPUs, started once and only if a test asks for it. `leak_check`
makes a test fail that leaves something behind. Tests that use `cluster` run last, so that tests
which call `engine.init` themselves find the process without an engine.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

# Processes that were told to stop get this long to be gone before they count as left behind.
EXIT_SECONDS_MAX = 3.0
_PR_SET_CHILD_SUBREAPER = 36
# Kinds of descriptors that only we can have opened; a library's cached file is none of them.
_OURS = ("socket:", "pipe:", "/memfd:", "anon_inode:[eventpoll]", "anon_inode:[pidfd]", "/dev/shm")

hypothesis.settings.register_profile("quick", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, and move the users of the shared cluster to the end."""
    for item in items:
        if {"cluster", "leak_check"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.processes)
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The engine on two CPUs, shared by every test of the session that asks for it.

    Tests kill far more often than anything breaks, so nothing counts as poison here.
    """
    import engine
    from engine.config import Config

    engine.init(num_cpus=2, config=Config(restart_deaths_max=1000))
    _shared.append(True)
    yield engine
    _shared.clear()
    engine.shutdown()


_shared: list[bool] = []


@pytest.fixture(scope="module", autouse=True)
def stop_what_was_started_implicitly() -> Iterator[None]:
    """The engine starts at first use; a module that used it so leaves no engine to the next."""
    yield
    if "engine" in sys.modules and not _shared:
        sys.modules["engine"].shutdown()


@pytest.fixture
def leak_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail the test if it leaves processes, socket files, descriptors or shared memory behind.

    The test's temporary directory is its own (a short path: socket names are limited to 107
    bytes), and while it runs this process adopts orphans, so nothing can hide behind a parent
    that has died.
    """
    tmp_path_factory.getbasetemp()  # pytest's own folder must not come to lie in ours
    with tempfile.TemporaryDirectory(prefix="leak-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        _adopt_orphans(True)
        before = _census()
        yield
        gc.collect()
        left = _settle(before, Path(folder))
        _adopt_orphans(False)
    assert not left, "left behind:\n" + "\n".join(left)


def _adopt_orphans(yes: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _census() -> set[str]:
    """What belongs to this process now, one line a thing."""
    return {*_processes(), *_descriptors(), *_shared_memory()}


def _processes() -> Iterator[str]:
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                continue  # has ended; whoever started it collects it when it next looks
            yield f"process {child.pid}: {' '.join(child.cmdline())[:200]}"
        except psutil.NoSuchProcess:
            continue


def _descriptors() -> Iterator[str]:
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
        if target.startswith(_OURS):
            yield f"descriptor {entry.name}: {target}"


def _shared_memory() -> Iterator[str]:
    """Named segments; anonymous ones are descriptors. Other people's names are not ours."""
    for path in Path("/dev/shm").glob("*"):
        if path.name.startswith(("penstock", "engine", "psm_")):
            yield f"shared memory {path}"


def _settle(before: set[str], folder: Path) -> list[str]:
    """What is there that was not, once processes told to stop have had their time."""
    deadline = time.monotonic() + EXIT_SECONDS_MAX
    while True:
        left = sorted(_census() - before)
        left += [f"socket file {path}" for path in folder.rglob("*") if path.is_socket()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
