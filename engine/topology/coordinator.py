"""Between the pure machine of epochs and the world: directory, outside effects, what to start from.

Both handles use it, inline and in processes: they start and end copies, ask them for snapshots and
report; everything that must be done in the right order for exactly-once is done here.

The order of a commit: every state durable, tokens' effects durable (by the copies), manifest
durable, effects made visible. The order of going back: all copies of the attempt are gone, a
manifest that could not be made durable is gone, effects of the last one are made visible (again),
the rest is undone, copies start from that manifest. Whoever dies in between, the next one finds the
manifest and does the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.epochs import (
    Abort,
    Commit,
    Effect,
    Epochs,
    GiveUp,
    Recover,
    RollBack,
    Store,
    Take,
)
from engine.topology.checkpoint import CheckpointDirectory, Manifest
from engine.topology.errors import CheckpointError, TopologyFailedError, expected
from engine.topology.partition import Hashed
from engine.topology.plan import MemberPlan
from engine.topology.policy import Checkpoints, External, directory_of
from engine.topology.snapshot import Report
from engine.topology.spec import Topology
from engine.topology.statefile import StateFile
from engine.topology.statistics import CheckpointStatistics

__all__ = ["Coordinator", "Start", "Todo"]

Todo = Take | RollBack | Recover
"""Effects that are for those who have the copies."""

# Characters of a line that are shown before a difference between two descriptions.
_SHOWN = 40


@dataclass(frozen=True)
class Start:
    """What the copies of one attempt start from.

    `states` has the file of each copy, none at epoch 0; `ended` the ids of copies that had ended.
    `retain_bytes` is None when no copy comes back alone.
    """

    attempt: int
    directory: Path
    salt: str
    epoch: int = 0
    states: dict[int, StateFile] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()
    retain_bytes: int | None = None


class Coordinator:
    """One run of a topology with checkpoints.

    Opens the directory and finds what to resume; nothing is started.

    Args:
        topology, plans: what runs.
        policy: how it is kept.
        external: the world outside.
        now: the time.

    Attributes:
        finished: the last epoch, in which every copy has ended, is committed.
        self_paced: the copies close epochs by themselves: there are cycles.
        is_local: copies may come back alone.
        last_recovery_seconds: from hearing of a death to where the copy had been.
        taken: epochs asked for and not committed, in order: whoever comes back takes them too.

    Raises:
        CheckpointError: the directory is in use, holds another topology, or only damaged epochs.
    """

    def __init__(
        self,
        topology: Topology,
        plans: list[MemberPlan],
        policy: Checkpoints,
        external: External,
        now: float,
    ) -> None:
        self.policy = policy
        self.finished = False
        self.self_paced = any(channel.feedback for plan in plans for channel in plan.inputs)
        self.is_local = policy.local and not self.self_paced
        self.taken: list[int] = []
        self._last_fallback = ""
        self.last_recovery_seconds = 0.0
        self._name = topology.name
        self._shape = _shape_of(topology, policy.fingerprint)
        self._external = external
        self._bytes = self._reused = self._damaged = 0
        self.directory = CheckpointDirectory(directory_of(policy.directory), policy.keep)
        try:
            self._manifest = self._find()
            self._epochs = Epochs(
                [plan.copy for plan in plans],
                every=policy.every,
                self_paced=self.self_paced,
                timeout=policy.timeout,
                restarts=policy.restarts,
                restart_seconds=policy.restart_seconds,
                committed=0 if self._manifest is None else self._manifest.epoch,
                highest=self.directory.highest(),
            )
            external.begin(self._manifest is not None)
        except BaseException:  # of the outside too: the directory is free for the next
            self.directory.close()
            raise

    def _find(self) -> Manifest | None:
        if self.policy.resume is False:
            self.directory.clear()
            return None
        manifest, wrong = self.directory.latest()
        self._drop_damaged(wrong, manifest)
        if manifest is None:
            if self.policy.resume:
                raise CheckpointError(
                    f"expected a checkpoint in {self.directory.path} (resume=True), found none"
                )
            return None
        if manifest.topology != self._shape:
            raise CheckpointError(
                f"expected a checkpoint of this topology in {self.directory.path}, found one that "
                f"differs: {_difference(manifest.topology, self._shape)}. Use another directory, "
                "or resume=False to begin anew and remove it"
            )
        return manifest

    def _drop_damaged(self, wrong: list[str], found: Manifest | None) -> None:
        """Go on without epochs that cannot be read, unless none is left."""
        if wrong and found is None:
            raise CheckpointError(
                f"expected a whole checkpoint in {self.directory.path}, found only damaged ones: "
                f"{'; '.join(wrong)}. resume=False begins anew (what was written for them outside "
                "stays there)"
            )
        for epoch in self.directory.epochs():
            if found is not None and epoch > found.epoch:
                self._damaged += 1
                self.directory.drop(epoch)

    # ------------------------------------------------------------------ attempts

    def prepare(self) -> Start:
        """Everything is as the copies of the next attempt expect it; none may run meanwhile."""
        self.directory.wait_for_members()
        self.directory.settle()
        manifest = self._manifest
        if manifest is not None:
            self._external.commit(manifest.decode_tokens())
        self._external.undo(0 if manifest is None else manifest.epoch)
        self.directory.collect(everything=True)
        self.taken.clear()
        return self.start()

    def start(self) -> Start:
        """What copies start from that start now: all, or one alone. Its files have new names."""
        manifest = self._manifest
        attempt, path, salt = self._epochs.attempt, self.directory.path, secrets.token_hex(4)
        retain = self.policy.retain_bytes if self.is_local else None
        if manifest is None:
            return Start(attempt, path, salt, retain_bytes=retain)
        states = {state.copy: state for state in manifest.states}
        ended = frozenset(state.copy for state in manifest.states if state.ended)
        return Start(attempt, path, salt, manifest.epoch, states, ended, retain)

    def begin(self, now: float) -> list[Todo]:
        """Every copy has started."""
        return self._carry_out(self._epochs.begin(now), now)

    def on_death(self, attempt: int, story: str, now: float) -> list[Todo]:
        """A copy has died.

        Raises:
            TopologyFailedError: too many have.
        """
        return self._carry_out(self._epochs.on_death(attempt, story, now), now)

    def on_lost(
        self, attempt: int, plan: MemberPlan, story: str, now: float
    ) -> list[Todo]:
        """A copy has died: bring it back alone if that can be.

        Raises:
            TopologyFailedError: too many have died.
        """
        if not self.is_local:
            return self.on_death(attempt, story, now)
        effects = self._carry_out(self._epochs.on_lost(attempt, plan.copy, story, now), now)
        if not plan.member_class.replayable and any(type(one) is Recover for one in effects):
            return self.on_not_recovered(
                attempt, f"member '{plan.name}' is not replayable: {story}", now
            )
        return effects

    def on_not_recovered(self, attempt: int, why: str, now: float) -> list[Todo]:
        """A copy could not be brought back alone: all go back."""
        self._last_fallback = why
        return self._carry_out(self._epochs.on_not_recovered(attempt, why, now), now)

    def on_damage(self, attempt: int, story: str, now: float) -> list[Todo]:
        """A copy could not read its state: the epoch before is the last one now.

        Raises:
            CheckpointError: there is none.
        """
        if attempt != self._epochs.attempt or self._manifest is None:
            return []
        effects = self._epochs.on_death(attempt, story, now)
        damaged = self._manifest.epoch
        self._manifest, wrong = self.directory.latest(below=damaged)
        self._drop_damaged([story, *wrong], self._manifest)
        assert self._manifest is not None
        self._epochs.fall_back(self._manifest.epoch)
        return self._carry_out(effects, now)

    # ------------------------------------------------------------------ epochs

    def due(self) -> float | None:
        """When `tick` has something to do."""
        return self._epochs.due()

    def tick(self, now: float) -> list[Todo]:
        """Time has passed."""
        return self._carry_out(self._epochs.tick(now), now)

    def request(self, now: float) -> list[Todo]:
        """An epoch is wanted now."""
        return self._carry_out(self._epochs.request(now), now)

    @property
    def progress(self) -> tuple[int, int]:
        """How many epochs have been committed and aborted so far."""
        return self._epochs.commits, self._epochs.aborts

    @property
    def committed(self) -> int:
        """The last committed epoch."""
        return self._epochs.committed

    def on_report(
        self, attempt: int, copy: int, report: Report, now: float
    ) -> list[Todo]:
        """A copy tells how storing its snapshot went."""
        state = report.state
        if state is None:
            effects = self._epochs.on_failed(attempt, report.epoch, report.problem, now)
        elif state.ended:
            effects = self._epochs.on_ended(attempt, copy, report, now)
        else:
            effects = self._epochs.on_durable(attempt, copy, report.epoch, report, now)
        return self._carry_out(effects, now)

    def _carry_out(self, effects: Iterable[Effect], now: float) -> list[Todo]:
        """Do what is to be done here; what is left is for those who have the copies."""
        left: list[Todo] = []
        todo = list(effects)
        while todo:
            effect = todo.pop(0)
            if isinstance(effect, Store):
                todo += self._store(effect, now)
            elif isinstance(effect, Commit):
                self._commit(effect)
            elif isinstance(effect, GiveUp):
                raise TopologyFailedError(
                    f"topology '{self._name}' lost processes more than {self.policy.restarts} "
                    f"times within {self.policy.restart_seconds:g} s and was ended:\n"
                    f"{effect.story}\nIts checkpoints are kept: the same start goes on from "
                    f"epoch {self._epochs.committed}"
                )
            elif not isinstance(effect, Abort):  # aborts are counted by the machine
                if isinstance(effect, Take):
                    self.taken.append(effect.epoch)
                left.append(effect)
        return left

    def _store(self, effect: Store, now: float) -> list[Effect]:
        reports: list[Report] = [effect.reports[copy] for copy in sorted(effect.reports)]
        states = [report.state for report in reports if report.state is not None]
        tokens = [token for report in reports for token in report.tokens]
        try:
            self._manifest = self.directory.commit(effect.epoch, self._shape, states, tokens)
        except OSError as error:
            attempt = self._epochs.attempt
            return self._epochs.on_failed(attempt, effect.epoch, f"manifest: {error}", now)
        self._bytes += sum(report.written for report in reports)
        self._reused += sum(not report.written for report in reports)
        return self._epochs.on_stored(effect.epoch, now)

    def _commit(self, effect: Commit) -> None:
        assert self._manifest is not None
        self._external.commit(self._manifest.decode_tokens())
        self.directory.collect()
        self.taken = [epoch for epoch in self.taken if epoch > effect.epoch]
        self.finished = effect.final

    # ------------------------------------------------------------------ end

    def finish(self) -> None:
        """The topology has ended well, and all its effects are visible: nothing to resume."""
        self.directory.clear()
        self.directory.close()

    def stop(self) -> None:
        """The run ends here; the directory is kept for the next. No copy may run any more.

        Raises what `External.commit` raises; then nothing is undone, for the next run commits. Nor
        is it after an OSError of the directory: an epoch may be there that could not be committed.
        """
        try:
            self.directory.wait_for_members()
            self.directory.settle()
            if self._manifest is not None:
                self._external.commit(self._manifest.decode_tokens())
            self._external.undo(self._epochs.committed)
        finally:
            self.directory.close()

    def export(self, location: str | os.PathLike[str]) -> None:
        """Copy the last committed epoch to another directory, from which a run can start.

        Raises:
            CheckpointError: the directory is in use or the epoch is damaged.
            TopologyError: nothing is committed yet, or it is the same directory.
        """
        path = directory_of(location)
        if self._manifest is None or path == self.directory.path:
            raise expected(
                "a committed epoch and another directory for a savepoint",
                f"epoch {self._epochs.committed} in {self.directory.path} and {path}",
                "name a directory of its own",
            )
        other = CheckpointDirectory(path, self.policy.keep)
        try:
            other.clear()
            self.directory.export(self._manifest, other)
        finally:
            other.close()

    def statistics(self) -> CheckpointStatistics:
        """What has been done so far."""
        epochs = self._epochs
        return CheckpointStatistics(
            attempt=epochs.attempt,
            epoch=epochs.committed,
            commits=epochs.commits,
            aborts=epochs.aborts,
            rollbacks=epochs.rollbacks,
            dropped=epochs.dropped,
            damaged=self._damaged,
            bytes_written=self._bytes,
            states_reused=self._reused,
            last_seconds=epochs.last_seconds,
            last_abort=epochs.last_abort,
            recoveries=epochs.recoveries,
            last_fallback=self._last_fallback,
            last_recovery_seconds=self.last_recovery_seconds,
        )


def _shape_of(topology: Topology, fingerprint: str) -> str:
    """What must be the same for states to fit: members, copies, channels, and what they compute."""
    lines = [f"topology {topology.name}"]
    for member in topology.members:
        cls = member.member_class
        lines.append(f"member {member.name}: {member.parallelism} copies of {cls.__qualname__}")
    for channel in topology.channels:
        how = type(channel.partitioning).__name__
        if isinstance(channel.partitioning, Hashed):
            how += f"({', '.join(channel.partitioning.columns)})"
        ends = f"{channel.sender.name}.{channel.name} -> {channel.receiver.name}.{channel.port}"
        lines.append(f"channel {ends}: {how}")
    return "\n".join([*lines, fingerprint])


def _difference(found: str, wanted: str) -> str:
    """The first line in which two descriptions differ, from a little before the difference on."""
    ours, theirs = wanted.splitlines(), found.splitlines()
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            at = same - _SHOWN
            where = f"after '{one[:_SHOWN].strip()} ...' " if at > _SHOWN else ""
            at = at if at > _SHOWN else 0
            there, here = (line[at : at + 3 * _SHOWN].strip() for line in (other, one))
            return f"{where}{there!r} there, {here!r} here"
    longer = ours if len(ours) > len(theirs) else theirs
    where = "here" if longer is ours else "there"
    return f"{longer[min(len(ours), len(theirs))].strip()!r} only {where}"
