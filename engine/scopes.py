"""Scopes: objects, tasks and actors that outlive the driver which made them.

::

    scope = engine.detached("nightly")              # made, or found
    scope.put("model", model)
    scope.submit("features", extract, scope["model"])
    scope.create("hits", Counter.options(checkpoint_every=100, max_restarts=-1))

    # another program, later, also after the first was killed
    scope = engine.get_scope("nightly")
    engine.get(scope["features"])
    scope["hits"].add.remote()
    scope.delete()
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from engine.actor import ActorClass, ActorHandle, find_actor
from engine.api import get, kill
from engine.core.ids import owner_of
from engine.functions import RemoteFunction
from engine.keeper import Keeper, Recipe
from engine.session import runtime
from engine.store import codec
from engine.store.refs import ObjectRef

__all__ = ["Scope", "detached", "get_scope", "list_scopes"]

_SPACE = "penstock.scopes"
_ACTORS = "penstock.scope."  # and the scope's name: the namespace of its actors
_EMPTY = np.empty(0, np.uint8)


class Scope:
    """Named things that live until they or the scope are deleted, or the node is stopped.

    A process of the node, the scope's *keeper*, owns them, not the driver. When the keeper dies it
    is started again: values are found again in the memory of the node, tasks whose results are lost
    run again (so they should give the same result twice), actors are no part of it and go on. On a
    node that stands (`penstock start`), the scope is also written behind into the node's directory,
    and a node that starts there after a crash makes it again: tasks run again, actors start again
    (from their last checkpoint, with `checkpoint_every`), values up to 100 KiB are there, larger
    ones raise ObjectLostError. `sync()` waits until that holds for what was done before. In an
    embedded engine a scope lives as long as the engine.

    References taken from a scope are good while its keeper lives; one that is taken later is good
    again. Scopes have names of their own, whatever the namespace.
    """

    def __init__(self, name: str, keeper: ActorHandle) -> None:
        self.name = name
        self._keeper = keeper

    # ------------------------------------------------------------------ making

    def put(self, key: str, value: Any) -> ObjectRef[Any]:
        """Keep a value under a key, instead of what lay there; a reference is waited for.

        The value is copied. It must hold no references: nobody would keep what they stand for.
        """
        _check_key(key)
        if type(value) is ObjectRef:
            value = get(value)
        encoded = codec.encode(value)
        _refuse_refs(encoded.refs, f"the value for {key!r}")
        return self._ask("put", key, _lay_out(encoded))

    def submit(
        self, key: str, function: RemoteFunction, *args: Any, **kwargs: Any
    ) -> ObjectRef[Any]:
        """Run a task for the scope; its result lies under a key.

        References among the arguments that come from this scope stay what they are: such a task
        waits for them, and can be run again with them. Others are waited for here, and their values
        are copied. ValueError for what a scope cannot remember: several results, generators,
        references inside of arguments or captured by the function, `retry_exceptions` of some
        classes only.
        """
        _check_key(key)
        if not isinstance(function, RemoteFunction):
            raise TypeError(f"submit takes a remote function (@engine.remote), not {function!r}")
        function._check.check(args, kwargs)
        home = runtime()
        recipe = _recipe(function, home)
        slots: list[int | str] = []
        deps: list[ObjectRef[Any]] = []
        places = list(args)
        for index, value in enumerate(args):
            places[index] = self._place(index, value, slots, deps)
        named = {name: self._place(name, value, slots, deps) for name, value in kwargs.items()}
        payload = (tuple(places), named, slots) if deps else (tuple(places), named)
        encoded = codec.encode(payload)
        _refuse_refs(encoded.refs, f"an argument of {recipe.name!r}")
        laid_out = _lay_out(encoded) if args or kwargs else _EMPTY
        return self._ask("submit", key, msgspec.msgpack.encode(recipe), laid_out, deps)

    def _place(
        self, slot: int | str, value: Any, slots: list[int | str], deps: list[ObjectRef[Any]]
    ) -> Any:
        if type(value) is not ObjectRef:
            return value
        if owner_of(value.binary()) != self._keeper._client.process:
            return get(value)
        slots.append(slot)
        deps.append(value)
        return None

    def create(self, key: str, cls: ActorClass, *args: Any, **kwargs: Any) -> ActorHandle:
        """An actor that lives in the scope; the one that has the key already, if there is one.

        It is restarted as its options say: give it max_restarts, and checkpoint_every if its state
        is to survive. Arguments of its constructor above 100 KiB are there only as long as this
        driver, unless they are references from the scope.
        """
        _check_key(key)
        if not isinstance(cls, ActorClass):
            raise TypeError(f"create takes an actor class (@engine.remote), not {cls!r}")
        if self._get(key) is not None:
            raise ValueError(f"scope {self.name!r} has a value under {key!r}: delete it first")
        own = {"name": key, "namespace": _ACTORS + self.name, "lifetime": "detached"}
        return cls.options(**own, get_if_exists=True).remote(*args, **kwargs)

    # ------------------------------------------------------------------ finding

    def _ask(self, method: str, *args: Any) -> ObjectRef[Any]:
        (found,) = get(getattr(self._keeper, method).remote(*args))
        assert type(found) is ObjectRef
        return found

    def _get(self, key: str) -> ObjectRef[Any] | None:
        found = get(self._keeper.get.remote(key))
        return None if found is None else found[0]

    def _actors(self) -> list[str]:
        space = _ACTORS + self.name
        return [one["name"] for one in runtime().ask("list_named") if one["namespace"] == space]

    def __getitem__(self, key: str) -> Any:
        """The reference of a value or a result, or the handle of an actor; KeyError if neither."""
        found = self._get(key)
        if found is not None:
            return found
        if key in self._actors():
            return find_actor(key, _ACTORS + self.name)
        raise KeyError(f"{key!r} is not in scope {self.name!r}, which has: {', '.join(self)}")

    def keys(self) -> list[str]:
        """The keys of everything in the scope: values and results, then actors."""
        return [*get(self._keeper.keys.remote()), *self._actors()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    # ------------------------------------------------------------------ ending

    def __delitem__(self, key: str) -> None:
        """Let go of a value or a result, or end an actor.

        A value that a task of the scope needs, should it have to run again, is kept for that.
        """
        if get(self._keeper.drop.remote(key)):
            return
        if key not in self._actors():
            raise KeyError(f"{key!r} is not in scope {self.name!r}")
        kill(find_actor(key, _ACTORS + self.name))

    def sync(self, timeout: float | None = None) -> bool:
        """Wait until what was done here so far is in the node's directory.

        False when there is none: this engine is embedded, and everything ends with it. Raises
        GetTimeoutError after `timeout` seconds, EngineError when the disk fails.
        """
        get(self._keeper.keys.remote(), timeout=timeout)  # it has noted all before
        return bool(runtime().ask("journal_sync", timeout))

    def delete(self) -> None:
        """End the scope: its values and results go, its actors and what it runs are ended."""
        for key in self._actors():
            kill(find_actor(key, _ACTORS + self.name))
        get(self._keeper.clear.remote())
        kill(self._keeper)

    def __repr__(self) -> str:
        return f"Scope({self.name!r})"


def detached(name: str) -> Scope:
    """The scope of this name, made if there is none."""
    _check_key(name)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "lifetime": "detached"}
    cls = ActorClass(Keeper, options)
    keeper = cls.options(name=name, namespace=_SPACE, get_if_exists=True).remote(name)
    return Scope(name, keeper)


def get_scope(name: str) -> Scope:
    """The scope of this name; ValueError when there is none."""
    names = list_scopes()
    if name not in names:
        raise ValueError(
            f"no scope is named {name!r}; there are: {', '.join(names) or 'none'}. "
            f"engine.detached({name!r}) makes one."
        )
    return Scope(name, find_actor(name, _SPACE))


def list_scopes() -> list[str]:
    """The names of all scopes."""
    return [one["name"] for one in runtime().ask("list_named") if one["namespace"] == _SPACE]


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not key:
        raise ValueError(f"{key!r}: expected a name, a non-empty string")


def _refuse_refs(refs: Any, what: str) -> None:
    if refs:
        raise ValueError(
            f"{what} holds {refs[0]!r} inside, which would end with its owner. Give values, or "
            "references from the scope as arguments of their own."
        )


def _lay_out(encoded: codec.Encoded) -> Any:
    """The bytes of a value as they would lie in a block."""
    place = np.empty(encoded.block_bytes(), np.uint8)
    encoded.write_into(place.data)
    return place


def _recipe(function: RemoteFunction, home: Any) -> Recipe:
    if function._returns != 1:
        raise ValueError(f"{function._name!r} returns not one value, as a scope keeps under a key")
    if function._retry_exceptions not in (True, False):
        raise ValueError(f"{function._name!r}: retry_exceptions in a scope is True or False")
    if home.scope is not function._scope:
        function._bind(home)
    assert function._shape is not None
    key, blob, refs = codec.encode_definition(function._function, home.config.function_bytes_max)
    _refuse_refs(refs, f"the function {function._name!r}")
    placing = function._shape.placing
    return Recipe(
        function._name, key, blob, placing, function._retries, bool(function._retry_exceptions)
    )

