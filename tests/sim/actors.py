"""User code of actors, and the oracle of their calls: per-caller order, at most once.

Every call notes where it was applied. To add an oracle (exactly once, replay), look at `Applied`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.control import CreateActor
from engine.core.messages import ActorCall
from tests.sim.history import Keeper
from tests.sim.member import Failure, Steps, Violation
from tests.sim.process import Process
from tests.sim.references import Ref
from tests.sim.tasks import deep, mix
from tests.sim.worker import ActorExit, Worker

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Actors", "Applied"]


class Applied:
    """One call applied to one incarnation of an actor."""

    __slots__ = ("call", "caller", "number", "worker")

    def __init__(self, worker: bytes, caller: bytes, number: int, call: bytes) -> None:
        self.worker = worker  # the process: one an incarnation
        self.caller = caller
        self.number = number  # of the caller's calls to this actor, in order of submission
        self.call = call


class _Actor:
    """The instance."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: list[Any] = []


class Actors:
    """All actors of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.log: dict[bytes, list[Applied]] = {}
        self._submitted: dict[bytes, tuple[bytes, int]] = {}
        self._counts: dict[tuple[bytes, bytes], int] = {}
        self._latest: dict[tuple[bytes, bytes, bytes], int] = {}
        self.retried: dict[bytes, None] = {}  # calls that may run again after a restart

    def on_submitted(self, caller: Process, call: ActorCall, retries: int) -> None:
        """A process makes a call."""
        if retries:
            self.retried[call.id] = None
        line = (caller.id, call.actor)
        number = self._counts[line] = self._counts.get(line, 0) + 1
        self._submitted[call.id] = (caller.id, number)

    def on_applied(self, worker: Worker, call: ActorCall) -> None:
        """A call begins to run in the actor's process."""
        if call.id not in self._submitted:
            return  # a generator call: numbered by its caller's machine alone
        caller, number = self._submitted[call.id]
        line = (worker.id, caller, call.actor)
        latest = self._latest.get(line, 0)
        if number <= latest:
            raise Violation(
                f"call {number} of {self.world.name(caller)} to an actor ran after call {latest}"
            )
        self._latest[line] = number
        log = self.log.setdefault(call.actor, [])
        if call.id not in self.retried and any(one.call == call.id for one in log):
            raise Violation(f"a call without retries ran twice: {call!r}")
        log.append(Applied(worker.id, caller, number, call.id))

    def construct(self, worker: Worker, create: CreateActor, args: list[Any]) -> Steps:
        """The constructor: `args` are the actor's number, whether it raises, and values."""
        if create.key == b"keeper":
            return (yield from self.world.keepers.construct(worker, args))
        number, busy_us, raises, *things = args
        yield busy_us / 1e6
        for one in things:
            yield from deep(worker, one)
        if raises:
            raise Failure("UserError", f"actor {number} raised")
        actor = _Actor(number)
        actor.held += [one for one in things if type(one) is Ref]
        return actor

    def run(self, worker: Worker, peer: bytes, call: ActorCall, args: list[Any]) -> Steps:
        """The code of a method."""
        if type(worker.actor) is Keeper:
            return self.world.keepers.run(worker, worker.actor, call.method, args)
        self.on_applied(worker, call)
        return getattr(self, "_do_" + call.method)(worker, worker.actor, args)

    def _do_echo(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """A pure function of the actor's number and the arguments."""
        numbers = []
        for one in args:
            numbers.append((yield from deep(worker, one)))
        return mix(actor.number, *numbers)

    def _do_work(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """The same, after a while."""
        busy_us, *things = args
        yield busy_us / 1e6
        return (yield from self._do_echo(worker, actor, things))

    def _do_keep(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Hold on to references beyond the call."""
        actor.held += args
        return mix(actor.number)
        yield

    def _do_forget(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Let go of them."""
        actor.held.clear()
        return mix(actor.number)
        yield

    def _do_give(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Hand them out."""
        return list(actor.held)
        yield

    def _do_nest(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Run a spec's body: nested tasks, puts, references returned."""
        spec = self.world.tasks.specs[args[0]]
        yield spec.busy
        if spec.kind == "raiser":
            raise Failure("UserError", spec.label)
        return (yield from self.world.tasks.body(worker, spec, args[1:]))

    def _do_items(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """A generator method."""
        for at in range(args[0]):
            yield 20e-6
            yield "item", mix(actor.number, at)

    def _do_relay(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Call another actor and wait for it."""
        handle, number = args
        ref = yield from worker.call(handle, "echo", [number])
        return mix(actor.number, (yield from deep(worker, ref)))

    def _do_again(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """Call itself, and hand out what comes of it without waiting."""
        handle, number = args
        return [(yield from worker.call(handle, "echo", [number]))]

    def _do_leave(self, worker: Worker, actor: _Actor, args: list[Any]) -> Steps:
        """As `engine.exit_actor`."""
        self.world.mark("an actor left")
        raise ActorExit
        yield
