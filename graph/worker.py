"""One copy of a running algorithm: a member of the topology that drives its task by votes."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.topology import Member, MemberContext, SharedArray
from graph.superstep import Supersteps, Tally
from graph.task import Part, Task

__all__ = ["CHANNEL", "Worker"]

CHANNEL = "votes"
"""The channel from the member to itself."""
READY: list[int] = []
"""The vote of a copy that has mapped the graph and loaded its kernels."""


class Worker(Member):
    """Runs the task on one partition.

    A superstep runs as soon as the last vote for the one before it is in: in the very call that
    delivered it, without going through the topology's loop again. The machine's first superstep is
    the "ready" of all copies, so that times do not count the start of processes; superstep k of
    the task is k + 1 of the machine.
    """

    def __init__(
        self,
        task: Task,
        bounds: npt.NDArray[np.int64],
        state: dict[str, SharedArray],
        names: tuple[str, ...],
        *arrays: npt.NDArray[Any],
    ) -> None:
        """``arrays`` are the graph's, in the order of ``names``; as references they come mapped."""
        self.task = copy.copy(task)  # inline, all copies are given the same object
        self.bounds = bounds
        self.state = state
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
        self.totals: tuple[Any, ...] = ()
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
        """Supersteps done, seconds from the first to the last, the last totals, the result."""
        return self.machine.step - 1, self.seconds, self.totals, self.task.result()

    def _drive(self, tally: Tally | None) -> None:
        """Do supersteps until one needs votes that are not in yet, or all is done."""
        while tally is not None:
            if tally.step == 0:
                self.began = time.perf_counter()
            else:
                self.totals = self.task.combine(tally.values)
                if self.task.done(tally.step - 1, self.totals):
                    self.seconds = time.perf_counter() - self.began
                    self.ctx.finish()
                    return
            tally = self._vote(self.task.superstep(tally.step, self.totals, tally.messages))

    def _vote(self, values: Any) -> Tally | None:
        """Vote, and send what the task has for the others; the tally if theirs are in already."""
        me, step = self.part.index, self.machine.step
        outbox, self.part.outbox = self.part.outbox, [None] * self.part.copies
        for other, message in enumerate(outbox):
            if other != me:
                self.ctx.send(CHANNEL, other, message, [step, values])
        return self.machine.vote(me, step, values, outbox[me])
