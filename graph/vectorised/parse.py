"""Edge lists from the bytes of a text file, line by line in plain Python: slow, and the oracle."""

from __future__ import annotations

from typing import Any

__all__ = ["parse"]

ID_MAX = 2**63 - 1
GAPS = bytes.maketrans(b",\t\r", b"   ")


def parse(
    data: Any, begin: int, stop: int, comment: Any, columns: int,
    src: Any, dst: Any, weight: Any, late_row: Any, late_at: Any,
) -> Any:  # fmt: skip
    """As the compiled twin; weights are all left to the caller ("late")."""
    text = data[begin:stop].tobytes()
    mark = comment.tobytes()
    rows = late = 0
    at = 0
    for line in text.split(b"\n"):
        start, at = at, at + len(line) + 1
        tokens = _tokens(line, mark)
        if not tokens:
            continue
        width = len(tokens)
        if width != 1 if columns == 1 else not (3 if columns == 3 else 2) <= width <= 3:
            return rows, late, begin + start
        ids = [_identifier(token) for token in tokens[: min(columns, 2)]]
        if None in ids:
            return rows, late, begin + start
        src[rows] = ids[0]
        if columns > 1:
            dst[rows] = ids[1]
        if columns == 3:
            late_row[late] = rows
            third = begin + start + _third(line)
            late_at[2 * late] = third
            late_at[2 * late + 1] = third + len(tokens[2])
            late += 1
        rows += 1
    return rows, late, -1


def _tokens(line: bytes, mark: bytes) -> list[bytes]:
    """The tokens of a line, up to a token that begins with the comment mark."""
    tokens = line.translate(GAPS).split()
    if mark:
        for i, token in enumerate(tokens):
            if token.startswith(mark):
                return tokens[:i]
    return tokens


def _identifier(token: bytes) -> int | None:
    """The token as an id, if it is one."""
    return int(token) if token.isdigit() and int(token) <= ID_MAX else None


def _third(line: bytes) -> int:
    """Where the third token of a line begins."""
    flat = line.translate(GAPS)
    rest = flat.split(None, 2)[2]
    return len(flat) - len(rest)
