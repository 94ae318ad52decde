"""Actor classes, handles and methods: what `@engine.remote` makes of a class."""

from __future__ import annotations

import inspect
import weakref
from typing import Any, NoReturn

from engine.core.callers import ActorClient
from engine.core.control import CreateActor, KillActor
from engine.core.dispatch import Task
from engine.core.messages import ActorCall, Details
from engine.core.retention import READS, UNNUMBERED
from engine.core.values import STREAMING, Value
from engine.exceptions import ActorUnschedulableError, PendingCallsLimitExceeded
from engine.functions import export
from engine.generators import ObjectRefGenerator
from engine.options import ACTOR, METHOD, check_options, resources_of, returns_of, window_of
from engine.runtime.arguments import attach_arguments
from engine.runtime.client import Runtime
from engine.runtime.execution import ActorExit, Execution
from engine.scheduling import place
from engine.session import runtime
from engine.signatures import SignatureCheck
from engine.store import codec
from engine.store.refs import ObjectRef, adopt

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "find_actor", "method"]

_PROBES = ("__ray_ready__", "__ray_call__", "__ray_terminate__")


def method(**options: Any) -> Any:
    """Give a method of an actor class its default options (num_returns, max_task_retries ...)."""
    checked = check_options(METHOD, options)

    def decorate(function: Any) -> Any:
        function.__engine_options__ = checked
        return function

    return decorate


def exit_actor() -> NoReturn:
    """End the actor whose method is running, for good; its pending calls raise ActorDiedError."""
    home = runtime()
    if getattr(home.running, "actor", None) is None:
        raise TypeError("exit_actor() is for methods of actors; this code runs outside of one")
    raise ActorExit("exited by exit_actor()")


class _Method:
    """What a handle knows of one method."""

    __slots__ = ("check", "options")

    def __init__(self, check: SignatureCheck, options: dict[str, Any]) -> None:
        self.check = check
        self.options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return _Method, (self.check, self.options)


def check_replayable(cls: type, options: dict[str, Any], methods: dict[str, _Method]) -> None:
    """Refuse `checkpoint_every` where calls are not applied one after another."""
    if options.get("max_concurrency", 1) > 1 or any(
        inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        for _name, member in inspect.getmembers(cls)
    ):
        raise ValueError(
            f"checkpoint_every for {cls.__name__}: the state of an actor that runs several calls "
            "at a time (coroutines, max_concurrency > 1) is not a function of their order. Leave "
            "one of the two options out."
        )
    if hasattr(cls, "__checkpoint__") != hasattr(cls, "__restore__"):
        raise TypeError(f"{cls.__name__} defines one of __checkpoint__ and __restore__, not both")
    for name, method in methods.items():
        streaming = method.options.get("num_returns") == "streaming"
        if streaming and not method.options.get("read_only"):
            raise TypeError(
                f"{cls.__name__}.{name} is a generator: its items cannot be replayed exactly once. "
                "Return a list, or mark it engine.method(read_only=True) if it changes nothing."
            )


def methods_of(cls: type) -> dict[str, _Method]:
    """What handles of this class's actors know."""
    methods = {}
    for name, member in inspect.getmembers(cls, callable):
        if name.startswith("__") and name != "__call__":
            continue
        static = isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)
        check = SignatureCheck(member, f"{cls.__name__}.{name}", skip_self=not static)
        given = getattr(member, "__engine_options__", {})
        if returns_of(given, member) == STREAMING:
            given = {"num_returns": "streaming", **given}
        methods[name] = _Method(check, given)
    return methods


class ActorClass:
    """A class whose instances live in processes of their own: `C.remote(...)` makes one."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = check_options(ACTOR, options)
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self._check = SignatureCheck(cls, cls.__name__)
        self._methods = methods_of(cls)
        if "checkpoint_every" in self._options:
            check_replayable(cls, self._options, self._methods)
        self._home: Runtime | None = None
        self._key = self._blob = b""
        self._fresh = False  # wants a process with all preloads; for members of topologies

    def options(self, **options: Any) -> ActorClass:
        """The same class with some options changed."""
        return ActorClass(self._cls, {**self._options, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"actor class {self.__name__!r} cannot be instantiated directly; "
            f"use {self.__name__}.remote(...)"
        )

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor; returns its handle at once.

        The constructor runs in the actor's process; if it raises, every call raises that error.
        With `checkpoint_every` (calls, or seconds as a float) and `max_restarts`, the actor's state
        survives its process: it is restored from the last checkpoint, calls made since are applied
        again in the same order, and every call is applied exactly once, whatever dies when
        (`max_task_retries` has no meaning then). The state is what `__checkpoint__(self)` returns,
        handed to `__restore__(self, value)` on an instance whose constructor has not run; without
        these hooks it is pickled. Methods marked `engine.method(read_only=True)` are not replayed.
        The actor ends when its last handle is gone and its calls are answered, when its creator
        dies (unless lifetime="detached"), or by `engine.kill`.
        """
        self._check.check(args, kwargs)
        home = runtime()
        options = self._options
        resources, what = resources_of(options, 0.0), f"actor {self.__name__!r}"
        placing = place(home, options, resources, what, ActorUnschedulableError)
        if home is not self._home:
            self._key, self._blob = export(self._cls, home)
            self._home = home
        actor_id = home.ids.new()
        namespace = options.get("namespace") or home.info["namespace"]
        facts = {
            "class": self.__name__,
            "resources": resources,
            "group": placing.group,
            "bundle": placing.bundle,
            "capture": placing.capture,
            "environment": placing.environment,
            "namespace": namespace,
            "name": options.get("name", ""),
            "max_restarts": options.get("max_restarts", 0),
            "max_concurrency": options.get("max_concurrency"),
            "lifetime": options.get("lifetime"),
            "max_task_retries": options.get("max_task_retries", 0),
            "max_pending_calls": options.get("max_pending_calls", -1),
            "checkpoint_every": options.get("checkpoint_every"),
            "replayable": options.get("replayable", False),
            "fresh": self._fresh,
        }
        if facts["name"]:  # handles found by name elsewhere must know the methods too
            facts["methods"] = codec.encode(self._methods).data
        create = CreateActor(actor_id, self._key, self._blob, b"", facts)
        task = Task(create, f"{self.__name__}.__init__", [], 0, None)
        attach_arguments(home, task, args, kwargs)
        existing = self._claim_name(home, namespace, actor_id)
        if existing is not None:
            return existing
        with home.lock:
            entry = home.owner.objects.add(actor_id, Value())
            entry.keep = task.keep
            if options.get("lifetime") != "detached":
                farewell = KillActor(actor_id, True, True, "ended: its last handle is gone")
                home.owner.objects.farewells[actor_id] = (home.node, farewell)
            replayed = facts["checkpoint_every"] is not None
            client = home.owner.callers.client(actor_id, self.__name__, False, replayed)
            home.owner.create(client, task)
            home.reactor.flush()
        retries, pending = facts["max_task_retries"], facts["max_pending_calls"]
        return ActorHandle(ObjectRef(actor_id), client, self._methods, retries, pending)

    def _claim_name(self, home: Runtime, namespace: str, actor_id: bytes) -> ActorHandle | None:
        name = self._options.get("name")
        if not name:
            return None
        holder = home.ask("reserve_name", namespace=namespace, name=name, actor=actor_id)
        if holder == actor_id:
            return None
        if self._options.get("get_if_exists"):
            return find_actor(name, namespace)
        raise ValueError(
            f"an actor named {name!r} lives in namespace {namespace!r} already. Use "
            f"engine.get_actor({name!r}), or options(get_if_exists=True)."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._cls, self._options)

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"


class ActorHandle:
    """A reference to an actor. `handle.method.remote(...)` calls it.

    Calls through one process's handles arrive in the order they were made. Handles may be passed
    to tasks and other actors.
    """

    def __init__(
        self,
        ref: ObjectRef[Any],
        client: ActorClient,
        methods: dict[str, _Method],
        retries: int,
        pending_max: int,
    ) -> None:
        self._actor_ref = ref
        self._home = weakref.ref(runtime())
        self._client = client
        self._methods = methods
        self._retries = retries
        self._pending_max = pending_max

    @property
    def _actor_id(self) -> bytes:
        return self._actor_ref.binary()

    def _check_home(self, home: Runtime) -> None:
        if self._home() is not home:
            raise ValueError(
                f"the handle of actor {self._client.name!r} comes from before the last "
                "engine.shutdown(); that actor is gone"
            )

    def __getattr__(self, name: str) -> ActorMethod:
        found = self._methods.get(name) if not name.startswith("_") or name == "__call__" else None
        if found is None:
            if name in _PROBES:
                return ActorMethod(self, name, None, {})
            if name.startswith("_") and name in self._methods:
                found = self._methods[name]
            else:
                public = ", ".join(one for one in self._methods if not one.startswith("_"))
                raise AttributeError(
                    f"actor class {self._client.name!r} has no method {name!r}; it has: {public}"
                )
        return ActorMethod(self, name, found.check, found.options)

    def __reduce__(self) -> tuple[Any, ...]:
        name, methods = self._client.name, self._methods
        replayed = self._client.retained is not None
        return _rebuild, (
            self._actor_ref, name, methods, self._retries, self._pending_max, replayed
        )

    def __repr__(self) -> str:
        return f"ActorHandle({self._client.name}, {self._actor_id.hex()}, {self._client.state})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)


class ActorMethod:
    """One method of an actor, ready to be called with `.remote(...)`."""

    __slots__ = ("_check", "_handle", "_name", "_options")

    def __init__(
        self, handle: ActorHandle, name: str, check: SignatureCheck | None, options: dict[str, Any]
    ) -> None:
        self._handle = handle
        self._name = name
        self._check = check
        self._options = options

    def options(self, **options: Any) -> ActorMethod:
        """The same method with some options changed for calls made through the result."""
        checked = {**self._options, **check_options(METHOD, options)}
        return ActorMethod(self._handle, self._name, self._check, checked)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"actor methods cannot be called directly; use .{self._name}.remote(...)"
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns like `RemoteFunction.remote`."""
        if self._check is not None:
            self._check.check(args, kwargs)
        home = runtime()
        handle, options = self._handle, self._options
        handle._check_home(home)
        client = handle._client
        limit = handle._pending_max
        if 0 <= limit <= len(client.in_flight) + len(client.queue):
            raise PendingCallsLimitExceeded(
                f"{limit} calls of {client.name} are pending here already (max_pending_calls). "
                "Wait for some of them with engine.wait(), or raise the limit."
            )
        returns = returns_of(options, None) if options else 1
        seq = READS if options.get("read_only") and client.retained is not None else UNNUMBERED
        call = ActorCall(home.ids.new(), client.id, self._name, b"", seq, returns)
        if returns in (1, STREAMING):
            ids = [call.id]
        else:
            ids = [call.id, *(home.ids.new() for _ in range(returns - 1))][:returns]
        task = Task(call, f"{client.name}.{self._name}", ids, handle._retries, None)
        if options:
            task.retries = options.get("max_task_retries", handle._retries)
            task.retry_exceptions = options.get("retry_exceptions", False)
            task.name = options.get("name", task.name)
            if returns == STREAMING or "name" in options:
                window = window_of(options) if returns == STREAMING else 0
                call.details = Details(window, options.get("name", ""))
        task.actor_ref = handle._actor_ref
        if args or kwargs:
            attach_arguments(home, task, args, kwargs)
        if returns == STREAMING:
            assert call.details is not None
            window = call.details.window
            return ObjectRefGenerator(home, home.submit_stream(task, window, client))
        home.submit_call(client, task)
        if returns == 1:
            return ObjectRef(call.id)
        return [ObjectRef(one) for one in ids] if returns else None


def handle_of_self(execution: Execution) -> ActorHandle:
    """A handle of the actor that runs in this process."""
    return _handle(execution.actor_id, execution.facts, methods_of(execution.cls))


def _handle(actor: bytes, options: dict[str, Any], methods: dict[str, _Method]) -> ActorHandle:
    """A handle from an actor's options as the head has them."""
    retries, pending = options["max_task_retries"], options["max_pending_calls"]
    replayed = options["checkpoint_every"] is not None
    return _rebuild(adopt(actor), options["class"], methods, retries, pending, replayed)


def _rebuild(
    ref: ObjectRef[Any],
    name: str,
    methods: dict[str, _Method],
    retries: int,
    pending_max: int,
    replayed: bool,
) -> ActorHandle:
    home = runtime()
    with home.lock:
        client = home.owner.callers.client(ref.binary(), name, True, replayed)
        home.reactor.flush()
    return ActorHandle(ref, client, methods, retries, pending_max)


def find_actor(name: str, namespace: str | None) -> ActorHandle:
    """The handle of a named actor; ValueError when there is none."""
    home = runtime()
    space = namespace or home.info["namespace"]
    found = home.ask("find_actor", namespace=space, name=name)
    options = found["options"]
    return _handle(found["id"], options, codec.decode(options["methods"], None))
