"""Every message that passes between processes: small typed structs, no pickle.

User payloads (arguments, values, functions) are opaque bytes here; only workers and drivers ever
unpickle them. Structs are arrays on the wire, and `gc=False` keeps them out of the garbage
collector: they hold bytes, numbers and each other, never cycles.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "ERROR_NONE",
    "ERROR_SYSTEM",
    "ERROR_USER",
    "STREAMING",
    "ActorCall",
    "ActorChanged",
    "AddBorrower",
    "Attach",
    "Block",
    "Blocked",
    "BorrowAck",
    "Call",
    "Cancel",
    "CancelRequest",
    "Census",
    "CensusReply",
    "ChannelFrame",
    "Connect",
    "Consumed",
    "CreateActor",
    "Define",
    "Dependencies",
    "Done",
    "DoneMany",
    "DropBorrower",
    "Failure",
    "Fetch",
    "Fork",
    "Forked",
    "FreeBlock",
    "Gather",
    "Gathered",
    "Hello",
    "Item",
    "Kept",
    "KillActor",
    "KillWorker",
    "LeaseGrant",
    "LeaseReclaim",
    "LeaseRequest",
    "LeaseReturn",
    "Log",
    "LookupActor",
    "Message",
    "ObjectValue",
    "Peer",
    "Preload",
    "Preloaded",
    "Recall",
    "ReleaseSegments",
    "Reply",
    "Request",
    "Retire",
    "Returned",
    "SegmentDropped",
    "SegmentsReturned",
    "Settled",
    "Stop",
    "Value",
    "Welcome",
    "WorkerDied",
    "decode_failure",
    "encode_failure",
]

ERROR_NONE, ERROR_USER, ERROR_SYSTEM = 0, 1, 2
STREAMING = -1


class Block(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Where a large value lies: `size` bytes at `offset` of segment `segment`.

    `holder` is the process that allocated it and alone may give the space out again.
    """

    segment: int
    offset: int
    size: int
    holder: bytes


class Value(msgspec.Struct, array_like=True, gc=False):
    """A value as it travels: pickle bytes with out-of-band buffers, or a block, or an error.

    `error` is ERROR_NONE, ERROR_USER (data is a pickled TaskError) or ERROR_SYSTEM (data is an
    encoded `Failure`). `contains` are the ids of the references pickled inside the value.
    """

    data: bytes = b""
    buffers: list[bytes] | None = None
    contains: list[bytes] | None = None
    block: Block | None = None
    error: int = ERROR_NONE


class ObjectValue(msgspec.Struct, array_like=True, gc=False, tag=24):
    """From the owner: the value of `id`. Also an argument of a call that was a reference."""

    id: bytes
    value: Value


class Failure(msgspec.Struct, array_like=True, gc=False):
    """An error made by the engine itself: name of a class in `engine.exceptions`, and its text."""

    kind: str
    text: str


# --------------------------------------------------------------------- owner <-> executor


class Define(msgspec.Struct, array_like=True, gc=False, tag=1):
    """A function or class by the hash of its pickled form; sent once on a connection."""

    key: bytes
    blob: bytes


class Call(msgspec.Struct, array_like=True, gc=False, tag=2):
    """Run a function.

    `args` is the pickled (args, kwargs), or `large` is the object that holds it. `deps` are the
    values of the references among the arguments, in the order of their slots. `returns` is
    STREAMING for a generator, of which `window` items may be unconsumed (0: any number).
    """

    id: bytes
    key: bytes
    args: bytes
    returns: int = 1
    buffers: list[bytes] | None = None
    deps: list[ObjectValue] | None = None
    large: ObjectValue | None = None
    window: int = 0


class ActorCall(msgspec.Struct, array_like=True, gc=False, tag=3):
    """Run a method; `seq` numbers the calls of one caller to one actor from 0."""

    id: bytes
    actor: bytes
    method: str
    args: bytes
    seq: int = 0
    returns: int = 1
    buffers: list[bytes] | None = None
    deps: list[ObjectValue] | None = None
    large: ObjectValue | None = None
    window: int = 0


class Dependencies(msgspec.Struct, array_like=True, gc=False, tag=13):
    """Some of the `deps` of call `id`, which follows: more than one frame can carry."""

    id: bytes
    deps: list[ObjectValue]


class Done(msgspec.Struct, array_like=True, gc=False, tag=4):
    """The usual reply: one small value without buffers or references. `us`: run time."""

    id: bytes
    data: bytes
    us: int = 0


class DoneMany(msgspec.Struct, array_like=True, gc=False, tag=5):
    """Any other reply: `values` in return order (errors are values too)."""

    id: bytes
    values: list[Value]
    us: int = 0


class Recall(msgspec.Struct, array_like=True, gc=False, tag=6):
    """The owner wants up to `count` calls back that have not started."""

    count: int


class Returned(msgspec.Struct, array_like=True, gc=False, tag=7):
    """Calls given back unstarted, because they were recalled or the worker is blocked."""

    ids: list[bytes]


class Cancel(msgspec.Struct, array_like=True, gc=False, tag=8):
    """Cancel a call: drop it if it has not started, else interrupt it (`force`: exit)."""

    id: bytes
    force: bool = False


class Settled(msgspec.Struct, array_like=True, gc=False, tag=9):
    """The caller has registered the references inside the values of call `id`."""

    id: bytes


class Item(msgspec.Struct, array_like=True, gc=False, tag=10):
    """Item `index` of generator call `id`."""

    id: bytes
    index: int
    value: Value


class Consumed(msgspec.Struct, array_like=True, gc=False, tag=11):
    """The caller has taken so many items of generator call `id` in all."""

    id: bytes
    count: int


class CancelRequest(msgspec.Struct, array_like=True, gc=False, tag=12):
    """From a borrower to the owner of `id`: cancel the call that makes it."""

    id: bytes
    force: bool = False


# --------------------------------------------------------------------- references


class AddBorrower(msgspec.Struct, array_like=True, gc=False, tag=20):
    """To the owner: this process holds a reference to `id`. Answered by BorrowAck."""

    id: bytes


class BorrowAck(msgspec.Struct, array_like=True, gc=False, tag=21):
    """`known` is False when the object was already released."""

    id: bytes
    known: bool


class DropBorrower(msgspec.Struct, array_like=True, gc=False, tag=22):
    """To the owner: this process no longer holds `id`; takes `count` registrations back."""

    id: bytes
    count: int = 1


class Fetch(msgspec.Struct, array_like=True, gc=False, tag=23):
    """To the owner: send the value as soon as it exists."""

    id: bytes


class FreeBlock(msgspec.Struct, array_like=True, gc=False, tag=25):
    """To the holder (or its node when the holder is dead): the block is free."""

    block: Block


# --------------------------------------------------------------------- process <-> node


class Hello(msgspec.Struct, array_like=True, gc=False, tag=40):
    """First message of a process to its node. A worker's brings its `Notebook`'s descriptor."""

    process: bytes
    pid: int
    kind: str


class Welcome(msgspec.Struct, array_like=True, gc=False, tag=41):
    """The node accepts the process; `info` has node id, resources, namespace and the like."""

    node: bytes
    info: dict[str, Any]


class LeaseRequest(msgspec.Struct, array_like=True, gc=False, tag=42):
    """I want `wanted` more workers of this shape (replaces my earlier figure)."""

    shape: bytes
    resources: dict[str, float]
    wanted: int
    group: bytes = b""
    bundle: int = -1


class LeaseGrant(msgspec.Struct, array_like=True, gc=False, tag=43):
    """Worker `worker` is yours for tasks of `shape`, over the connection of the same name."""

    shape: bytes
    worker: bytes
    pid: int


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

    `running` is the call that it ran when it died, if it ran one.
    """

    process: bytes
    pid: int
    cause: str
    running: bytes = b""


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
    """Lines a worker printed, for the driver's terminal."""

    pid: int
    name: str
    stream: str
    lines: list[str]


class Stop(msgspec.Struct, array_like=True, gc=False, tag=60):
    """End: to the node from its driver, to a worker from its node."""

    reason: str


class ReleaseSegments(msgspec.Struct, array_like=True, gc=False, tag=61):
    """From the node: memory is short, give up segments in which nothing lies."""


class SegmentsReturned(msgspec.Struct, array_like=True, gc=False, tag=62):
    """The answer: segments given up, perhaps none."""

    segments: list[int]


class Census(msgspec.Struct, array_like=True, gc=False, tag=63):
    """From the node: the holder of these segments is dead; which blocks there are yours?"""

    segments: list[int]


class CensusReply(msgspec.Struct, array_like=True, gc=False, tag=64):
    """The answer, for those segments: (segment, offset) of each block owned here."""

    segments: list[int]
    blocks: list[tuple[int, int]]


class Retire(msgspec.Struct, array_like=True, gc=False, tag=65):
    """From the node to an idle worker: end, unless somebody still needs what you own."""


class Kept(msgspec.Struct, array_like=True, gc=False, tag=66):
    """The answer of a worker that stays."""


class Gather(msgspec.Struct, array_like=True, gc=False, tag=67):
    """From the node: tell me of `what` ("events" or "objects"), under this number."""

    number: int
    what: str


class Gathered(msgspec.Struct, array_like=True, gc=False, tag=68):
    """The answer: a list of records."""

    number: int
    records: list[Any]


class Fork(msgspec.Struct, array_like=True, gc=False, tag=70):
    """To the zygote: make a worker, or another zygote; its node socket comes with the frame."""

    process: bytes
    zygote: bool = False


class Forked(msgspec.Struct, array_like=True, gc=False, tag=71):
    """From the zygote: the worker's pid."""

    process: bytes
    pid: int


class Preload(msgspec.Struct, array_like=True, gc=False, tag=72):
    """To a new zygote, before it serves: run these ("module:function")."""

    what: list[str]


class Preloaded(msgspec.Struct, array_like=True, gc=False, tag=73):
    """From a new zygote: it is warm (`error` empty) or could not be warmed."""

    error: str


class ChannelFrame(msgspec.Struct, array_like=True, gc=False, tag=80):
    """A frame of a topology; `body` is the topology's own encoding, `value` its payload.

    A value in a block is lent: `loan` is its id, and the receiver is registered as a borrower.
    """

    topology: bytes
    member: int
    body: bytes
    value: Value | None = None
    loan: bytes = b""


Message = (
    Define
    | Call
    | ActorCall
    | Dependencies
    | Done
    | DoneMany
    | Recall
    | Returned
    | Cancel
    | CancelRequest
    | Settled
    | Item
    | Consumed
    | AddBorrower
    | BorrowAck
    | DropBorrower
    | Fetch
    | ObjectValue
    | FreeBlock
    | Hello
    | Welcome
    | LeaseRequest
    | LeaseGrant
    | LeaseReturn
    | LeaseReclaim
    | Blocked
    | Connect
    | Peer
    | WorkerDied
    | CreateActor
    | ActorChanged
    | LookupActor
    | KillActor
    | KillWorker
    | Request
    | Reply
    | SegmentDropped
    | ReleaseSegments
    | SegmentsReturned
    | Census
    | CensusReply
    | Retire
    | Gather
    | Gathered
    | Kept
    | Attach
    | Log
    | Stop
    | Fork
    | Forked
    | Preload
    | Preloaded
    | ChannelFrame
)

_failure_encoder = msgspec.msgpack.Encoder()
_failure_decoder = msgspec.msgpack.Decoder(Failure)


def encode_failure(kind: str, text: str) -> Value:
    """A value that stands for an error of the engine."""
    return Value(data=_failure_encoder.encode(Failure(kind, text)), error=ERROR_SYSTEM)


def decode_failure(value: Value) -> Failure:
    """The failure inside a value made by `encode_failure`."""
    return _failure_decoder.decode(value.data)
