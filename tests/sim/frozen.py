"""What goes into the checkpoint of a replayed actor, besides the ledger, and comes out of it.

Mirrors the functions of `runtime.checkpoints` and `runtime.arguments` that have these names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.ids import owner_of
from engine.core.messages import ActorCall
from engine.core.retention import kept_call, made_again
from engine.core.values import ERROR_NONE, Value
from tests.sim.member import Failure, Steps, Violation
from tests.sim.references import Ref

if TYPE_CHECKING:
    from tests.sim.worker import Worker

__all__ = ["freeze", "restore_calls", "retained_calls", "thaw"]

_OWN = "\0own"  # begins a list that stands for a reference to an object of the actor's own


def retained_calls(worker: Worker) -> Steps:
    """As `checkpoints.retained_calls`."""
    found = []
    for client, calls in worker.owner.callers.retained_calls():
        frozen = []
        for call, deps in calls:
            given = yield from _given_arguments(worker, call, deps)
            frozen.append([kept_call(call), (yield from freeze(worker, given))])
        found.append([client.id, client.name, frozen])
    return found


def _given_arguments(worker: Worker, call: ActorCall, deps: list[bytes] | None) -> Steps:
    """As `arguments.given_arguments`."""
    if call.large is not None:
        ref = worker.adopt(call.large.id)
        args, slots = yield from worker.materialise(call.large.value, ref)
    else:
        args, slots = worker.decode(call.args)
    for slot, object_id in zip(slots, deps or (), strict=True):
        args[slot] = worker.adopt(object_id)
    return args


def freeze(worker: Worker, thing: Any) -> Steps:
    """As `_CheckpointRefs.reduce`: own references are replaced by their values."""
    if type(thing) is list:
        frozen = []
        for one in thing:
            frozen.append((yield from freeze(worker, one)))
        return frozen
    if type(thing) is not Ref or owner_of(thing.id) != worker.id:
        return thing
    value = worker.owner.objects.entries[thing.id].value
    if value is None:
        raise Violation("a reference in the actor's state is not ready")
    if value.error != ERROR_NONE:
        return [_OWN, value.data, value.error, None]
    try:
        (found,) = yield from worker.get([thing])
    except Failure:  # lost for good: as at the second try of the codec, it is this error now
        return (yield from freeze(worker, thing))
    return [_OWN, b"", ERROR_NONE, (yield from freeze(worker, found))]


def thaw(worker: Worker, thing: Any) -> Steps:
    """As `_own_again`: they become objects of this process."""
    if type(thing) is not list:
        return thing
    if not thing or thing[0] != _OWN:
        thawed = []
        for one in thing:
            thawed.append((yield from thaw(worker, one)))
        return thawed
    _, data, error, value = thing
    if error == ERROR_NONE:
        return (yield from worker.put((yield from thaw(worker, value))))
    object_id = worker.ids.new()
    worker.owner.objects.add(object_id, Value(data, error=error))
    return Ref(worker, object_id)


def restore_calls(worker: Worker, saved: list[Any]) -> Steps:
    """As `checkpoints.restore_calls`."""
    callers = worker.owner.callers
    for actor, name, calls in saved:
        client = callers.client(actor, name, True, True)
        for kept, frozen in calls:
            task = made_again(worker.ids.new(), actor, name, kept)
            yield from worker._attach(task, (yield from thaw(worker, frozen)))
            callers.restore_call(client, task)
        callers.advance(client)
        worker.flush()
