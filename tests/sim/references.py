"""References and handles as Python objects of one simulated process, and the codec.

As `engine.store.refs` and `engine.store.codec`: the object is the count; what leaves the process is
noted so that it comes back as the same object. A value is None, a number, a text, a list, a Ref, a
Handle or a Big (which makes the value large: it lies in a block of shared memory).
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from engine.core.ids import ID_BYTES

if TYPE_CHECKING:
    from engine.core.callers import ActorClient
    from tests.sim.process import Process

__all__ = ["Big", "Encoded", "Handle", "Ref", "decoder_of", "encode"]

_REF, _HANDLE, _BIG = 1, 2, 3


class Ref:
    """What `ObjectRef` is to a process: its death is noted, and told to the table later."""

    __slots__ = ("__weakref__", "home", "id", "tracked")

    def __init__(self, home: Process, object_id: bytes) -> None:
        self.home = home
        self.id = object_id
        self.tracked = False

    def __del__(self) -> None:
        home = self.home
        if self.tracked:
            note = home.escaped.get(self.id)
            if note is not None and note() is self:  # there may be two, as in `store.refs`
                del home.escaped[self.id]
        home.released.append(self.id)


class Handle:
    """An actor's handle: holds a reference to the actor's id (as `ActorHandle`)."""

    __slots__ = ("client", "ref", "retries")

    def __init__(self, ref: Ref, client: ActorClient, retries: int) -> None:
        self.ref = ref
        self.client = client
        self.retries = retries


class Big:
    """A number that fills `size` bytes. Read from shared memory, it carries a pin."""

    __slots__ = ("number", "pin", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.pin: Any = None  # keeps it where it is, as long as anybody looks


class Encoded:
    """A value as it travels, before it is known where it will lie."""

    __slots__ = ("data", "refs", "size")

    def __init__(self, data: bytes, refs: list[Ref], size: int) -> None:
        self.data = data
        self.refs = refs
        self.size = size  # bytes it stands for: above the inline limit it goes into a block


_found: list[Ref] = []
_bytes: list[int] = []


def _note(value: Any) -> msgspec.msgpack.Ext:
    kind = type(value)
    if kind is Ref:
        ref = value
        code, data = _REF, ref.id
    elif kind is Handle:
        ref = value.ref
        name = value.client.name.encode()
        replayed = bytes([value.client.retained is not None])
        code, data = _HANDLE, ref.id + value.retries.to_bytes(2, signed=True) + replayed + name
    else:
        assert kind is Big, f"{value!r} is not a value"
        _bytes.append(value.size)
        return msgspec.msgpack.Ext(_BIG, value.number.to_bytes(8) + value.size.to_bytes(8))
    _found.append(ref)
    if not ref.tracked:
        ref.tracked = True
        ref.home.escaped[ref.id] = weakref.ref(ref)
    return msgspec.msgpack.Ext(code, data)


_encoder = msgspec.msgpack.Encoder(enc_hook=_note)


def encode(value: Any) -> Encoded:
    """Value to bytes, with the references inside."""
    _found.clear()
    _bytes.clear()
    data = _encoder.encode(value)
    encoded = Encoded(data, list(_found), len(data) + sum(_bytes))
    _found.clear()
    return encoded


def decoder_of(home: Process) -> Any:
    """The decoder of one process: references inside a value are adopted there."""

    def hook(code: int, data: memoryview) -> Any:
        raw = bytes(data)
        if code == _REF:
            return home.adopt(raw)
        if code == _HANDLE:
            retries = int.from_bytes(raw[ID_BYTES : ID_BYTES + 2], signed=True)
            name, replayed = raw[ID_BYTES + 3 :].decode(), bool(raw[ID_BYTES + 2])
            return home.adopt_handle(raw[:ID_BYTES], name, retries, replayed)
        return Big(int.from_bytes(raw[:8]), int.from_bytes(raw[8:]))

    return msgspec.msgpack.Decoder(ext_hook=hook).decode
