"""`register_joblib`: let `joblib.Parallel` (and so scikit-learn) run on the engine's workers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from engine.api import cluster_resources
from engine.util.pool import AsyncResult, Pool

__all__ = ["register_joblib"]

_NAME = "penstock"


def register_joblib() -> None:
    """Make the engine a joblib backend called "penstock".

    ::

        register_joblib()
        with joblib.parallel_backend("penstock"):
            joblib.Parallel(n_jobs=2)(joblib.delayed(f)(x) for x in xs)

    ``n_jobs=-1`` means all CPUs of the cluster; more jobs than CPUs raise ValueError. A `Parallel`
    inside a job runs sequentially. Registering twice is no error. Raises ImportError when joblib
    is not installed.
    """
    try:
        import joblib
    except ImportError as error:
        raise ImportError(
            "register_joblib() needs the package joblib, which is not installed: "
            "pip install joblib"
        ) from error
    joblib.register_parallel_backend(_NAME, _backend_class())


@functools.cache
def _backend_class() -> Any:
    """The backend; its base classes exist only where joblib is installed."""
    from joblib._parallel_backends import (
        AutoBatchingMixin,
        ParallelBackendBase,
        SequentialBackend,
    )

    class EngineBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """One `Pool` a `Parallel` call."""

        supports_retrieve_callback = True
        supports_return_generator = True
        supports_timeout = True
        _pool: Pool | None = None

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            return _jobs(n_jobs)

        def configure(self, n_jobs: int = 1, parallel: Any = None, **_mapping: Any) -> int:
            # joblib hands the options of its memory-mapping pools to every backend; the engine
            # shares large arrays by itself, without files.
            self.parallel = parallel
            jobs = self.effective_n_jobs(n_jobs)
            self._pool = Pool(jobs)
            return jobs

        def submit(
            self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None
        ) -> AsyncResult:
            assert self._pool is not None
            return self._pool.apply_async(func, (), None, callback, callback)

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise out
            return out

        def get_nested_backend(self) -> tuple[Any, int | None]:
            return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), 1

        def terminate(self) -> None:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.terminate()
            self.reset_batch_stats()

        def abort_everything(self, ensure_ready: bool = True) -> None:
            self.terminate()
            if ensure_ready:
                self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    return EngineBackend


def _jobs(n_jobs: int | None) -> int:
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    cpus = max(1, int(cluster_resources().get("CPU", 0)))
    if n_jobs is None:
        return 1
    return n_jobs if n_jobs > 0 else max(1, cpus + 1 + n_jobs)
