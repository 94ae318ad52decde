"""What a long run must have hit: a simulator that never gets somewhere proves nothing about it.

`World.mark` counts by name. Kinds of faults and of messages are listed where they are defined;
here are the branches: of the protocols (as seen from outside of the machines) and of the edges.
"""

from __future__ import annotations

from collections import Counter

from engine.core.between import Body, NotPlaced
from engine.core.messages import Message
from tests.sim.faults import KINDS

__all__ = ["missing", "required"]

_BRANCHES = (
    *("a block outlives its owner", "a generator waits for its consumer"),
    *("a line to the dead is refused", "a reply waits for a registration", "a value"),
    *("cancelled by force", "cancelled in the queue", "died before its hello"),
    *("dropped the calls of a dead caller", "gave back", "had nothing to give back"),
    *("heard of the dead again", "interrupted", "interrupted where it came to wait"),
    *("killed with its owner", "nobody takes the answer to a request", "retired"),
    *("a copy could not be made", "a new value was written to disk", "asked to spill"),
    *("a request for memory is withdrawn", "asked the owner where an argument lies"),
    *("freed memory went to a thread that waits", "gave up a part of a segment"),
    *("memory came after all", "no room to read a value back", "read back", "read from disk"),
    *("a lost argument", "gave a call back for a lost argument"),
    *("fault: damage", "waits for what was lost"),
    *("spilled", "spilled in vain", "threads ask for memory one after the other"),
    *("a journal begins anew", "a line waits for room in a session", "a torn batch"),
    *("a node comes back as another", "a node is told that another is dead"),
    *("came to a host that is down",),
    *("a node's life is over: has not found its head", "pulled from another node"),
    *("a node's life is over: was declared dead by the head", "lost on a cut link"),
    "to or from a slow host",
    *("datagram Fenced", "the end of a journal was cut off", "the head is back"),
    *("a history was compared", "a repeated call is answered again", "an event was replayed"),
    *("an actor was replayed", "calls were replayed", "an answer of a replayed actor"),
    *("a checkpoint waits for calls that the actor has made", "a checkpoint is safe"),
    *("a checkpoint was not told",),
    *("stayed for its calls to a replayed actor", "topology: crash", "topology: power"),
    *("topology: program", "topology: a result was compared"),
    *("topology: epochs were committed",),
    *("stayed for what it owns", "the last words of a dead process", "waited for admission"),
)
_POINTS = (
    *("after the reply", "a copy made", "an item sent", "arguments read", "before reading"),
    *("taking a checkpoint", "a checkpoint written", "references of a checkpoint held"),
    *("a checkpoint is safe", "restoring", "hearing of the order", "in a replay"),
    *("asked for the order", "a checkpoint counts"),
    *("before the reply leaves", "in a constructor", "while blocked", "while running"),
)
_ERRORS = (
    *("ActorDiedError", "ActorUnavailableError", "NodeDiedError", "ObjectStoreFullError"),
    *("OutOfDiskError",),
    *("OwnerDiedError", "TaskCancelledError", "TaskPlacementGroupRemoved"),
    *("ObjectReconstructionFailedError", "UserError", "WorkerCrashedError"),
)
# Requests and answers that were lost with one of their ends, each way.
_LOST = ("AddBorrower", "BorrowAck", "Call", "Connect", "Done", "DoneMany", "DropBorrower", "Fetch")
# Messages of what the simulator does not have: zygotes, logs, channels, durable values, drivers
# that come in by a door, and keepers of scopes.
_ABSENT = {
    *("ChannelFrame", "Entrust", "Entrusted", "Fork", "Forked", "History", "KillWorker"),
    *("Join", "Leaving", "Log", "LogShown", "Noted", "Preload", "Preloaded", "Stop"),
}
# Too rare to be asked for: "a repeated call was answered while another one waits", "a call came
# behind the order of a replay". tests/engine/test_replay_callers.py comes there each time.
# A node refuses no actor here: there are no placement groups and environments of several nodes.
_NEVER = {NotPlaced}


def required() -> list[str]:
    """The names of all marks that a long run must hit."""
    messages = (kind.__name__ for kind in Message.__args__)
    return [
        *(f"fault: {kind}" for kind in KINDS),
        *(f"killed {point}" for point in _POINTS),
        *(f"an error: {kind}" for kind in _ERRORS),
        *(f"died with its sender: {kind}" for kind in _LOST),
        *(f"message {kind}" for kind in messages if kind not in _ABSENT),
        *(f"datagram in a packet {kind.__name__}" for kind in Body.__args__ if kind not in _NEVER),
        *_BRANCHES,
    ]


def missing(marks: Counter[str], times: int) -> dict[str, int]:
    """The marks that were hit less often than `times`, and how often."""
    return {name: marks[name] for name in required() if marks[name] < times}
