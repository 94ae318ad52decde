"""What this process did lately, kept for `engine.timeline` and `engine.state`.

Bounded rings: the oldest go first. A call appends one tuple and nothing else; whoever asks pays for
reading them. Times are readings of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from engine.config import Config
from engine.core.control import CreateActor
from engine.core.dispatch import Task
from engine.core.ids import is_quiet
from engine.core.messages import ActorCall

__all__ = ["CallEvent", "Events", "describe", "kind_of"]

# Waits and large puts kept: there are few beside calls.
_SPANS_KEPT = 1_000
_TEXT_MAX = 300

# Id; function key, method name, or None for an actor's constructor, with the name that the call was
# given if it was; when it was submitted, begun, had its arguments, ended, had stored its result;
# the error, or "".
CallEvent = tuple[bytes, Any, float, float, float, float, float, str]


class Events:
    """The rings of one process."""

    __slots__ = ("calls", "failures", "spans")

    def __init__(self, config: Config) -> None:
        kept = config.task_events_kept
        self.calls: deque[CallEvent] = deque(maxlen=kept)
        # Attempts of our own calls that no executor can tell of: id, name, type, class and text of
        # the error, when it was submitted, when it failed, its worker.
        self.failures: deque[tuple[bytes, str, str, str, str, float, float, bytes]] = deque(
            maxlen=kept
        )
        self.spans: deque[tuple[str, float, float]] = deque(maxlen=_SPANS_KEPT)

    def failed(self, task: Task, error: str, text: str) -> None:
        """An attempt of a call of ours that failed without an answer: its worker died, say."""
        if not is_quiet(task.id):
            kind, submitted = kind_of(task.call)
            text, now = text[:_TEXT_MAX], perf_counter()
            self.failures.append(
                (task.id, task.name, kind, error, text, submitted, now, task.worker)
            )

    def span(self, what: str, start: float) -> None:
        """Something other than a call that has just ended."""
        self.spans.append((what, start, perf_counter()))


def kind_of(call: Any) -> tuple[str, float]:
    """The type of a call, by Ray's name for it, and when it was submitted."""
    if type(call) is CreateActor:
        return "ACTOR_CREATION_TASK", call.options.get("submitted", 0.0)
    return "ACTOR_TASK" if type(call) is ActorCall else "NORMAL_TASK", call.submitted


def describe(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = str(error).strip().partition("\n")[0]
    except Exception as broken:  # the user's own __str__ may raise anything
        text = f"(its text cannot be had: {type(broken).__name__})"
    return f"{type(error).__name__}: {text}"[:_TEXT_MAX]
