"""The driver's program: drawn step by step while it runs, with what must come of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.pending import pending_reason
from tests.sim import checks
from tests.sim.member import Failure, Steps, Violation
from tests.sim.references import Handle, Ref
from tests.sim.tasks import ANY, Child, Expect, Spec, Tasks, deep, mix, together
from tests.sim.user import User

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Workload"]

_SECONDS = (0.0, 20e-6, 200e-6, 2e-3, 12e-3)  # how long user code computes
SIZES = (24_000, 96_000)  # of large values; in bytes, of which none is there


class _Held:
    """A variable of the driver: a reference, or a list, and what it must come to.

    `call` stands for the call that makes it, of which there may be several results. `last`: it is
    made by calling an actor, and an actor that waited for it could wait for itself.
    """

    __slots__ = ("call", "expect", "keep", "last", "parts", "thing")

    def __init__(self, thing: Any, expect: Expect, call: Expect) -> None:
        self.thing = thing
        self.expect = expect
        self.call = call
        self.keep: Any = None
        self.last = False
        self.parts: list[Expect] = []


class _Actor:
    """A handle, and what its constructor must come to.

    `leaf`: another actor waits for it, so from now on it is given nothing to wait for.
    """

    __slots__ = ("detached", "expect", "handle", "leaf", "number")

    def __init__(self, handle: Handle, number: int, expect: Expect, detached: bool) -> None:
        self.handle = handle
        self.number = number
        self.expect = expect
        self.detached = detached
        self.leaf = False


class Workload:
    """What the driver of one world does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.draw = draw = world.draw
        self.labels: dict[str, None] = {}  # errors that attempts of some task raise
        self.actors_ended = False
        self._held: list[_Held] = []
        self._actors: list[_Actor] = []
        self._groups: list[bytes] = []
        self._numbers = 0
        # Actors may take so many for good: what is left must do for a group, and for tasks.
        self._cpus_left = {1: 0, 2: 1, 3: 1, 4: 2}[world.cpus]
        self._now = "before the first step"
        on = world.faults.on
        wishes = {
            "submit": 8.0, "burst": 1.0, "put": 1.5, "get": 2.0, "timeout": 0.5, "wait": 1.0,
            "drop": 3.0, "pause": 2.0, "stream": 1.5, "actor": 1.5, "call": 5.0, "pass": 1.0,
            "unpack": 2.0, "let_go": 0.7, "group": 0.4, "gather": 0.2,
            "cancel": 3.0 * on["cancels"], "kill": 1.0 * on["actor kills"],
            "leave": 0.7 * on["exits"],
        }  # fmt: skip
        if world.keeping:
            wishes |= world.keepers.wishes
        self._steps = [name for name in wishes if name == "submit" or draw.random() < 0.7]
        self._weights = [wishes[name] for name in self._steps]
        self._count = draw.choice([8, 25, 60])
        self._deepest = draw.choice([0, 1, 2, 3])
        self._longest = draw.choice([2, 3, 5])
        self._large = draw.choice([0.4, 0.7, 1.0] if on["little memory"] else [0.0, 0.1, 0.3])

    def where(self) -> str:
        """What the driver is doing, for people."""
        owner = self.world.driver.owner
        pending = [one for one, entry in owner.objects.entries.items() if entry.value is None]
        reasons = "; ".join(pending_reason(owner, one) for one in pending[:4])
        return f"the driver is at {self._now}; {len(pending)} objects pending: {reasons}"

    def run(self, user: User) -> Steps:
        """The program."""
        draw = self.draw
        try:
            for _ in range(self._count):
                yield self._seconds()
                name = draw.choices(self._steps, self._weights)[0]
                self._now = "step " + name
                self.world.mark("step " + name)
                try:
                    step = getattr(self, "_do_" + name, None)
                    yield from (step or getattr(self.world.keepers, "do_" + name))(user)
                except Failure as error:
                    checks.error_is_excused(self.world, Expect(None), error)
            self._now = "the last look at what it holds"
            while self._held:
                yield from self._check(user, self._held.pop(draw.randrange(len(self._held))))
            yield from self.world.keepers.end(user)
            yield from self._end(user)
        except Failure as error:
            checks.error_is_excused(self.world, Expect(None), error)

    def _end(self, user: User) -> Steps:
        self._now = "the end"
        for actor in self._actors:
            if actor.detached:
                user.kill(actor.handle, True)
        self._actors.clear()
        for group in self._groups:
            yield from user.request("remove_group", group=group)

    def _check(self, user: User, held: _Held) -> Steps:
        """Resolve a variable to the bottom, and compare."""
        try:
            value = yield from deep(user, held.thing)
        except Failure as error:
            checks.error_is_excused(self.world, held.expect, error)
            return False
        checks.value_is_right(self.world, held.expect, value)
        return True

    # ------------------------------------------------------------------ drawing

    def _seconds(self) -> float:
        draw = self.draw
        return draw.choice(_SECONDS[: self._longest]) * draw.random()

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _spec(self, depth: int) -> Spec:
        draw, on = self.draw, self.world.faults.on
        kinds = ["leaf"] * 4 + ["items"]
        if depth:
            kinds += ["parent"] * 4 + ["giver"] * 2
        if on["raises"] and draw.random() < 0.2:
            kinds = ["raiser"]
        spec = Spec(len(self.world.tasks.specs), draw.choice(kinds))
        self.world.tasks.specs.append(spec)
        spec.busy = self._seconds()
        spec.retries = draw.choice([0, 1, 3, 3, 3, -1])
        spec.style = draw.randrange(3)
        spec.cpus = draw.choice([1.0, 1.0, 1.0, 0.5, 0.0])
        spec.puts = draw.random() < 0.15
        if draw.random() < self._large:
            spec.big = draw.choice(SIZES)
        if spec.kind == "items":
            spec.count = draw.randrange(6)
            spec.window = draw.choice([0, 1, 2, 4])
        elif spec.kind == "leaf" and draw.random() < 0.1:
            spec.count = draw.randrange(2, 4)
        if spec.kind in ("parent", "giver"):
            spec.children = [self._child(depth - 1) for _ in range(draw.randrange(1, 4))]
            if draw.random() < 0.1:
                spec.makes = self._number()
        if on["raises"] and spec.kind not in ("raiser", "items") and draw.random() < 0.15:
            spec.fails = draw.randrange(1, 3)
            spec.retry_exceptions = True
            spec.retries = draw.choice([2, 3])  # for ever would be for ever: a child may fail
            self.labels[spec.label] = None
        if on["exits"] and draw.random() < 0.1:
            spec.exits = draw.randrange(1, 3)
        return spec

    def _child(self, depth: int) -> Child:
        draw = self.draw
        spec = self._spec(depth)
        if spec.count and spec.kind != "items":
            spec.count = 0  # several returns are the driver's to look at
        picks = [(draw.randrange(4), draw.random() < 0.5) for _ in range(draw.randrange(3))]
        take = spec.count
        if draw.random() < 0.3:
            take = draw.randrange(take + 1)
        return Child(spec, picks, take)

    def _args(self) -> tuple[list[Any], list[Expect]]:
        """Some of what the driver holds, directly or inside a list."""
        args: list[Any] = []
        inputs: list[Expect] = []
        choice = [one for one in self._held if not one.last]
        for _ in range(min(self.draw.choice([0, 0, 1, 1, 2, 3]), len(choice))):
            held = self.draw.choice(choice)
            if self.draw.random() < 0.5 or type(held.thing) is list:
                args.append(held.thing if type(held.thing) is list else [held.thing])
                value = held.expect.value
                if type(held.thing) is not list and value not in (None, ANY):
                    value = mix(value)  # type: ignore[arg-type]
                inputs.append(Expect(value, (held.expect,)))
            else:
                args.append(held.thing)
                inputs.append(held.expect)
        return args, inputs

    @staticmethod
    def _blur(expect: Expect) -> Expect:
        """What is made from a value that depends on what happened depends on it too."""
        if expect.value is not None and any(one.value == ANY for one in expect.closure()):
            return Expect(ANY, (expect,))
        return expect

    def _hold(self, thing: Any, expect: Expect, call: Expect | None = None) -> None:
        call = call or Expect(0)
        parts = expect.parts
        expect = self._blur(Expect(expect.value, (expect, call)))
        self._held.append(_Held(thing, expect, call))
        self._held[-1].parts = parts

    # ------------------------------------------------------------------ steps: tasks

    def _do_submit(self, user: User) -> Steps:
        spec = self._spec(self._deepest)
        args, inputs = self._args()
        if spec.kind == "items":
            items = yield from user.stream(
                spec.key, [spec.index, *args], spec.window, spec.retries
            )
            expected = [spec.expect(inputs, at=n) for n in range(spec.count)]
            yield from self._take(user, items, expected, spec.expect(inputs))
            return
        given = yield from Tasks.start(self.world.tasks, user, spec, args, 0)
        if type(given) is list:
            call = Expect(0)
            for at, ref in enumerate(given):
                self._hold(ref, spec.expect(inputs, at=at), call)
        else:
            self._hold(given, spec.expect(inputs))

    def _do_burst(self, user: User) -> Steps:
        """Many small tasks at once."""
        spec = self._spec(0)
        spec.kind, spec.count = "leaf", 0
        for _ in range(self.draw.choice([5, 15, 30])):
            ref = yield from Tasks.start(self.world.tasks, user, spec, [], 0)
            self._hold(ref, spec.expect([]))

    def _do_put(self, user: User) -> Steps:
        number = self._number()
        args, inputs = self._args()
        if args:
            ref = yield from user.put([number, *args])
            self._hold(ref, together([Expect(number), *inputs]))
        else:
            size = self.draw.choice([0, 0, *SIZES])
            ref = yield from user.put(Tasks.sized(number, size))
            self._hold(ref, Expect(number))

    def _do_stream(self, user: User) -> Steps:
        spec = self._spec(0)
        spec.kind = "items"
        spec.fails = 0
        spec.count = self.draw.randrange(8)
        spec.window = self.draw.choice([0, 1, 3])
        items = yield from user.stream(spec.key, [spec.index], spec.window, spec.retries)
        expected = [spec.expect([], at=n) for n in range(spec.count)]
        yield from self._take(user, items, expected, spec.expect([]))

    def _take(self, user: User, items: Any, expected: list[Expect], maker: Expect) -> Steps:
        """Take items of a generator: all, some, or wait for its end first."""
        draw = self.draw
        call = Expect(0)
        cause = Expect(None, [*expected, maker, call])
        if draw.random() < 0.2:
            failing = any(one.value is None for one in expected)
            # References inside the items may be to errors, which is not its business.
            whole = Expect(ANY if failing or maker.value is None else len(expected), [maker])
            self._hold(user.completed(items), whole, call)
            self._held[-1].keep = items  # dropped, it would be cancelled
        if draw.random() < 0.3:
            expected = expected[: draw.randrange(len(expected) + 1)]
        ref = None
        for at, expect in enumerate(expected):
            last, ref = ref, (yield from user.next_item(items))
            if ref is None:
                if at and not (yield from self._check(user, _Held(last, cause, call))):
                    return
                raise Violation(f"a generator ended after {at} of {len(expected)} items")
            # The last reference of one that failed carries the error.
            self._hold(ref, Expect(expect.value, (expect, cause)), call)
            if draw.random() < 0.3:
                yield self._seconds()

    def _do_get(self, user: User) -> Steps:
        if self._held:
            held = self._held.pop(self.draw.randrange(len(self._held)))
            yield from self._check(user, held)

    def _do_timeout(self, user: User) -> Steps:
        refs = [one.thing for one in self._held if type(one.thing) is Ref]
        if refs:
            try:
                yield from user.get([self.draw.choice(refs)], self.draw.choice([0.0, 1e-3]))
            except Failure as error:
                self.world.mark("get: " + error.kind)

    def _do_wait(self, user: User) -> Steps:
        refs = [one.thing for one in self._held if type(one.thing) is Ref]
        if refs:
            chosen = self.draw.sample(refs, self.draw.randrange(1, len(refs) + 1))
            count = self.draw.randrange(1, len(chosen) + 1)
            timeout = self.draw.choice([0.0, 1e-3, 0.02])
            ready = yield from user.wait(chosen, count, timeout)
            assert len(ready) <= count

    def _do_unpack(self, user: User) -> Steps:
        """Take references out of a list that somebody else has made; perhaps drop the list."""
        held = [one for one in self._held if type(one.thing) is Ref and one.parts]
        if not held:
            return
        outer = self.draw.choice(held)
        try:
            (value,) = yield from user.get([outer.thing])
        except Failure as error:
            checks.error_is_excused(self.world, outer.expect, error)
            return
        for thing, part in zip(value[1:], outer.parts, strict=False):
            if type(thing) in (Ref, list):
                self._hold(thing, part, part)
        if self.draw.random() < 0.7:
            self._held.remove(outer)

    def _do_drop(self, user: User) -> Steps:
        if self._held:
            held = self._held.pop(self.draw.randrange(len(self._held)))
            held.call.cancelled |= held.keep is not None  # whatever was to be made from it, too
        return
        yield

    def _do_pause(self, user: User) -> Steps:
        """The driver waits, and serves its sockets."""
        yield (lambda: False), self.world.clock.now + self.draw.choice([1e-4, 2e-3, 2e-2])

    def _do_cancel(self, user: User) -> Steps:
        held = [one for one in self._held if type(one.thing) is Ref]
        if held:
            one = self.draw.choice(held)
            one.call.cancelled = True
            if self.draw.random() < 0.2:  # by somebody who has borrowed the reference
                spec = self._spec(0)
                spec.kind, spec.count, spec.fails = "canceller", 0, 0
                ref = yield from Tasks.start(self.world.tasks, user, spec, [[one.thing]], 0)
                self._hold(ref, Expect(mix(spec.index)))
            else:
                user.cancel(one.thing, self.draw.random() < 0.3)

    # ------------------------------------------------------------------ steps: actors

    def _do_actor(self, user: User) -> Steps:
        draw, on = self.draw, self.world.faults.on
        number = self._number()
        args, inputs = self._args()
        raises = on["raises"] and draw.random() < 0.2
        label = f"actor {number} raised" if raises else ""
        failing = raises or any(one.value is None for one in inputs)
        expect = Expect(None if failing else 0, inputs, label)
        detached = draw.random() < 0.15
        cpus = 0.0
        if self._cpus_left > 0 and draw.random() < 0.3:
            cpus = 1.0
            self._cpus_left -= 1
        handle = yield from user.create(
            b"cpu" if cpus else b"actor",
            [number, int(self._seconds() * 1e6), int(raises), *args],
            cpus=cpus,
            restarts=draw.choice([0, 0, 1, 3, -1]),
            retries=draw.choice([0, 0, 1, -1]),
            detached=detached,
        )
        self._actors.append(_Actor(handle, number, expect, detached))

    def _call(self, user: User, actor: _Actor) -> Steps:
        draw = self.draw
        args, inputs = self._args() if not actor.leaf else ([], [])
        number = actor.number
        method = draw.choice(["echo", "echo", "work", "keep", "forget", "give", "nest", "items"])
        inputs = [actor.expect, *inputs]
        failing = any(one.value is None for one in inputs)
        if method in ("echo", "work"):
            values = [one.value for one in inputs[1:] if one.value is not None]
            expect = Expect(None if failing else mix(number, *values), inputs)
            if method == "work":
                args = [int(self._seconds() * 1e6), *args]
        elif method == "nest":
            spec = self._spec(self._deepest)
            spec.count = spec.exits = spec.fails = 0
            if spec.kind == "items":
                spec.kind = "leaf"
            args = [spec.index, *args]
            expect = spec.expect(inputs[1:])
            expect = Expect(None if failing else expect.value, [expect, *inputs])
        elif method == "items":
            count = draw.randrange(5)
            items = yield from user.stream(b"items", [count], draw.choice([0, 1, 2]), 0,
                                           actor.handle)  # fmt: skip
            values = [None if actor.expect.value is None else mix(number, at)
                      for at in range(count)]  # fmt: skip
            expected = [Expect(value, (actor.expect,)) for value in values]
            yield from self._take(user, items, expected, actor.expect)
            return
        else:
            value = ANY if method == "give" or (method == "keep" and failing) else mix(number)
            if method != "keep":
                args = []
            expect = Expect(None if actor.expect.value is None else value, inputs)
        ref = yield from user.call(actor.handle, method, args)
        self._hold(ref, expect)

    def _do_call(self, user: User) -> Steps:
        if self._actors:
            actor = self.draw.choice(self._actors)
            for _ in range(self.draw.choice([1, 1, 2, 6])):
                yield from self._call(user, actor)

    def _do_pass(self, user: User) -> Steps:
        """Pass a handle on: to a task that calls the actor, or to another actor."""
        if not self._actors:
            return
        at = self.draw.randrange(len(self._actors))
        actor = self._actors[at]
        if self.draw.random() < 0.2:
            ref = yield from user.call(actor.handle, "again", [actor.handle, 6])
            value = None if actor.expect.value is None else mix(mix(actor.number, 6))
            self._hold(ref, Expect(value, [actor.expect]))
            self._held[-1].last = True
            return
        if at and self.draw.random() < 0.4:  # only to earlier ones: nobody waits in a circle
            other = self._actors[self.draw.randrange(at)]
            actor.leaf = True
            ref = yield from user.call(other.handle, "relay", [actor.handle, 5])
            inputs = [other.expect, actor.expect]
            failing = any(one.value is None for one in inputs)
            value = None if failing else mix(other.number, mix(actor.number, 5))
            self._hold(ref, Expect(value, inputs))
            self._held[-1].last = True
            return
        spec = self._spec(0)
        spec.kind, spec.count = "leaf", 0
        spec.calls = self.draw.randrange(1, 4)
        args, inputs = self._args()
        ref = yield from Tasks.start(self.world.tasks, user, spec, [actor.handle, *args], 0)
        expect = spec.expect(inputs, actor.number)
        value = None if actor.expect.value is None else expect.value
        self._hold(ref, Expect(value, [expect, actor.expect]))
        self._held[-1].last = True

    def _do_let_go(self, user: User) -> Steps:
        """Drop a handle: the actor ends when its calls are done."""
        if self._actors:
            at = self.draw.randrange(len(self._actors))
            if not self._actors[at].detached:
                del self._actors[at]
        return
        yield

    def _do_kill(self, user: User) -> Steps:
        if self._actors:
            self.world.mark("fault: actor kills")
            self.actors_ended = True
            user.kill(self.draw.choice(self._actors).handle, self.draw.random() < 0.5)
        return
        yield

    def _do_leave(self, user: User) -> Steps:
        if self._actors:
            self.actors_ended = True
            actor = self.draw.choice(self._actors)
            ref = yield from user.call(actor.handle, "leave", [])
            self._hold(ref, Expect(None, [actor.expect]))

    # ------------------------------------------------------------------ steps: node

    def _do_group(self, user: User) -> Steps:
        """Reserve a bundle, run tasks in it, give it back."""
        if self.world.cpus < 3 or self._groups:
            return
        group = self.draw.randbytes(8)
        self._groups.append(group)
        yield from user.request("create_group", group=group, bundles=[{"CPU": 1.0}])
        ready = user.promise("group_ready", group=group)
        early = self.draw.random() < 0.4
        if not early:
            yield from user.get([ready])
        spec = self._spec(0)
        spec.kind, spec.count = "leaf", 0
        for _ in range(self.draw.randrange(1, 4)):
            ref = yield from user.submit(
                spec.key, [spec.index], retries=spec.retries, group=group,
                retry_exceptions=spec.retry_exceptions,
            )  # fmt: skip
            held = _Held(ref, spec.expect([]), Expect(0))
            if early:
                held.call.removed = True
                self._hold(ref, held.expect, held.call)
            else:
                yield from self._check(user, held)
        self._groups.remove(group)
        yield from user.request("remove_group", group=group)

    def _do_gather(self, user: User) -> Steps:
        answer = yield from user.request("gather", about="objects")
        assert not answer.error
