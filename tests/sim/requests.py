"""What a process asks its node for, and the answers. Mirrors `runtime.requests`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.core.control import Attach, Reply, Request, SegmentsReturned
from engine.core.ids import IdSource
from engine.core.values import Value, encode_failure
from tests.sim.member import Failure, Member, Steps
from tests.sim.references import Ref

if TYPE_CHECKING:
    from engine.core.owner import Owner
    from tests.sim.world import World

__all__ = ["Requests"]

# Requests whose answer is a segment of one's own.
_LEASES = ("segment", "disk")


class Requests(Member):
    """The part of a process that asks."""

    ids: IdSource
    owner: Owner

    def __init__(self, world: World, process: bytes, pid: int) -> None:
        super().__init__(world, process, pid)
        self.node_alive = True
        self._requests = 0
        self.replies: dict[int, Any] = {}
        self.promised: dict[int, bytes] = {}
        self.abandoned: dict[int, str] = {}  # requests whose asker was interrupted

    def request(self, what: str, **args: Any) -> Steps:
        """As `Requests.request`: ask the node and wait; a Reply or an Attach."""
        return (yield from self._await(self._ask(what, args), what))

    def request_unless(self, what: str, unless: Callable[[], bool], **args: Any) -> Steps:
        """As `Requests.request_unless`."""
        number = self._ask(what, args)
        try:
            yield (lambda: number in self.replies or unless() or not self.node_alive), None
            if number not in self.replies and unless():
                self._withdraw(number, what)
                return None
        except BaseException:  # interrupted: what the node grants now is given back
            self._withdraw(number, what)
            raise
        return (yield from self._await(number, what))

    def _ask(self, what: str, args: dict[str, Any]) -> int:
        self.check_node()
        self._requests += 1
        self.send(self.node, Request(self._requests, what, args))
        self.flush()
        return self._requests

    def _withdraw(self, number: int, what: str) -> None:
        """As `Requests._withdraw`."""
        if number not in self.replies:
            self.world.mark("a request for memory is withdrawn")
            self._requests += 1
            self.send(self.node, Request(self._requests, "withdraw", {"which": number}))
        self._abandon(number, what)
        self.flush()

    def _await(self, number: int, what: str) -> Steps:
        try:
            yield (lambda: number in self.replies or not self.node_alive), None
        except BaseException:  # the call that asks was cancelled
            self._abandon(number, what)
            raise
        if number in self.replies:
            return self.replies.pop(number)
        raise Failure("NodeDiedError", f"the node died before it answered {what!r}")

    def _abandon(self, number: int, what: str) -> None:
        """As `Requests._abandon`."""
        self.world.mark("nobody takes the answer to a request")
        answer = self.replies.pop(number, None)
        if answer is None:
            self.abandoned[number] = what
        else:
            self._give_up(what, answer)

    def _give_up(self, what: str, answer: Any) -> None:
        if what in _LEASES and type(answer) is Attach:
            self.send(self.node, SegmentsReturned([answer.segment]))

    def promise(self, what: str, **args: Any) -> Ref:
        """As `Requests.promise`."""
        self.check_node()
        object_id = self.ids.new()
        self._requests += 1
        self.promised[self._requests] = object_id
        self.owner.objects.add(object_id)
        self.send(self.node, Request(self._requests, what, args))
        self.flush()
        return Ref(self, object_id)

    def check_node(self) -> None:
        """As in `session.runtime`: every verb does."""
        if not self.node_alive:
            raise Failure("NodeDiedError", "the node is dead")

    def _on_reply(self, message: Reply) -> None:
        promised = self.promised.pop(message.number, None)
        if promised is None:
            self._on_answer(message)
        elif message.error:
            failure = encode_failure(message.result["kind"], message.error)
            self.owner.objects.resolve(promised, failure)
        else:
            self.owner.objects.resolve(promised, Value(b"\xc3"))

    def _on_answer(self, message: Any) -> None:
        what = self.abandoned.pop(message.number, None)
        if what is None:
            self.replies[message.number] = message
        else:
            self._give_up(what, message)
