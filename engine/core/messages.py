"""Messages between processes that own, borrow and execute; and the union of all messages.

Small typed structs, no pickle: user payloads (arguments, values, functions) are opaque bytes here;
only workers and drivers ever unpickle them. Structs are arrays on the wire, and `gc=False` keeps
them out of the garbage collector: they hold bytes, numbers and each other, never cycles.
"""

from __future__ import annotations

import msgspec

from engine.core.control import (
    ActorChanged,
    Assigned,
    Attach,
    Blocked,
    Census,
    CensusReply,
    Checkpoint,
    CheckpointKept,
    Connect,
    CreateActor,
    Fork,
    Forked,
    Gather,
    Gathered,
    Hello,
    History,
    Join,
    Kept,
    KillActor,
    KillWorker,
    LeaseGrant,
    LeaseReclaim,
    LeaseRequest,
    LeaseReturn,
    Leaving,
    Log,
    LogShown,
    LookupActor,
    MemoryEased,
    NodeLost,
    Noted,
    Peer,
    Piece,
    Preload,
    Preloaded,
    ReleaseSegments,
    Reply,
    Request,
    Restore,
    Retire,
    SegmentDropped,
    SegmentsReturned,
    Stop,
    Unplaceable,
    Waiting,
    Welcome,
    WorkerDied,
)
from engine.core.values import Block, ObjectValue, Value

__all__ = [
    "ActorCall",
    "AddBorrower",
    "BorrowAck",
    "Call",
    "Cancel",
    "CancelRequest",
    "ChannelFrame",
    "Consumed",
    "Covered",
    "Define",
    "Dependencies",
    "Details",
    "Done",
    "DoneMany",
    "DropBorrower",
    "Entrust",
    "Entrusted",
    "Evict",
    "Evicted",
    "Fetch",
    "FreeBlock",
    "Holding",
    "Item",
    "Keep",
    "Lost",
    "Message",
    "Order",
    "Recall",
    "ReplayAsk",
    "ReplayOffer",
    "Returned",
    "Settled",
]


# --------------------------------------------------------------------- owner <-> executor


class Define(msgspec.Struct, array_like=True, gc=False, tag=1):
    """A function or class by the hash of its pickled form; sent once on a connection."""

    key: bytes
    blob: bytes


class Details(msgspec.Struct, array_like=True, gc=False):
    """What few calls have, apart so that the others do not pay for it.

    `window`: items of a generator that may be unconsumed, 0 for any number. `name`: what the caller
    named the call. `group`: the concurrency group of its actor that it runs in, if not the default.
    `recovery`: its results were lost, and may use the memory that is reserved for that. `outcome`:
    how a call that is sent again to an actor was answered before (see `core.retention`).
    """

    window: int = 0
    name: str = ""
    group: str = ""
    recovery: bool = False
    outcome: int = 0


class Call(msgspec.Struct, array_like=True, gc=False, tag=2):
    """Run a function.

    `args` is the pickled (args, kwargs), or `large` is the object that holds it. `deps` are the
    values of the references among the arguments, in the order of their slots. `returns` is
    STREAMING for a generator. `final`: no retry is left should its worker die. `submitted` is when,
    by the monotonic clock of this machine.
    """

    id: bytes
    key: bytes
    args: bytes
    returns: int = 1
    buffers: list[bytes] | None = None
    deps: list[ObjectValue] | None = None
    large: ObjectValue | None = None
    details: Details | None = None
    final: bool = False
    submitted: float = 0.0


class ActorCall(msgspec.Struct, array_like=True, gc=False, tag=3):
    """Run a method; `seq` numbers the calls of one caller to one actor from 0.

    To an actor with checkpoints a call that only reads has `seq` -1. `acked`: the caller has the
    answers up to this number. `caller` is set when the caller is itself an actor that is replayed:
    then its calls keep their numbers across its deaths, and `order` says within which of its own
    calls this one was made: it is the number that the next one gets in the caller's order.
    """

    id: bytes
    actor: bytes
    method: str
    args: bytes
    seq: int = 0
    returns: int = 1
    buffers: list[bytes] | None = None
    deps: list[ObjectValue] | None = None
    large: ObjectValue | None = None
    details: Details | None = None
    acked: int = -1
    caller: bytes = b""
    submitted: float = 0.0
    order: int = 0


class Order(msgspec.Struct, array_like=True, gc=False, tag=140):
    """From an actor, before an effect of it: the part of its order that the receiver lacks.

    `runs` (caller, number, count) begin with order number `first`; `events` after `event` others.
    """

    actor: bytes
    first: int
    runs: list[tuple[bytes, int, int]]
    event: int
    events: list[tuple[int, bytes]]


class Covered(msgspec.Struct, array_like=True, gc=False, tag=141):
    """From an actor: a checkpoint has the calls up to `order` and the first `event` events.

    `seq` is the number of the receiver's last call among them, -1 for none.
    """

    actor: bytes
    order: int
    event: int
    seq: int


class ReplayAsk(msgspec.Struct, array_like=True, gc=False, tag=142):
    """From an actor restored from the checkpoint that `Covered` describes: what do you know?

    `former`: its processes since then. They are dead, and all that they have said counts.
    """

    covered: Covered
    former: list[bytes] = []


class ReplayOffer(msgspec.Struct, array_like=True, gc=False, tag=143):
    """The answer: what the sender knows of the order. `sender`: the replayed actor it runs.

    `made` are calls that it has received of the actor that asks, which had called actor `called`.
    """

    known: Order
    sender: bytes = b""
    called: bytes = b""
    made: list[tuple[int, int, int]] = []


class Keep(msgspec.Struct, array_like=True, gc=False, tag=147):
    """From an actor to its creator: hold these references, which its next checkpoint contains.

    Answered by Holding once their owners know; those of the checkpoint before the last
    are let go.
    """

    actor: bytes
    number: int
    ids: list[bytes]


class Holding(msgspec.Struct, array_like=True, gc=False, tag=148):
    """The answer to Keep."""

    actor: bytes
    number: int


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
    """Any other reply: `values` in return order (errors are values too).

    `us` is -1 for a call that was cancelled before it ran.
    """

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
    """Cancel a call: drop it if it has not started, else interrupt it (`force`: exit).

    `recursive`: and the calls that it has submitted and that are not answered yet.
    """

    id: bytes
    force: bool = False
    recursive: bool = True


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
    recursive: bool = True


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
    """To the owner: send the value as soon as it exists, with this number."""

    id: bytes
    number: int = 0


class Evict(msgspec.Struct, array_like=True, gc=False, tag=26):
    """From the owner to a borrower: `id` now lies where `value` says; forget where it lay before.

    Answered by Evicted.
    """

    id: bytes
    value: Value


class Evicted(msgspec.Struct, array_like=True, gc=False, tag=27):
    """The answer. `gone` is False when the old location is in use here, which keeps it valid."""

    id: bytes
    gone: bool


class Lost(msgspec.Struct, array_like=True, gc=False, tag=28):
    """To the owner: what lies in `block` cannot be read, which was `id`; `why` is for people.

    Answered like a Fetch with this number: with where it lies by then, or what it is anew.
    """

    id: bytes
    block: Block
    why: str
    number: int


class Entrust(msgspec.Struct, array_like=True, gc=False, tag=29):
    """To the driver: own this value from now on; `spare` is a second copy of it on disk."""

    number: int
    value: Value
    spare: Block | None = None


class Entrusted(msgspec.Struct, array_like=True, gc=False, tag=30):
    """The answer to Entrust: the value is object `id`, for which the receiver is registered."""

    number: int
    id: bytes


class FreeBlock(msgspec.Struct, array_like=True, gc=False, tag=25):
    """To the holder (or its node when the holder is dead): the block is free."""

    block: Block


# --------------------------------------------------------------------- topologies


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
    | Evict
    | Evicted
    | Lost
    | Entrust
    | Entrusted
    | ObjectValue
    | FreeBlock
    | Hello
    | Join
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
    | MemoryEased
    | Noted
    | Census
    | CensusReply
    | Retire
    | Gather
    | Gathered
    | History
    | Kept
    | Attach
    | Log
    | LogShown
    | Leaving
    | Stop
    | Fork
    | Forked
    | Preload
    | Preloaded
    | ChannelFrame
    | Order
    | Covered
    | ReplayAsk
    | ReplayOffer
    | Keep
    | Holding
    | Checkpoint
    | CheckpointKept
    | Restore
    | Assigned
    | Unplaceable
    | Waiting
    | NodeLost
    | Piece
)
