"""One copy of a member in a process of its own: the edge around its `MemberLoop`.

Frames ride the connections of the runtime, like calls. A value above the inline limit is written
to shared memory once and *lent*: it becomes an object of the sender with the receivers as borrowers
from the start, so the block is free again when the last of them has dropped it, and no message but
that one is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec

from engine.core.messages import ChannelFrame
from engine.runtime.client import Runtime
from engine.runtime.execution import Deferred
from engine.runtime.worker import current_worker
from engine.store import codec
from engine.store.refs import ObjectRef
from engine.topology.errors import MemberError, task_error
from engine.topology.frames import Data, Frame
from engine.topology.loop import MemberLoop
from engine.topology.plan import MemberPlan, construct
from engine.topology.statistics import MemberStatistics

__all__ = ["MemberActor"]

_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], Frame] = msgspec.msgpack.Decoder(Frame).decode
# While there is work, incoming frames and calls are looked at this often.
_POLL_SECONDS = 200e-6


class MemberActor:
    """The actor that hosts one copy. Its calls and its frames share one thread."""

    def __init__(self, topology: bytes, plan: MemberPlan) -> None:
        worker = current_worker()
        assert worker is not None, "members live in workers"
        self._worker = worker
        self._runtime: Runtime = worker.runtime
        self._topology = topology
        self._plan = plan
        self._raw: deque[ChannelFrame | tuple[Frame, Any]] = deque()
        self._loop: MemberLoop | None = None
        self._addresses: dict[int, bytes] = {}
        self._done: Deferred | None = None
        self._failed = False
        self._last: tuple[Any, Any] = (None, None)
        self._polled = 0.0
        worker.channel = self

    # ------------------------------------------------------------------ calls

    def configure(self, addresses: dict[int, bytes]) -> None:
        """Learn where the other copies are, and open the lines to them."""
        self._addresses = addresses
        mine = self._runtime.id
        with self._runtime.lock:
            for copy in self._plan.peers:
                if addresses[copy] != mine and mine < addresses[copy]:
                    self._runtime.open_line(addresses[copy])
            self._runtime.reactor.flush()

    def start(self) -> Deferred:
        """Make the member and run it; answered when it has ended."""
        self._done = Deferred()
        try:
            member = construct(self._plan)
            self._loop = MemberLoop(self._plan, member, self, perf_counter)
        except MemberError as error:
            raise task_error(error) from error.__cause__
        return self._done

    def statistics(self) -> MemberStatistics | None:
        """What the member has done so far; None before it starts."""
        return None if self._loop is None else self._loop.statistics()

    def describe(self) -> str:
        """What the member waits for, for reports."""
        if self._loop is None:
            return f"{self._plan.name}[{self._plan.index}] has not started"
        return self._loop.describe()

    # ------------------------------------------------------------------ transport

    def send(self, copy: int, frame: Frame, value: Any) -> None:
        """Hand a frame to another copy (the loop's transport)."""
        address = self._addresses[copy]
        runtime = self._runtime
        if address == runtime.id:
            self._raw.append((frame, value))
            return
        packed, loan = None, b""
        if value is not None:
            packed = self._pack(value)
        with runtime.lock:
            if packed is not None and packed.block is not None:
                loan = self._lend(packed, value, address)
            message = ChannelFrame(self._topology, copy, _encode(frame), packed, loan)
            runtime.send(address, message)

    def _pack(self, value: Any) -> Any:
        # A broadcast hands over the same object several times: one copy in memory serves all.
        last, packed = self._last
        if last is not value:
            packed = self._runtime.values.store(codec.encode(value))
            self._last = (value, packed)
            self._loan = b""
        return packed

    def _lend(self, packed: Any, value: Any, borrower: bytes) -> bytes:
        objects = self._runtime.owner.objects
        if not self._loan or not objects.lend_again(self._loan, borrower):
            if self._loan:  # everybody has dropped it already, and the block is gone
                packed = self._runtime.values.store(codec.encode(value))
                self._last = (value, packed)
            self._loan = self._runtime.ids.new()
            objects.lend(self._loan, packed, borrower)
        return self._loan

    # ------------------------------------------------------------------ the worker's hooks

    def receive(self, peer: bytes, message: ChannelFrame) -> None:
        """A frame has arrived; under the lock, maybe on another thread."""
        self._raw.append(message)

    def has_work(self) -> bool:
        """Whether `step` has something to look at."""
        return bool(self._raw) and self._loop is not None

    def next_wake(self) -> float | None:
        """When `step` has work without a frame."""
        return None if self._loop is None else self._loop.next_wake()

    def step(self) -> bool:
        """Take what has arrived and do one unit of work; False when there is nothing to do."""
        loop = self._loop
        if loop is None or self._failed:
            self._raw.clear()
            return False
        try:
            raw = self._raw
            while raw:
                loop.receive(self._unpack(raw.popleft()))
            worked = loop.step()
        except Exception as error:  # whatever it is, it ends the topology with this as the reason
            self._fail(error)
            return False
        if loop.ended and self._done is not None:
            done, self._done = self._done, None
            done.set(loop.result)
        if worked:
            self._serve()
        return worked

    def _serve(self) -> None:
        reactor = self._runtime.reactor
        now = perf_counter()
        if now - self._polled > _POLL_SECONDS:
            self._polled = now
            reactor.poll()
        else:
            with reactor.lock:
                reactor.flush()

    def _unpack(self, item: ChannelFrame | tuple[Frame, Any]) -> Frame:
        if isinstance(item, tuple):
            frame, value = item
            if type(frame) is Data:
                frame.value = value
            return frame
        frame = _decode(item.body)
        packed = item.value
        if packed is not None:
            assert isinstance(frame, Data)
            pin: ObjectRef[Any] | None = None
            if item.loan:
                self._runtime.accept_loan(item.loan)
                pin = ObjectRef(item.loan)
            frame.value = self._runtime.values.materialise(packed, pin)
        return frame

    def _fail(self, error: Exception) -> None:
        self._failed = True
        done, self._done = self._done, None
        if isinstance(error, MemberError):
            made: BaseException = task_error(error)
        else:
            made = error
        if done is not None:
            done.fail(made)
