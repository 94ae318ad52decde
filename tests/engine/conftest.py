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


@pytest.fixture
def no_engine() -> Iterator[Any]:
    """For tests that start the engine themselves; stops it afterwards."""
    assert not engine.is_initialized()
    yield engine
    engine.shutdown()
