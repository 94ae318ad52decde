"""Errors of topologies: in the declaration, in the protocol, and in a member's code.

::

    EngineError
    ├── TopologyError (+ValueError)     the declaration is wrong, or a handle is used wrongly
    ├── TopologyStalledError            nobody can make progress; says who waits for what
    ├── TopologyFailedError             too many deaths; says which, and when
    ├── CheckpointError                 a checkpoint cannot be used or made; says why
    │   └── DamagedCheckpointError      a file is not what its manifest says
    ├── LostSenderError                 a process died that had not sent all it had to
    ├── MemberError                     a member's code raised; the runner turns it into TaskError
    └── ProtocolError                   frames lost, repeated or reordered: a defect of the engine
        └── ReplayError                 a copy that came back has not repeated what it had sent

Each message says what was expected, what was found, and what to do.
"""

from __future__ import annotations

import os
import traceback

from engine.exceptions import EngineError, TaskError

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "LostSenderError",
    "MemberError",
    "ProtocolError",
    "ReplayError",
    "TopologyError",
    "TopologyFailedError",
    "TopologyStalledError",
    "expected",
    "task_error",
]


class TopologyError(EngineError, ValueError):
    """A topology is declared wrongly, or its handle is used in a way it does not allow."""


class TopologyStalledError(EngineError):
    """No member can make progress and none sleeps; the message has one line per copy."""


class TopologyFailedError(EngineError):
    """Processes of a topology died more often than its checkpoints allow; tells each death."""


class CheckpointError(EngineError):
    """A checkpoint cannot be used or made; the message says what is wrong, and where."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is missing, or not what it was when it was written."""


class LostSenderError(EngineError):
    """A copy died before it had said that it ends, so its receivers cannot go on."""


class ProtocolError(EngineError):
    """A frame arrived that the protocol does not allow: a defect of the engine's transport."""


class ReplayError(ProtocolError):
    """A copy that came back alone did not repeat what it had sent: all go back."""


class MemberError(EngineError):
    """The code of one member raised; `__cause__` is the exception.

    Attributes:
        member: name of the member.
        index: which copy.
        hook: the method that raised (``on_batch``, ``poll``, ...).
    """

    def __init__(self, member: str, index: int, hook: str) -> None:
        super().__init__(member, index, hook)
        self.member = member
        self.index = index
        self.hook = hook

    def __str__(self) -> str:
        return f"member '{self.member}' copy {self.index} failed in {self.hook}()"


def expected(what: str, found: object, remedy: str) -> TopologyError:
    """A `TopologyError` in the one form all declaration errors have."""
    return TopologyError(f"expected {what}, found {found}; {remedy}")


def task_error(error: MemberError) -> TaskError:
    """`error` as `handle.wait()` raises it: a `TaskError` that is the user's class as well.

    The function name carries the member, the copy and the hook.
    """
    cause = error.__cause__
    name = f"member '{error.member}' copy {error.index}, {error.hook}()"
    trace = "".join(traceback.format_exception(cause if cause is not None else error))
    return TaskError(name, trace, cause, os.getpid()).as_instanceof_cause()
