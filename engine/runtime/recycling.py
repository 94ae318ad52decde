"""`max_calls`: a function that its worker runs only so often, and the worker's leaving.

Some code leaks memory, or keeps a GPU, until its process ends. Such a function travels wrapped; the
wrapper counts in the worker, so functions without a limit pay nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from engine.runtime import worker

__all__ = ["Counted"]


class Counted:
    """A function after whose `max_calls`-th call its worker takes no more calls, and ends."""

    def __init__(self, function: Callable[..., Any], max_calls: int) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._max_calls = max_calls
        self._calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls += 1
        if self._calls == self._max_calls:
            here = worker.current_worker()
            assert here is not None  # it is unwrapped where a driver calls it
            here.leave_soon()
        return self._function(*args, **kwargs)
