"""Running one call in a worker: definition, arguments, user code, reply."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import os
import sys
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from engine.core.control import ActorChanged, Assigned
from engine.core.environments import Scope
from engine.core.ids import is_quiet, owner_of
from engine.core.messages import ActorCall, Call, Done, DoneMany, Item, Returned
from engine.core.streams import settle_key
from engine.core.values import ERROR_USER, STREAMING, ObjectValue, Value, encode_failure
from engine.exceptions import EngineError, ObjectLostError, TaskCancelledError
from engine.runtime.arguments import ArgumentMissing, read_arguments
from engine.runtime.environments import DEVICES
from engine.runtime.events import describe
from engine.store import codec

if TYPE_CHECKING:
    from engine.core.control import CreateActor, Restore
    from engine.runtime.client import Runtime
    from engine.runtime.replay import Replay

__all__ = ["ActorExit", "Deferred", "Execution", "is_coroutine", "plain_name"]

_PLAIN = (int, float, str, bytes, bool, type(None))
_NONE = codec.encode(None).data


def plain_name(function: Any) -> str:
    """A function's name as people know it: without the function it was defined in."""
    name = str(getattr(function, "__qualname__", "task"))
    return name.rpartition("<locals>.")[2]


class ActorExit(SystemExit):
    """The actor wants to end; `cause` is what its callers are told."""

    def __init__(self, cause: str) -> None:
        super().__init__(0)
        self.cause = cause


class Deferred:
    """A result that comes later: a method returns it, somebody calls `set` or `fail`.

    The worker goes on with other calls meanwhile. For the engine's own services (topologies).
    """

    __slots__ = ("_deliver",)

    def __init__(self) -> None:
        self._deliver: Any = None

    def set(self, value: Any) -> None:
        """Answer the call."""
        self._deliver(value, None)

    def fail(self, error: BaseException) -> None:
        """Answer the call with an error."""
        self._deliver(None, error)


class Execution:
    """Functions known here, the actor if there is one, and how calls are answered."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.blobs: dict[bytes, bytes] = {}
        self._functions: dict[bytes, Any] = {}
        self.actor: Any = None
        self.replay: Replay | None = None  # for calls that are applied exactly once
        self.cls: Any = None  # of the actor; known before it is made
        self.actor_id = b""
        self.actor_class = ""
        self._methods: dict[str, Any] = {}
        self.describe: Any = None  # tells the node what runs, for what it prints
        self._described: Any = None
        self._final = False
        self.unsettled: dict[bytes, Any] = {}  # references in results, until the caller has them
        self.consumed: dict[bytes, int] = {}  # items of generator calls that callers have taken
        self.parts: dict[bytes, list[ObjectValue]] = {}  # dependencies ahead of their calls
        self.events = runtime.events.calls
        self.begun = 0.0  # when the call began that the main thread runs
        self.assigned = Assigned({})
        self.facts: dict[str, Any] = {}  # of the actor: its options, as the head has them
        self.restarts = 0

    # ------------------------------------------------------------------ what to run

    def definition(self, key: bytes) -> Any:
        """The function or class of this key, unpickled at first use."""
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = codec.decode(self.blobs[key], None)
        return found

    def method(self, name: str) -> Any:
        """A bound method of the actor."""
        found = self._methods.get(name)
        if found is None:
            found = _PROBES[name](self) if name in _PROBES else getattr(self.actor, name)
            self._methods[name] = found
        return found

    def title(self, call: Call | ActorCall) -> str:
        """What runs, for messages to people."""
        if call.details is not None and call.details.name:
            return call.details.name
        if isinstance(call, ActorCall):
            return f"{self.actor_class}.{call.method}"
        function = self._functions.get(call.key)
        return getattr(function, "__qualname__", "task")

    def function_name(self, call: Call | ActorCall) -> str:
        """The function or method that a call runs, with its module."""
        if isinstance(call, ActorCall):
            return f"{self.cls.__module__}.{self.actor_class}.{call.method}"
        function = self._functions[call.key]
        return f"{function.__module__}.{getattr(function, '__qualname__', 'task')}"

    def name_of(self, what: Any) -> str:
        """The name of what ran: a function by its key, a method, or (None) the constructor."""
        if isinstance(what, bytes):
            return getattr(self._functions.get(what), "__qualname__", "task")
        return f"{self.actor_class}.{what or '__init__'}"

    def assign(self, assigned: Assigned) -> None:
        """What the work that comes next was given: before its first call, under the lock."""
        self.assigned = assigned
        if assigned.devices:
            os.environ[DEVICES] = ",".join(assigned.devices)
        group = assigned.group if assigned.capture else b""
        if group != self.runtime.scope.group:
            self.runtime.scope = Scope(self.runtime.scope.environment, group)

    # ------------------------------------------------------------------ running

    def run(self, peer: bytes, call: Call | ActorCall) -> None:
        """Run a call on this thread and answer it."""
        runtime = self.runtime
        outer, runtime.running = runtime.running, call
        self.begun = start = ready = perf_counter()
        try:
            if isinstance(call, Call):
                function = self._functions.get(call.key) or self.definition(call.key)
                if (
                    function is not self._described
                    or call.final is not self._final
                    or call.details is not None
                ):
                    self._announce(call, function)
            else:
                function = self._methods.get(call.method) or self.method(call.method)
            if call.args or call.large is not None:
                args, kwargs = read_arguments(runtime, call, self.parts)
                ready = perf_counter()
                result = function(*args, **kwargs)
                del args, kwargs
            else:
                result = function()
        except ArgumentMissing:  # what this worker has may be needed to make it again
            runtime.running = outer
            self.give_back(peer, call)
            return
        except (SystemExit, KeyboardInterrupt) as error:
            runtime.running = outer
            self._leave_or_cancel(peer, call, error)
            return
        except BaseException as error:  # user code may raise anything; it becomes the result
            runtime.running = outer
            reading = ready is start and bool(call.args or call.large)
            self.fail(peer, call, error, start, reading)
            return
        runtime.running = outer
        if call.returns == STREAMING:
            self._stream(peer, call, result, start)
            return
        if runtime.cancelled and self.is_cancelled(call):
            self.cancelled(peer, call)  # it was told, and has ended: its value is not wanted
            return
        if type(result) is Deferred:
            result._deliver = lambda value, error: (
                self.fail(peer, call, error, start)
                if error is not None
                else self.reply(peer, call, value, start, ready)
            )
            return
        self.reply(peer, call, result, start, ready)

    def _announce(self, call: Call, function: Any) -> None:
        """Something else runs from now on than what was noted last."""
        name = call.details.name if call.details is not None else ""
        self._described, self._final = None if name else function, call.final
        self.describe(name or plain_name(function), call.final)

    # ------------------------------------------------------------------ generators

    def _stream(self, peer: bytes, call: Call | ActorCall, items: Any, start: float) -> None:
        """Run a generator on this thread, item by item, never far ahead of its consumer."""
        runtime = self.runtime
        outer, runtime.running = runtime.running, call
        index = 0
        self.consumed.setdefault(call.id, 0)
        try:
            for item in items:
                self.send_item(peer, call, index, item)
                index += 1
                if self.is_ahead(call, index):
                    runtime.wait(partial(self._may_go_on, peer, call, index), None)
                    if not runtime.reaches(peer):
                        break  # nobody listens any more
                if self.is_cancelled(call):
                    break
        except (SystemExit, KeyboardInterrupt) as error:
            self._leave_or_cancel(peer, call, error)
            return
        except BaseException as error:  # user code may raise anything; it ends the stream
            self.fail(peer, call, error, start)
            return
        finally:
            runtime.running = outer
            self.consumed.pop(call.id, None)
        if self.is_cancelled(call):
            self.cancelled(peer, call)
        else:
            self.end_stream(peer, call, index, start)

    def _may_go_on(self, peer: bytes, call: Call | ActorCall, index: int) -> bool:
        gone = not self.runtime.reaches(peer)
        return gone or not self.is_ahead(call, index) or self.is_cancelled(call)

    def is_cancelled(self, call: Call | ActorCall) -> bool:
        """Whether somebody has cancelled a call that is not answered yet."""
        return call.id in self.runtime.cancelled

    def is_ahead(self, call: Call | ActorCall, index: int) -> bool:
        """Whether a generator that has yielded `index` items must wait for its consumer."""
        window = call.details.window if call.details is not None else 0
        return bool(window) and index - self.consumed.get(call.id, 0) >= window

    def send_item(self, peer: bytes, call: Call | ActorCall, index: int, item: Any) -> None:
        """Hand one item over."""
        encoded = codec.encode(item)
        value = self.runtime.values.store(encoded)
        if encoded.refs:
            self.unsettled[settle_key(call.id, index)] = (peer, encoded.refs)
        self.send(peer, Item(call.id, index, value))
        with self.runtime.lock:
            self.runtime.reactor.flush()

    def end_stream(self, peer: bytes, call: Call | ActorCall, count: int, start: float) -> None:
        """All items were yielded."""
        end = perf_counter()
        self.note(call, start, end)
        self.send(peer, Done(call.id, codec.encode(count).data, int((end - start) * 1e6)))

    def _leave_or_cancel(self, peer: bytes, call: Any, error: BaseException) -> None:
        if isinstance(error, SystemExit):
            self.leave(error)
        self.cancelled(peer, call)

    def leave(self, error: SystemExit) -> NoReturn:
        """End this process as user code asked, after everything said so far has left it."""
        atexit._run_exitfuncs()
        self.leave_records()  # answers first: the news of the end may overtake what comes after it
        if isinstance(error, ActorExit):
            runtime = self.runtime
            text = f"actor {self.actor_class} {error.cause}"
            failure = encode_failure("ActorDiedError", text)
            with runtime.lock:
                dead = ActorChanged(self.actor_id, "dead", b"", error.cause, failure)
                runtime.send(runtime.node, dead)
            self._write_out()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else 0)

    def leave_records(self) -> None:
        """Before an end: hand what has run here to the node, and see all written out."""
        with self.runtime.lock:
            self.runtime.send(self.runtime.node, self.runtime.views.history())
        self._write_out()

    def _write_out(self) -> None:
        reactor = self.runtime.reactor
        with self.runtime.lock:
            reactor.flush()
        # A receiver that does not read is not waited for longer than an end may take.
        patience = perf_counter() + self.runtime.config.stop_timeout_seconds
        reactor.wait_until(lambda: reactor.all_written, patience)

    def give_back(self, peer: bytes, call: Call | ActorCall) -> None:
        """A call whose user code has not begun: its caller sends it again."""
        with self.runtime.lock:
            connection = self.runtime.connections.get(peer)
            if connection is not None:
                self.runtime.reactor.send(connection, Returned([call.id]), True)

    def cancelled(self, peer: bytes, call: Any, us: int = 0) -> None:
        """Answer a call that was cancelled; `us` -1: before it ran."""
        self.parts.pop(call.id, None)
        self.consumed.pop(call.id, None)
        text = f"{self.title(call)} was cancelled"
        now = perf_counter()
        self.note(call, now, now, f"TaskCancelledError: {text}")
        self.send(peer, DoneMany(call.id, [encode_failure("TaskCancelledError", text)], us))

    # ------------------------------------------------------------------ answering

    def reply(
        self,
        peer: bytes,
        call: Call | ActorCall,
        result: Any,
        start: float,
        ready: float = 0.0,
    ) -> None:
        """Answer a call with its value(s). It began at `start` and had its arguments at `ready`."""
        end = stored = perf_counter()
        us = int((end - start) * 1e6)
        message: Done | DoneMany | None = None
        if call.returns == 1:
            if result is None:
                message = Done(call.id, _NONE, us)
            elif type(result) in _PLAIN:
                data = codec.encode_plain(result)
                if data is not None:
                    message = Done(call.id, data, us)
        elif call.returns == 0:
            message = Done(call.id, _NONE, us)
        if message is None:
            try:
                message = self._answer(peer, call, result, us)
            except (SystemExit, KeyboardInterrupt) as error:  # user code runs here too
                self._leave_or_cancel(peer, call, error)
                return
            except Exception as error:  # an unserialisable or too large result is the task's error
                self.fail(peer, call, error, start)
                return
            stored = perf_counter()
        if call.id[8] < 128:  # else it is quiet, see `core.ids`
            what: Any = call.key if isinstance(call, Call) else call.method
            if call.details is not None and call.details.name:
                what = (what, call.details.name)
            self.events.append((call.id, what, call.submitted, start, ready, end, stored, ""))
        self.send(peer, message)

    def note(
        self, call: Call | ActorCall, start: float, end: float, error: str = ""
    ) -> None:
        """Keep a record of a call that has ended in another way than most."""
        if not is_quiet(call.id):
            what: Any = call.key if isinstance(call, Call) else call.method
            if call.details is not None and call.details.name:
                what = (what, call.details.name)
            self.events.append((call.id, what, call.submitted, start, 0.0, end, end, error))

    def _answer(
        self, peer: bytes, call: Call | ActorCall, result: Any, us: int
    ) -> Done | DoneMany:
        """The reply with values of any kind. Raises when they are not fit to be sent."""
        returns, results = call.returns, [result]
        if returns != 1:
            if not isinstance(result, tuple | list) or len(result) != returns:
                found = f"{len(result)} values" if isinstance(result, tuple | list) else (
                    f"a {type(result).__name__}"
                )
                raise ValueError(
                    f"{self.title(call)} has num_returns={returns} and must return a tuple or list "
                    f"of that many values; it returned {found}"
                )
            results = list(result)
        recovery = call.details is not None and call.details.recovery
        values, refs = self._encode_all(results, recovery)
        if refs:
            self.unsettled[call.id] = (peer, refs)
        value = values[0]
        if returns == 1 and not (value.buffers or value.contains or value.block):
            return Done(call.id, value.data, us)
        return DoneMany(call.id, values, us)

    def _encode_all(
        self, results: list[Any], recovery: bool
    ) -> tuple[list[Value], list[Any]]:
        values, refs = [], []
        inline = 0
        limit = self.runtime.config.frame_bytes_max // 4
        try:
            for result in results:
                encoded = codec.encode(result)
                refs += encoded.refs
                inline += encoded.nbytes
                # Many small results together may be too much for one frame.
                values.append(self.runtime.values.store(encoded, inline <= limit, recovery))
        except BaseException:  # the call fails: nobody will own those stored already
            with self.runtime.lock:
                for value in values:
                    if value.block is not None:
                        self.runtime.values.free(value.block)
            raise
        return values, refs

    def fail(
        self,
        peer: bytes,
        call: Call | ActorCall,
        error: BaseException,
        start: float,
        reading: bool = False,
    ) -> None:
        """Answer a call with an error; `reading`: it came from its arguments, nothing has run."""
        end = perf_counter()
        self.consumed.pop(call.id, None)
        self.note(call, start, end, describe(error))
        of_engine = EngineError if reading else ObjectLostError
        if self.replay is not None and isinstance(error, of_engine):
            value = self.replay.on_loss(call, error, reading)
        else:
            value = self.error_value(error, self.title(call))
        self.send(peer, DoneMany(call.id, [value], int((end - start) * 1e6)))

    def error_value(self, error: BaseException, title: str) -> Value:
        """An exception as a value that travels."""
        if isinstance(error, EngineError) and isinstance(error, TaskCancelledError):
            return encode_failure("TaskCancelledError", str(error))
        return Value(codec.encode_error(error, title, os.getpid()), error=ERROR_USER)

    def send(self, peer: bytes, message: Any) -> None:
        """Queue a reply. It waits for references of third parties that this call has kept."""
        runtime = self.runtime
        replay = self.replay
        if replay is not None:
            known = replay.ledger.in_step
            if (
                message.id is replay.turn_id
                and known is not None
                and known is replay.turn
                and type(message) is Done
            ):  # as `on_reply` does, which is not asked: nearly always the caller needs no word
                replay.turn_id = b""
                known.answers[known.next - 1] = message
            else:
                peer = replay.on_reply(peer, message)
        with runtime.lock:
            if runtime.released:
                runtime.drain()
            objects = runtime.owner.objects
            if objects.unsettled:
                waiting = objects.unsettled_except(peer)
                if objects.after_settled(waiting, peer, message, in_order=True):
                    return
            connection = runtime.connections.get(peer)
            if connection is not None:  # the caller may be dead: nobody wants the answer then
                runtime.reactor.send(connection, message, False)
            elif peer == runtime.id:  # an actor has called itself
                runtime.send(peer, message)

    def on_settled(self, call_id: bytes) -> None:
        """The caller holds the references that a result contained."""
        self.unsettled.pop(call_id, None)

    def on_peer_gone(self, peer: bytes) -> None:
        """A caller is dead: nothing is held for it any more."""
        for call_id in [one for one, (who, _) in self.unsettled.items() if who == peer]:
            del self.unsettled[call_id]
        for call_id in [one for one in self.parts if owner_of(one) == peer]:
            del self.parts[call_id]

    # ------------------------------------------------------------------ actors

    def construct(self, create: Any) -> None:
        """Make the actor."""
        cls = self._become(create)
        args, kwargs = read_arguments(self.runtime, create, self.parts)
        self.actor = cls(*args, **kwargs)
        self._introduce()

    def _become(self, create: CreateActor) -> Any:
        self.blobs[create.key] = create.blob
        self.cls = cls = self.definition(create.key)
        self.actor_id, self.actor_class = create.id, cls.__name__
        self.facts, self.restarts = create.options, create.restarts
        self.describe(cls.__name__, False)
        return cls

    def _introduce(self) -> None:
        """What the actor prints is labelled with its __repr__, if it has one of its own."""
        if getattr(self.cls, "__repr__", None) is not object.__repr__:
            # A user's __repr__ may raise anything; the actor is called by its class then.
            with contextlib.suppress(Exception):
                self.describe(repr(self.actor).replace("\n", " "), False)

    def restore(self, create: CreateActor, message: Restore, fd: int) -> None:
        """Make the actor from its last checkpoint; its constructor does not run."""
        cls = self._become(create)
        assert self.replay is not None
        self.actor = self.replay.restore(cls, message, fd)
        self._introduce()

    def note_created(self, create: CreateActor, error: str) -> None:
        """Keep a record of the actor's making, which has ended."""
        if not is_quiet(create.id):
            submitted, end = create.options["submitted"], perf_counter()
            self.events.append((create.id, None, submitted, self.begun, 0.0, end, end, error))

    def is_async(self) -> bool:
        """Whether the actor has coroutine methods."""
        members = inspect.getmembers(type(self.actor), callable)
        return any(is_coroutine(member) for _name, member in members)


def is_coroutine(member: Any) -> bool:
    """Whether a member of a class is a coroutine method, or an asynchronous generator."""
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


def _ready(execution: Execution) -> Any:
    return lambda: True


def _call(execution: Execution) -> Any:
    def run(function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(execution.actor, *args, **kwargs)

    return run


def _terminate(execution: Execution) -> Any:
    def leave() -> None:
        raise ActorExit("ended by __ray_terminate__")

    return leave


_PROBES = {"__ray_ready__": _ready, "__ray_call__": _call, "__ray_terminate__": _terminate}
