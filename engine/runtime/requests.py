"""Questions to the node or head, and their answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine import exceptions
from engine.core.control import Attach, Reply, Request, SegmentsReturned
from engine.core.values import Value, encode_failure
from engine.store import codec
from engine.store.refs import ObjectRef

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Requests"]

_BUILTIN_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError}


class Requests:
    """Requests of one process, numbered; answered in any order."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._number = 0
        self._replies: dict[int, Any] = {}
        # Requests whose reply becomes an object: its id, and the value if not the reply itself.
        self._promised: dict[int, tuple[bytes, Any]] = {}
        self._abandoned: dict[int, str] = {}  # requests whose answer nobody waits for any more

    def request(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """Ask and wait: a Reply, or for a segment (number, descriptor, size).

        Raises NodeDiedError when the node dies first, GetTimeoutError after `timeout` seconds.
        """
        return self._await(self._ask(what, args), what, timeout)

    def request_unless(self, what: str, unless: Callable[[], bool], **args: Any) -> Any:
        """`request` for memory, withdrawn as soon as `unless()`, which then returns None."""
        runtime, replies = self._runtime, self._replies
        number = self._ask(what, args)
        try:
            runtime.reactor.wait_until(
                lambda: number in replies or unless() or not runtime.node_alive
            )
            if number not in replies and unless():
                self._withdraw(number, what)
                return None
        except BaseException:  # interrupted: what the node grants now is given back
            self._withdraw(number, what)
            raise
        return self._await(number, what, None)

    def _ask(self, what: str, args: dict[str, Any]) -> int:
        with self._runtime.lock:
            number = self._send(what, args)
            self._runtime.reactor.flush()
        return number

    def _send(self, what: str, args: dict[str, Any]) -> int:
        """Queue a request; returns its number. Under the lock."""
        self._number += 1
        self._runtime.send(self._runtime.node, Request(self._number, what, args))
        return self._number

    def _withdraw(self, number: int, what: str) -> None:
        """The answer is needed no longer: the node need not look for one."""
        runtime = self._runtime
        with runtime.lock:
            self._abandon(number, what)
            if number in self._abandoned:
                self._send("withdraw", {"which": number})
            runtime.reactor.flush()

    def _await(self, number: int, what: str, timeout: float | None) -> Any:
        runtime, replies = self._runtime, self._replies
        try:
            runtime.reactor.wait_until(
                lambda: number in replies or not runtime.node_alive,
                None if timeout is None else perf_counter() + timeout,
            )
        except BaseException:  # the call that asks was cancelled: nobody will take the answer
            self._abandon(number, what)
            raise
        if number in replies:
            return replies.pop(number)
        self._abandon(number, what)
        if not runtime.node_alive:
            raise exceptions.NodeDiedError(f"the node died before it answered {what!r}")
        raise exceptions.GetTimeoutError(f"the node did not answer {what!r} within {timeout} s")

    def ask(self, what: str, timeout: float | None = None, **args: Any) -> Any:
        """`request`, with a failure raised and the result returned."""
        reply = self.request(what, timeout, **args)
        if reply.error:
            kind = reply.result["kind"] if isinstance(reply.result, dict) else "EngineError"
            raise (getattr(exceptions, kind, None) or _BUILTIN_ERRORS[kind])(reply.error)
        return reply.result

    def tell(self, what: str, **args: Any) -> None:
        """Ask for what cannot fail, and wait for nothing; it leaves with what is asked next.

        Raises NodeDiedError when the node is known to be dead.
        """
        runtime = self._runtime
        if not runtime.node_alive:
            raise exceptions.NodeDiedError(f"the node died before it was asked for {what!r}")
        with runtime.lock:
            self._abandoned[self._send(what, args)] = what

    def promise(self, what: str, value: Any = None, **args: Any) -> ObjectRef[Any]:
        """Ask; the answer (or `value`, once it has come) becomes an object of this process."""
        runtime = self._runtime
        object_id = runtime.ids.new()
        with runtime.lock:
            runtime.owner.objects.add(object_id, runtime.owner.objects.gone)
            self._promised[self._send(what, args)] = object_id, value
            runtime.reactor.flush()
        return ObjectRef(object_id)

    def _abandon(self, number: int, what: str) -> None:
        """Nobody takes the answer to a request, when it comes or if it has just come."""
        with self._runtime.lock:
            answer = self._replies.pop(number, None)
            if answer is None:
                self._abandoned[number] = what
            else:
                self._give_up(what, answer)

    def _give_up(self, what: str, answer: Any) -> None:
        if isinstance(answer, Reply):
            return
        segment, fd, _size = answer
        os.close(fd)
        if what in ("segment", "disk"):  # leased to this process, which will never use it
            self._runtime.send(self._runtime.node, SegmentsReturned([segment]))

    def _on_answer(self, number: int, answer: Any) -> None:
        what = self._abandoned.pop(number, None)
        if what is None:
            self._replies[number] = answer
        else:
            self._give_up(what, answer)

    def on_attach(self, message: Attach, fd: int) -> None:
        """A segment has come. Under the lock, like `on_reply`."""
        self._on_answer(message.number, (message.segment, fd, message.size))

    def on_reply(self, message: Reply) -> None:
        """An answer has come."""
        promised = self._promised.pop(message.number, None)
        objects = self._runtime.owner.objects
        if promised is None:
            self._on_answer(message.number, message)
        elif message.error:
            objects.resolve(promised[0], encode_failure(message.result["kind"], message.error))
        else:
            object_id, value = promised
            result = message.result if value is None else value
            objects.resolve(object_id, Value(codec.encode(result).data))
