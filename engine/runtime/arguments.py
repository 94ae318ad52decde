"""Arguments of a call on both ends: encoding them with their references, and getting them back.

A reference given directly as an argument arrives as its value; inside a container it stays a
reference. So top-level references leave the pickled arguments and travel as `deps`, with their
slots (positions and keyword names) beside the rest.
"""

from __future__ import annotations

from typing import Any

from engine.core.dispatch import Task
from engine.core.ids import owner_of
from engine.core.lineage import ARGUMENTS
from engine.core.messages import ActorCall, Call
from engine.core.values import ELSEWHERE, ObjectValue
from engine.runtime.client import Runtime
from engine.runtime.values import Unreadable
from engine.store import codec
from engine.store.refs import ObjectRef, adopt

__all__ = ["ArgumentMissing", "attach_arguments", "given_arguments", "read_arguments"]

_PLAIN = (int, float, str, bytes, bool, type(None))


class ArgumentMissing(Exception):
    """An argument that the caller owns is lost, which it knows by now."""


def attach_arguments(
    runtime: Runtime, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Put encoded arguments into the task's call, and what they keep alive into the task."""
    if not args and not kwargs:
        return
    slots: list[Any] = []
    refs: list[Any] = []
    for index, value in enumerate(args):
        if type(value) is ObjectRef:
            slots.append(index)
            refs.append(value)
    for name, value in kwargs.items():
        if type(value) is ObjectRef:
            slots.append(name)
            refs.append(value)
    call = task.call
    if refs:
        args = tuple(None if type(value) is ObjectRef else value for value in args)
        kwargs = {k: None if type(v) is ObjectRef else v for k, v in kwargs.items()}
        task.deps = [ref._id for ref in refs]
        payload: tuple[Any, ...] = (args, kwargs, slots)
    else:
        if not kwargs and all(type(value) in _PLAIN for value in args):
            data = codec.encode_plain((args, kwargs))
            if data is not None:
                call.args = data
                task.nbytes = len(data)
                return
        payload = (args, kwargs)
    encoded = codec.encode(payload)
    refs += encoded.refs
    if refs:
        runtime.check_known(refs)
    if encoded.nbytes <= runtime.config.inline_bytes_max:
        call.args = encoded.data
        call.buffers = encoded.inline_buffers()
        task.nbytes = encoded.nbytes
    else:
        # Too large for a frame: an object of its own, borrowed by whoever runs the call.
        object_id = runtime.ids.new()
        value = runtime.values.store(encoded)
        with runtime.lock:
            runtime.owner.objects.add(object_id, value, encoded.refs)
            runtime.owner.objects.lineage.note(object_id, ARGUMENTS)
        refs.append(ObjectRef(object_id))
        call.large = ObjectValue(object_id, value)
        task.nbytes = encoded.nbytes
    task.brings = call.large is not None or task.deps is not None
    if refs:
        task.keep = refs if task.keep is None else [task.keep, refs]


def read_arguments(
    runtime: Runtime, call: Call | ActorCall | Any, parts: dict[bytes, list[ObjectValue]]
) -> tuple[Any, dict[str, Any]]:
    """The (args, kwargs) of a call that has arrived, `parts` of its dependencies before it.

    What is lost is waited for; but if a task's caller owns it, ArgumentMissing is raised.
    """
    if call.large is not None:
        payload = _read(runtime, call.large)
    elif call.args:
        payload = codec.decode(call.args, call.buffers)
    else:
        return (), {}
    if call.deps is None:
        return payload  # type: ignore[no-any-return]
    args, kwargs, slots = payload
    args = list(args)
    deps = [*parts.pop(call.id, ()), *call.deps] if parts else call.deps
    for slot, dep in zip(slots, deps, strict=True):
        if dep.value.block is not None:
            value = _read(runtime, dep, call)
        else:
            value = codec.decode(dep.value.data, dep.value.buffers)
        if isinstance(slot, int):
            args[slot] = value
        else:
            kwargs[slot] = value
    return args, kwargs


def given_arguments(
    runtime: Runtime, call: ActorCall, deps: list[bytes] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of ours as they were given, references (`deps`) in their places."""
    if call.large is not None:
        payload = _read(runtime, call.large)
    elif call.args:
        payload = codec.decode(call.args, call.buffers)
    else:
        return (), {}
    if not deps:
        return payload  # type: ignore[no-any-return]
    args, kwargs, slots = payload
    places = list(args)
    for slot, object_id in zip(slots, deps, strict=True):
        if isinstance(slot, int):
            places[slot] = adopt(object_id)
        else:
            kwargs[slot] = adopt(object_id)
    return tuple(places), kwargs


def _read(runtime: Runtime, found: ObjectValue, call: Any = None) -> Any:
    ref = adopt(found.id)
    if found.value.block != ELSEWHERE:
        try:
            return runtime.values.materialise(found.value, ref)
        except Unreadable as lost:
            runtime.report_lost(ref, lost)
    if type(call) is Call and owner_of(found.id) == owner_of(call.id):
        raise ArgumentMissing
    return runtime.get((ref,), None)[0]
