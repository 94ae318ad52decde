"""The keeper of a scope: a process of the node that owns what drivers leave there.

It is an actor like others, detached and restarted whenever it dies; only what it holds is
particular. It stores what it is given without looking inside, and submits tasks of which it knows
the recipe only. What it holds it notes with the node (`core.journal`), behind the call: the line to
the node keeps what was written on it also when the keeper is killed. A keeper that starts asks the
node what there was: values whose memory the node has held are adopted, what is lost is made again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.core.control import Noted
from engine.core.dispatch import Task
from engine.core.journal import Dropped, Entry, Event, Made, Ready, ScopeGone, encode_event
from engine.core.messages import Call
from engine.core.placing import Placing
from engine.core.values import ObjectValue, Value, encode_failure
from engine.session import runtime
from engine.store import codec
from engine.store.refs import ObjectRef

__all__ = ["Keeper", "Recipe"]


class Recipe(msgspec.Struct, array_like=True):
    """How a task is submitted. `args` is laid out like a block; `apart`: the last need is that."""

    name: str
    code: bytes
    definition: bytes
    placing: Placing
    retries: int
    retry_exceptions: bool
    args: bytes = b""
    apart: bool = False


_decode_recipe = msgspec.msgpack.Decoder(Recipe).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode
_LOST = (
    "was put into scope {scope!r} and lay in the memory of a node that has died; put it there again"
)


class Keeper:
    """Holds the entries of one scope."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._home = runtime()
        self._entries: dict[int, Entry] = {}
        self._refs: dict[int, ObjectRef[Any]] = {}
        self._numbers: dict[bytes, int] = {}  # by object
        self._keys: dict[str, int] = {}
        self._count = 0
        self._nbytes = 0
        self._home.owner.spill.moved = self._on_moved
        self._recover()

    # ------------------------------------------------------------------ what its drivers ask

    def put(self, key: str, laid_out: Any) -> list[ObjectRef[Any]]:
        """Keep a value, which comes as it would lie in a block."""
        entry, ref = self._hold(key, laid_out)
        self._note(Made(self._scope, [entry]))
        self._sweep()
        return [ref]

    def submit(
        self, key: str, encoded: bytes, laid_out: Any, deps: list[ObjectRef[Any]]
    ) -> list[ObjectRef[Any]]:
        """Run a task and keep its result; `deps` are objects of this scope."""
        recipe, made = _decode_recipe(encoded), []
        needs = [self._known(ref) for ref in deps]
        recipe.apart = laid_out.nbytes > self._home.config.inline_bytes_max
        if recipe.apart:
            made.append(self._hold("", laid_out)[0])
            needs.append(made[0].number)
        else:
            recipe.args = laid_out.tobytes()
        entry = Entry(self._number(), key, msgspec.msgpack.encode(recipe), needs)
        self._admit(len(entry.recipe))
        self._add(entry)
        self._note(Made(self._scope, [*made, entry]))
        self._sweep()
        ref = self._run(entry, recipe)
        self._follow(entry.number, ref)
        return [ref]

    def get(self, key: str) -> list[ObjectRef[Any]] | None:
        """What lies under a key; None when nothing does."""
        number = self._keys.get(key)
        return None if number is None else [self._refs[number]]

    def keys(self) -> list[str]:
        """All keys, in the order in which they came."""
        return list(self._keys)

    def drop(self, key: str) -> bool:
        """Let go of what lies under a key; whether something did."""
        if key not in self._keys:
            return False
        self._note(Dropped(self._scope, key))
        with self._home.lock:
            self._entries[self._keys.pop(key)].key = ""
        self._sweep()
        return True

    def clear(self) -> None:
        """Let go of everything: the scope is deleted."""
        self._note(ScopeGone(self._scope))
        with self._home.lock:
            self._keys.clear()
            self._entries.clear()
            self._numbers.clear()
        self._refs.clear()
        self._nbytes = 0

    # ------------------------------------------------------------------ entries

    def _known(self, ref: ObjectRef[Any]) -> int:
        number = self._numbers.get(ref.binary())
        if number is None:
            raise ValueError(
                f"{ref!r} is not in scope {self._scope!r} any more: take it from there again"
            )
        return number

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _admit(self, nbytes: int) -> None:
        limit = self._home.config.scope_bytes_max
        if self._nbytes + nbytes > limit:
            raise ValueError(
                f"scope {self._scope!r} has {self._nbytes:,} bytes of small values and calls to "
                f"remember, and {nbytes:,} more would be above its limit of {limit:,} "
                "(scope_bytes_max of engine.config.Config): delete some of them"
            )
        self._nbytes += nbytes

    def _hold(self, key: str, laid_out: Any) -> tuple[Entry, ObjectRef[Any]]:
        """A new entry with a value; the caller notes it, and sweeps."""
        home = self._home
        view = memoryview(laid_out)
        if view.nbytes <= home.config.inline_bytes_max:
            data, buffers = codec.read_parts(view)
            value = Value(bytes(data), [bytes(one) for one in buffers] or None)
            self._admit(_size(value))
        else:

            def fill(place: memoryview) -> None:
                place[:] = view

            value = Value(block=home.values.place(view.nbytes, fill))
        entry = Entry(self._number(), key, b"", [], value)
        self._add(entry)
        return entry, self._own(entry.number, value)

    def _add(self, entry: Entry) -> None:
        with self._home.lock:
            self._entries[entry.number] = entry
            if entry.key:
                before = self._keys.pop(entry.key, None)
                if before is not None:
                    self._entries[before].key = ""
                self._keys[entry.key] = entry.number

    def _own(self, number: int, value: Value) -> ObjectRef[Any]:
        home = self._home
        object_id = home.ids.new()
        with home.lock:
            home.owner.objects.add(object_id, value)
        return self._named(number, ObjectRef(object_id))

    def _named(self, number: int, ref: ObjectRef[Any]) -> ObjectRef[Any]:
        self._refs[number] = ref
        self._numbers[ref.binary()] = number
        return ref

    def _sweep(self) -> None:
        """Let go of what has no key and is not needed, as the journal does (it is told first)."""
        gone = []
        with self._home.lock:
            needed: set[int] = set()
            for number in sorted(self._entries, reverse=True):
                entry = self._entries[number]
                if entry.key or number in needed:
                    needed.update(entry.needs)
                    continue
                del self._entries[number]
                self._nbytes -= _weight(entry)
                ref = self._refs.pop(number, None)
                if ref is not None:
                    self._numbers.pop(ref.binary(), None)
                    gone.append(ref)

    # ------------------------------------------------------------------ tasks

    def _run(self, entry: Entry, recipe: Recipe) -> ObjectRef[Any]:
        home = self._home
        home.definitions[recipe.code] = recipe.definition
        call = Call(home.ids.new(), recipe.code, b"", 1)
        task = Task(call, recipe.name, [call.id], recipe.retries, home.shape(recipe.placing))
        task.retry_exceptions = recipe.retry_exceptions
        deps = [self._refs[number] for number in entry.needs]
        task.keep = list(deps)
        if recipe.args:
            data, buffers = codec.read_parts(memoryview(recipe.args))
            call.args, call.buffers = bytes(data), [bytes(one) for one in buffers] or None
        if recipe.apart:
            large = deps.pop()
            call.large = ObjectValue(large.binary(), home.locate(large))
        task.deps = [ref.binary() for ref in deps] or None
        task.brings = call.large is not None or task.deps is not None
        task.nbytes = len(call.args)
        home.submit(task)
        return self._named(entry.number, ObjectRef(call.id))

    def _follow(self, number: int, ref: ObjectRef[Any]) -> None:
        """Note the value when it is there."""
        home = self._home

        def ready() -> None:
            with home.lock:
                found = home.owner.objects.entries.get(ref.binary())
                value = None if found is None else found.value
                if value is not None and number in self._entries and not value.contains:
                    self._entries[number].value = value
                    self._note(Ready(self._scope, number, value))

        home.when_ready(ref.binary(), ready)

    # ------------------------------------------------------------------ the journal

    def _note(self, event: Event) -> None:
        home = self._home
        with home.lock:
            if not home.node_alive:
                return
            home.send(home.node, Noted(encode_event(event)))
            # On its way before anybody hears of what it says: a kill cannot take it back.
            home.reactor.flush_one(home.connections[home.node])

    def _on_moved(self, object_id: bytes, value: Value | None) -> None:
        """An object of ours lies elsewhere, or is lost, and its place is about to be free. Locked.

        What is lost is made again, by the engine.
        """
        number = self._numbers.get(object_id)
        entry = None if number is None else self._entries.get(number)
        if number is None or entry is None or entry.value is None:
            return
        entry.value = value
        self._note(Ready(self._scope, number, value))
        if value is None:
            self._home.reactor.after_turn.append(lambda: self._follow_again(number))
            self._home.reactor.kick()

    def _follow_again(self, number: int) -> None:
        ref = self._refs.get(number)
        if ref is not None:
            self._follow(number, ref)

    def _recover(self) -> None:
        entries: list[Entry] = []
        while True:
            after = entries[-1].number if entries else 0
            part = self._home.ask("scope_entries", scope=self._scope, after=after)
            if not part:
                break
            entries += _decode_entries(part)
        for entry in entries:
            self._count = max(self._count, entry.number)
            self._add(entry)
            self._nbytes += _weight(entry)
            if entry.value is not None:
                self._own(entry.number, entry.value)
        again = {entry.number for entry in entries if entry.value is None and entry.key}
        for entry in reversed(entries):  # and whatever they need that is lost as well
            if entry.number in again:
                lost = [one for one in entry.needs if self._entries[one].value is None]
                again.update(lost)
        for entry in entries:
            if entry.number in again:
                self._make_again(entry)

    def _make_again(self, entry: Entry) -> None:
        if not entry.recipe:
            what = f"{entry.key!r} " if entry.key else "what a task needs "
            text = what + _LOST.format(scope=self._scope)
            self._own(entry.number, encode_failure("ObjectLostError", text))
            return
        ref = self._run(entry, _decode_recipe(entry.recipe))
        self._follow(entry.number, ref)


def _weight(entry: Entry) -> int:
    """What an entry counts for against the limit: its recipe, or the small value that was put."""
    if entry.recipe:
        return len(entry.recipe)
    return 0 if entry.value is None else _size(entry.value)


def _size(value: Value) -> int:
    return len(value.data) + sum(map(len, value.buffers or ()))
