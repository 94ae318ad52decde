"""User code of tasks: programs drawn beforehand, whose result is a pure function of their inputs.

A `Spec` is one program. Whatever it is made of (arguments by value or reference, nested tasks,
generators, references in results), what comes out in the end, with every reference in it resolved,
is `mix(index, inputs...)`; `expect` works that out without running anything. That is the run
without faults which every run is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.sim.member import Failure, Steps
from tests.sim.references import Big, Handle, Ref
from tests.sim.user import User
from tests.sim.worker import ActorExit

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["ANY", "Child", "Expect", "Spec", "Tasks", "deep", "mix"]

ANY = -1  # a value that depends on what happened, and is a value all the same
_MASK = (1 << 62) - 1


def mix(*numbers: int) -> int:
    """Many numbers into one that tells any difference."""
    mixed = 7
    for number in numbers:
        mixed = (mixed * 1_000_003 ^ number) & _MASK
    return mixed


class Expect:
    """What a reference must come to: `value` (None: an error), and what else may excuse one.

    `parts` are the things in its value, behind a first number, if that is a list of them.
    """

    __slots__ = ("cancelled", "inputs", "label", "parts", "removed", "value")

    def __init__(
        self, value: int | None, inputs: Sequence[Expect] = (), label: str = ""
    ) -> None:
        self.value = value
        self.inputs = inputs
        self.label = label  # the user's error that this very task may raise
        self.cancelled = False
        self.removed = False  # its placement group was removed
        self.parts: list[Expect] = []

    def closure(self) -> list[Expect]:
        """This one and everything it was made from."""
        found: dict[int, Expect] = {}
        todo: list[Expect] = [self]
        while todo:
            one = todo.pop()
            if id(one) not in found:
                found[id(one)] = one
                todo += one.inputs
        return list(found.values())


class Child:
    """A nested call: which of the caller's things it gets (index, nested in a list?)."""

    __slots__ = ("picks", "spec", "take")

    def __init__(self, spec: Spec, picks: list[tuple[int, bool]], take: int) -> None:
        self.spec = spec
        self.picks = picks
        self.take = take  # of a generator: how many items are taken


class Spec:
    """One program.

    `kind` is leaf, parent (waits for its children), giver (returns references to them), raiser,
    items (a generator) or canceller (cancels what it is given).
    """

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.busy = 0.0
        self.children: list[Child] = []
        self.style = 0  # how a parent waits
        self.puts = False  # one more input is a value it puts itself
        self.big = 0  # bytes of its result, if that is to lie in shared memory
        self.count = 0  # items of a generator, returns of a task with several
        self.window = 0
        self.calls = 0  # how often it calls the actor it was given
        self.makes = 0  # number of the actor that it makes
        self.fails = 0  # attempts that raise before one works
        self.exits = 0  # attempts that end their process before one works
        self.retries = 3
        self.retry_exceptions = False
        self.cpus = 1.0

    @property
    def key(self) -> bytes:
        """The function's key: as many functions as there are kinds."""
        return self.kind.encode()

    @property
    def label(self) -> str:
        """The error it raises."""
        return f"task {self.index} raised"

    def expect(self, inputs: list[Expect], actor: int = 0, at: int = 0) -> Expect:
        """What return value or item `at` comes to, given what its arguments come to.

        `actor` is the number of the actor whose handle is among the arguments.
        """
        pool = list(inputs)
        for child in self.children:
            given = [_nested(pool[one % len(pool)], deep) for one, deep in child.picks if pool]
            if child.spec.kind == "items":
                taken = [child.spec.expect(given, at=n) for n in range(child.take)]
                pool.append(together(taken))
            else:
                pool.append(child.spec.expect(given))
        label = self.label if self.kind == "raiser" or self.fails else ""
        value = None
        if self.kind != "raiser" and all(one.value is not None for one in pool):
            numbers = [one.value for one in pool if one.value is not None]
            numbers += [mix(actor, number) for number in range(self.calls)]
            numbers += [mix(self.makes, 1)] if self.makes else []
            numbers += [mix(self.index)] if self.puts else []
            value = mix(self.index, *([at] if self.count else []), *numbers)
        expect = Expect(value, pool, label)
        if self.kind == "giver":
            expect.parts = pool
        return expect


def together(parts: list[Expect]) -> Expect:
    """A list of things."""
    values = [one.value for one in parts if one.value is not None]
    return Expect(mix(*values) if len(values) == len(parts) else None, parts)


def _nested(one: Expect, nested: bool) -> Expect:
    if not nested:
        return one
    return Expect(None if one.value is None else mix(one.value), (one,))


def deep(user: User, thing: Any) -> Steps:
    """A thing with every reference in it resolved, as one number."""
    kind = type(thing)
    if kind is int:
        return thing
    if kind is Big:
        if thing.pin is not None:  # a view: what it shows is read when it is looked at
            thing.pin.look()
        return thing.number
    if kind is Ref:
        (value,) = yield from user.get([thing])
        return (yield from deep(user, value))
    if kind is Handle:
        ref = yield from user.call(thing, "echo", [1])
        return (yield from deep(user, ref))
    assert kind is list, f"{thing!r} has no depth"
    numbers = []
    for one in thing:
        numbers.append((yield from deep(user, one)))
    return mix(*numbers)


class Tasks:
    """All programs of a world, and how a worker runs one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.specs: list[Spec] = []

    def run(self, worker: User, call: Any, args: list[Any]) -> Steps:
        """The code of a task: `args` are its spec's index and its arguments."""
        spec = self.specs[args[0]]
        attempt = self.world.starts[call.id]
        yield spec.busy
        if spec.exits >= attempt:
            self.world.mark("fault: exits")
            raise ActorExit
        if spec.fails >= attempt or spec.kind == "raiser":
            self.world.mark("fault: raises")
            raise Failure("UserError", spec.label)
        return (yield from self.body(worker, spec, args[1:]))

    def body(self, user: User, spec: Spec, things: list[Any]) -> Steps:
        """What a spec does with its arguments; the result."""
        if spec.kind == "feeder":
            return (yield from self.world.keepers.feed(user, spec, things[0]))
        if spec.kind == "canceller":
            for (ref,) in things:
                user.cancel(ref, False)
            return mix(spec.index)
        handles = things[:1] if spec.calls else []
        pool = things[len(handles) :]
        for child in spec.children:
            pool.append((yield from self.start_child(user, child, pool)))
        for handle in handles:
            for number in range(spec.calls):
                pool.append((yield from user.call(handle, "echo", [number])))
        if spec.makes:
            pool.append((yield from user.create(b"nested", [spec.makes, 10, 0])))
        if spec.puts:
            pool.append((yield from user.put(self.sized(mix(spec.index), spec.big))))
        if spec.kind == "giver":
            return [spec.index, *pool]
        if spec.kind == "items":
            return (yield from self._items(user, spec, pool))
        if spec.style == 1:
            refs = [one for one in pool if type(one) is Ref]
            yield from user.wait(refs, (len(refs) + 1) // 2, 0.01)
        elif spec.style == 2:
            yield from user.get([one for one in pool if type(one) is Ref])
        numbers = []
        for one in pool:
            numbers.append((yield from deep(user, one)))
        if spec.count:
            return [
                self.sized(mix(spec.index, at, *numbers), spec.big) for at in range(spec.count)
            ]
        return self.sized(mix(spec.index, *numbers), spec.big)

    @staticmethod
    def sized(number: int, size: int) -> Any:
        """A number, large if so wished."""
        return Big(number, size) if size else number

    def _items(self, user: User, spec: Spec, pool: list[Any]) -> Steps:
        for at in range(spec.count):
            yield spec.busy
            if spec.big:
                yield "item", Big((yield from deep(user, [spec.index, at, *pool])), spec.big)
            else:
                yield "item", [spec.index, at, *pool]

    def start_child(self, user: User, child: Child, pool: list[Any]) -> Steps:
        """Submit a nested call; a reference, or for a generator the items taken from it."""
        args = [
            [pool[one % len(pool)]] if nested else pool[one % len(pool)]
            for one, nested in child.picks
            if pool
        ]
        return (yield from self.start(user, child.spec, args, child.take))

    def start(self, user: User, spec: Spec, args: list[Any], take: int) -> Steps:
        """Submit a spec; a reference, several, or for a generator the list of items taken."""
        things = [spec.index, *args]
        if spec.kind != "items":
            return (
                yield from user.submit(
                    spec.key,
                    things,
                    returns=spec.count or 1,
                    retries=spec.retries,
                    retry_exceptions=spec.retry_exceptions,
                    cpus=spec.cpus,
                )
            )
        items = yield from user.stream(spec.key, things, spec.window, spec.retries)
        return (yield from self.take(user, items, take))

    @staticmethod
    def take(user: User, items: Any, count: int) -> Steps:
        """The first items of a generator; an error in its place raises."""
        taken: list[Any] = []
        while len(taken) < count:
            ref = yield from user.next_item(items)
            if ref is None:  # the last reference of one that failed carries the error
                yield from user.get(taken[-1:])
                raise Failure("StreamEnded", f"{len(taken)} items of {count}")
            taken.append(ref)
        return taken
