"""joblib on the engine; skipped where joblib is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engine.util import register_joblib
from tests.util import functions as f

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("two_cpus")]


@pytest.fixture
def joblib(two_cpus: None) -> Iterator[Any]:
    found = pytest.importorskip("joblib", reason="joblib is not installed")
    register_joblib()
    with found.parallel_backend("penstock", n_jobs=2):
        yield found


def test_results_come_in_order_from_other_processes(joblib: Any) -> None:
    call = joblib.delayed(f.square)
    assert joblib.Parallel()(call(n) for n in range(200)) == [n * n for n in range(200)]
    pids = joblib.Parallel()(joblib.delayed(f.pid)() for _ in range(20))
    assert 0 < len(set(pids)) <= 2
    assert f.pid() not in pids


def test_lambdas_arrays_and_generators(joblib: Any) -> None:
    big = np.arange(200_000)
    sums = joblib.Parallel()(joblib.delayed(lambda a, k: int(a.sum()) * k)(big, k) for k in (1, 2))
    assert sums == [int(big.sum()), 2 * int(big.sum())]
    lazy = joblib.Parallel(return_as="generator")(joblib.delayed(f.square)(n) for n in range(9))
    assert list(lazy) == [n * n for n in range(9)]


def test_errors_keep_their_class_and_the_next_call_works(joblib: Any) -> None:
    # A new Parallel for the next call: one that failed keeps batches it had prefetched, with
    # every backend of joblib.
    for _ in range(3):
        with pytest.raises(LookupError, match="three"):
            joblib.Parallel()(joblib.delayed(f.fails_at_three)(n) for n in range(10))
        assert joblib.Parallel()(joblib.delayed(f.square)(n) for n in range(3)) == [0, 1, 4]


def test_numbers_of_jobs(joblib: Any) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(-2) == 1
    with pytest.raises(ValueError, match="cluster with 2 CPUs"):
        joblib.Parallel(n_jobs=3)(joblib.delayed(f.square)(n) for n in range(3))


def test_without_joblib_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match="needs the package joblib"):
        register_joblib()
