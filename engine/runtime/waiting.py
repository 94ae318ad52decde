"""Waiting for objects: `get`, `wait`, and lending the slot out of a worker that waits.

Whoever waits serves the sockets itself (`runtime.reactor`), so a reply is handed to nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import current_thread, main_thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine import exceptions
from engine.core.control import Blocked
from engine.core.ids import owner_of, short
from engine.core.objects import Entry
from engine.core.pending import pending_reason, waits_for_node
from engine.core.streams import ItemStream
from engine.core.values import ERROR_NONE
from engine.runtime.values import Unreadable
from engine.store import codec
from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Aside", "Waits"]

# How long a worker waits inside user code before it gives its slot back: less would make a round
# trip to the node out of every short wait.
_PATIENCE_SECONDS = 300e-6
# Who polls with a shorter time-out than this is not kept waiting for the node's reasons, which may
# take as long as _ANSWER_SECONDS if the machine is overloaded.
_WORTH_ASKING_SECONDS = 0.05
_ANSWER_SECONDS = 0.5
# A shorter wait than this is part of any call, and gets no line in the timeline.
_LONG_SECONDS = 1e-3


class Aside:
    """What a worker's main thread does even while it waits inside user code.

    `act` is called there with each peer and message of `items`, which any thread may add to.
    """

    def __init__(self, act: Callable[[bytes, Any], object]) -> None:
        self.items: deque[tuple[bytes, Any]] = deque()
        self._act = act

    def go(self) -> None:
        """Do what there is."""
        while self.items:
            self._act(*self.items.popleft())


class Waits:
    """The waits of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._entries = runtime.owner.objects.entries
        self._blocked = 0
        # Calls that wait inside user code, and the verb that they wait in.
        self.inside: dict[bytes, str] = {}

    def get(self, refs: Sequence[ObjectRef[Any]], timeout: float | None) -> list[Any]:
        """The values of the references, in order; raises at the first error among them."""
        entries = self._entries
        found = [entries[ref._id] for ref in refs]
        deadline = None if timeout is None else perf_counter() + timeout
        if any(entry.value is None for entry in found):
            self.wait_for(refs, found, timeout)
        out = []
        for ref, entry in zip(refs, found, strict=True):
            value = entry.value
            if value is not None and value.error == ERROR_NONE and value.block is None:
                out.append(codec.decode(value.data, value.buffers))
            else:
                out.append(self._read(ref, entry, deadline))
        return out

    def get_one(self, ref: ObjectRef[Any], timeout: float | None) -> Any:
        """The value of a reference; raises its error, or ValueError when it is not known here."""
        entry = self._entries.get(ref._id)
        if entry is None:
            self._runtime.check_known((ref,))
        assert entry is not None
        deadline = None if timeout is None else perf_counter() + timeout
        if entry.value is None:
            self.wait_for((ref,), [entry], timeout)
        value = entry.value
        if value is not None and value.error == ERROR_NONE and value.block is None:
            return codec.decode(value.data, value.buffers)
        return self._read(ref, entry, deadline)

    def _read(self, ref: ObjectRef[Any], entry: Entry, deadline: float | None) -> Any:
        """A value that was there; what is lost is rebuilt, and waited for until `deadline`."""
        while True:
            value = entry.value
            if value is None:
                left = None if deadline is None else max(0.0, deadline - perf_counter())
                self.wait_for((ref,), [entry], left)
                continue
            try:
                return self._runtime.values.materialise(value, ref)
            except Unreadable as lost:
                self._runtime.report_lost(ref, lost)

    def wait_for(
        self, refs: Sequence[ObjectRef[Any]], found: list[Entry], timeout: float | None
    ) -> None:
        """Wait for all values, or for the first error among them, which is raised."""
        with self._runtime.lock:
            for ref, entry in zip(refs, found, strict=True):
                self._runtime.owner.objects.want(ref._id, entry)
        objects = self._runtime.owner.objects
        at, count, errors = 0, len(found), -1

        def ready() -> bool:
            # In order, so that many values cost one look each; errors anywhere end the wait.
            nonlocal at, errors
            if objects.errors != errors:
                errors = objects.errors
                if any(entry.value is not None and entry.value.error for entry in found):
                    return True
            while at < count:
                if found[at].value is None:
                    return False
                at += 1
            return True

        if self.wait(ready, timeout):
            for entry in found:
                if entry.value is not None and entry.value.error != ERROR_NONE:
                    raise self._runtime.values.error_of(entry.value)
            return
        missing = [ref for ref, entry in zip(refs, found, strict=True) if entry.value is None]
        ask = timeout is not None and timeout >= _WORTH_ASKING_SECONDS
        reason = self.reason(missing[0]._id, ask)
        raise exceptions.GetTimeoutError(
            f"{len(missing)} of {count} objects were not there within {timeout} s; the first, "
            f"{short(missing[0]._id)}: {reason}"
        )

    def reason(self, object_id: bytes, ask: bool) -> str:
        """In words, why an object is not there yet; `ask` the node if it knows more."""
        owner = self._runtime.owner
        with self._runtime.lock:
            text = pending_reason(owner, object_id)
            asked = waits_for_node(owner, object_id) if ask else None
        if asked is None:
            return text
        try:
            of, shape = asked
            known = self._runtime.ask("why", _ANSWER_SECONDS, of=of, shape=shape)
        except exceptions.EngineError:  # busy or gone; what is known here has to do
            return text
        return f"{text}: {known}" if known else text

    def ready_among(
        self, waitables: list[Any], count: int, timeout: float | None
    ) -> list[Any]:
        """The first `count` references and generators (in list order) ready within `timeout`."""
        entries = self._entries
        ready = self._first_ready(waitables, count)
        if len(ready) == count:
            return ready
        found: list[Entry | ItemStream] = [
            entries[one._id] if type(one) is ObjectRef else one._stream for one in waitables
        ]
        pending = [entry for entry in found if entry.value is None]
        me = self._runtime.id
        with self._runtime.lock:
            for one in waitables:
                if type(one) is ObjectRef and owner_of(one._id) != me:
                    self._runtime.owner.objects.want(one._id, entries[one._id])
        missing = len(pending) - (len(waitables) - count)

        def enough() -> bool:
            # Look at the pending ones only, and drop what has arrived: linear over all turns.
            nonlocal pending, missing
            before = len(pending)
            pending = [entry for entry in pending if entry.value is None]
            missing -= before - len(pending)
            return missing <= 0

        self.wait(enough, timeout, "wait")
        return self._first_ready(waitables, count)

    def _first_ready(self, waitables: list[Any], count: int) -> list[Any]:
        entries, ready = self._entries, []
        for one in waitables:
            entry = entries[one._id] if type(one) is ObjectRef else one._stream
            if entry.value is not None:
                ready.append(one)
                if len(ready) == count:
                    break
        return ready

    def wait(
        self, ready: Callable[[], bool], timeout: float | None, verb: str = "get"
    ) -> bool:
        """Serve the sockets until `ready()` or `timeout` seconds have passed."""
        start = perf_counter()
        deadline = None if timeout is None else start + timeout
        if self._runtime.before_block is None or (call := self._runtime.running) is None:
            found = self._runtime.reactor.wait_until(ready, deadline)
            if (end := perf_counter()) - start > _LONG_SECONDS:
                self._runtime.events.spans.append((verb, start, end))
            return found
        patience = start + _PATIENCE_SECONDS
        if deadline is not None and deadline <= patience:
            return self._serve(ready, deadline)
        if self._serve(ready, patience):
            return True
        self._block(+1)
        self.inside[call.id] = verb
        try:
            return self._serve(ready, deadline)
        finally:
            self.inside.pop(call.id, None)
            self._block(-1)
            self._runtime.events.span(verb, start)

    def _serve(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        reactor, aside = self._runtime.reactor, self._runtime.aside
        if aside is None or current_thread() is not main_thread():
            return reactor.wait_until(ready, deadline)
        while True:
            found = reactor.wait_until(lambda: bool(aside.items) or ready(), deadline)
            if not aside.items:
                return found
            aside.go()

    def _block(self, change: int) -> None:
        with self._runtime.lock:
            self._blocked += change
            if change > 0 and self._blocked == 1:
                assert self._runtime.before_block is not None
                self._runtime.before_block()
                self._runtime.send(self._runtime.node, Blocked(True))
                self._runtime.reactor.flush()
            elif change < 0 and self._blocked == 0:
                self._runtime.send(self._runtime.node, Blocked(False))
