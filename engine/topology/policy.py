"""What a user says about checkpoints, and what a topology does to the world outside of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.topology.errors import expected

__all__ = ["Checkpoints", "External", "directory_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """How a topology is kept restartable; given to `Topology.deploy`.

    Every copy's state is written to `directory` at the end of each epoch; a death of any process
    takes its copy, or if need be all copies, back to the last epoch that is complete there, and so
    does the next start with the same directory. When the topology has ended well, the directory is
    emptied.

    Args:
        directory: a path or a ``file:///`` URL; made when it is not there. One topology at a time.
        every: seconds from one epoch to the next; None: only when `handle.checkpoint()` asks.
            Members on a cycle close epochs by themselves (`MemberContext.close_epoch`).
        keep: how many committed epochs to keep; the older ones are there in case the newest one
            turns out to be damaged.
        timeout: seconds an epoch may take; then it is aborted and the next one tried.
        restarts: how many deaths within `restart_seconds` are answered by going back; one more is
            an error with their story.
        restart_seconds: see `restarts`.
        local: whether a single copy that dies comes back alone, while the others go on: it does
            again what it did since the last epoch, so its code has to do the same for the same
            input (`Member.replayable`). Where that cannot be (cycles, neighbours that die together,
            too much to retain), and with False, all copies go back.
        retain_bytes: what each copy keeps for that of what it has sent since the last epoch.
            With more in one epoch it keeps nothing until the next one, and when that is too much
            again it leaves out 1, 3, 7 and then 15 epochs before it tries again; counted as
            ``retention_given_up`` in the statistics of the copy.
        resume: None: go on from what the directory holds, if it holds something of the same
            topology; True: it must; False: begin anew and remove what it holds.
        fingerprint: what the topology computes, beyond members and channels: a checkpoint of
            another fingerprint is refused.

    Raises:
        TopologyError: an argument is out of range.
    """

    directory: str | os.PathLike[str]
    every: float | None = 1.0
    keep: int = 2
    timeout: float = 60.0
    restarts: int = 10
    restart_seconds: float = 60.0
    local: bool = True
    # Two epochs of a second (the last, and the one under way) at 32 MB/s a copy. What is retained
    # is memory that is not used again at once: far beyond such a rate it costs more than it saves.
    retain_bytes: int = 64 << 20
    resume: bool | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.every is not None and not self.every > 0:
            raise expected("seconds > 0 or None as every", self.every, "the default is 1.0")
        if self.keep < 1:
            raise expected("keep >= 1", self.keep, "the default is 2")
        if not self.timeout > 0 or not self.restart_seconds > 0 or self.restarts < 0:
            raise expected(
                "timeout > 0, restart_seconds > 0 and restarts >= 0",
                (self.timeout, self.restart_seconds, self.restarts),
                "leave them out for the defaults",
            )
        if self.retain_bytes < 0:
            raise expected("retain_bytes >= 0", self.retain_bytes, "local=False retains nothing")
        directory_of(self.directory)


def directory_of(location: str | os.PathLike[str]) -> Path:
    """The directory that a path or a ``file:///`` URL names.

    Raises:
        TopologyError: another kind of URL, or an empty name.
    """
    text = os.fspath(location)
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise expected("a path or a file:/// URL for checkpoints", repr(text), "use one")
        text = unquote(parts.path)
    if not text:
        raise expected("a directory for checkpoints", repr(location), "name one")
    return Path(text).absolute()


class External:
    """The world outside, where the effects of a topology become visible; override what is needed.

    Lives in the process that deploys. Effects are handed over as *tokens* (plain data) by
    `MemberContext.hand_over`; they count when the epoch they were handed over in is committed, or
    when the topology has ended well. Everything may be called again with the same arguments, by
    whoever resumes.
    """

    def begin(self, resumed: bool) -> None:
        """Before any copy runs for the first time; `resumed`: a former run has left a checkpoint.

        An exception keeps the topology from starting.
        """

    def commit(self, tokens: Sequence[Any]) -> None:
        """Make visible what these tokens name."""

    def undo(self, epoch: int) -> None:
        """No copy runs: remove what was prepared and not committed.

        Not called when one copy comes back alone: it prepares the same things again, under the
        same names if those follow from its state.

        The copies start again from the end of `epoch` (0: from the beginning), if they do.
        """
