"""Barrier alignment: when the markers of an epoch have come from every sender (pure).

Asynchronous barrier snapshots (Carbone et al., 2015): each sender closes an epoch with a marker.
What comes from a sender after its marker belongs to the next epoch and is held until the
markers of all senders that have not ended are there; at that moment the receiver's state reflects
exactly the closed epochs. Senders are named by any hashable key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from engine.topology.errors import ProtocolError

__all__ = ["Alignment"]


class Alignment:
    """Tracks which senders are past the marker of the epoch that is being closed.

    Args:
        senders: all of them.
        epoch: the epoch that is current at the start.

    Attributes:
        epoch: the epoch of the items processed now.
        pending: the epoch whose markers are being collected, or None.
        passed: senders whose marker of `pending` has come.
    """

    __slots__ = ("_live", "epoch", "passed", "pending")

    def __init__(self, senders: Iterable[Hashable], epoch: int) -> None:
        self._live = set(senders)
        self.epoch = epoch
        self.pending: int | None = None
        self.passed: set[Hashable] = set()

    def on_marker(self, sender: Hashable, epoch: int) -> bool:
        """The marker of `epoch` came; returns whether the barrier is now complete.

        Raises:
            ProtocolError: the sender has ended or is past its marker, or skips or repeats epochs.
        """
        if sender not in self._live or sender in self.passed:
            raise ProtocolError(f"a marker from {sender}, which is past its marker or has ended")
        if epoch <= self.epoch or self.pending not in (None, epoch):
            raise ProtocolError(
                f"expected a marker of epoch {self.pending or f'> {self.epoch}'}, found {epoch}"
            )
        self.pending = epoch
        self.passed.add(sender)
        return self.is_complete()

    def on_end(self, sender: Hashable) -> bool:
        """The sender has ended; returns whether a pending barrier is now complete.

        Raises:
            ProtocolError: it had ended before, or is past a pending marker (hold the end then).
        """
        if sender not in self._live or sender in self.passed:
            raise ProtocolError(f"an end from {sender}, which is past its marker or has ended")
        self._live.discard(sender)
        return self.pending is not None and self.is_complete()

    def is_complete(self) -> bool:
        """Whether every live sender is past the pending marker."""
        return self.pending is not None and len(self.passed) == len(self._live)

    def advance(self) -> int:
        """Enter the pending epoch and return it; the barrier must be complete."""
        if self.pending is None or not self.is_complete():
            raise ProtocolError(f"no complete barrier to advance over: {self!r}")
        self.epoch = self.pending
        self.pending = None
        self.passed = set()
        return self.epoch

    def missing(self) -> list[Hashable]:
        """The senders a pending barrier waits for."""
        return [] if self.pending is None else [s for s in self._live if s not in self.passed]

    def __repr__(self) -> str:
        return f"Alignment(epoch {self.epoch}, pending {self.pending}, missing {self.missing()})"
