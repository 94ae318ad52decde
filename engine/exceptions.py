"""The exceptions of the engine.

::

    EngineError
    ├── TaskError                       user code raised; also an instance of the user's class
    ├── TaskCancelledError
    ├── WorkerCrashedError              the process died while it ran a task
    ├── ActorError
    │   ├── ActorDiedError              names pid, signal and last call
    │   └── ActorUnavailableError       may come back: it is being restarted
    ├── ObjectLostError
    │   ├── OwnerDiedError
    │   └── ObjectFreedError
    ├── NodeDiedError
    ├── ObjectStoreFullError
    ├── OutOfMemoryError
    ├── PendingCallsLimitExceeded
    ├── TaskUnschedulableError, ActorUnschedulableError
    ├── TaskPlacementGroupRemoved, ActorPlacementGroupRemoved
    ├── SerializationError (+TypeError)
    ├── GetTimeoutError (+TimeoutError)
    ├── ActorAlreadyExistsError (+ValueError), ActorHandleNotFoundError (+ValueError)
    └── OutOfBandObjectRefSerializationException

The spelling with the prefix ``Ray`` resolves too (``RayTaskError``, ``RayActorError`` ...), so
that a script written for Ray finds the names it catches.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "EngineError",
    "GetTimeoutError",
    "NodeDiedError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectStoreFullError",
    "OutOfBandObjectRefSerializationException",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "WorkerCrashedError",
]


class EngineError(Exception):
    """Base class of all errors that the engine itself raises."""


class TaskError(EngineError):
    """User code in a task or actor method raised.

    `get` raises an object that is both a `TaskError` and an instance of the class the user's
    code raised, so ``except ValueError`` works across processes. The remote traceback is part of
    the message.

    Attributes:
        cause: the original exception, or None when it could not be carried over.
        function_name: what ran.
        traceback_str: the formatted remote traceback.
        pid: process that ran it.
    """

    def __init__(
        self, function_name: str, traceback_str: str, cause: BaseException | None, pid: int
    ) -> None:
        super().__init__(function_name, traceback_str, cause, pid)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid

    def __str__(self) -> str:
        return f"{self.function_name} (pid {self.pid}) raised:\n{self.traceback_str}"

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of the user's exception class as well.

        Classes that cannot be combined (final ones, or with a conflicting layout) leave the plain
        `TaskError`; `cause` is there in both cases.
        """
        cause = self.cause
        if cause is None or isinstance(cause, EngineError):
            return self
        return _dual(self, type(cause))


_DUAL: dict[type[BaseException], type[TaskError] | None] = {}


def _dual(error: TaskError, cause_type: type[BaseException]) -> TaskError:
    dual = _DUAL.get(cause_type)
    if dual is None and cause_type not in _DUAL:
        name = f"TaskError({cause_type.__name__})"
        try:
            # The user's __init__ must not run: its signature is not ours.
            body = {
                "__init__": TaskError.__init__,
                "__str__": TaskError.__str__,
                "__reduce__": _reduce_dual,
                "__module__": "engine.exceptions",
            }
            dual = type(name, (TaskError, cause_type), body)
        except TypeError:  # a layout conflict: two C-level exception structs cannot be merged
            dual = None
        _DUAL[cause_type] = dual
    if dual is None:
        return error
    cause = error.cause
    made = dual.__new__(dual)
    made.__init__(error.function_name, error.traceback_str, cause, error.pid)  # type: ignore[misc]
    for name, value in vars(cause).items():
        made.__dict__.setdefault(name, value)
    if isinstance(cause, OSError):  # its fields live in C, not in __dict__
        for name in ("errno", "strerror", "filename"):
            setattr(made, name, getattr(cause, name))
    return made


def _reduce_dual(self: TaskError) -> tuple[Any, ...]:
    plain = (self.function_name, self.traceback_str, self.cause, self.pid)
    return _rebuild_dual, plain


def _rebuild_dual(name: str, trace: str, cause: BaseException | None, pid: int) -> TaskError:
    return TaskError(name, trace, cause, pid).as_instanceof_cause()


class TaskCancelledError(EngineError):
    """The task was cancelled before it produced a value."""


class WorkerCrashedError(EngineError):
    """The worker process died while it ran the task, and no retries were left."""


class ActorError(EngineError):
    """The actor cannot answer."""


class ActorDiedError(ActorError):
    """The actor is dead for good. The message names its pid, signal or exit code and last call."""


class ActorUnavailableError(ActorError):
    """The actor cannot be reached at the moment; the call may or may not have run."""


class ObjectLostError(EngineError):
    """The value existed and no copy is left, or it can never arrive any more."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object is dead."""


class ObjectFreedError(ObjectLostError):
    """The owner has already released the object."""


class NodeDiedError(EngineError):
    """The node process is gone; nothing that ran on it can answer."""


class ObjectStoreFullError(EngineError):
    """The value does not fit into the object store; the message has sizes and holders."""


class OutOfMemoryError(EngineError):
    """A task used more memory than the machine can give."""


class PendingCallsLimitExceeded(EngineError):
    """More calls are pending on the actor than `max_pending_calls` allows."""


class TaskUnschedulableError(EngineError):
    """No node can ever satisfy what the task asks for."""


class ActorUnschedulableError(EngineError):
    """No node can ever satisfy what the actor asks for."""


class TaskPlacementGroupRemoved(EngineError):
    """The placement group in which the task was to run was removed."""


class ActorPlacementGroupRemoved(EngineError):
    """The placement group in which the actor was to run was removed."""


class SerializationError(EngineError, TypeError):
    """A value cannot be pickled; the message names the attribute or element at fault."""


class GetTimeoutError(EngineError, TimeoutError):
    """`get` waited for `timeout` seconds."""


class ActorAlreadyExistsError(EngineError, ValueError):
    """An actor of that name lives in the namespace."""


class ActorHandleNotFoundError(EngineError, ValueError):
    """The handle names an actor that this cluster does not know."""


class OutOfBandObjectRefSerializationException(EngineError):
    """An ObjectRef was pickled outside of the engine, where its lifetime cannot be tracked."""


_PREFIX = "Ray"


def __getattr__(name: str) -> Any:
    if name == "RayError":
        return EngineError
    if name.startswith(_PREFIX) and name[len(_PREFIX) :] in globals():
        return globals()[name[len(_PREFIX) :]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
