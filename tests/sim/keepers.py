"""Actors that are replayed: their user code, the driver's steps with them, and their oracle.

They call one another (chains, diamonds; only earlier ones, so nobody waits in a circle), and are
called by the driver, by tasks and by each other. `history` says what must come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from engine.core.control import CreateActor
from engine.core.recovery import Recovery
from tests.sim import checks
from tests.sim.history import Book, Keeper
from tests.sim.member import Failure, Steps, Violation
from tests.sim.references import Big, Handle, Ref
from tests.sim.tasks import Expect, Spec, Tasks, deep, mix
from tests.sim.user import User
from tests.sim.worker import Worker

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Keepers"]

_ACTORS_MAX = 4
# How often the driver looks whether calls that nobody waits for have come, and how long between.
_LOOKS, _LOOK_SECONDS = 200, 0.02


class _Actor:
    """The driver's handle of one."""

    def __init__(self, handle: Handle, book: Book, targets: list[_Actor], kept: bool) -> None:
        self.handle = handle
        self.book = book
        self.targets = targets
        self.kept = kept  # it has checkpoints
        self.dead = False
        self.history: list[str] = []
        self.seen: list[Any] = []


class _Call:
    """A call of the driver that it has not looked at."""

    def __init__(self, actor: _Actor, name: str, ref: Ref, inputs: list[Expect]) -> None:
        self.actor = actor
        self.name = name
        self.ref = ref
        self.expect = Expect(None, inputs)
        self.value: int | None = None  # of an event that the answer tells


class Keepers:
    """All such actors of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.draw = world.draw
        self.books: dict[bytes, Book] = {}
        self.actors: list[_Actor] = []
        self._calls: list[_Call] = []
        self._feeds: list[tuple[_Actor, Ref, Expect]] = []
        on = world.faults.on
        self.wishes = {
            "keeper": 3.0, "apply": 8.0, "feed": 2.0, "look_at": 2.0,
            "stop_keeper": 2.0 * on["actor kills"], "cancel_apply": 2.0 * on["cancels"],
        }  # fmt: skip
        if world.apart("shaken keepers").random() < 0.8:
            self.wishes["shake"] = 8.0 * on["actor kills"]

    # ------------------------------------------------------------------ what happens

    def on_end(self, worker: Worker) -> None:
        """A process ends."""
        book = self.books.get(worker.actor_id)
        if book is None:
            return
        if type(worker.actor) is Keeper:
            book.deaths += 1
        if worker.replay is not None and worker.replay.checkpoints is not None:
            book.down = True
            for other in self.books.values():
                if other.down and other is not book:
                    book.together.add(other)
                    other.together.add(book)

    def on_replayed(self, actor: bytes, recovery: Recovery) -> None:
        """A replay is over: only what dead callers have called may be lacking."""
        book = self.books[actor]
        book.down = False
        if recovery.lost:
            processes = {*book.lines.values()}
            if all(self.world.is_well(one) for one in processes) and not self._is_target(book):
                raise Violation(f"calls of living callers to actor {book.number} were lost")
            self.world.mark("calls of a dead caller were lost with the actor")
            book.lost += recovery.lost
        if recovery.replayed:
            self.world.mark("calls were replayed")

    def _is_target(self, book: Book) -> bool:
        return any(book in other.targets for other in self.books.values())

    def on_contradiction(self, error: Failure) -> None:
        """An actor ends: an argument of a call that it has applied before is lost."""
        checks.error_is_excused(self.world, Expect(None), error)
        if error.kind == "ObjectReconstructionFailedError" and self.world.hosts is None:
            name = error.text.split()[1]  # "object NAME is lost"
            if name not in self.world.damaged:
                raise Violation(f"an actor ends for {name}, which nobody has found damaged")
        self.world.mark("an actor ended since an argument of its history is lost")

    def on_patience(self, actor: bytes, recovery: Recovery) -> None:
        """A recovery has waited for as long as it may."""
        if recovery.until > self.world.clock.now:
            return
        self.world.mark("a replay has run out of patience")
        if not self.books[actor].decided_anew:
            raise Violation(f"a replay waited in vain for {recovery.waiting or 'a call'}")
        self.world.bound += self.world.config.replay_patience_seconds

    # ------------------------------------------------------------------ the actor's code

    def construct(self, worker: Worker, args: list[Any]) -> Steps:
        """The constructor."""
        number, busy_us, targets = args
        yield busy_us / 1e6
        return Keeper(number, targets)

    def restored(self, create: CreateActor, state: Any) -> Keeper:
        """The actor from its checkpoint."""
        self.world.mark("an actor was restored")
        return Keeper.again(state)

    def run(self, worker: Worker, keeper: Keeper, method: str, args: list[Any]) -> Steps:
        """The code of a method."""
        name, *things = args
        yield (crc32(name.encode()) % 200) * 1e-6
        return (yield from getattr(self, "_run_" + method)(worker, keeper, name, things))

    def _run_add(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        answer = keeper.apply(name)
        for one in things:
            yield from deep(worker, one)
        return answer

    def _run_keep(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Hold on to what was given, a reference or a large value."""
        keeper.held += [[name, one] for one in things]
        return keeper.apply(name)
        yield

    def _run_own(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Put something and hold on to it."""
        number, size = things
        answer = keeper.apply(name)
        ref = yield from worker.put(Tasks.sized(number, size))
        keeper.held.append([name, ref])
        return answer

    def _run_hand(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Hand out what it holds."""
        return [*keeper.apply(name), [thing for _name, thing in keeper.held]]
        yield

    def _run_large(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """A large answer."""
        return [*keeper.apply(name), Big(*things)]
        yield

    def _run_chance(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Something that would be another thing the next time."""
        assert worker.replay is not None
        answer = keeper.apply(name)
        told = worker.replay.event(lambda: self.draw.randrange(1 << 20))
        keeper.held.append([name, told])
        return [*answer, told]
        yield

    def _run_pass_on(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Call the others; with or without waiting for them."""
        (waits,) = things
        answer, refs = keeper.apply(name), []
        for at, (handle, relays) in enumerate(keeper.targets):
            method, rest = ("pass_on", [waits]) if relays else ("add", [])
            refs.append((yield from worker.call(handle, method, [f"{name}/{at}", *rest])))
        told: list[Any] = []
        keeper.seen.append([name, told])
        if waits:
            for ref in refs:
                try:
                    (found,) = yield from worker.get([ref])
                except Failure as error:
                    found = [error.kind]
                told.append(found)
        return answer

    def _run_all(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Only reads."""
        return [list(keeper.history), keeper.seen]
        yield

    def _run_read(self, worker: Worker, keeper: Keeper, name: str, things: list[Any]) -> Steps:
        """Only reads: what it holds, in numbers."""
        found = []
        for one, thing in list(keeper.held):
            found.append([one, (yield from deep(worker, thing))])
        return found

    # ------------------------------------------------------------------ a task that calls

    def feed(self, worker: User, spec: Spec, handle: Handle) -> Steps:
        """Calls an actor, and tells what it was answered."""
        book = self.books[handle.client.id]
        found = []
        for at in range(spec.calls):
            name = book.name(worker.id)
            found.append([name, (yield from worker.call(handle, "add", [name]))])
            if spec.style and at % spec.style == 0:
                yield from worker.get([found[-1][1]])
        told = []
        for name, ref in found:
            ((position, digest),) = yield from worker.get([ref])
            told.append([name, position, digest])
        return told

    # ------------------------------------------------------------------ the driver's steps

    def do_keeper(self, user: User) -> Steps:
        """Make one."""
        draw = self.draw
        if len(self.actors) == _ACTORS_MAX:
            return
        kept = draw.random() < 0.85
        every = draw.choice([1, 2, 5, 20, 0.001, 0.03]) if kept else None
        targets = draw.sample(self.actors, min(len(self.actors), draw.choice([0, 0, 1, 2])))
        number = 1_000_000 + len(self.books)
        given = [[one.handle, int(bool(one.targets))] for one in targets]
        handle = yield from user.create(
            b"keeper",
            [number, draw.choice([0, 10, 3000]), given],
            restarts=draw.choice([0, 1, 3, -1, -1, -1]) if kept else 0,
            every=every,
        )
        book = self.books[handle.client.id] = Book(number)
        book.targets = [one.book for one in targets]
        for target in book.targets:
            target.callers.append(book)
        self.actors.append(_Actor(handle, book, targets, kept))

    def do_apply(self, user: User) -> Steps:
        """Call one, several times."""
        if not self.actors:
            return
        actor = self.draw.choice(self.actors)
        for _ in range(self.draw.choice([1, 1, 3, 10])):
            yield from self._call(user, actor)

    def _call(self, user: User, actor: _Actor) -> Steps:
        draw, book = self.draw, actor.book
        methods = ["add"] * 4 + ["keep", "own", "hand", "large"]
        methods += ["chance"] * 2 if actor.kept else []
        methods += ["pass_on"] * 6 if actor.targets else []
        method = draw.choice(methods)
        args: list[Any] = []
        inputs: list[Expect] = []
        number, size = draw.randrange(1000), draw.choice([0, 0, 24_000])
        kept = None
        if method == "keep":
            thing: Any = Big(number, 24_000)
            if draw.random() < 0.7:
                thing = [(yield from user.put(Tasks.sized(number, size)))]
            args, kept = [thing], number if type(thing) is Big else mix(number)
        elif method in ("own", "large"):
            args = [number, size or 8]
            kept = number if method == "own" else None
        elif method == "pass_on":
            args = [draw.choice([0, 1, 1])]
        elif method == "add" and draw.random() < 0.3:
            spec = Spec(len(self.world.tasks.specs), "leaf")
            self.world.tasks.specs.append(spec)
            spec.busy, spec.retries = draw.choice([20e-6, 2e-3]), -1
            spec.big = size
            ref = yield from Tasks.start(self.world.tasks, user, spec, [], 0)
            args, inputs = [ref if draw.random() < 0.6 else [ref]], [spec.expect([])]
        name = book.name(user.id)
        if kept is not None:
            book.kept[name] = kept
        book.optional[name] = None  # if it is refused before it is sent
        ref = yield from user.call(actor.handle, method, [name, *args])
        del book.optional[name]
        self._calls.append(_Call(actor, name, ref, inputs))

    def do_feed(self, user: User) -> Steps:
        """Have a task call one."""
        if not self.actors:
            return
        draw = self.draw
        actor = draw.choice(self.actors)
        spec = Spec(len(self.world.tasks.specs), "feeder")
        self.world.tasks.specs.append(spec)
        spec.calls, spec.style = draw.randrange(1, 6), draw.randrange(3)
        spec.retries = draw.choice([0, 3])
        ref = yield from user.submit(
            spec.key, [spec.index, actor.handle], retries=spec.retries, cpus=draw.choice([0.0, 1.0])
        )
        self._feeds.append((actor, ref, spec.expect([])))

    def do_look_at(self, user: User) -> Steps:
        """Look at some answers."""
        for _ in range(self.draw.randrange(1, 5)):
            if self._calls:
                yield from self._look(user, self._calls.pop(self.draw.randrange(len(self._calls))))

    def _look(self, user: User, call: _Call) -> Steps:
        book = call.actor.book
        try:
            (found,) = yield from user.get([call.ref])
        except Failure as error:
            book.optional[call.name] = None
            checks.error_is_excused(self.world, call.expect, error)
            return
        position, digest, *rest = found
        book.on_answer(call.name, position, digest)
        if rest and type(rest[0]) is int:
            book.kept[call.name] = rest[0]
        self.world.mark("an answer of a replayed actor")

    def do_stop_keeper(self, user: User) -> Steps:
        """As `engine.kill`, mostly with a restart."""
        if self.actors:
            self._stop(user, self.draw.choice(self.actors), self.draw.random() < 0.1)
        return
        yield

    def _stop(self, user: User, actor: _Actor, for_good: bool) -> None:
        self.world.mark("fault: actor kills")
        self.world.workload.actors_ended = True
        user.kill(actor.handle, for_good)

    def do_cancel_apply(self, user: User) -> Steps:
        """Cancel a call."""
        if self._calls:
            call = self.draw.choice(self._calls)
            call.expect.cancelled = True
            call.actor.book.optional[call.name] = None
            user.cancel(call.ref, False)
        return
        yield

    def do_shake(self, user: User) -> Steps:
        """End callers and called together, while they are called and calls are cancelled: some of
        them are asked again, in the middle of a call, what an earlier process of a caller asked.
        """
        draw = self.draw
        kept = [one for one in self.actors if one.kept]
        for _ in range(draw.choice([0, 3, 8]) if kept else 0):
            for _ in range(draw.choice([0, 1, 3])):
                yield from self._call(user, draw.choice(kept))
            if draw.random() < 0.5:
                yield from self.do_cancel_apply(user)
            yield draw.choice([20e-6, 300e-6, 3e-3]) * draw.random()
            for actor in draw.sample(kept, min(len(kept), draw.choice([0, 1, 2, 3]))):
                self._stop(user, actor, False)

    # ------------------------------------------------------------------ the end

    def end(self, user: User) -> Steps:
        """Look at everything, and compare histories."""
        while self._calls:
            yield from self._look(user, self._calls.pop())
        for actor, ref, expect in self._feeds:
            try:
                (found,) = yield from user.get([ref])
            except Failure as error:
                checks.error_is_excused(self.world, expect, error)
            else:
                for name, position, digest in found:
                    actor.book.on_answer(name, position, digest)
        self._feeds.clear()
        for actor in reversed(self.actors):  # nobody calls the last one but driver and tasks
            yield from self._settle(user, actor)
            if not actor.dead:
                self._compare(actor)
        self.actors.clear()

    def _settle(self, user: User, actor: _Actor) -> Steps:
        """Wait until all calls have come to the actor; read its history."""
        for _ in range(_LOOKS):
            try:
                ref = yield from user.call(actor.handle, "all", [""], reads=True)
                ((actor.history, actor.seen),) = yield from user.get([ref])
            except Failure as error:
                checks.error_is_excused(self.world, Expect(None), error)
                actor.dead = True
                return
            there, made = set(actor.history), self._made(actor)
            missing = actor.book.missing(actor.history, self.world)
            missing += [one for one, (_who, _at, must) in made.items() if must and one not in there]
            if not missing:
                yield from self._check_held(user, actor)
                return
            yield (lambda: False), self.world.clock.now + _LOOK_SECONDS
        raise Violation(f"actor {actor.book.number} was never given {missing[:5]}")

    def _check_held(self, user: User, actor: _Actor) -> Steps:
        try:
            ref = yield from user.call(actor.handle, "read", [""], reads=True)
            (held,) = yield from user.get([ref])
        except Failure as error:  # what it holds may be lost without it
            checks.error_is_excused(self.world, Expect(None), error)
            return
        for name, number in held:
            if actor.book.kept.get(name, number) != number:
                raise Violation(f"actor {actor.book.number} holds {number} of {name}, not "
                                f"{actor.book.kept[name]}")  # fmt: skip

    def _made(self, actor: _Actor) -> dict[str, tuple[Any, int, bool]]:
        """The calls that other actors have made to this one: whose, which, whether it must be."""
        made = {}
        for other in self.actors:
            for which, target in enumerate(other.targets):
                if target is not actor or other.dead:
                    continue
                client = other.handle.client  # it may have ended since its history was read
                well = (other.kept and client.state != "dead") or self.world.is_well(client.process)
                for place, (name, told) in enumerate(other.seen):
                    good = well and (not told or type(told[which][0]) is int)
                    made[f"{name}/{which}"] = other, place * 8 + which, good
        return made

    def _may_be_lost(self, name: str) -> bool:
        """Whether a call to one of them may be lost, though what it called is not: with its caller,
        or with one on the way from it that is not replayed. Or it was cancelled, and those that
        knew of its first life were down together.
        """
        root, well = name.partition("/")[0], self.world.is_well
        book = next(book for book in self.books.values() if root in book.lines)
        if root in book.optional and any(one.decided_anew for one in self.books.values()):
            return True
        return not well(book.lines[root]) or any(
            one.dead or not (one.kept or well(one.handle.client.process)) for one in self.actors
        )

    def _compare(self, actor: _Actor) -> None:
        made = self._made(actor)
        callers = [other for other in self.actors if actor in other.targets]
        known = {name: (whose, which) for name, (whose, which, _must) in made.items()}
        actor.book.check(actor.history, known, self._may_be_lost, self.world)
        for other in callers:
            if other.dead or actor.book.decided_anew or actor.book.lost:
                continue
            which = other.targets.index(actor)
            for name, told in other.seen:
                if told and type(told[which][0]) is int:
                    position = told[which][0]
                    if actor.history[position - 1] != f"{name}/{which}":
                        raise Violation(f"{name} was told {position} by actor {actor.book.number}")
        self.world.mark("a history was compared")
