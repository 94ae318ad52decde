"""What nodes and the head say to each other.

*Datagrams* may be lost or come twice; they are said again until they are answered. Everything else
is a *body* of a session (`core.session`): it comes once and in order.

Bodies wrap the messages of processes as they are, and frames between processes as opaque bytes: a
node passes on what it need not read.
"""

from __future__ import annotations

import msgspec

from engine.core.control import Checkpoint, Restore, WorkerDied
from engine.core.messages import Message
from engine.core.session import Packet
from engine.core.values import Block

__all__ = [
    "HEAD",
    "Answer",
    "Body",
    "Bring",
    "Carry",
    "Datagram",
    "Fenced",
    "Gone",
    "Heartbeat",
    "Join",
    "Joined",
    "Kill",
    "NodeDown",
    "NodeUp",
    "NotPlaced",
    "Open",
    "Part",
    "Place",
    "Placed",
    "Pull",
    "Saved",
    "ToNode",
    "ToProcess",
    "Unplace",
    "View",
    "decode_body",
    "encode_body",
]

# The head's own number in sessions; no node has it.
HEAD = 0


class View(msgspec.Struct, array_like=True, gc=False):
    """How a node stands, in units: what it has, what is free, and how many wait there."""

    number: int
    total: dict[str, int]
    free: dict[str, int]
    waiting: int


# --------------------------------------------------------------------- datagrams


class Join(msgspec.Struct, array_like=True, gc=False, tag=2):
    """A node wants a number. `nonce` is of this wish alone; `where` is its address."""

    nonce: bytes
    where: str
    total: dict[str, int]
    sent: float


class Joined(msgspec.Struct, array_like=True, gc=False, tag=3):
    """The answer, also to a wish repeated. `nodes`: the others that live, and their addresses.

    `sent` is that of the wish answered.
    """

    nonce: bytes
    number: int
    sent: float
    nodes: list[tuple[int, str]]


class Heartbeat(msgspec.Struct, array_like=True, gc=False, tag=4):
    """A node lives; by its own clock it says so at `sent`."""

    number: int
    sent: float
    view: View


class Answer(msgspec.Struct, array_like=True, gc=False, tag=5):
    """The head's answer to a heartbeat: the lease runs from `sent`; how the others stand."""

    number: int
    sent: float
    views: list[View]


class Fenced(msgspec.Struct, array_like=True, gc=False, tag=6):
    """To a node that was declared dead: that life is over."""

    number: int


Datagram = Packet | Join | Joined | Heartbeat | Answer | Fenced


# --------------------------------------------------------------------- bodies: any way


class ToProcess(msgspec.Struct, array_like=True, gc=False, tag=20):
    """A message for a process of the receiving node."""

    process: bytes
    message: Message


class ToNode(msgspec.Struct, array_like=True, gc=False, tag=21):
    """A message of a process of the sending node, for the receiving node (or the head)."""

    process: bytes
    message: Message


class Gone(msgspec.Struct, array_like=True, gc=False, tag=22):
    """A process of the sending node is dead, and all that it sent has been passed on.

    `peers`: for the head, the processes that had a line to it.
    """

    died: WorkerDied
    peers: list[bytes] = []


# --------------------------------------------------------------------- bodies: between nodes


class Open(msgspec.Struct, array_like=True, gc=False, tag=30):
    """Process `one` of the sending node and `other` of the receiving one speak from now on."""

    one: bytes
    other: bytes
    pid: int


class Carry(msgspec.Struct, array_like=True, gc=False, tag=31):
    """A frame from process `one` to process `other`."""

    one: bytes
    other: bytes
    frame: bytes


class Pull(msgspec.Struct, array_like=True, gc=False, tag=32):
    """Send what lies in `block`, in parts, under this number."""

    number: int
    block: Block


class Part(msgspec.Struct, array_like=True, gc=False, tag=33):
    """A part; `left` bytes follow. -1: the block is not there, or cannot be read."""

    number: int
    data: bytes
    left: int


# --------------------------------------------------------------------- bodies: head and node


class Place(msgspec.Struct, array_like=True, gc=False, tag=40):
    """Find a worker for an actor; Placed or NotPlaced follows."""

    actor: bytes
    resources: dict[str, float]
    environment: bytes
    title: str
    unused: bool = False  # the worker may not have done any work


class Unplace(msgspec.Struct, array_like=True, gc=False, tag=41):
    """The actor is dead: it needs no worker."""

    actor: bytes


class Kill(msgspec.Struct, array_like=True, gc=False, tag=42):
    """Kill a worker at once."""

    process: bytes
    cause: str


class NodeUp(msgspec.Struct, array_like=True, gc=False, tag=43):
    """A node has joined."""

    number: int
    where: str


class NodeDown(msgspec.Struct, array_like=True, gc=False, tag=44):
    """A node was declared dead: nothing of it is believed any more."""

    number: int
    cause: str


class Placed(msgspec.Struct, array_like=True, gc=False, tag=45):
    """The actor has this worker."""

    actor: bytes
    process: bytes
    pid: int


class NotPlaced(msgspec.Struct, array_like=True, gc=False, tag=46):
    """The actor cannot be, or not remain, here; `kind` names the class of the error."""

    actor: bytes
    kind: str
    text: str


class Saved(msgspec.Struct, array_like=True, gc=False, tag=47):
    """An actor of the sending node has written a checkpoint, and this is it."""

    process: bytes
    checkpoint: Checkpoint
    data: bytes


class Bring(msgspec.Struct, array_like=True, gc=False, tag=48):
    """To the node of a worker that is about to make an actor: the actor's last checkpoint."""

    process: bytes
    restore: Restore
    data: bytes


Body = (
    ToProcess
    | ToNode
    | Gone
    | Open
    | Carry
    | Pull
    | Part
    | Place
    | Unplace
    | Kill
    | NodeUp
    | NodeDown
    | Placed
    | NotPlaced
    | Saved
    | Bring
)

encode_body = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Body)


def decode_body(body: bytes) -> Body:
    """The inverse of `encode_body`."""
    found: Body = _decoder.decode(body)
    return found
