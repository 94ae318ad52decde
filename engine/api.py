"""The verbs: remote, get, put, wait, cancel, kill, get_actor."""

from __future__ import annotations

import inspect
import math
from typing import Any

from engine.actor import ActorClass, ActorHandle, find_actor
from engine.core.control import KillActor
from engine.functions import RemoteFunction
from engine.generators import ObjectRefGenerator
from engine.runtime.durable import put_durable
from engine.session import runtime
from engine.store.refs import ObjectRef

__all__ = ["available_resources", "cancel", "cluster_resources", "get", "get_actor", "kill",
           "nodes", "put", "remote", "wait"]


def remote(*args: Any, **options: Any) -> Any:
    """Make a function a task or a class an actor class.

    Bare (``@engine.remote``) or with at least one option (``@engine.remote(num_cpus=2)``).
    """
    if args and options:
        raise TypeError("@engine.remote takes options by keyword only: @engine.remote(num_cpus=2)")
    if len(args) == 1 and callable(args[0]):
        return _make(args[0], {})
    if args or not options:
        raise TypeError(
            "use @engine.remote without parentheses, or with at least one option: "
            "@engine.remote(num_cpus=2)"
        )
    return lambda thing: _make(thing, options)


def _make(thing: Any, options: dict[str, Any]) -> RemoteFunction | ActorClass:
    if inspect.isclass(thing):
        return ActorClass(thing, options)
    if isinstance(thing, RemoteFunction | ActorClass):
        raise TypeError(f"{thing!r} is remote already; use .options() to change its options")
    if not inspect.isfunction(thing) and not callable(thing):
        raise TypeError(f"@engine.remote takes a function or a class, not {type(thing).__name__}")
    return RemoteFunction(thing, options)


def _check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r}: expected seconds or None")
    if timeout < 0 or math.isnan(timeout):
        raise ValueError(f"timeout={timeout!r}: expected seconds >= 0 or None")


def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference, or a list of values for a list of references, in order.

    Waits at most `timeout` seconds (None: as long as it takes; 0: a poll) and raises
    GetTimeoutError. A failed task raises its error, which is also an instance of the class that
    the user's code raised. Arrow and NumPy values are read-only views of shared memory. An
    ObjectRefGenerator is returned as it is: get the references that it yields.
    """
    if type(refs) is ObjectRef:
        if timeout is not None:
            _check_timeout(timeout)
        return runtime().get_one(refs, timeout)
    _check_timeout(timeout)
    if isinstance(refs, ObjectRefGenerator):
        return refs
    if isinstance(refs, ActorHandle | RemoteFunction) or not isinstance(refs, list | tuple):
        raise TypeError(
            f"engine.get takes an ObjectRef or a list of them, not {_kind(refs)}. Values need no "
            "get; for a handle call a method and get its result."
        )
    home = runtime()
    for index, ref in enumerate(refs):
        if type(ref) is not ObjectRef:
            raise TypeError(f"engine.get: element {index} is {_kind(ref)}, expected an ObjectRef")
    home.check_known(refs)
    return home.get(refs, timeout)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def put(value: Any, *, durable: bool = False) -> ObjectRef[Any]:
    """Store a value and return a reference to it.

    Above 100 KiB it is written to shared memory once and read there by every process of the
    machine without a copy. When memory is short, values that nobody looks at move to disk, this one
    or others, and are read from there. Raises TypeError when it cannot be pickled,
    ObjectStoreFullError when it is larger than the object store, or when after a while
    (`store_wait_seconds`) there is no room for it in memory or on disk, OutOfDiskError when that is
    because the disk takes no more.

    A value that is put cannot be computed again when it is lost. With `durable` it survives the
    loss of a copy, since it is kept twice: above 100 KiB the second copy is written to the spill
    directory at once. And it survives the process that puts it: the driver owns it. (What is
    inside by reference is not made durable by this.)
    """
    if isinstance(value, ObjectRef):
        raise TypeError("engine.put of an ObjectRef: it is a reference already; pass it on")
    if durable:
        return put_durable(runtime(), value)
    return runtime().put(value)


def wait(
    refs: list[Any],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Any], list[Any]]:
    """Wait until `num_returns` of the references are ready (a failure is ready too).

    An ObjectRefGenerator among them is ready when `next` on it would not wait: its next item is
    there, or its end. Returns (ready, rest), both in the order given; `ready` has at most
    `num_returns`. After `timeout` seconds it returns what there is. `fetch_local` says whether a
    value that lies on another machine has to be brought here to be ready; on one machine all
    processes share the memory in which values lie.
    """
    if type(refs) is not list:
        hint = " Put it into a list." if isinstance(refs, ObjectRef | ObjectRefGenerator) else ""
        raise TypeError(f"engine.wait takes a list of ObjectRefs, not {_kind(refs)}.{hint}")
    _check_timeout(timeout)
    if not refs:
        return [], []
    if isinstance(num_returns, bool) or not isinstance(num_returns, int) or num_returns < 1:
        raise ValueError(f"num_returns={num_returns!r}: expected an integer >= 1")
    if num_returns > len(refs):
        raise ValueError(f"num_returns={num_returns} of only {len(refs)} references")
    generators = []
    if set(map(type, refs)) != {ObjectRef}:
        generators = [one for one in refs if type(one) is ObjectRefGenerator]
        for one in refs:
            if type(one) is not ObjectRef and type(one) is not ObjectRefGenerator:
                raise TypeError(f"engine.wait: expected ObjectRefs, found {_kind(one)}")
    if len(set(refs)) != len(refs):
        raise ValueError("engine.wait: the list has the same reference twice")
    home = runtime()
    if generators:
        for one in generators:
            one._check_home(home)
        home.check_known([one for one in refs if type(one) is ObjectRef])
    else:
        home.check_known(refs)
    ready = home.ready_among(refs, num_returns, timeout)
    if home.event is not None:
        # Which came first may differ in a replay, and what follows with it.
        told = home.event(lambda: [refs.index(one) for one in ready])
        ready = home.ready_among([refs[at] for at in told], len(told), None)
    if len(ready) == 1:
        at = refs.index(ready[0])
        return ready, refs[:at] + refs[at + 1 :]
    chosen = set(ready)
    return ready, [ref for ref in refs if ref not in chosen]


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once, like SIGKILL; its pending calls raise ActorDiedError.

    `no_restart=False` lets `max_restarts` bring it back.
    """
    if not isinstance(actor, ActorHandle):
        raise TypeError(
            f"engine.kill takes an actor handle, not {_kind(actor)}; use engine.cancel for tasks"
        )
    home = runtime()
    actor._check_home(home)
    with home.lock:
        home.owner.callers.killed(actor._client)
        message = KillActor(actor._actor_id, no_restart, False, "was killed by engine.kill()")
        home.send(home.node, message)
        home.reactor.flush()


def cancel(
    ref: ObjectRef[Any] | ObjectRefGenerator, *, force: bool = False, recursive: bool = True
) -> None:
    """Cancel the call that makes `ref`, or that a generator stands for.

    Not yet running: it never runs. Running: KeyboardInterrupt is raised in a task (`force=True`
    ends its worker instead), a coroutine of an async actor is cancelled as in asyncio, any other
    method of an actor goes on, and `get_runtime_context().is_canceled()` in it turns True.
    Finished: nothing happens. `recursive`: also the tasks and calls that it has submitted and that
    are not finished.

    A call that was cancelled in time is never retried, and `get` raises TaskCancelledError
    (WorkerCrashedError with `force`). ValueError for `force` on an actor's call: its actor would
    die with it; use `engine.kill`.
    """
    if isinstance(ref, ObjectRefGenerator):
        home = runtime()
        ref._check_home(home)
        call_id = ref._stream.task.id
    elif type(ref) is ObjectRef:
        home = runtime()
        home.check_known((ref,))
        call_id = ref.binary()
    else:
        raise TypeError(
            f"engine.cancel takes an ObjectRef or an ObjectRefGenerator, not {_kind(ref)}"
        )
    with home.lock:
        if force and home.owner.is_actor_call(call_id):
            raise ValueError(
                "engine.cancel(force=True) of an actor's call would end the actor and all its "
                "calls: leave force out, or end the actor with engine.kill(handle)"
            )
        home.owner.cancel(call_id, force, recursive)
        home.reactor.flush()


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor; ValueError when there is none."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"engine.get_actor: expected a non-empty name, found {name!r}")
    if namespace is not None and (not isinstance(namespace, str) or not namespace):
        raise ValueError(
            f"engine.get_actor: namespace={namespace!r}, expected a non-empty string or None"
        )
    return find_actor(name, namespace)


def cluster_resources() -> dict[str, float]:
    """All logical resources of the cluster: CPU, GPU, memory (bytes), named ones.

    "object_store_memory" (bytes) is the limit of the store; no task or actor can ask for it.
    """
    return dict(runtime().ask("resources")["total"])


def available_resources() -> dict[str, float]:
    """The logical resources that no task or actor has at the moment.

    They are what was asked for, not what is in use: `engine.nodes()` tells how full the store is.
    """
    return dict(runtime().ask("resources")["free"])


def nodes() -> list[dict[str, Any]]:
    """One record a node: NodeID, Alive, Labels, Resources, and how full its object store is.

    `object_store_used` of `object_store_limit` bytes of memory are given to processes, `disk_used`
    of `disk_limit` bytes of files in `spill_directory`. Of the objects alive now `spilled_objects`
    with `spilled_bytes` lie on disk only; `written_bytes` have ever been written there, and
    `restored_bytes` brought back to memory, by the processes that live now.
    """
    return list(runtime().ask("nodes"))


