"""Actor classes, handles and methods: what `@engine.remote` makes of a class."""

from __future__ import annotations

import inspect
import weakref
from time import perf_counter
from typing import Any, NamedTuple, NoReturn

from engine.core.callers import ActorClient
from engine.core.control import CreateActor, KillActor
from engine.core.dispatch import Task
from engine.core.messages import ActorCall, Details
from engine.core.retention import READS, UNNUMBERED
from engine.core.values import STREAMING, Value
from engine.exceptions import ActorUnschedulableError, PendingCallsLimitExceeded
from engine.functions import export
from engine.generators import ObjectRefGenerator
from engine.options import (
    ACTOR,
    METHOD,
    check_options,
    resources_of,
    returns_of,
    tightest,
    window_of,
)
from engine.runtime.arguments import attach_arguments
from engine.runtime.client import Runtime
from engine.runtime.execution import ActorExit, Execution, is_coroutine
from engine.runtime.worker import current_worker
from engine.scheduling import place
from engine.session import runtime
from engine.signatures import SignatureCheck
from engine.store import codec
from engine.store.refs import ObjectRef, adopt

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "find_actor", "method"]

_WINDOW = "_generator_backpressure_num_objects"
# How long the head may take to answer who has a name, as in Ray; it takes well below 1 ms.
_FIND_SECONDS = 60.0
# Options of a method that travel with the call.
_DETAILED = {"name", "concurrency_group"}
_PROBES = ("__ray_ready__", "__ray_call__", "__ray_terminate__")


def method(*args: Any, **options: Any) -> Any:
    """Give a method of an actor class its default options (num_returns, concurrency_group ...)."""
    if args or not options:
        raise TypeError(
            "@engine.method takes options, by keyword: @engine.method(num_returns=2). A method "
            "without options needs no decorator."
        )
    checked = check_options(METHOD, options)

    def decorate(function: Any) -> Any:
        function.__engine_options__ = checked
        return function

    return decorate


def exit_actor() -> NoReturn:
    """End the actor whose method is running, for good; its pending calls raise ActorDiedError.

    In the constructor, in methods of any kind and in threads whose result they wait for. What was
    registered with `atexit` in the actor's process runs.
    """
    worker = current_worker()
    if worker is None or not worker.execution.actor_id:
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


def _several(options: dict[str, Any]) -> bool:
    """Whether the options have an actor without coroutines run several calls at a time."""
    return options.get("max_concurrency", 1) > 1 or bool(options.get("concurrency_groups"))


def check_replayable(cls: type, several: bool, methods: dict[str, _Method]) -> None:
    """Refuse `checkpoint_every` where calls are not applied one after another."""
    if several:
        raise ValueError(
            f"checkpoint_every for {cls.__name__}: the state of an actor that runs several calls "
            "at a time (coroutines, max_concurrency > 1, concurrency_groups) is not a function of "
            "their order. Leave one of the two options out."
        )
    if hasattr(cls, "__checkpoint__") != hasattr(cls, "__restore__"):
        raise TypeError(f"{cls.__name__} defines one of __checkpoint__ and __restore__, not both")
    for name, method in methods.items():
        _check_retries(method.options, True, f"{cls.__name__}.{name}")
        streaming = method.options.get("num_returns") == "streaming"
        if streaming and not method.options.get("read_only"):
            raise TypeError(
                f"{cls.__name__}.{name} is a generator: its items cannot be replayed exactly once. "
                "Return a list, or mark it engine.method(read_only=True) if it changes nothing."
            )


def _check_retries(options: dict[str, Any], replayed: bool, title: str) -> None:
    if replayed and options.get("retry_exceptions"):
        raise ValueError(
            f"{title}: retry_exceptions would apply a call twice, and an actor with "
            "checkpoint_every applies each exactly once. Catch the error in the method."
        )


class _Rules(NamedTuple):
    """What a handle knows of its actor beside the methods."""

    retries: int
    pending_max: int
    replayed: bool  # it has checkpoints
    overtaking: bool  # calls do not wait for the arguments of earlier ones
    groups: tuple[str, ...]


class ActorClass:
    """A class whose instances live in processes of their own: `C.remote(...)` makes one."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = check_options(ACTOR, options)
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self._check = SignatureCheck(cls, cls.__name__)
        members = inspect.getmembers(cls, callable)
        self._has_coroutines = any(is_coroutine(member) for _name, member in members)
        self._methods = {
            name: self._method(name, member)
            for name, member in members
            if name == "__call__" or not name.startswith("__")
        }
        if "checkpoint_every" in self._options:
            several = self._has_coroutines or _several(self._options)
            check_replayable(cls, several, self._methods)
        self._home: Runtime | None = None
        self._key = self._blob = b""
        self._fresh = False  # wants a process with all preloads; for members of topologies
        self._topology: list[Any] | None = None  # which copy of which topology it hosts

    def _method(self, name: str, member: Any) -> _Method:
        title = f"{self.__name__}.{name}"
        static = isinstance(inspect.getattr_static(self._cls, name), staticmethod | classmethod)
        check = SignatureCheck(member, title, skip_self=not static)
        given = dict(getattr(member, "__engine_options__", {}))
        if self._options.get("enable_task_events") is False:
            given.setdefault("enable_task_events", False)
        _check_group(given, tuple(self._options.get("concurrency_groups", ())), title)
        if returns_of(given, member) == STREAMING:
            given["num_returns"] = "streaming"
        window = tightest([given.get(_WINDOW), self._options.get(_WINDOW)])
        if window is not None:
            given[_WINDOW] = window
        return _Method(check, given)

    def options(self, **options: Any) -> ActorClass:
        """The same class with some options changed."""
        if "concurrency_groups" in options:
            raise ValueError(
                "concurrency_groups belong to the class, whose methods name them: give them to "
                "@engine.remote(concurrency_groups=...), not to .options()"
            )
        return ActorClass(self._cls, {**self._options, **options})

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise TypeError(
            f"actor class {self.__name__!r} cannot be inherited from: inherit from the plain class "
            "and make the result an actor class with @engine.remote"
        )

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
        Should the argument of a call made since be lost by then, the actor ends (ActorDiedError).
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
        quiet = options.get("enable_task_events") is False
        actor_id = home.ids.quiet() if quiet else home.ids.new()
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
            "concurrency_groups": options.get("concurrency_groups", {}),
            "overtaking": self._overtaking(),
            "lifetime": options.get("lifetime"),
            "max_task_retries": options.get("max_task_retries", 0),
            "max_pending_calls": options.get("max_pending_calls", -1),
            "checkpoint_every": options.get("checkpoint_every"),
            "replayable": options.get("replayable", False),
            "fresh": self._fresh,
            "topology": self._topology,
            "submitted": perf_counter(),
        }
        if facts["name"]:  # handles found by name elsewhere must know the methods too
            facts["methods"] = codec.encode(self._methods).data
        create = CreateActor(actor_id, self._key, self._blob, b"", facts)
        task = Task(create, f"{self.__name__}.__init__", [], 0, None)
        attach_arguments(home, task, args, kwargs)
        with home.lock:
            home.owner.objects.add(actor_id, Value()).keep = task.keep
        ref: ObjectRef[Any] = ObjectRef(actor_id)
        existing = self._claim_name(home, facts, actor_id)
        if existing is not None:
            return existing
        with home.lock:
            if options.get("lifetime") != "detached":
                farewell = KillActor(actor_id, True, True, "ended: its last handle is gone")
                home.owner.objects.farewells[actor_id] = (home.node, farewell)
            rules = _rules_of(facts)
            client = home.owner.callers.client(
                actor_id, self.__name__, False, rules.replayed, rules.overtaking
            )
            home.owner.create(client, task)
            home.reactor.flush()
        return ActorHandle(ref, client, self._methods, rules)

    def _overtaking(self) -> bool:
        """Whether a call may overtake one whose arguments are pending; as in Ray, by default where
        several calls run at a time, so that the order of their effects is open anyway.
        """
        given: bool | None = self._options.get("allow_out_of_order_execution")
        if given is not None:
            return given
        return self._has_coroutines or _several(self._options)

    def _claim_name(
        self, home: Runtime, facts: dict[str, Any], actor_id: bytes
    ) -> ActorHandle | None:
        name, namespace = facts["name"], facts["namespace"]
        if not name:
            return None
        holder = home.ask(
            "reserve_name", namespace=namespace, name=name, actor=actor_id, options=facts
        )
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

    Calls through one process's handles start in the order they were made (within a concurrency
    group, if the actor has them). Where several calls run at a time, a call whose arguments are
    pending does not hold back those behind it, unless `allow_out_of_order_execution=False`.
    Handles may be passed to tasks and other actors.
    """

    def __init__(
        self, ref: ObjectRef[Any], client: ActorClient, methods: dict[str, _Method], rules: _Rules
    ) -> None:
        self._actor_ref = ref
        self._home = weakref.ref(runtime())
        self._client = client
        self._methods = methods
        self._rules = rules
        self._retries = rules.retries
        self._pending_max = rules.pending_max

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
        return _rebuild, (self._actor_ref, self._client.name, self._methods, tuple(self._rules))

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

    @property
    def _title(self) -> str:
        return f"{self._handle._client.name}.{self._name}"

    def options(self, **options: Any) -> ActorMethod:
        """The same method with some options changed for calls made through the result."""
        checked = check_options(METHOD, options)
        _check_group(checked, self._handle._rules.groups, self._title)
        _check_retries(checked, self._handle._rules.replayed, self._title)
        window = tightest([checked.get(_WINDOW), self._options.get(_WINDOW)])
        checked = {**self._options, **checked}
        if window is not None:
            checked[_WINDOW] = window
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
        if handle._home() is not home:
            handle._check_home(home)
        client = handle._client
        limit = handle._pending_max
        if 0 <= limit <= client.pending:
            raise PendingCallsLimitExceeded(
                f"{limit} calls of {client.name} are pending here already (max_pending_calls). "
                "Wait for some of them with engine.wait(), or raise the limit."
            )
        returns, seq, new_id = 1, UNNUMBERED, home.ids.new
        if options:
            returns = returns_of(options, None)
            if options.get("read_only") and client.retained is not None:
                seq = READS
            if options.get("enable_task_events") is False:
                new_id = home.ids.quiet
        call = ActorCall(new_id(), client.id, self._name, b"", seq, returns)
        if returns in (1, STREAMING):
            ids = [call.id]
        else:
            ids = [call.id, *(home.ids.new() for _ in range(returns - 1))][:returns]
        task = Task(call, f"{client.name}.{self._name}", ids, handle._retries, None)
        if options:
            task.retries = options.get("max_task_retries", handle._retries)
            task.retry_exceptions = options.get("retry_exceptions", False)
            task.name = options.get("name", task.name)
            if returns == STREAMING or not _DETAILED.isdisjoint(options):
                window = window_of(options) if returns == STREAMING else 0
                group = options.get("concurrency_group", "")
                call.details = Details(window, options.get("name", ""), group)
        task.actor_ref = handle._actor_ref
        if args or kwargs:
            attach_arguments(home, task, args, kwargs)
        if returns == STREAMING:
            assert call.details is not None
            window, on_full = call.details.window, options.get("on_full")
            return ObjectRefGenerator(home, home.submit_stream(task, window, client, on_full))
        home.submit_call(client, task, options.get("on_full") if options else None)
        if returns == 1:
            return ObjectRef(call.id)
        return [ObjectRef(one) for one in ids] if returns else None


def handle_of_self(execution: Execution) -> ActorHandle:
    """A handle of the actor that runs in this process."""
    groups = execution.facts["concurrency_groups"]
    known = ActorClass(execution.cls, {"concurrency_groups": groups} if groups else {})
    return _handle(execution.actor_id, execution.facts, known._methods)


def _handle(actor: bytes, options: dict[str, Any], methods: dict[str, _Method]) -> ActorHandle:
    """A handle from an actor's options as the head has them."""
    return _rebuild(adopt(actor), options["class"], methods, _rules_of(options))


def _check_group(options: dict[str, Any], groups: tuple[str, ...], title: str) -> None:
    """Raise ValueError when the options name a concurrency group that the actor does not have."""
    name = options.get("concurrency_group")
    if name is not None and name not in groups:
        there = ", ".join(map(repr, groups)) or "none"
        raise ValueError(
            f"{title} is to run in concurrency group {name!r}, and its actor class has: {there}. "
            f"Declare it: @engine.remote(concurrency_groups={{{name!r}: 1}})."
        )


def _rebuild(
    ref: ObjectRef[Any], name: str, methods: dict[str, _Method], rules: tuple[Any, ...]
) -> ActorHandle:
    home, known = runtime(), _Rules(*rules)
    with home.lock:
        client = home.owner.callers.client(
            ref.binary(), name, True, known.replayed, known.overtaking
        )
        home.reactor.flush()
    return ActorHandle(ref, client, methods, known)


def _rules_of(facts: dict[str, Any]) -> _Rules:
    return _Rules(
        facts["max_task_retries"],
        facts["max_pending_calls"],
        facts["checkpoint_every"] is not None,
        facts["overtaking"],
        tuple(facts["concurrency_groups"]),
    )


def find_actor(name: str, namespace: str | None) -> ActorHandle:
    """The handle of a named actor; ValueError when there is none."""
    home = runtime()
    space = namespace or home.info["namespace"]
    found = home.ask("find_actor", _FIND_SECONDS, namespace=space, name=name)
    options = found["options"]
    return _handle(found["id"], options, codec.decode(options["methods"], None))
