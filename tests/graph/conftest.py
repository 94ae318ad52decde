"""Fixtures of the graph tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graph import compiled


@pytest.fixture(params=["compiled", "numpy"], scope="module")
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on the compiled kernels and again on the NumPy ones."""
    if request.param == "numpy":
        with compiled.numpy_only():
            yield "numpy"
    elif not compiled.AVAILABLE:
        pytest.skip("numba is not installed")
    else:
        yield "compiled"
