"""Credit flow control of one channel between one sender and one receiver, in rows and in bytes.

A channel has a capacity in rows and in bytes. The sender owns a `SendWindow`, the receiver a
`ReceiveAccount`; they share no memory and only learn of each other by frames::

    sender    may_send? -> on_sent ----- data ----->  on_received -> (queue) -> on_consumed
              on_credit <--------------- credit ----  (returned in chunks of a quarter capacity)

Everything sent and not yet returned is *in flight*, and at every moment::

    credit + in flight == capacity                       (sender alone)
    in flight == on the wire + held + due + credit on the wire back        (both ends)

**Overdraft.** A sender with any credit left, in rows and in bytes, may send one item of any size;
its credit may become negative. So an item larger than the capacity still passes, alone, and the
receiver never holds more than the capacity plus one item.

**Chunks.** The receiver returns credit once a quarter of the capacity is due. It never starves
the sender: what is due and not returned is always less than a quarter of the capacity, so a
receiver that has consumed all it got leaves the sender with credit.

Items without rows and bytes (ends, markers, items of meta only) use no credit.
"""

from __future__ import annotations

__all__ = ["CreditError", "ReceiveAccount", "SendWindow"]

# The credit is returned when 1/4 of the capacity is due: few credit frames (at most 4 a
# capacity), and the sender is refilled long before it runs dry.
_CHUNKS_A_CAPACITY = 4


class CreditError(RuntimeError):
    """One end of a channel broke the credit rules: a defect of the engine, never of user code."""


class SendWindow:
    """The sender's end: how much may still be sent.

    Args:
        capacity_rows: rows that may be in flight; > 0.
        capacity_bytes: bytes that may be in flight; > 0.
    """

    __slots__ = ("bytes_in_flight", "capacity_bytes", "capacity_rows", "rows_in_flight")

    def __init__(self, capacity_rows: int, capacity_bytes: int) -> None:
        _check_capacity(capacity_rows, capacity_bytes)
        self.capacity_rows = capacity_rows
        self.capacity_bytes = capacity_bytes
        self.rows_in_flight = 0
        self.bytes_in_flight = 0

    @property
    def credit_rows(self) -> int:
        """Rows that may still be sent; negative after an overdraft."""
        return self.capacity_rows - self.rows_in_flight

    @property
    def credit_bytes(self) -> int:
        """Bytes that may still be sent; negative after an overdraft."""
        return self.capacity_bytes - self.bytes_in_flight

    def may_send(self) -> bool:
        """Whether one more item, of any size, may be sent."""
        return (
            self.rows_in_flight < self.capacity_rows and self.bytes_in_flight < self.capacity_bytes
        )

    def on_sent(self, rows: int, nbytes: int) -> bool:
        """Note one sent item; returns `may_send()` as it is afterwards.

        Raises:
            CreditError: there was no credit (call only after `may_send()`), or a negative size.
        """
        if rows < 0 or nbytes < 0:
            raise CreditError(f"expected sizes >= 0, found {rows} rows and {nbytes} bytes")
        if not self.may_send():
            raise CreditError(f"sent {rows} rows and {nbytes} bytes without credit: {self!r}")
        self.rows_in_flight += rows
        self.bytes_in_flight += nbytes
        return self.may_send()

    def on_credit(self, rows: int, nbytes: int) -> bool:
        """Note credit that came back; returns `may_send()` as it is afterwards.

        Raises:
            CreditError: more came back than is in flight.
        """
        if not (0 <= rows <= self.rows_in_flight and 0 <= nbytes <= self.bytes_in_flight):
            raise CreditError(
                f"{rows} rows and {nbytes} bytes of credit came back, in flight were only "
                f"{self.rows_in_flight} rows and {self.bytes_in_flight} bytes"
            )
        self.rows_in_flight -= rows
        self.bytes_in_flight -= nbytes
        return self.may_send()

    def __repr__(self) -> str:
        return (
            f"SendWindow(credit {self.credit_rows} of {self.capacity_rows} rows, "
            f"{self.credit_bytes} of {self.capacity_bytes} bytes)"
        )


class ReceiveAccount:
    """The receiver's end: what is held, and what credit is due to the sender.

    Args:
        capacity_rows, capacity_bytes: as at the sender's end.
    """

    __slots__ = (
        "capacity_bytes",
        "capacity_rows",
        "chunk_bytes",
        "chunk_rows",
        "due_bytes",
        "due_rows",
        "held_bytes",
        "held_rows",
    )

    def __init__(self, capacity_rows: int, capacity_bytes: int) -> None:
        _check_capacity(capacity_rows, capacity_bytes)
        self.capacity_rows = capacity_rows
        self.capacity_bytes = capacity_bytes
        self.chunk_rows = max(1, capacity_rows // _CHUNKS_A_CAPACITY)
        self.chunk_bytes = max(1, capacity_bytes // _CHUNKS_A_CAPACITY)
        self.held_rows = 0
        self.held_bytes = 0
        self.due_rows = 0
        self.due_bytes = 0

    def on_received(self, rows: int, nbytes: int) -> None:
        """Note one item that arrived and waits.

        Raises:
            CreditError: the sender cannot have had credit for it, or a negative size.
        """
        if rows < 0 or nbytes < 0:
            raise CreditError(f"expected sizes >= 0, found {rows} rows and {nbytes} bytes")
        if (
            self.held_rows + self.due_rows >= self.capacity_rows
            or self.held_bytes + self.due_bytes >= self.capacity_bytes
        ):
            raise CreditError(f"received {rows} rows and {nbytes} bytes without credit: {self!r}")
        self.held_rows += rows
        self.held_bytes += nbytes

    def on_consumed(self, rows: int, nbytes: int) -> tuple[int, int] | None:
        """Note that an item was processed; returns the (rows, bytes) to return now, or None.

        Raises:
            CreditError: more is consumed than is held.
        """
        if not (0 <= rows <= self.held_rows and 0 <= nbytes <= self.held_bytes):
            raise CreditError(f"consumed {rows} rows and {nbytes} bytes of: {self!r}")
        self.held_rows -= rows
        self.held_bytes -= nbytes
        due_rows = self.due_rows = self.due_rows + rows
        due_bytes = self.due_bytes = self.due_bytes + nbytes
        if due_rows < self.chunk_rows and due_bytes < self.chunk_bytes:
            return None
        self.due_rows = self.due_bytes = 0
        return due_rows, due_bytes

    def return_all(self) -> tuple[int, int]:
        """What is due, however little: (rows, bytes) to return now."""
        due = self.due_rows, self.due_bytes
        self.due_rows = self.due_bytes = 0
        return due

    def __repr__(self) -> str:
        return (
            f"ReceiveAccount(held {self.held_rows} and due {self.due_rows} of "
            f"{self.capacity_rows} rows, held {self.held_bytes} and due {self.due_bytes} of "
            f"{self.capacity_bytes} bytes)"
        )


def _check_capacity(rows: int, nbytes: int) -> None:
    if rows <= 0 or nbytes <= 0:
        raise CreditError(f"expected a capacity > 0, found {rows} rows and {nbytes} bytes")
