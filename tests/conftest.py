"""Fixtures and profiles shared by all tests.

`cluster` is the engine with two CPUs, started once and only if a test asks for it. `leak_check`
makes a test fail that leaves something behind. Tests that use `cluster` run last, so that tests
which call `engine.init` themselves find the process without an engine.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.leaks import adopt_orphans, bury, census, settle

hypothesis.settings.register_profile("quick", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick")
)


def pytest_configure() -> None:
    """A shell that starts this in the background has it ignore SIGINT, and tests send that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, and move the users of the shared cluster to the end."""
    for item in items:
        if {"cluster", "leak_check"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.processes)
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """What is there before the first test is looked at by no garbage collection any more.

    It stays anyway: modules, tests. A full collection would take 0.1 s for it, and tests that
    wait for objects to be gone collect again and again.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries that count what is left at the end would tell of all that."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """The engine on two CPUs, shared by every test of the session that asks for it.

    Tests kill far more often than anything breaks, so nothing counts as poison here.
    """
    import engine

    gc.collect()  # what other modules have left is not looked at again either
    gc.freeze()
    _start_shared()
    _shared.append(True)
    yield engine
    _shared.clear()
    engine.shutdown()


_shared: list[bool] = []
_failed: set[str] = set()


def _start_shared() -> None:
    import engine
    from engine import session
    from engine.config import Config

    others = list(session._preloads)
    session.preload("tests.warm:load")
    engine.init(num_cpus=2, config=Config(restart_deaths_max=1000))
    session._preloads[:] = others


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """After a failure the shared engine is another one.

    What the test had begun may hold CPUs for ever, and its workers may be stopped.
    """
    report = yield
    if report.failed:
        _failed.add(item.nodeid)
    if call.when == "teardown" and item.nodeid in _failed and _shared:
        sys.modules["engine"].shutdown()
        _start_shared()
    return report


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
    """Fail the test if it leaves processes, threads, descriptors, socket files or memory behind.

    The test's temporary directory is its own (a short path: socket names are limited to 107
    bytes), and while it runs this process adopts orphans, so nothing can hide behind a parent
    that has died.
    """
    tmp_path_factory.getbasetemp()  # pytest's own folder must not come to lie in ours
    with tempfile.TemporaryDirectory(prefix="leak-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        adopt_orphans(True)
        before = census()
        yield
        gc.collect()
        left = settle(before, Path(folder))
        adopt_orphans(False)
        bury()
    assert not left, "left behind:\n" + "\n".join(left)
