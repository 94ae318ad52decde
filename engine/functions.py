"""Remote functions: what `@engine.remote` makes of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from engine.core.dispatch import Shape, Task
from engine.core.environments import Scope
from engine.core.messages import Call, Details
from engine.core.values import STREAMING
from engine.exceptions import TaskUnschedulableError
from engine.generators import ObjectRefGenerator
from engine.options import (
    TASK,
    check_options,
    max_calls_of,
    resources_of,
    returns_of,
    window_of,
)
from engine.runtime.arguments import attach_arguments
from engine.runtime.client import Runtime
from engine.runtime.recycling import Counted
from engine.scheduling import place
from engine.session import runtime
from engine.signatures import SignatureCheck
from engine.store import codec
from engine.store.refs import ObjectRef

__all__ = ["RemoteFunction", "export"]

_DEFAULT_RETRIES = 3


def export(thing: Any, home: Runtime) -> tuple[bytes, bytes]:
    """Key and blob of a function or class, known to this runtime from now on."""
    key, blob, refs = codec.encode_definition(thing, home.config.function_bytes_max)
    home.definitions[key] = blob
    if refs:  # captured by a closure: they live as long as the definition does
        home.pinned.append(refs)
    return key, blob


class RemoteFunction:
    """A function that runs elsewhere: `f.remote(...)` returns an ObjectRef at once.

    `f.options(...)` gives a variant with other options. Calling it directly is an error.

    With ``speculative=True`` a call that runs three times as long as the median of the calls
    before it (or another multiple, ``speculative=2.0``) is run a second time on a worker that is
    free, and the first result counts; the copy that came second is interrupted, after a second its
    process is killed. So the function must be fit to run twice, also at the same time. Off unless
    asked for.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a coroutine function; coroutines run in actors "
                "only. Make it a method of an actor class, or a plain function."
            )
        if not hasattr(function, "__qualname__"):
            raise TypeError(
                f"@engine.remote takes a function or a class, not a {type(function).__name__}: "
                "wrap it in a function of its own"
            )
        functools.update_wrapper(self, function)
        self._function = function
        self._options = check_options(TASK, options)
        self._name: str = self._options.get("name") or function.__qualname__
        self._returns = returns_of(self._options, function)
        self._details = None
        if self._returns == STREAMING or "name" in self._options:
            window = window_of(self._options) if self._returns == STREAMING else 0
            self._details = Details(window, self._options.get("name", ""))
        self._retries: int = self._options.get("max_retries", _DEFAULT_RETRIES)
        self._retry_exceptions = self._options.get("retry_exceptions", False)
        self._on_full: str | None = self._options.get("on_full")
        self._speculative: float | bool = self._options.get("speculative", False)
        if self._speculative and self._returns == STREAMING:
            raise ValueError(
                f"{self._name}: speculative tasks return values at their end, and this one yields "
                "them while it runs; leave speculative out, or return a list"
            )
        self._check = SignatureCheck(function, function.__qualname__)
        self._scope: Scope | None = None  # what key and shape were computed for
        self._home: Runtime | None = None
        self._key = b""
        self._new_id: Callable[[], bytes] = bytes  # until it is bound
        self._shape: Shape | None = None

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with some options changed.

        All but `max_calls`, which belongs to the function's code: its workers count the calls.
        """
        if "max_calls" in options:
            raise ValueError(
                f"max_calls in .options() of {self._name!r}: it belongs into "
                "the decorator, @engine.remote(max_calls=...)"
            )
        return RemoteFunction(self._function, {**self._options, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"remote function {self._name!r} cannot be called directly; use "
            f"{self._name}.remote(...), or the plain function {self._name}._function(...)"
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit a task.

        Returns one ObjectRef; a list of them for num_returns > 1, None for num_returns=0, an
        ObjectRefGenerator for a generator function (or num_returns="streaming"). Raises TypeError
        when the arguments do not fit the signature or cannot be pickled. While this process has
        its full budget of calls in flight, it waits, or raises SubmissionLimitExceeded if the
        option on_full="raise" (here or of `engine.init`) asks for it.
        """
        self._check.check(args, kwargs)
        home = runtime()
        if home.scope is not self._scope:
            self._bind(home)
        returns = self._returns
        call = Call(self._new_id(), self._key, b"", returns)
        if self._details is not None:
            call.details = self._details
        if returns == STREAMING:
            return self._stream(home, call, args, kwargs)
        shape = self._shape
        if returns == 1:
            task = Task(call, self._name, [call.id], self._retries, shape)
        else:
            ids = [call.id, *(home.ids.new() for _ in range(returns - 1))]
            task = Task(call, self._name, ids[:returns], self._retries, shape)
        if self._retry_exceptions:
            task.retry_exceptions = self._retry_exceptions
        if args or kwargs:
            attach_arguments(home, task, args, kwargs)
        home.submit(task, self._on_full)
        if returns == 1:
            return ObjectRef(call.id)
        return [ObjectRef(one) for one in task.returns] if returns else None

    def _stream(self, home: Runtime, call: Call, args: Any, kwargs: Any) -> ObjectRefGenerator:
        task = Task(call, self._name, [call.id], self._retries, self._shape)
        attach_arguments(home, task, args, kwargs)
        assert self._details is not None
        stream = home.submit_stream(task, self._details.window, None, self._on_full)
        return ObjectRefGenerator(home, stream)

    def _bind(self, home: Runtime) -> None:
        resources, what = resources_of(self._options, 1.0), f"task {self._name!r}"
        placing = place(home, self._options, resources, what, TaskUnschedulableError)
        if home is not self._home:
            max_calls = max_calls_of(self._options)
            code = Counted(self._function, max_calls) if max_calls else self._function
            self._key, _blob = export(code, home)
            events = self._options.get("enable_task_events", True)
            self._new_id = home.ids.new if events else home.ids.quiet
            self._home = home
        if self._speculative:  # a shape of its own: its calls are compared with each other
            factor = self._speculative
            if factor is True:
                factor = home.config.speculation_factor
            placing = msgspec.structs.replace(
                placing, speculative=float(factor), siblings=self._key
            )
        self._shape = home.shape(placing)
        self._scope = home.scope

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"
