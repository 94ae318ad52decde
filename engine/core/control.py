"""Messages between a process and its node, and between the node and its zygotes.

Small typed structs like those of `engine.core.messages`, which lists all of them in one union.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.core.values import ObjectValue, Value

__all__ = [
    "ActorChanged",
    "Assigned",
    "Attach",
    "Blocked",
    "Census",
    "CensusReply",
    "Checkpoint",
    "CheckpointKept",
    "Connect",
    "CreateActor",
    "Fork",
    "Forked",
    "Gather",
    "Gathered",
    "Hello",
    "History",
    "Join",
    "Kept",
    "KillActor",
    "KillWorker",
    "LeaseGrant",
    "LeaseReclaim",
    "LeaseRequest",
    "LeaseReturn",
    "Leaving",
    "Log",
    "LogShown",
    "LookupActor",
    "MemoryEased",
    "NodeLost",
    "Noted",
    "Peer",
    "Piece",
    "Preload",
    "Preloaded",
    "ReleaseSegments",
    "Reply",
    "Request",
    "Restore",
    "Retire",
    "SegmentDropped",
    "SegmentsReturned",
    "Stop",
    "Unplaceable",
    "Waiting",
    "Welcome",
    "WorkerDied",
]


class Hello(msgspec.Struct, array_like=True, gc=False, tag=40):
    """First message of a process to its node. A worker's brings its `Notebook`'s descriptor.

    `error`: what went wrong when the worker set its runtime environment up; it is about to end.
    """

    process: bytes
    pid: int
    kind: str
    error: str = ""


class Join(msgspec.Struct, array_like=True, gc=False, tag=160):
    """First message of a driver that comes to a standing node; Welcome tells it what its id is.

    `path` and `directory` are where it imports from and works; `environment` is what it gave as
    its runtime environment. An `observer` runs no work: it looks, or has the node stopped.
    """

    namespace: str
    path: list[str]
    directory: str
    environment: bytes
    preload: list[str]
    log_to_driver: bool
    on_full: str
    observer: bool


class Welcome(msgspec.Struct, array_like=True, gc=False, tag=41):
    """The node accepts the process; `info` has node id, resources, namespace and the like."""

    node: bytes
    info: dict[str, Any]


class LeaseRequest(msgspec.Struct, array_like=True, gc=False, tag=42):
    """I want `wanted` more workers of this shape (replaces my earlier figure).

    `name`: a task that waits for one, for messages to people. `spare`: only workers that nobody
    else wants.
    """

    shape: bytes
    resources: dict[str, float]
    wanted: int
    group: bytes = b""
    bundle: int = -1
    environment: bytes = b""
    name: str = ""
    spare: bool = False


class LeaseGrant(msgspec.Struct, array_like=True, gc=False, tag=43):
    """Worker `worker` is yours for tasks of `shape`, over the connection of the same name.

    `devices`: the GPUs that it may use.
    """

    shape: bytes
    worker: bytes
    pid: int
    devices: list[str] | None = None


class LeaseReturn(msgspec.Struct, array_like=True, gc=False, tag=44):
    """The owner gives the worker back."""

    worker: bytes


class LeaseReclaim(msgspec.Struct, array_like=True, gc=False, tag=45):
    """Others wait. Give `worker` back once it is idle; send it nothing new when `drain`."""

    worker: bytes
    drain: bool


class Blocked(msgspec.Struct, array_like=True, gc=False, tag=46):
    """The sending worker waits inside user code (or no longer does): its slot is free."""

    blocked: bool


class Connect(msgspec.Struct, array_like=True, gc=False, tag=47):
    """Make a direct connection between me and `process` (answered by Peer on both sides)."""

    process: bytes


class Peer(msgspec.Struct, array_like=True, gc=False, tag=48):
    """A direct connection to `process`; its descriptor comes with this frame (none: it is dead)."""

    process: bytes
    pid: int
    alive: bool = True


class WorkerDied(msgspec.Struct, array_like=True, gc=False, tag=49):
    """A process of this node is gone. `cause` reads like "was killed by SIGKILL".

    `running` is the call that it ran when it died, if it ran one. `kind` is the exception that its
    owners get, when that is not a crash (OutOfMemoryError); `words` are its last lines on stderr.
    """

    process: bytes
    pid: int
    cause: str
    running: bytes = b""
    kind: str = ""
    words: list[str] = []


class CreateActor(msgspec.Struct, array_like=True, gc=False, tag=50):
    """To the head, then to the worker chosen: make an actor.

    `args` etc. are the constructor's, `blob` the pickled class. `options` are scheduling facts
    that the head reads (name, namespace, max_restarts ...).
    """

    id: bytes
    key: bytes
    blob: bytes
    args: bytes
    options: dict[str, Any]
    buffers: list[bytes] | None = None
    deps: list[ObjectValue] | None = None
    large: ObjectValue | None = None
    restarts: int = 0


class ActorChanged(msgspec.Struct, array_like=True, gc=False, tag=51):
    """State of an actor as seen by the head: pending, starting, alive, restarting or dead."""

    id: bytes
    state: str
    process: bytes = b""
    cause: str = ""
    failure: Value | None = None


class Checkpoint(msgspec.Struct, array_like=True, gc=False, tag=144):
    """From an actor: its checkpoint `number` lies in the memory whose descriptor comes with this.

    `check` is the CRC-32 of its `size` bytes. Answered by CheckpointKept once the node has it.
    Even and odd numbers have a memory each.
    """

    actor: bytes
    number: int
    size: int
    check: int


class CheckpointKept(msgspec.Struct, array_like=True, gc=False, tag=145):
    """The node holds the checkpoint: it outlives the actor's process.

    `looks`: when that is dead the node looks for later ones in the same memory, untold.
    """

    actor: bytes
    number: int
    looks: bool = False


class Restore(msgspec.Struct, array_like=True, gc=False, tag=146):
    """To a worker, before CreateActor: the actor's last checkpoint, whose descriptor comes along.

    `witnesses` are the processes that may have seen effects of it since, `actors` those among them
    that are replayed themselves, wherever they run by now. `former`: its processes since then.
    """

    checkpoint: Checkpoint
    witnesses: list[bytes]
    actors: list[bytes]
    former: list[bytes] = []


class LookupActor(msgspec.Struct, array_like=True, gc=False, tag=52):
    """Tell me (now, and whenever it changes) the state of the actor."""

    id: bytes


class KillActor(msgspec.Struct, array_like=True, gc=False, tag=53):
    """End the actor. `graceful`: after its pending calls; else at once, like SIGKILL."""

    id: bytes
    no_restart: bool = True
    graceful: bool = False
    cause: str = ""


class KillWorker(msgspec.Struct, array_like=True, gc=False, tag=54):
    """Kill the process that runs call `id` of mine (forced cancel)."""

    process: bytes
    cause: str


class Request(msgspec.Struct, array_like=True, gc=False, tag=55):
    """A question to the node or head, answered by a Reply with the same number."""

    number: int
    what: str
    args: dict[str, Any]


class Reply(msgspec.Struct, array_like=True, gc=False, tag=56):
    """`error` is "" or the text of a failure whose class is `result["kind"]`."""

    number: int
    result: Any
    error: str = ""


class SegmentDropped(msgspec.Struct, array_like=True, gc=False, tag=57):
    """No object lies in these segments any more: unmap them."""

    segments: list[int]


class Attach(msgspec.Struct, array_like=True, gc=False, tag=58):
    """A segment's memfd comes with this frame, as an answer to request `number`."""

    number: int
    segment: int
    size: int


class Log(msgspec.Struct, array_like=True, gc=False, tag=59):
    """Lines a worker printed on `stream` (1 or 2), for the driver's; answered by LogShown."""

    process: bytes
    pid: int
    name: str
    stream: int
    lines: list[str]


class Stop(msgspec.Struct, array_like=True, gc=False, tag=60):
    """End: to the node from its driver, to a worker from its node."""

    reason: str


class ReleaseSegments(msgspec.Struct, array_like=True, gc=False, tag=61):
    """From the node: memory is short by `missing` bytes.

    Give up what is free, now and until MemoryEased, and move `spill` bytes of your own objects to
    disk. Each is answered by one SegmentsReturned, at once; more follow as memory becomes free.
    """

    number: int
    missing: int
    spill: int = 0


class SegmentsReturned(msgspec.Struct, array_like=True, gc=False, tag=62):
    """Segments given up, and bytes given up out of others (segment, bytes); perhaps none.

    `answer` is the number of the ReleaseSegments that this answers, or 0. Of the objects that the
    process owns, `spilling` bytes are on their way to disk, `spillable` more could be moved there,
    and `pinned` bytes are in use. `trouble` says why spilling failed lately.
    """

    segments: list[int]
    shrunk: list[tuple[int, int]] = []
    answer: int = 0
    spillable: int = 0
    spilling: int = 0
    pinned: int = 0
    trouble: str = ""


class MemoryEased(msgspec.Struct, array_like=True, gc=False, tag=90):
    """From the node: memory is no longer short."""


class Census(msgspec.Struct, array_like=True, gc=False, tag=63):
    """From the node: the holder of these segments is dead; which blocks there are yours?

    `node` is the number of the node that has them; -1 where there is only one.
    """

    segments: list[int]
    node: int = -1


class CensusReply(msgspec.Struct, array_like=True, gc=False, tag=64):
    """The answer, for those segments: (segment, offset) of each block owned here."""

    segments: list[int]
    blocks: list[tuple[int, int]]
    node: int = -1


class Retire(msgspec.Struct, array_like=True, gc=False, tag=65):
    """From the node to an idle (or leaving) worker: end, unless somebody needs what you own."""


class Kept(msgspec.Struct, array_like=True, gc=False, tag=66):
    """The answer of a worker that stays."""


class Gather(msgspec.Struct, array_like=True, gc=False, tag=67):
    """From the node: tell me of `what` ("tasks" or "objects"), under this number."""

    number: int
    what: str


class Gathered(msgspec.Struct, array_like=True, gc=False, tag=68):
    """The answer: a list of records."""

    number: int
    records: list[Any]


class Fork(msgspec.Struct, array_like=True, gc=False, tag=70):
    """To the zygote: make a worker, or another zygote; its node socket comes with the frame.

    `environment`: the worker's runtime environment (`core.environments`).
    """

    process: bytes
    zygote: bool = False
    environment: bytes = b""


class Forked(msgspec.Struct, array_like=True, gc=False, tag=71):
    """From the zygote: the worker's pid; 0 when whoever forked it died before it could say."""

    process: bytes
    pid: int


class LogShown(msgspec.Struct, array_like=True, gc=False, tag=100):
    """From the driver: lines of a worker (`nbytes` of them) are on the terminal."""

    process: bytes
    stream: int
    nbytes: int


class Leaving(msgspec.Struct, array_like=True, gc=False, tag=101):
    """From a worker that has run as many calls as it may: give me no more; `Retire` follows."""


class Noted(msgspec.Struct, array_like=True, gc=False, tag=161):
    """To the node: an event for its journal (`core.journal`), encoded."""

    event: bytes


class Preload(msgspec.Struct, array_like=True, gc=False, tag=72):
    """To a new zygote, before it serves: run these ("module:function")."""

    what: list[str]


class Preloaded(msgspec.Struct, array_like=True, gc=False, tag=73):
    """From a new zygote: it is warm (`error` empty) or could not be warmed."""

    error: str
    pid: int = 0


class Assigned(msgspec.Struct, array_like=True, gc=False, tag=110):
    """To a worker, ahead of what it is to run: what that work was given.

    From the owner at the start of a lease, over the connection that the calls take; from the node
    for an actor. `capture`: work submitted from there goes into the same placement group.
    """

    resources: dict[str, float]
    devices: list[str] | None = None
    group: bytes = b""
    capture: bool = False


class Unplaceable(msgspec.Struct, array_like=True, gc=False, tag=111):
    """To an owner: tasks of `shape` that wait for a worker will never have one; they fail.

    `kind` names the class of the error. `running`: so do those that run, their workers are ended.
    """

    shape: bytes
    kind: str
    text: str
    running: bool = False


class Waiting(msgspec.Struct, array_like=True, gc=False, tag=112):
    """To a process: something it has asked for waits for long; `text` warns its user."""

    text: str


class NodeLost(msgspec.Struct, array_like=True, gc=False, tag=150):
    """To all processes: another node is dead, and every process and block of it with it."""

    number: int
    cause: str


class Piece(msgspec.Struct, array_like=True, gc=False, tag=151):
    """A part of the answer to request `number` for a value on another node; `left` bytes follow."""

    number: int
    data: bytes
    left: int


class History(msgspec.Struct, array_like=True, gc=False, tag=130):
    """From a worker that is about to end: what it would have told of "tasks", kept by the node."""

    record: dict[str, Any]
