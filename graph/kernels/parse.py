"""Edge lists from the bytes of a text file (compiled).

One pass, no copies: ids are accumulated digit by digit; weights are computed where that is exact
(mantissa below 2**53 and at most 22 decimal places: one correctly rounded operation) and handed
back as text where it is not, for a parser that rounds correctly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graph.compiled import jit

__all__ = ["parse"]

NEWLINE, SPACE, COMMA = 10, 32, 44
MINUS, PLUS, DOT, ZERO, LOWER_E, UPPER_E = 45, 43, 46, 48, 101, 69
POWERS = 10.0 ** np.arange(23)
ID_MAX = np.uint64(2**63 - 1)
EXACT = np.uint64(2**53)


@jit
def _is_gap(c: Any) -> Any:
    """Whether a byte separates tokens inside a line."""
    return (c <= SPACE and c != NEWLINE) or c == COMMA


@jit
def _starts_comment(data: Any, at: Any, stop: Any, comment: Any) -> Any:
    """Whether the comment mark stands here."""
    if comment.size == 0 or at + comment.size > stop:
        return False
    same = 0
    while same < comment.size and data[at + same] == comment[same]:
        same += 1
    return same == comment.size


@jit
def _next_token(data: Any, at: Any, stop: Any, comment: Any) -> Any:
    """The position of the next token of this line, or of the line's end."""
    while at < stop and _is_gap(data[at]):
        at += 1
    if at < stop and _starts_comment(data, at, stop, comment):
        while at < stop and data[at] != NEWLINE:
            at += 1
    return at


@jit
def _identifier(data: Any, at: Any, stop: Any) -> Any:
    """(value, end); end is -1 where the token is no integer in 0..2**63 - 1."""
    value = np.uint64(0)
    ten = np.uint64(10)
    limit = ID_MAX // ten
    begin = at
    while at < stop:
        c = data[at]
        if c == NEWLINE or _is_gap(c):
            break
        digit = np.uint64(c) - np.uint64(ZERO)
        if digit > np.uint64(9) or value > limit:
            return np.int64(0), -1
        value = value * ten + digit
        at += 1
    if at == begin or value > ID_MAX:
        return np.int64(0), -1
    return np.int64(value), at


@jit
def _number(data: Any, at: Any, stop: Any) -> Any:
    """(value, end of token, exact); not exact: the token has to be read by somebody else."""
    negative = data[at] == MINUS
    if negative or data[at] == PLUS:
        at += 1
    mantissa = np.uint64(0)
    places = 0
    digits = 0
    seen_dot = False
    exact = True
    while at < stop:
        c = data[at]
        if c == NEWLINE or _is_gap(c):
            break
        digit = np.uint64(c) - np.uint64(ZERO)
        if digit <= np.uint64(9) and mantissa < EXACT // np.uint64(10):
            mantissa = mantissa * np.uint64(10) + digit
            digits += 1
            if seen_dot:
                places += 1
        elif c == DOT and not seen_dot:
            seen_dot = True
        else:
            exact = False
        at += 1
    if digits == 0 or places > 22:
        exact = False
    value = 0.0
    if exact:
        value = np.float64(mantissa) / POWERS[places]
    return -value if negative else value, at, exact


@jit
def parse(
    data: Any, begin: int, stop: int, comment: Any, columns: int,
    src: Any, dst: Any, weight: Any, late_row: Any, late_at: Any,
) -> Any:  # fmt: skip
    """Parse the lines in data[begin:stop]; returns (rows, late weights, position of an error).

    ``columns``: 1 ids only, 2 edges (a third column is ignored), 3 weighted edges. Row numbers
    of weights that are not exact here go to ``late_row``, their first and last position (2i and
    2i + 1) to ``late_at``. The error position is -1, or the start of the first wrong line.
    """
    at = begin
    rows = 0
    late = 0
    while at < stop:
        line = at
        at = _next_token(data, at, stop, comment)
        if at == stop:
            break
        if data[at] == NEWLINE:
            at += 1
            continue
        src[rows], at = _identifier(data, at, stop)
        if at < 0:
            return rows, late, line
        at = _next_token(data, at, stop, comment)
        if columns > 1:
            if at == stop or data[at] == NEWLINE:
                return rows, late, line
            dst[rows], at = _identifier(data, at, stop)
            if at < 0:
                return rows, late, line
            at = _next_token(data, at, stop, comment)
            more = at < stop and data[at] != NEWLINE
            if columns == 3 and not more:
                return rows, late, line
            if more:
                token = at
                value, at, exact = _number(data, at, stop)
                if columns == 3:
                    weight[rows] = value
                    if not exact:
                        late_row[late] = rows
                        late_at[2 * late] = token
                        late_at[2 * late + 1] = at
                        late += 1
                at = _next_token(data, at, stop, comment)
        if at < stop and data[at] != NEWLINE:
            return rows, late, line
        rows += 1
        at += 1
    return rows, late, -1
