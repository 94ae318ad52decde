"""What a user writes: a `Member`, and the `MemberContext` through which it speaks.

A copy of a member is single-threaded; its methods are called one at a time, in this order::

    __init__ -> open -> [restore] -> (on_batch | on_end | poll | snapshot)* -> on_all_ended -> close

An exception from any of them stops the whole topology; `handle.wait()` raises it as `TaskError`
with the name of the member and the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from engine.core.determinants import DECIDED, Repeat
from engine.topology.errors import TopologyError, expected
from engine.topology.snapshot import Handed

if TYPE_CHECKING:
    from engine.topology.outbox import Outbox, Output
    from engine.topology.plan import MemberPlan

__all__ = ["Member", "MemberContext"]


class Member:
    """Base class of the members of a topology; override what is needed.

    A member without inputs is a source and must override `poll`. A member with inputs ends by
    itself when all of them have ended (`on_end` of the last port, then `on_all_ended`), or
    earlier by `ctx.finish()`. A channel from a member to itself never ends by itself, so such a
    member has to call `ctx.finish()`.

    With checkpoints a copy whose process died may come back alone (`Checkpoints.local`) and do
    again what it did since the last epoch: `on_batch`, `on_end` and `snapshot` in the same order,
    and `poll` where it had sent something. It must send the same items then. What a poll sends
    must follow from the state; a clock may say when, but not what, unless by `ctx.decide`.

    Attributes:
        replayable: False when that does not hold (it draws at random, asks others, or shares
            memory): then its death takes all copies back to the last epoch.
    """

    replayable: ClassVar[bool] = True

    def open(self, ctx: MemberContext) -> None:
        """Called once before anything else; keep `ctx`.

        May already emit, unless `ctx.is_restored`: then what it emitted counts as sent.
        """

    def poll(self) -> bool:
        """Called again and again while no input waits and every output channel has credit.

        Returns:
            True to be called again at once; False when there is nothing to do right now: then
            the next call comes after `ctx.wake_after(seconds)` or the next frame.
        """
        return False

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """One item.

        Args:
            port: of the channel it came by (default: the name of the sending member).
            value: a `pyarrow.RecordBatch`, any other value, or None when only `meta` came.
                Read-only: other copies may see the same object.
            meta: what the sender gave along.
            sender: index of the sending copy.
        """

    def on_end(self, port: str) -> None:
        """Every sender of `port` has ended. May emit."""

    def on_all_ended(self) -> None:
        """Every input has ended: the last chance to emit before the member ends."""

    def close(self) -> Any:
        """The last call; its value is the result of this copy. May not emit.

        Not called when the topology fails or is stopped. May hand over tokens.
        """
        return None

    def snapshot(self) -> Any:
        """The state at an epoch's end; must not share what the member goes on to change.

        It is pickled and written on another thread while the member goes on. May hand over tokens
        (`ctx.hand_over`) of effects that become visible when the epoch is committed.
        """
        return None

    def restore(self, state: Any) -> None:
        """Take over what `snapshot` returned; called after `open`."""


class MemberContext:
    """A member's window to the topology.

    Attributes:
        name: of the member.
        index: of this copy, 0 <= index < parallelism.
        parallelism: number of copies.
        inputs: port -> number of sending copies.
        outputs: channel name -> number of receiving copies.
        counters: what `count` has added up.
        is_restored: the member goes on from a snapshot: `restore` follows `open`.
    """

    __slots__ = (
        "_is_polled",
        "_outbox",
        "_outputs",
        "counters",
        "finished",
        "handed",
        "index",
        "inputs",
        "is_restored",
        "is_storing",
        "name",
        "on_close_epoch",
        "outputs",
        "parallelism",
        "repeat",
        "wake_seconds",
    )

    def __init__(
        self, plan: MemberPlan, inputs: Mapping[str, int], is_polled: bool, outbox: Outbox
    ) -> None:
        self.name = plan.name
        self.index = plan.index
        self.parallelism = plan.parallelism
        self._is_polled = is_polled
        self.inputs = inputs
        self.outputs: Mapping[str, int] = {o.name: o.receivers for o in outbox.outputs}
        self.counters: dict[str, int] = {}
        self.finished = False
        self.wake_seconds: float | None = None
        self.is_restored = False
        self.repeat: Repeat | None = None
        self.is_storing: Callable[[], bool] = _never
        self.on_close_epoch: Callable[[int, Any], None] | None = None
        self.handed: list[Handed] = []
        self._outbox = outbox
        self._outputs = outbox.outputs

    def emit(self, value: Any, meta: Any = None, *, channel: str | None = None) -> None:
        """Send an item to every outgoing channel, or to the named one, by its partitioning.

        `meta` goes with every part; a receiver that gets no part of the value gets the meta
        alone (value None) if it is not None. Never blocks: what exceeds the credit waits here,
        and the member is given no more input until it is gone.

        Raises:
            TopologyError: both are None, the channel is unknown, or the member has ended.
        """
        if value is None and meta is None:
            raise expected("a value or a meta to emit", "neither", "emit something")
        if channel is None:
            for output in self._outputs:
                output.emit(value, meta)
        else:
            self._output(channel).emit(value, meta)

    def send(self, channel: str, receiver_index: int, value: Any = None, meta: Any = None) -> None:
        """Send an item to one copy of the receiver, whatever the partitioning.

        Raises:
            TopologyError: unknown channel, no such receiver (a forward channel has only the copy
                of the same index), or the member has ended.
        """
        self._output(channel).send(receiver_index, value, meta)

    def announce(self, meta: Any) -> None:
        """Send `meta` alone to every receiver of every outgoing channel; uses no credit.

        Raises:
            TopologyError: `meta` is None, or the member has ended.
        """
        if meta is None:
            raise expected("a meta to announce", "None", "announce something")
        for output in self._outputs:
            output.emit(None, meta)

    def finish(self) -> None:
        """End this copy after the current call; what still comes in is thrown away."""
        self.finished = True

    def wake_after(self, seconds: float) -> None:
        """Have `poll` called in `seconds` from the end of this call; the last one counts.

        Raises:
            TopologyError: seconds is negative or no number, or the member has no `poll`.
        """
        if not self._is_polled:
            raise expected(f"a poll() in member '{self.name}'", "none", "override it to be woken")
        if not seconds >= 0:
            raise expected("seconds >= 0", seconds, "use 0 for at once")
        self.wake_seconds = float(seconds)

    def can_emit(self) -> bool:
        """Whether every outgoing channel has credit for one more item to every receiver."""
        return self._outbox.closed_count == 0

    def hand_over(self, token: Any, sync: Callable[[], None] | None = None) -> None:
        """Have an effect made visible: `External.commit([token])` in the process that deployed.

        That happens when the epoch whose end comes next is committed, or when the topology has
        ended well: exactly then. Call it in `snapshot` or `close`.

        Args:
            token: plain data that names the effect.
            sync: makes what the token names durable; called once, on another thread, before the
                epoch can be committed.
        """
        self.handed.append(Handed(token, sync))

    def can_close_epoch(self) -> bool:
        """Whether checkpoints are kept and this copy's last one is durable."""
        return self.on_close_epoch is not None and not self.is_storing()

    def close_epoch(self, epoch: int, state: Any) -> None:
        """For members on a cycle, where no barrier aligns: this copy's state at the end of `epoch`.

        The members see to it that all copies close the same epochs, with rising numbers, at points
        of their work that fit together: nothing under way that is not in a state.

        Args:
            epoch: the number, > 0.
            state: what `restore` is to get; must not share what the member goes on to change.

        Raises:
            TopologyError: the member is not on a cycle.
        """
        if self.on_close_epoch is not None:
            self.on_close_epoch(epoch, state)

    @property
    def repeats(self) -> bool:
        """Whether this copy has come back alone and does again what it did before it died."""
        return self.repeat is not None

    @property
    def decided(self) -> bool:
        """Whether this call of `poll` repeats one that had called `decide`."""
        return self.repeat is not None and self.repeat.entry == DECIDED

    def decide(self) -> bool:
        """Say, in `poll` and before it sends anything, that a clock is about to decide what.

        Returns:
            Whether it may. Not while the copy repeats what it did before it died: then `decided`
            says where it did so. Without checkpoints always.

        Raises:
            TopologyError: this is no call of `poll`, or it has sent something already.
        """
        if self.repeat is not None and not self.decided:
            return False
        self._outbox.on_decided()
        return True

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter shown in `handle.statistics()`."""
        self.counters[name] = self.counters.get(name, 0) + n

    def _output(self, channel: str) -> Output:
        output = self._outbox.by_name.get(channel)
        if output is None:
            raise TopologyError(
                f"expected an outgoing channel of member '{self.name}', found '{channel}'; "
                f"its channels are {sorted(self.outputs)}"
            )
        return output


def _never() -> bool:
    return False
