"""The engine on two CPUs, once a test file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import engine


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """The engine of this file's tests; stopped afterwards."""
    assert not engine.is_initialized()
    engine.init(num_cpus=2)
    yield
    engine.shutdown()
