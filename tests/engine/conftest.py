"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import engine
from engine import session


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the session has imported must not show: a preload replaces the first zygote."""
    monkeypatch.setattr(session, "_preloads", [])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine with 2 CPUs and 64 MiB of memory for objects."""
    assert not engine.is_initialized()
    folder = tmp_path_factory.mktemp("spill")
    engine.init(num_cpus=2, object_store_memory=64 << 20, object_spilling_directory=str(folder))
    yield engine
    engine.shutdown()


@pytest.fixture
def no_engine() -> Iterator[Any]:
    """For tests that start the engine themselves; stops it afterwards."""
    assert not engine.is_initialized()
    yield engine
    engine.shutdown()
