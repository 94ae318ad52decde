"""What a caller keeps of its calls to an actor with checkpoints, until one covers them.

The message alone is kept where it is all there is; a call with references keeps its task too, which
holds them. Messages are invisible to the garbage collector, and there are thousands of them.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter

from msgspec import structs

from engine.core.dispatch import Task
from engine.core.messages import ActorCall, Details
from engine.core.order import OrderLog, Run
from engine.core.values import ERROR_SYSTEM, Value, decode_failure

__all__ = ["ERROR", "READS", "UNNUMBERED", "UNREAD", "VALUE", "Retained"]
__all__ += ["KeptCall", "kept_call", "made_again", "note_error", "note_outcome", "outcome_of"]

_number = attrgetter("seq")

# Of a call in its caller's checkpoint: number, method, how many results, its outcome.
KeptCall = tuple[int, str, int, int]

# `ActorCall.seq` of a call that only reads, and of one that was never sent.
READS, UNNUMBERED = -1, -2

# How a call was answered that is sent again: with a value (or not at all), with an error, or with
# the error that an argument is lost, so that none of its code has run.
VALUE, ERROR, UNREAD = 0, 1, 2


def outcome_of(call: ActorCall) -> int:
    """How a call was answered before it was sent again."""
    return VALUE if call.details is None else call.details.outcome


def note_outcome(call: ActorCall, outcome: int) -> None:
    """Should the call be sent again, its actor is to know."""
    call.details = structs.replace(call.details or Details(), outcome=outcome)


def note_error(call: ActorCall, answer: Value) -> None:
    """A call that is kept was answered with an error.

    What user code raises comes as its own error; of the engine's there are two.
    """
    system = answer.error == ERROR_SYSTEM
    unread = system and decode_failure(answer).kind != "TaskCancelledError"
    note_outcome(call, UNREAD if unread else ERROR)


def kept_call(call: ActorCall) -> KeptCall:
    """What is to be known of a call, but its arguments, to make it again."""
    return call.seq, call.method, call.returns, outcome_of(call)


def made_again(call_id: bytes, actor: bytes, name: str, kept: KeptCall) -> Task:
    """That call to an actor of this name; its arguments are still to be attached."""
    seq, method, returns, outcome = kept
    call = ActorCall(call_id, actor, method, b"", seq, returns)
    if outcome != VALUE:
        note_outcome(call, outcome)
    return Task(call, f"{name}.{method}", [], 0, None)


class Retained:
    """Calls of one caller to one actor."""

    __slots__ = ("answered", "calls", "logged", "skipped", "tasks")

    def __init__(self) -> None:
        self.calls: list[ActorCall] = []  # by number, sent at least once and not covered
        self.tasks: dict[int, Task] = {}  # of those that hold references
        # Number of the last call whose answer we have; they come in order, except those of calls
        # that were cancelled while others waited before them: `skipped`.
        self.answered = -1
        self.skipped: set[int] = set()
        self.logged = -1  # number of our last call that the log has, or a checkpoint

    def on_sent(self, task: Task) -> None:
        """A call is sent for the first time."""
        call = task.call
        self.calls.append(call)
        if task.keep is not None:
            self.tasks[call.seq] = task

    def log_own(self, log: OrderLog, me: bytes) -> None:
        """Note our calls answered since the last time: without a word of the actor in between
        they were applied one after another.
        """
        if self.answered > self.logged:
            log.append_run(me, self.logged + 1, self.answered - self.logged)
            self.logged = self.answered

    def on_not_applied(self, task: Task) -> None:
        """A call was cancelled before it ran: its number is not in the order."""
        seq = task.call.seq
        self.calls.remove(task.call)
        self.tasks.pop(seq, None)
        if seq > self.answered:
            self.skipped.add(seq)

    def pass_over(self, log: OrderLog, me: bytes) -> None:
        """Cancelled calls that follow on those answered count as answered."""
        while self.answered + 1 in self.skipped:
            self.log_own(log, me)
            self.answered += 1
            self.skipped.remove(self.answered)
            self.logged = max(self.logged, self.answered)

    def on_runs(self, me: bytes, runs: list[Run]) -> None:
        """The actor has told of its order."""
        for caller, seq, count in runs:
            if caller == me and seq + count - 1 > self.logged:
                self.logged = seq + count - 1

    def on_covered(self, seq: int) -> None:
        """A checkpoint covers our calls up to number `seq`."""
        self.logged = max(self.logged, seq)
        calls = self.calls
        count = bisect_right(calls, min(seq, self.answered), key=_number)
        if self.tasks:
            for call in calls[:count]:
                task = self.tasks.pop(call.seq, None)
                if task is not None:
                    task.release()
        del calls[:count]

    def again(self, name: str) -> list[Task]:
        """The calls that were answered, to be sent again for a replay."""
        found = []
        for call in self.calls:
            if call.seq <= self.answered:
                task = self.tasks.get(call.seq) or Task(call, name, [], 0, None)
                task.answered = True
                found.append(task)
        return found
