"""The exceptions of the engine.

::

    EngineError
    ├── TaskError                       user code raised; also an instance of the user's class
    ├── TaskCancelledError
    ├── WorkerCrashedError              the process died while it ran a task
    ├── ActorError
    │   ├── ActorDiedError              names pid, signal and last call
    │   │   ├── ActorOutOfMemoryError   (+OutOfMemoryError)
    │   │   └── ActorPlacementGroupRemoved
    │   └── ActorUnavailableError       may come back: it is being restarted
    ├── ObjectLostError
    │   ├── OwnerDiedError
    │   ├── ObjectFreedError
    │   └── ObjectReconstructionFailedError
    ├── NodeDiedError
    ├── ObjectStoreFullError
    ├── OutOfDiskError
    ├── OutOfMemoryError                the memory watch stopped what ran
    ├── RuntimeEnvSetupError            a worker could not set its runtime environment up
    ├── PendingCallsLimitExceeded
    │   └── SubmissionLimitExceeded     the in-flight budget of the whole process
    ├── StreamingGeneratorReplayInconsistentError
    ├── TaskUnschedulableError, ActorUnschedulableError
    ├── TaskPlacementGroupRemoved
    ├── SerializationError (+TypeError)
    ├── GetTimeoutError (+TimeoutError)
    ├── StateApiException               a listing that not all processes have answered
    ├── ActorAlreadyExistsError (+ValueError), ActorHandleNotFoundError (+ValueError)
    └── OutOfBandObjectRefSerializationException

The spelling with the prefix ``Ray`` resolves too (``RayTaskError``, ``RayActorError`` ...), so
that a script written for Ray finds the names it catches.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from typing import Any

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorOutOfMemoryError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "EngineError",
    "ExceptionParts",
    "GetTimeoutError",
    "NodeDiedError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectStoreFullError",
    "OutOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "RuntimeEnvSetupError",
    "SerializationError",
    "StateApiException",
    "StreamingGeneratorReplayInconsistentError",
    "SubmissionLimitExceeded",
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
        # By name, not super(): in a dual class the next in line is the user's own __init__.
        Exception.__init__(self, function_name, traceback_str, cause, pid)
        _set_fields(self, function_name, traceback_str, cause, pid)

    function_name: str
    traceback_str: str
    cause: BaseException | None
    pid: int

    def __str__(self) -> str:
        fields = self.__dict__  # a user's class may have properties of these names
        return (
            f"{fields['function_name']} (pid {fields['pid']}) raised:\n{fields['traceback_str']}"
        )

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of the user's exception class as well.

        Classes that cannot be combined (final ones, or with a conflicting layout) leave the plain
        `TaskError`; `cause` is there in both cases.
        """
        cause = self.__dict__["cause"]
        if cause is None or isinstance(self, type(cause)):
            return self
        return _dual(self, cause)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self.__dict__
        return _rebuild, (
            fields["function_name"],
            fields["traceback_str"],
            fields["pid"],
            fields["cause"],
            type(self) is not TaskError,
        )


def _set_fields(
    error: TaskError, name: str, trace: str, cause: BaseException | None, pid: int
) -> None:
    error.__dict__.update(function_name=name, traceback_str=trace, cause=cause, pid=pid)


def _rebuild(
    name: str, trace: str, pid: int, cause: BaseException | None, dual: bool
) -> TaskError:
    error = TaskError(name, trace, cause, pid)
    return error.as_instanceof_cause() if dual else error


_DUAL: dict[type[BaseException], type[TaskError] | None] = {}


def _dual_class(cause_type: type[BaseException]) -> type[TaskError] | None:
    if cause_type not in _DUAL:
        body = {
            "__init__": TaskError.__init__,
            "__str__": TaskError.__str__,
            "__reduce__": TaskError.__reduce__,
            "__module__": "engine.exceptions",
        }
        try:
            made = type(f"TaskError({cause_type.__name__})", (TaskError, cause_type), body)
        except TypeError:  # a final class, or two layouts that cannot be merged
            _DUAL[cause_type] = None
        else:
            _DUAL[cause_type] = made
    return _DUAL[cause_type]


def _dual(error: TaskError, cause: BaseException) -> TaskError:
    dual = _dual_class(type(cause))
    if dual is None:
        return error
    group = isinstance(cause, BaseExceptionGroup)
    try:
        made = dual.__new__(dual, *cause.args) if group else dual.__new__(dual)
    except Exception:  # a __new__ of the user's that wants more: the plain error has it all
        return error
    made.args = cause.args
    _copy_fields(cause, made)
    made.__dict__.update(cause.__dict__)
    made.__dict__.update(error.__dict__)
    return made


def _copy_fields(cause: BaseException, made: BaseException) -> None:
    """What exceptions keep outside of __dict__: errno, lineno, value, slots ..."""
    for name in dir(type(cause)):
        kind = type(inspect.getattr_static(type(cause), name))
        if name.startswith("__") or kind not in _FIELDS:
            continue
        with contextlib.suppress(Exception):  # unset or read-only: then it is not copied
            setattr(made, name, getattr(cause, name))


_FIELDS = (types.GetSetDescriptorType, types.MemberDescriptorType)


class ExceptionParts:
    """An exception whose constructor differs from its `args`, taken apart so that it travels.

    Pickle rebuilds an exception as ``cls(*args)``, which fails for the common class that passes
    one text to ``super().__init__`` and keeps its own arguments as attributes.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _assemble, (type(self.error), self.error.args, self.error.__dict__)


def _assemble(cls: type[BaseException], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


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


class ObjectReconstructionFailedError(ObjectLostError):
    """The value is lost, and what made it cannot run again. The message says how and why.

    It was put (without `durable=True`), or is the result of an actor's method, or an item of a
    generator; or the task that made it has max_retries=0, or has used them up; or how it was made
    has been forgotten, because `lineage_bytes_max` was exceeded; or an argument is gone in one of
    these ways.
    """


class NodeDiedError(EngineError):
    """The node process is gone; nothing that ran on it can answer."""


class ObjectStoreFullError(EngineError):
    """There is no room for a value: it exceeds the object store, or memory and disk are full.

    The message has sizes, holders, what is in use, and what to do.
    """


class OutOfDiskError(EngineError):
    """Objects must go to disk for lack of memory, and the disk does not take them.

    The message has the path, the bytes needed and the bytes free there. Nothing is lost: what is in
    memory stays there, and spilling goes on when there is space again.
    """


class OutOfMemoryError(EngineError):
    """Memory was short, and the memory watch stopped the worker, and no retries were left.

    The message names what ran, its memory, the limit and the top holders.
    """


class ActorOutOfMemoryError(OutOfMemoryError, ActorDiedError):
    """The actor is dead for good: the memory watch stopped it, and no restarts were left."""


class PendingCallsLimitExceeded(EngineError):
    """More calls are pending on the actor than `max_pending_calls` allows."""


class RuntimeEnvSetupError(EngineError):
    """The runtime environment of a task or actor could not be set up; the message says why.

    Work submitted later tries again.
    """


class SubmissionLimitExceeded(PendingCallsLimitExceeded):
    """This process has its full budget of calls or bytes in flight, and on_full="raise".

    A kind of PendingCallsLimitExceeded, since both mean the same to who catches them: nothing was
    submitted, wait for some answers and try again. That one counts the calls to one actor.
    """


class StreamingGeneratorReplayInconsistentError(EngineError):
    """A generator task that ran again yielded fewer items than before its worker died."""


class TaskUnschedulableError(EngineError):
    """No node can ever satisfy what the task asks for."""


class ActorUnschedulableError(EngineError):
    """No node can ever satisfy what the actor asks for."""


class TaskPlacementGroupRemoved(EngineError):
    """The placement group in which the task ran, or was to run, was removed."""


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group in which the actor ran, or was to run, was removed."""


class SerializationError(EngineError, TypeError):
    """A value cannot be pickled; the message names the attribute or element at fault."""


class GetTimeoutError(EngineError, TimeoutError):
    """`get` waited for `timeout` seconds."""


class StateApiException(EngineError):
    """Some processes did not say what they are doing in time; the message names their pids."""


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
