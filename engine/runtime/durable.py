"""`engine.put(value, durable=True)`: a value with a second copy, which outlives who put it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.exceptions import NodeDiedError
from engine.store import codec
from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.core.values import Block, Value
    from engine.runtime.client import Runtime

__all__ = ["put_durable"]


def put_durable(runtime: Runtime, value: Any) -> ObjectRef[Any]:
    """Store a value twice, if it lies in a block, and have the driver own it.

    Raises OutOfDiskError or ObjectStoreFullError when there is no room for one of the copies.
    """
    encoded = codec.encode(value)
    if encoded.refs:
        runtime.check_known(encoded.refs)
    stored, spare = runtime.values.store(encoded), None
    try:
        if (block := stored.block) is not None:
            spare = runtime.values.disk.write(runtime.values.raw(block), spare=True)
    except BaseException:  # no room, or interrupted: nobody will own the first copy
        if block is not None:
            with runtime.lock:
                runtime.values.free(block)
        raise
    if runtime.id != runtime.info["driver"]:
        ref = _entrust(runtime, stored, spare, encoded.refs)
        if ref is not None:
            return ref  # else a detached actor has outlived its driver, and owns it itself
    with runtime.lock:
        runtime.drain()
        object_id = runtime.owner.trusts.put(stored, spare, encoded.refs)
    return ObjectRef(object_id)


def _entrust(
    runtime: Runtime, stored: Value, spare: Block | None, refs: list[Any]
) -> ObjectRef[Any] | None:
    """`refs` are the references inside, which live here until the driver has registered.

    None when the driver is gone: then nobody has the value.
    """
    trusts, driver = runtime.owner.trusts, runtime.info["driver"]
    with runtime.lock:
        number = trusts.entrust(driver, stored, spare)
        runtime.reactor.flush()
    try:
        runtime.reactor.wait_until(
            lambda: bool(trusts.answers[number])
            or not runtime.node_alive
            or runtime.owner.is_dead(driver)
        )
        if trusts.answers[number]:
            ref: ObjectRef[Any] = ObjectRef(trusts.answers.pop(number))
            refs.clear()
            return ref
        if not runtime.node_alive:
            raise NodeDiedError("the node died before the driver had a value put with durable=True")
        with runtime.lock:
            trusts.abandon(number)
        return None
    except BaseException:  # interrupted, or the node is dead: nobody waits for the answer
        with runtime.lock:
            trusts.abandon(number)
        refs.clear()
        raise
