"""Checkpoints of an actor: its state in memory that outlives its process.

Where it lies is `runtime.checkpoint_memory`'s, and when it is safe `core.actor_checkpoints`'. What
it holds of references: those of others are held by the actor's creator meanwhile (`Keep`), the
actor's own are written as values and become new objects when it is restored.
"""

from __future__ import annotations

import copyreg
import os
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from engine import exceptions
from engine.core.actor_checkpoints import ActorCheckpoints
from engine.core.control import Checkpoint, Restore
from engine.core.ids import owner_of
from engine.core.messages import Done
from engine.core.retention import KeptCall, kept_call, made_again
from engine.core.values import ERROR_NONE, Value
from engine.runtime.arguments import attach_arguments, given_arguments
from engine.runtime.checkpoint_memory import CheckpointMemory, read_memory
from engine.store import codec
from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Checkpoints", "capture", "pack_answers", "read_checkpoint", "rebuild"]
__all__ += ["restore_calls", "retained_calls", "unpack_answers"]


class Checkpoints:
    """The edge around `ActorCheckpoints`: memory that is shared with the node, and messages."""

    def __init__(self, runtime: Runtime, actor_id: bytes) -> None:
        self._runtime = runtime
        self._memories = (CheckpointMemory(), CheckpointMemory())
        self.protocol = ActorCheckpoints(actor_id)

    @property
    def under_way(self) -> bool:
        """Whether the last one is not safe yet."""
        return self.protocol.under_way

    def write(self, content: Any) -> None:
        """Begin a checkpoint. Raises SerializationError when the state cannot be pickled.

        It may be safe already when this returns: then it is not `under_way`.
        """
        refs = _CheckpointRefs(self._runtime)
        encoded = codec.encode(content, refs)
        protocol, runtime = self.protocol, self._runtime
        size, check = self._memories[protocol.begin()].write(encoded)
        ids = [ref.binary() for ref in refs]
        with runtime.lock:
            dead = runtime.owner.is_dead(protocol.creator)
            keep = protocol.on_written(size, check, ids, list(refs), dead)
            if keep is not None:
                runtime.send(protocol.creator, keep)
                runtime.reactor.flush()
            else:
                self.on_holding(protocol.number)

    def on_holding(self, number: int) -> None:
        """The creator holds the references: the checkpoint may count. Under the lock."""
        self._count(self.protocol.on_holding(number))

    def _count(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        memory, runtime = self._memories[checkpoint.number % 2], self._runtime
        memory.commit(checkpoint)
        told = self.protocol.on_counted()
        connection = runtime.connections.get(runtime.node)
        if told and connection is not None:
            connection.send_fd(told[0], os.dup(memory.fd))
            for message in told[1:]:
                runtime.send(runtime.node, message)
            runtime.reactor.mark(connection)
            runtime.reactor.flush()

    def send_behind(self, message: Any) -> None:
        """Tell the node something, after it has the checkpoint under way. Under the lock."""
        if self.protocol.put_behind(message):
            self._runtime.send(self._runtime.node, message)

    def on_death(self, process: bytes) -> bool:
        """A process has died; a detached actor goes on without its creator. Under the lock.

        Whether a checkpoint is safe because of that.
        """
        checkpoint = self.protocol.on_death(process)
        self._count(checkpoint)
        return checkpoint is not None and not self.under_way

    def on_kept(self, number: int, looks: bool = True) -> None:
        """The checkpoint under way is safe. Under the lock."""
        self.protocol.on_kept(number, looks)


def read_checkpoint(message: Restore, fd: int) -> Any:
    """The content of a checkpoint; the descriptor is closed.

    Raises ObjectLostError when its checksum does not fit.
    """
    found = message.checkpoint
    data = read_memory(fd, found)
    if len(data) != found.size or zlib.crc32(data) != found.check:
        raise exceptions.ObjectLostError(
            f"checkpoint {found.number} of actor {found.actor.hex()} is damaged: {len(data)} of "
            f"{found.size} bytes, checksum {zlib.crc32(data):08x} instead of {found.check:08x}"
        )
    head, buffers = codec.read_parts(memoryview(data))
    # Writable: the state is the actor's own to change.
    return codec.decode(head, [bytearray(part) for part in buffers])


# ------------------------------------------------------------------------------ state


def capture(actor: Any) -> tuple[str, Any]:
    """An actor's state: what its `__checkpoint__` returns, else what pickle would store."""
    hook = getattr(actor, "__checkpoint__", None)
    if hook is not None:
        return "hook", hook()
    cls = type(actor)
    special = "__reduce__", "__reduce_ex__", "__getnewargs__", "__getnewargs_ex__"
    plain = not any(name in vars(base) for base in cls.__mro__[:-1] for name in special)
    if plain and cls not in copyreg.dispatch_table and not isinstance(actor, list | dict):
        return "state", actor.__getstate__()
    return "pickle", actor  # its class decides how it is rebuilt


def rebuild(cls: Any, form: str, state: Any) -> Any:
    """The inverse of `capture`; the constructor does not run."""
    if form == "pickle":
        return state
    actor = cls.__new__(cls)
    if form == "hook":
        actor.__restore__(state)
    elif hasattr(actor, "__setstate__"):
        actor.__setstate__(state)
    else:
        fields, slots = state if isinstance(state, tuple) else (state, None)
        actor.__dict__.update(fields or {})
        for name, value in (slots or {}).items():
            setattr(actor, name, value)
    return actor


# ------------------------------------------------------------------------------ answers

_Answers = dict[int, Any]
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(dict[int, Done]).decode


def pack_answers(answers: _Answers) -> bytes | _Answers:
    """Answers that their caller may want again. There may be thousands, nearly always small ones,
    and of each pickle would note its class and fields: this way it is a tenth of the time.
    """
    return _encode(answers) if {*map(type, answers.values())} == {Done} else answers


def unpack_answers(packed: bytes | _Answers) -> _Answers:
    """The inverse of `pack_answers`."""
    return _decode(packed) if isinstance(packed, bytes) else packed


# ------------------------------------------------------------------------------ calls made

# Of one call to another actor: what `kept_call` says of it, and its arguments.
_Call = tuple[KeptCall, tuple[Any, ...], dict[str, Any]]


def retained_calls(runtime: Runtime) -> list[tuple[bytes, str, list[_Call]]]:
    """The calls of this actor to others that are replayed, which no checkpoint of theirs covers.

    They are restored with it, since the others would ask for them when they die later.
    """
    with runtime.lock:
        retained = runtime.owner.callers.retained_calls()
    return [
        (
            client.id, client.name,
            [(kept_call(call), *given_arguments(runtime, call, deps)) for call, deps in calls],
        )
        for client, calls in retained
    ]  # fmt: skip


def restore_calls(runtime: Runtime, saved: list[tuple[bytes, str, list[_Call]]]) -> None:
    """Keep those calls again."""
    callers = runtime.owner.callers
    for actor, name, calls in saved:
        with runtime.lock:
            client = callers.client(actor, name, True, True)
        for kept, args, kwargs in calls:
            task = made_again(runtime.ids.new(), actor, name, kept)
            attach_arguments(runtime, task, args, kwargs)
            with runtime.lock:
                callers.restore_call(client, task)
        with runtime.lock:  # the head may have told already where the actor is
            callers.advance(client)
            runtime.reactor.flush()


class _CheckpointRefs(list[ObjectRef[Any]]):
    """Collects the references in a checkpoint; the actor's own are replaced by their values."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    def reduce(self, ref: ObjectRef[Any]) -> tuple[Any, ...] | None:
        """How to pickle an own reference; None for one that belongs to somebody else."""
        runtime = self._runtime
        if owner_of(ref.binary()) != runtime.id:
            return None
        with runtime.lock:
            value = runtime.owner.objects.entries[ref.binary()].value
        if value is None:
            raise exceptions.SerializationError(
                f"{ref!r} is in the actor's state and not ready: get or drop what you submit "
                "before the method returns, or leave it out in __checkpoint__"
            )
        if value.error != ERROR_NONE:
            return _own_again, (None, value.data, value.error)
        return _own_again, (runtime.get((ref,), None)[0], b"", ERROR_NONE)


def _own_again(value: Any, data: bytes, error: int) -> ObjectRef[Any]:
    from engine.runtime.client import current

    runtime = current()
    assert runtime is not None
    if error == ERROR_NONE:
        return runtime.put(value)
    object_id = runtime.ids.new()
    with runtime.lock:
        runtime.owner.objects.add(object_id, Value(data, error=error))
    return ObjectRef(object_id)
