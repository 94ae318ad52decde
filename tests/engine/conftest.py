"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import engine


@pytest.fixture
def no_engine() -> Iterator[Any]:
    """For tests that start the engine themselves; stops it afterwards."""
    assert not engine.is_initialized()
    yield engine
    engine.shutdown()
