"""One copy of a running algorithm: a member of the topology that drives its task by votes."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.topology import Member, MemberContext, SharedArray
from graph.superstep import Supersteps, Tally
from graph.task import Part, Task

__all__ = ["CHANNEL", "Worker", "share_of"]

CHANNEL = "votes"
"""The channel from the member to itself."""
READY: list[int] = []
"""The vote of a copy that is ready: it has mapped the graph, or copied its share of the state."""


def share_of(array: npt.NDArray[Any], index: int, copies: int) -> npt.NDArray[Any]:
    """One copy's part of a shared array, whatever its shape; a view."""
    flat = array.reshape(-1)
    return flat[flat.size * index // copies : flat.size * (index + 1) // copies]


class Worker(Member):
    """Runs the task on one partition.

    A superstep runs as soon as the last vote for the one before it is in: in the very call that
    delivered it, without going through the topology's loop again. The machine's first superstep is
    the "ready" of all copies, so that times do not count the start of processes.

    For a checkpoint every copy takes what it has been sent, its task's own state and its share of
    every shared array, cut without regard to meaning: between two supersteps nobody writes. A
    further exchange of "ready" keeps the others from going on before all have copied. Whether it is
    time for one is decided by all from the same votes, each of which says if that copy's last
    checkpoint is durable.
    """

    def __init__(
        self,
        task: Task,
        bounds: npt.NDArray[np.int64],
        state: dict[str, SharedArray],
        names: tuple[str, ...],
        every: int,
        *arrays: npt.NDArray[Any],
    ) -> None:
        """``arrays`` are the graph's, in the order of ``names``; as references they come mapped.

        ``every`` is the number of supersteps from one checkpoint to the next; 0: none.
        """
        self.task = copy.copy(task)  # inline, all copies are given the same object
        self.bounds = bounds
        self.state = state
        self.every = every
        self.graph = dict(zip(names, arrays, strict=True))
        self.started = False

    def open(self, ctx: MemberContext) -> None:
        """Map the state and let the task prepare."""
        self.ctx = ctx
        self.machine = Supersteps(ctx.index, ctx.parallelism)
        self.part = Part(
            index=ctx.index,
            copies=ctx.parallelism,
            bounds=self.bounds,
            graph=self.graph,
            state={name: shared.array for name, shared in self.state.items()},
        )
        self.part.outbox = [None] * ctx.parallelism
        self.step = self.saved = 0
        self.spent = 0.0
        self.is_done = False
        self.totals: tuple[Any, ...] = ()
        # What the next superstep is given, while "ready" is exchanged.
        self.messages: tuple[Any, ...] | None = (None,) * ctx.parallelism
        self.task.open(self.part)

    def poll(self) -> bool:
        """The first call says "ready" to the others; everything else happens as votes come in."""
        if not self.started:
            self.started = True
            self._drive(self._vote(READY))
        return False

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        """The vote of another copy, with what it sends to this one."""
        self._drive(self.machine.vote(sender, meta[0], meta[1], value))

    def close(self) -> Any:
        """Supersteps done, seconds, the last totals, the result, this copy's shares of the state.

        The shares only with checkpoints: what the driver finds in the shared arrays is lost with
        it, and the end has to hold all that the next driver needs.
        """
        shares = self._shares() if self.every else {}
        return self.step, self.spent, self.totals, self.result, shares

    def _drive(self, tally: Tally | None) -> None:
        """Do supersteps until one needs votes that are not in yet, or all is done."""
        while tally is not None:
            messages = self.messages
            if self.is_done:  # and everybody has written its results
                self.ctx.finish()
                return
            if messages is not None:
                self.messages = None
                if tally.step == 0:
                    self.began = time.perf_counter() - self.spent
            else:
                messages, is_due = tally.messages, self._count(tally.values)
                if self.task.done(self.step - 1, self.totals):
                    self.spent = time.perf_counter() - self.began
                    self.result = self.task.result()
                    self.is_done = True
                    tally = self._vote(READY) if self.every else tally
                    continue
                if is_due:
                    self._save(messages)
                    self.messages = messages
                    tally = self._vote(READY)
                    continue
            values = self.task.superstep(self.step, self.totals, messages)
            self.step += 1
            tally = self._vote([self.ctx.can_close_epoch(), values] if self.every else values)

    def _count(self, votes: Sequence[Any]) -> bool:
        """Combine the votes on a superstep; whether all agree that it is time for a checkpoint."""
        if not self.every:
            self.totals = self.task.combine(votes)
            return False
        self.totals = self.task.combine(tuple(values for _, values in votes))
        return self.step - self.saved >= self.every and all(ready for ready, _ in votes)

    def _vote(self, values: Any) -> Tally | None:
        """Vote, and send what the task has for the others; the tally if theirs are in already."""
        me, step = self.part.index, self.machine.step
        outbox, self.part.outbox = self.part.outbox, [None] * self.part.copies
        for other, message in enumerate(outbox):
            if other != me:
                self.ctx.send(CHANNEL, other, message, [step, values])
        return self.machine.vote(me, step, values, outbox[me])

    # --- checkpoints -------------------------------------------------------------------------

    def _save(self, messages: tuple[Any, ...]) -> None:
        """Close the epoch that ends with the supersteps done so far."""
        self.saved = self.step
        state = {
            "step": self.step,
            "spent": time.perf_counter() - self.began,
            "totals": self.totals,
            "messages": messages,
            "task": self.task.snapshot(),
            "shares": self._shares(),
        }
        self.ctx.close_epoch(self.step, state)

    def restore(self, state: Any) -> None:
        """Go on from a checkpoint; nobody else does before this copy is ready."""
        self.step = self.saved = state["step"]
        self.spent = state["spent"]
        self.totals = state["totals"]
        self.messages = state["messages"]
        for name, share in state["shares"].items():
            share_of(self.part.state[name], self.part.index, self.part.copies)[:] = share
        self.task.restore(state["task"])

    def _shares(self) -> dict[str, npt.NDArray[Any]]:
        me, copies = self.part.index, self.part.copies
        return {name: share_of(array, me, copies).copy() for name, array in self.part.state.items()}
